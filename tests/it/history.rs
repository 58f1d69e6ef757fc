//! What the commands tell of runs that an engine really made.

use std::process::Stdio;

use converge_core::gates::GateDecision;
use converge_core::{ContextKey, ContextState, Engine, HitlPause, RunResult};
use ledger_client::Context;
use ledger_client::converge::history::{diff, gates};
use ledger_client::converge::{Recorder, decide, rebuild};
use ledger_tests::Instance;
use ledger_tests::process::Process;
use pollster::block_on;
use serde_json::Value;

use crate::commands::lines;
use crate::forged_runs::forged;
use crate::json::check;
use crate::{loan, started};

const EVENT: &str = "An entry of a run: `timeline`";
const GATE: &str = "A gate: `gates`";
const DECISION: &str = "A human's answer";
const EXPLANATION: &str = "A fact, explained: `explain`";
const DIFF: &str = "Two runs: `diff`";
const SIDE: &str = "One of two runs";
const DIFFERING: &str = "The first fact in which they differ";
const HAD: &str = "What one of them has";

fn recorder(instance: &Instance, context: &str, run_id: &str) -> Recorder {
    Recorder::new(&instance.connect(), context)
        .with_run_id(run_id)
        .suggestors(loan::SUGGESTORS)
        .policy(&loan::policy())
}

fn staged(number: u64) -> ContextState {
    loan::context(loan::application(number)).expect("a context")
}

/// Has an engine decide an application, without humans.
fn decided(instance: &Instance, context: &str, run_id: &str, number: u64) {
    let recorder = recorder(instance, context, run_id);
    let result = block_on(recorder.run(&mut loan::engine(), staged(number)));
    assert!(result.expect("it converges").converged);
}

/// An engine in which a human has to approve decisions.
fn engine() -> Engine {
    let mut engine = loan::engine();
    engine.set_hitl_policy(loan::policy());
    engine
}

/// Has an engine come to where a human is asked about the decision.
fn asked(instance: &Instance, context: &str, run_id: &str) -> (Recorder, Engine, HitlPause) {
    let (recorder, mut engine) = (recorder(instance, context, run_id), engine());
    match block_on(recorder.run_with_hitl(&mut engine, staged(7))) {
        RunResult::HitlPause(pause) => (recorder, engine, *pause),
        RunResult::Complete(result) => panic!("{result:?}"),
    }
}

/// Has an engine ask, and go on with this answer to the end.
fn answered(
    instance: &Instance,
    context: &str,
    run_id: &str,
    answer: impl FnOnce(&HitlPause) -> GateDecision,
) {
    let (recorder, mut engine, pause) = asked(instance, context, run_id);
    let decision = answer(&pause);
    match block_on(recorder.resume(&mut engine, pause, decision)) {
        RunResult::Complete(result) => assert!(result.expect("it converges").converged),
        RunResult::HitlPause(pause) => panic!("{:?}", pause.request),
    }
}

fn approved(pause: &HitlPause) -> GateDecision {
    GateDecision::approve(pause.request.gate_id.clone(), "kari")
}

fn rejected(pause: &HitlPause) -> GateDecision {
    let reason = Some("no papers\u{1b}[2J".to_owned());
    GateDecision::reject(pause.request.gate_id.clone(), "ola", reason)
}

/// Has another engine go on where a run was cut short, to its end.
fn resumed(instance: &Instance, context: &Context) {
    let rebuilt = rebuild(context, &loan::registry()).expect("it can be rebuilt");
    let recorder = Recorder::continuing(&instance.connect(), &rebuilt).suggestors(loan::SUGGESTORS);
    let result = block_on(rebuilt.resume(&recorder, &mut engine())).expect("it has not ended");
    assert!(matches!(result, RunResult::Complete(Ok(_))), "{result:?}");
}

/// What the command prints as lines of JSON.
fn told(instance: &Instance, args: &[&str]) -> Vec<Value> {
    lines(&instance.printed(&[args, &["-o", "jsonl"]].concat()))
}

/// Whatever has gone wrong, it is said with an exit code of 1.
fn refused(instance: &Instance, args: &[&str]) -> String {
    let output = instance.run(args);
    assert_eq!(output.status.code(), Some(1), "{args:?}");
    String::from_utf8(output.stderr).expect("text")
}

#[test]
fn a_timeline_tells_each_entry_of_each_run_and_who_did_it() {
    let instance = started(&[]);
    decided(&instance, "loan", "one", 7);
    decided(&instance, "loan", "two", 8);
    let all = told(&instance, &["timeline", "loan"]);
    let latest = instance.context("loan").latest().expect("readable");
    assert_eq!(all.len() as u64, latest);
    for event in &all {
        check(event, &[EVENT]);
    }
    let of_two = told(&instance, &["timeline", "loan", "--run", "two"]);
    assert_eq!(of_two, all[all.len() / 2..]);
    assert!(of_two.iter().all(|event| event["run_id"] == "two"));
    let facts = of_two.iter().filter(|event| event["kind"] == "fact");
    let facts: Vec<_> = facts
        .map(|event| (&event["agent"], &event["cycle"]))
        .collect();
    let agents: Vec<_> = facts
        .iter()
        .filter_map(|(agent, _)| agent.as_str())
        .collect();
    assert_eq!(agents[1..], loan::SUGGESTORS);
    let cycles: Vec<_> = facts
        .iter()
        .filter_map(|(_, cycle)| cycle.as_u64())
        .collect();
    assert_eq!(cycles, [0, 1, 1, 1, 2, 3, 4]);

    let short = instance.printed(&["timeline", "loan", "-o", "short"]);
    let heads: Vec<_> = short
        .lines()
        .filter(|line| line.starts_with("run "))
        .collect();
    assert_eq!(heads, ["run one, attempt 1", "run two, attempt 1"]);
    let decision = short
        .lines()
        .find(|line| line.contains("Strategies/decision:"));
    let decision = decision.expect("a decision");
    for part in ["Z  cycle 4", "  fact  ", "  decision  ", "risk points"] {
        assert!(decision.contains(part), "{part:?} in {decision}");
    }
    assert!(short.contains("Converged after 5 cycles"), "{short}");
}

#[test]
fn runs_are_told_while_the_daemon_is_down() {
    let mut instance = started(&[]);
    decided(&instance, "loan", "one", 7);
    instance.stop_daemon();
    assert!(!told(&instance, &["timeline", "loan"]).is_empty());
    assert_eq!(told(&instance, &["explain", "loan", "decision"]).len(), 1);
    instance.printed(&["diff", "loan", "loan"]);
    instance.printed(&["gates"]);
}

#[test]
fn what_is_told_of_runs_ends_quietly_where_nobody_reads() {
    let instance = started(&[]);
    answered(&instance, "loan", "one", approved);
    for args in [
        &["timeline", "loan"][..],
        &["gates"],
        &["explain", "loan", "decision"],
        &["diff", "loan", "loan"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = instance.ledgerd(args);
        command.stdout(writer).stderr(Stdio::piped());
        let output = Process::start(&mut command).output();
        assert!(output.status.success(), "{args:?} {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    }
}

#[test]
fn gates_are_open_until_a_human_answers_or_the_run_is_over() {
    let instance = started(&[]);
    answered(&instance, "loan-a", "one", approved);
    answered(&instance, "loan-b", "one", rejected);
    let (_, _, pause) = asked(&instance, "loan-c", "one");
    instance.printed(&["append", "other", "k", "v"]);

    let all = told(&instance, &["gates"]);
    let is_open: Vec<_> = all
        .iter()
        .map(|gate| (&gate["context"], &gate["is_open"]))
        .collect();
    assert_eq!(
        serde_json::to_value(is_open).expect("JSON"),
        serde_json::json!([["loan-a", false], ["loan-b", false], ["loan-c", true]])
    );
    for gate in &all {
        check(gate, &[GATE]);
        assert_eq!(
            (&gate["agent"], &gate["key"]),
            (&"decision".into(), &"Strategies".into())
        );
        if let Some(decision) = gate.get("decision") {
            check(decision, &[DECISION]);
        }
    }
    assert_eq!(all[0]["decision"]["verdict"], "approved");
    assert_eq!(all[0]["decision"]["decided_by"], "kari");
    assert_eq!(all[1]["decision"]["verdict"], "rejected");
    assert_eq!(all[1]["decision"]["reason"], "no papers\u{1b}[2J");
    assert_eq!(all[2]["gate_id"], pause.request.gate_id.as_str());
    assert_eq!(all[2]["summary"], *pause.request.summary);
    assert_eq!(told(&instance, &["gates", "--open"]), all[2..]);
    assert_eq!(told(&instance, &["gates", "loan-b"]), all[1..2]);
    assert_eq!(
        told(&instance, &["gates", "loan-b", "--open"]),
        [] as [Value; 0]
    );
    assert_eq!(instance.printed(&["gates", "other", "-o", "json"]), "[]\n");

    let short = instance.printed(&["gates", "-o", "short"]);
    let states: Vec<_> = short
        .lines()
        .map(|line| line.split_whitespace().nth(1))
        .collect();
    assert_eq!(states, ["STATE", "approved", "rejected", "open"].map(Some));
    assert!(short.contains("approved by kari at "), "{short}");
    // A terminal is not told what somebody has written for it.
    assert!(short.contains(": no papers\\u{1b}[2J\n"), "{short}");
    assert!(!short.contains('\u{1b}'));

    // Answered from outside, it waits no more.
    let context = instance.context("loan-c");
    let gate = &gates(&context).expect("readable")[0];
    decide(&context, gate, &approved(&pause)).expect("there is room");
    assert_eq!(told(&instance, &["gates", "--open"]), [] as [Value; 0]);
}

#[test]
fn one_context_that_cannot_be_told_keeps_nobody_from_the_gates_of_others() {
    let instance = started(&[]);
    let (_, _, _) = asked(&instance, "good", "one");
    forged(
        &instance.context("bad"),
        "gates",
        "[]",
        &[("kind", "gate_requested")],
    );
    let output = instance.run(&["gates", "-o", "jsonl"]);
    assert_eq!(output.status.code(), Some(1));
    let printed = lines(&String::from_utf8(output.stdout).expect("text"));
    assert_eq!(printed.len(), 1);
    assert_eq!(printed[0]["context"], "good");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("context \"bad\": entry 1 is no gate_requested"),
        "{said}"
    );
}

#[test]
fn a_fact_is_explained_with_its_origin_its_gate_and_the_runs_end() {
    let instance = started(&[]);
    answered(&instance, "loan", "one", approved);
    decided(&instance, "loan", "two", 8);
    let explained = |args: &[&str]| {
        let found = told(&instance, &[&["explain", "loan"], args].concat());
        for fact in &found {
            check(fact, &[EXPLANATION]);
        }
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    };
    let last = explained(&["decision"]);
    assert_eq!(last["run_id"], "two");
    assert_eq!(last.get("gate"), None);
    let first = explained(&["decision", "--run", "one"]);
    check(&first["gate"], &[GATE]);
    assert_eq!(first["gate"]["decision"]["decided_by"], "kari");
    assert_eq!(first["gate"]["agent"], "decision");
    assert_eq!(first["agent"], "decision");
    for fact in [&first, &last] {
        assert_eq!(
            (&fact["cycle"], &fact["is_committed"]),
            (&4.into(), &true.into())
        );
        assert_eq!(fact["stop_reason"], "Converged");
        let seq = fact["seq"].as_u64().expect("a number");
        let entry = instance.context("loan").get(seq).expect("readable");
        let entry = entry.expect("there");
        assert_eq!(fact["lamport"], entry.lamport());
        assert_eq!(fact["appended_at_ns"], entry.appended_at_ns());
    }
    let input = explained(&["application", "--run", "one"]);
    assert_eq!(input["provenance"], "applicant");
    assert_eq!(input["payload"]["number"], 7);
    // What a rejection leaves is of the run, though it is recorded after the last cycle.
    answered(&instance, "rejected", "one", rejected);
    let left = told(
        &instance,
        &["explain", "rejected", "hitl-rejected:decision"],
    );
    assert_eq!(left[0]["is_committed"], true, "{left:?}");

    let short = instance.printed(&["explain", "loan", "decision", "--run", "one", "-o", "short"]);
    for row in [
        "fact         Strategies/decision\n",
        "run          one, attempt 1\n",
        "cycle        4\n",
        "agent        decision\n",
        "answer       approved by kari at ",
        "run stopped  Converged\n",
    ] {
        assert!(short.contains(row), "{row:?} in {short}");
    }
}

#[test]
fn what_a_context_held_before_its_run_is_explained_as_such() {
    let instance = started(&[]);
    let before = recorder(&instance, "before", "one");
    let result = block_on(before.run(&mut loan::engine(), staged(7))).expect("it converges");
    let next = recorder(&instance, "loan", "two");
    block_on(next.run(&mut loan::engine(), result.context)).expect("it converges");

    let explained = |context: &str| {
        let mut found = told(&instance, &["explain", context, "decision"]);
        check(&found[0], &[EXPLANATION]);
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    };
    let (made, held) = (explained("before"), explained("loan"));
    for same in ["key", "id", "family", "payload", "promotion_record"] {
        assert_eq!(made[same], held[same], "{same}");
    }
    let how = |fact: &Value| ["is_held", "is_committed"].map(|name| fact[name].as_bool());
    assert_eq!(how(&made), [Some(false), Some(true)]);
    assert_eq!(how(&held), [Some(true), Some(true)]);
    assert_eq!((&held["run_id"], held.get("agent")), (&"two".into(), None));
    let seq = held["seq"].as_u64().expect("a number");
    let entry = instance.context("loan").get(seq).expect("readable");
    assert_eq!(entry.expect("there").key(), "snapshots");
    let short = instance.printed(&["explain", "loan", "decision", "-o", "short"]);
    assert!(short.contains("cycle        before the first\n"), "{short}");
}

#[test]
fn a_fact_that_is_not_there_is_named_with_where_to_look() {
    let instance = started(&[]);
    decided(&instance, "loan", "one", 7);
    instance.printed(&["append", "other", "k", "v"]);
    for (args, expected) in [
        (
            &["explain", "loan", "mistake"][..],
            "no run of context \"loan\" has a fact \"mistake\"",
        ),
        (
            &["explain", "other", "decision"],
            "no run of context \"other\" has a fact \"decision\"",
        ),
        (
            &["explain", "loan", "decision", "--run", "two"],
            "run \"two\" of context \"loan\" has no fact \"decision\"",
        ),
        (
            &["timeline", "loan", "--run", "two"],
            "context \"loan\" has no run \"two\"",
        ),
        (&["diff", "loan", "other"], "context \"other\" has no run"),
        (
            &["diff", "loan", "loan", "--run-b", "two"],
            "context \"loan\" has no run \"two\"",
        ),
        (&["gates", "nobody"], "no context \"nobody\""),
    ] {
        let said = refused(&instance, args);
        assert!(said.contains(expected), "{expected} in {said}");
        assert!(said.contains("`ledgerd "), "{said}");
    }
    // Contexts that have no runs have nothing to tell, which is no error.
    assert_eq!(
        instance.printed(&["timeline", "other", "-o", "json"]),
        "[]\n"
    );
    let said = instance.run(&["timeline", "other"]).stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("context \"other\" has no runs"), "{said}");
}

#[test]
fn a_diff_names_the_first_fact_that_two_runs_do_not_share() {
    let instance = started(&[]);
    decided(&instance, "loan", "one", 7);
    decided(&instance, "loan", "two", 7);
    decided(&instance, "other", "one", 8);
    let same = told(&instance, &["diff", "loan", "loan", "--run-a", "one"]);
    check(&same[0], &[DIFF]);
    assert_eq!(
        (&same[0]["a"]["run_id"], &same[0]["b"]["run_id"]),
        (&"one".into(), &"two".into())
    );
    assert_eq!(same[0]["a"]["merkle_root"], same[0]["b"]["merkle_root"]);
    assert_eq!(same[0].get("first"), None);
    assert_eq!(same[0]["a"]["facts"], 7);

    let output = instance.run(&["diff", "loan", "other", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let said: Value = serde_json::from_slice(&output.stderr).expect("an object");
    check(&said, &["An error"]);
    let found: Value = serde_json::from_slice(&output.stdout).expect("an object");
    check(&found, &[DIFF]);
    for side in ["a", "b"] {
        check(&found[side], &[SIDE]);
        check(&found["first"][side], &[HAD]);
        let payload = &found["first"][side]["payload"]["payload"];
        assert_eq!(payload["number"], if side == "a" { 7 } else { 8 });
    }
    check(&found["first"], &[DIFFERING]);
    assert_eq!(found["first"]["id"], "application");
    assert_ne!(found["a"]["merkle_root"], found["b"]["merkle_root"]);

    let output = instance.run(&["diff", "loan", "other", "-o", "short"]);
    let short = String::from_utf8(output.stdout).expect("text");
    assert!(
        short.contains("first differing: Seeds/application\n"),
        "{short}"
    );
    let root = found["b"]["merkle_root"].as_str().expect("text");
    assert!(short.contains(root), "{short}");
    let short = instance.printed(&["diff", "loan", "loan", "-o", "short"]);
    assert!(short.ends_with("the same facts\n"), "{short}");
}

#[test]
fn a_diff_sees_what_a_context_held_before_its_run() {
    let instance = started(&[]);
    let run = |context: &str, words: &[&str]| {
        let mut state = ContextState::new();
        for word in words {
            state
                .add_input(ContextKey::Seeds, *word, *word)
                .expect("an input");
        }
        let result = block_on(Engine::new().run(state)).expect("it converges");
        // What was promoted without a recorder is there when the recorded run begins.
        let recorder = recorder(&instance, context, "one");
        block_on(recorder.run(&mut loan::engine(), result.context)).expect("it converges");
    };
    run("a", &["term", "amount"]);
    run("b", &["term"]);
    run("c", &["term", "amount"]);
    let [a, b, c] = ["a", "b", "c"].map(|name| instance.context(name));
    assert_eq!(diff(&a, None, &c, None).expect("readable").first, None);
    let found = diff(&a, None, &b, None).expect("readable");
    let first = found.first.expect("they differ");
    assert_eq!(
        (&*first.key, &*first.id, first.b),
        ("Seeds", "amount", None)
    );
    assert_eq!(first.a.expect("it has it").cycle, 0);
}

#[test]
fn a_run_that_was_cut_short_and_resumed_does_not_differ_from_one_that_was_not() {
    let instance = started(&[]);
    answered(&instance, "whole", "one", approved);
    // The engine is gone when the human answers.
    let (recorder, engine, pause) = asked(&instance, "cut", "one");
    drop((recorder, engine));
    let context = instance.context("cut");
    let gate = &gates(&context).expect("readable")[0];
    decide(&context, gate, &approved(&pause)).expect("there is room");
    resumed(&instance, &context);

    let same = told(&instance, &["diff", "whole", "cut"]);
    assert_eq!(same[0]["a"]["merkle_root"], same[0]["b"]["merkle_root"]);
    assert!(same[0]["a"]["merkle_root"].is_string(), "{same:?}");
    let fact = &told(&instance, &["explain", "cut", "decision"])[0];
    assert_eq!((&fact["attempt"], &fact["cycle"]), (&2.into(), &1.into()));
    assert_eq!(fact["gate"]["decision"]["decided_by"], "kari");
    let short = instance.printed(&["timeline", "cut", "-o", "short"]);
    assert!(short.contains("run one, attempt 2\n"), "{short}");
    // One that nobody has answered yet lacks the fact.
    let _ = asked(&instance, "waiting", "one");
    let output = instance.run(&["diff", "whole", "waiting", "-o", "jsonl"]);
    let found = lines(&String::from_utf8(output.stdout).expect("text"));
    assert_eq!(found[0]["first"]["id"], "decision");
    assert_eq!(found[0]["first"]["a"]["cycle"], 4);
    assert_eq!(found[0]["first"].get("b"), None);
    assert_eq!(found[0]["b"].get("merkle_root"), None);
}

#[test]
fn a_rejection_is_of_its_run_whether_that_was_resumed_or_not() {
    let instance = started(&[]);
    answered(&instance, "whole", "one", rejected);
    answered(&instance, "other", "one", |pause| {
        GateDecision::reject(pause.request.gate_id.clone(), "kari", None)
    });
    let (recorder, engine, pause) = asked(&instance, "cut", "one");
    drop((recorder, engine));
    let context = instance.context("cut");
    let gate = &gates(&context).expect("readable")[0];
    decide(&context, gate, &rejected(&pause)).expect("there is room");
    resumed(&instance, &context);

    let same = &told(&instance, &["diff", "whole", "cut"])[0];
    assert_eq!(same["a"]["merkle_root"], same["b"]["merkle_root"]);
    assert_eq!(
        (&same["a"]["facts"], &same["b"]["facts"]),
        (&7.into(), &7.into())
    );
    let output = instance.run(&["diff", "whole", "other", "-o", "jsonl"]);
    let found = &lines(&String::from_utf8(output.stdout).expect("text"))[0];
    assert_eq!(found["first"]["id"], "hitl-rejected:decision");
    assert_eq!(found["first"]["a"]["payload"]["rejected_by"], "ola");
    assert_eq!(found["first"]["b"]["payload"]["rejected_by"], "kari");
    // What is rebuilt has what the engine had, to the last diagnostic.
    let whole = rebuild(&instance.context("whole"), &loan::registry()).expect("it can be");
    let root = whole.context.snapshot().merkle_root().to_hex();
    assert_eq!(found["a"]["merkle_root"], *root);
}

#[test]
fn what_no_recorder_wrote_is_named_and_told_as_unreadable() {
    let instance = started(&[]);
    let verdict = r#"{"decision":{"verdict":"Maybe","decided_by":"x","decided_at":"now"},"proposal_id":"decision","proposal_hash":""}"#;
    for (name, payload) in [("a", "garbage"), ("b", "{}"), ("c", verdict)] {
        answered(&instance, name, "one", approved);
        let seq = forged(
            &instance.context(name),
            "gates",
            payload,
            &[("kind", "gate_decided")],
        );
        let events = told(&instance, &["timeline", name]);
        let last = events.last().expect("told");
        assert_eq!(last["seq"], seq);
        let says = last["says"].as_str().expect("text");
        assert!(says.starts_with("unreadable: "), "{says}");
        for args in [
            &["gates", name][..],
            &["explain", name, "decision"],
            &["diff", name, name],
        ] {
            let said = refused(&instance, args);
            let named = format!("entry {seq} is no gate_decided of a recorder: ");
            assert!(said.contains(&named), "{args:?}: {said}");
        }
    }
    // Of every other kind, too.
    let context = instance.context("a");
    let kinds = [
        ("intents", "run_started"),
        ("proposals", "input"),
        ("facts", "fact"),
        ("traces", "cycle_end"),
        ("gates", "gate_requested"),
        ("outcomes", "run_ended"),
        ("outcomes", "run_failed"),
        ("traces", "gap"),
    ];
    for (key, kind) in kinds {
        let seq = forged(&context, key, "[null]", &[("kind", kind)]);
        let events = told(&instance, &["timeline", "a"]);
        let last = events.last().expect("told");
        assert_eq!(last["seq"], seq);
        assert_eq!(last["says"], format!("unreadable: no {kind} of a recorder"));
    }
}
