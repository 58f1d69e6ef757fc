//! A run that was interrupted goes on in another process as if it had never stopped.

use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};

use converge_core::gates::GateDecision;
use converge_core::{
    Budget, ContextFact, ContextKey, ContextState, ContextStore, ConvergeError, Engine, EventQuery,
    ExperienceEvent, ExperienceEventEnvelope, ExperienceStore, Invariant, InvariantClass,
    InvariantResult, RunResult, StreamingCallback, Violation,
};
use ledger_client::Context;
use ledger_client::converge::history::{Verdict, explain, gates};
use ledger_client::converge::{
    LedgerContextStore, LedgerExperienceStore, RebuildError, Recorder, decide, rebuild,
};
use ledger_tests::Instance;
use nix::sys::signal::Signal;
use pollster::block_on;
use serde_json::Value;

use crate::suggestors::{
    Rule, TERM, approve, asked, complete, engine, gated, ids, survived, texts, with_term,
};
use crate::{loan, started};

/// What a process that ends by itself prints.
fn decided(instance: &Instance, args: &[&str]) -> Value {
    let output = instance.engine(args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{args:?}: {} {errors}",
        output.status
    );
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Has a process killed right after one of its entries.
fn killed_after(instance: &Instance, entries: u64, args: &[&str]) {
    let count = entries.to_string();
    let output = instance.engine(&[args, &["--die-after", &count]].concat());
    let signal = output.status.signal();
    assert_eq!(signal, Some(Signal::SIGKILL as i32), "{output:?}");
}

/// The loan run is killed after each of its entries, and finished by another process: each
/// time it comes to what it comes to without that, and asks only what was not answered.
fn ends_the_same_wherever_it_is_killed(options: &[&str]) {
    let instance = started(&[]);
    let whole = [&["whole", "7"], options].concat();
    let expected = decided(&instance, &whole);
    let entries = expected["recorded"].as_u64().expect("a number");
    assert!(entries >= 20, "{expected}");
    for count in 1..=entries {
        let scope = format!("killed-{count}");
        let run = [&[&*scope, "7"], options].concat();
        killed_after(&instance, count, &run);
        let gates = gates(&instance.context(&scope)).expect("readable");
        let is_answered = gates.iter().any(|gate| gate.decision.is_some());
        let resume = [&run[..], &["--resume"]].concat();
        // The second attempt is killed as well, if it takes that long.
        let second = (count % 6 + 1).to_string();
        let second = instance.engine(&[&resume[..], &["--die-after", &second]].concat());
        let is_answered = is_answered || second.status.signal().is_none();
        let found = decided(&instance, &resume);
        for what in ["merkle_root", "decision"] {
            assert_eq!(found[what], expected[what], "killed after {count}: {found}");
        }
        if is_answered {
            assert_eq!(found["asked"], 0, "killed after {count}: {found}");
        }
    }
}

#[test]
fn killed_after_any_entry_a_run_comes_to_the_same() {
    ends_the_same_wherever_it_is_killed(&[]);
}

#[test]
fn killed_after_any_entry_an_approved_run_comes_to_the_same() {
    ends_the_same_wherever_it_is_killed(&["--gate", "--approve"]);
}

#[test]
fn killed_after_any_entry_a_rejected_run_comes_to_the_same() {
    ends_the_same_wherever_it_is_killed(&["--gate", "--reject"]);
}

/// Has the process ask, and somebody else answer after it has ended.
fn answered_by_another(verdict: Verdict) -> (Instance, Value) {
    let instance = started(&[]);
    let asking = decided(&instance, &["loan", "7", "--gate"]);
    assert_eq!(asking["asked"], 1);
    let context = instance.context("loan");
    let found = gates(&context).expect("readable");
    let [gate] = &found[..] else {
        panic!("{found:?}");
    };
    assert!(gate.is_open && gate.decision.is_none());
    assert_eq!(gate.agent, "decision");
    let gate_id = gate.gate_id.clone().into();
    let decision = match verdict {
        Verdict::Approved => GateDecision::approve(gate_id, "kari"),
        Verdict::Rejected => GateDecision::reject(gate_id, "kari", None),
    };
    decide(&context, gate, &decision).expect("recorded");
    let found = decided(&instance, &["loan", "7", "--gate", "--resume"]);
    (instance, found)
}

pub(crate) fn rebuilt(context: &Context) -> ledger_client::converge::Rebuilt {
    rebuild(context, &loan::registry()).expect("a run")
}

#[test]
fn approved_while_no_engine_ran_it_completes_without_asking_again() {
    let (instance, found) = answered_by_another(Verdict::Approved);
    assert_eq!(found["asked"], 0);
    let rebuilt = rebuilt(&instance.context("loan"));
    assert!(rebuilt.has_ended && rebuilt.is_complete());
    assert_eq!(ids(&rebuilt.context, ContextKey::Strategies), ["decision"]);
    let facts = explain(&instance.context("loan"), "decision").expect("readable");
    let [fact] = &facts[..] else {
        panic!("{facts:?}");
    };
    let gate = fact.gate.as_ref().expect("it went through one");
    let decision = gate.decision.as_ref().expect("answered");
    assert_eq!(
        (decision.verdict, &*decision.decided_by),
        (Verdict::Approved, "kari")
    );
}

#[test]
fn rejected_while_no_engine_ran_it_stays_out() {
    let (instance, found) = answered_by_another(Verdict::Rejected);
    assert_eq!(found["asked"], 0);
    let rebuilt = rebuilt(&instance.context("loan"));
    assert!(rebuilt.has_ended && rebuilt.is_complete());
    assert_eq!(ids(&rebuilt.context, ContextKey::Strategies), [""; 0]);
    let diagnostics = ids(&rebuilt.context, ContextKey::Diagnostic);
    assert_eq!(diagnostics, ["hitl-rejected:decision"]);
}

fn plan(text: &str) -> Rule {
    Rule::after("planner", TERM).adds(ContextKey::Strategies, "plan", text)
}

#[test]
fn a_proposal_that_says_something_else_asks_again() {
    let instance = started(&[]);
    let (ledger, context) = (instance.connect(), instance.context("run"));
    let recorder = Recorder::new(&ledger, "run");
    let pause = asked(block_on(
        recorder.run_with_hitl(&mut gated(&[plan("lend")]), with_term()),
    ));
    let decision = approve(&pause);
    recorder.decided(&pause, &decision);
    drop((recorder, pause));

    let changed = [plan("lend twice as much")];
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    let recorder = Recorder::continuing(&ledger, &rebuilt);
    let mut engine = gated(&changed);
    let pause = asked(block_on(rebuilt.resume(&recorder, &mut engine)).expect("not ended"));
    assert_eq!(pause.request.summary, "lend twice as much");
    let found = gates(&context).expect("readable");
    let open: Vec<bool> = found.iter().map(|gate| gate.is_open).collect();
    assert_eq!(open, [false, true], "{found:?}");

    // The same proposal as before is still approved.
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert_eq!((rebuilt.attempt, rebuilt.open_gates.len()), (2, 1));
    let recorder = Recorder::continuing(&ledger, &rebuilt);
    let mut engine = gated(&[plan("lend")]);
    let context = complete(block_on(rebuilt.resume(&recorder, &mut engine)).expect("not ended"));
    assert_eq!(context.get(ContextKey::Strategies).len(), 1);
}

#[test]
fn what_was_asked_at_a_checkpoint_is_asked_again_and_is_no_fact() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let rules = [plan("lend")];
    let recorder = Recorder::new(&ledger, "run");
    let pause = asked(block_on(
        recorder.run_with_hitl(&mut gated(&rules), with_term()),
    ));
    let store = LedgerContextStore::new(&ledger, texts());
    block_on(store.save_context("run", &pause.context)).expect("saved");
    // Saved as it is, it would be approved by nobody.
    let naive = ContextState::from_snapshot(pause.context.snapshot()).expect("a snapshot");
    let naive = complete(block_on(gated(&rules).run_with_hitl(naive)));
    assert_eq!(naive.get(ContextKey::Strategies).len(), 1);
    drop((store, recorder, pause));

    let store = LedgerContextStore::new(&instance.connect(), texts());
    let loaded = block_on(store.load_context("run")).expect("readable");
    let loaded = loaded.expect("saved above");
    assert!(!loaded.has_pending_proposals());
    let pause = asked(block_on(gated(&rules).run_with_hitl(loaded)));
    assert!(!pause.context.has(ContextKey::Strategies));
}

/// A host's callback that has the engine's process fail after a number of facts.
struct Fails(Mutex<u32>);

impl StreamingCallback for Fails {
    fn on_cycle_start(&self, _: u32) {}
    fn on_fact(&self, _: u32, _: &ContextFact) {
        let mut left = self.0.lock().expect("it fails once");
        *left = left.checked_sub(1).expect("the process fails here");
    }
    fn on_cycle_end(&self, _: u32, _: usize) {}
}

#[test]
fn checks_of_a_cycle_that_did_not_end_are_all_done_again() {
    let instance = started(&[]);
    let ledger = instance.connect();
    // Each looks whether there is any check yet, as suggestors do: after one of them none
    // would run.
    let checks = ["identity", "credit", "income", "fraud"];
    let rules = checks.map(|check| Rule::after(check, TERM).adds(ContextKey::Signals, check, "ok"));
    let alone = block_on(engine(&rules).run(with_term())).expect("it converges");

    let recorder = Recorder::new(&ledger, "run").streaming(Arc::new(Fails(Mutex::new(1))));
    let run = AssertUnwindSafe(|| block_on(recorder.run(&mut engine(&rules), with_term())));
    assert!(catch_unwind(run).is_err(), "it fails at its second fact");
    drop(recorder);
    let facts = explain(&instance.context("run"), "identity").expect("readable");
    assert!(facts.iter().all(|fact| !fact.is_committed) && facts.len() == 1);

    let rebuilt = rebuild(&instance.context("run"), &texts()).expect("a run");
    assert!(!rebuilt.context.has(ContextKey::Signals));
    assert!(
        rebuilt.context.has_pending_proposals(),
        "it died before any cycle ended"
    );
    let recorder = Recorder::continuing(&ledger, &rebuilt);
    let resumed = block_on(rebuilt.resume(&recorder, &mut engine(&rules))).expect("not ended");
    let resumed = complete(resumed);
    assert_eq!(ids(&resumed, ContextKey::Signals), checks);
    let root = resumed.snapshot().merkle_root().clone();
    assert_eq!(root, alone.integrity.merkle_root);
}

/// The payload of the one entry of a kind.
fn payload(context: &Context, key: &str, kind: &str) -> Value {
    let mut range = context.range(1).key(key);
    while let Some(entry) = range.next_entry().expect("readable") {
        if entry.metadata().any(|pair| pair == ("kind", kind)) {
            return serde_json::from_slice(entry.payload()).expect("JSON");
        }
    }
    panic!("no {kind}");
}

/// Counts facts as they are promoted.
#[derive(Default)]
struct Counts(Mutex<Vec<String>>);

impl StreamingCallback for Counts {
    fn on_cycle_start(&self, _: u32) {}
    fn on_fact(&self, _: u32, fact: &ContextFact) {
        let mut ids = self.0.lock().expect("one thread");
        ids.push(fact.id().to_string());
    }
    fn on_cycle_end(&self, _: u32, _: usize) {}
}

#[test]
fn of_a_run_without_budget_the_ledger_keeps_every_fact() {
    let instance = started(&[]);
    let mut rules = Vec::new();
    for round in 0..50 {
        let before = format!("{}-0", round - 1);
        let needs = if round == 0 {
            TERM[0]
        } else {
            (ContextKey::Signals, &*before)
        };
        let mut rule = Rule::after("many", &[needs]);
        for fact in 0..100 {
            rule = rule.adds(
                ContextKey::Signals,
                &format!("{round}-{fact}"),
                "a fact of many",
            );
        }
        rules.push(rule);
    }
    let mut engine = engine(&rules);
    engine.set_budget(Budget {
        max_cycles: 100,
        max_facts: 3000,
    });
    let counts = Arc::new(Counts::default());
    let recorder = Recorder::new(&instance.connect(), "run").streaming(counts.clone());
    let error = block_on(recorder.run(&mut engine, with_term())).expect_err("the budget");
    assert!(
        matches!(error, ConvergeError::BudgetExhausted { .. }),
        "{error}"
    );
    assert!(error.context().is_none(), "the ledger has the only copy");
    assert_eq!(recorder.dropped(), 0, "{:?}", recorder.trouble());

    let context = instance.context("run");
    let failed = payload(&context, "outcomes", "run_failed");
    assert_eq!(failed["error"], error.to_string());
    let mut found = Vec::new();
    let mut range = context.range(1).key("facts");
    while let Some(entry) = range.next_entry().expect("readable") {
        let (_, id) = entry
            .metadata()
            .find(|(name, _)| *name == "fact_id")
            .expect("a fact");
        found.push(id.to_owned());
    }
    assert!(found.len() > 3000);
    assert_eq!(found, *counts.0.lock().expect("one thread"));
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert_eq!(rebuilt.context.snapshot().version(), found.len() as u64);
    assert!(!rebuilt.has_ended && rebuilt.is_complete());
}

/// No plan may be there.
struct NoPlans;

impl Invariant for NoPlans {
    fn name(&self) -> &str {
        "no_plans"
    }
    fn class(&self) -> InvariantClass {
        InvariantClass::Structural
    }
    fn check(&self, context: &dyn converge_core::Context) -> InvariantResult {
        match context.has(ContextKey::Strategies) {
            true => InvariantResult::Violated(Violation::new("there is a plan")),
            false => InvariantResult::Ok,
        }
    }
}

#[test]
fn the_diagnosis_of_a_violated_invariant_is_in_the_ledger() {
    let instance = started(&[]);
    let mut engine = engine(&[plan("lend")]);
    engine.register_invariant(NoPlans);
    let recorder = Recorder::new(&instance.connect(), "run");
    let error = block_on(recorder.run(&mut engine, with_term())).expect_err("the invariant");
    let carried = error.context().expect("it carries one");
    let [diagnosis] = carried.get(ContextKey::Diagnostic) else {
        panic!("{carried:?}");
    };
    let context = instance.context("run");
    let failed = payload(&context, "outcomes", "run_failed");
    assert_eq!(
        failed["facts"][0],
        serde_json::to_value(diagnosis).expect("JSON")
    );
    let facts = explain(&context, diagnosis.id().as_str()).expect("readable");
    let [fact] = &facts[..] else {
        panic!("{facts:?}");
    };
    assert_eq!(fact.stop_reason.as_deref(), Some(&*error.to_string()));
}

/// Has the process fail as soon as a cycle has ended that added something, before the engine
/// checks what has come of it.
struct FailsBehindCycle;

impl StreamingCallback for FailsBehindCycle {
    fn on_cycle_start(&self, _: u32) {}
    fn on_fact(&self, _: u32, _: &ContextFact) {}
    fn on_cycle_end(&self, _: u32, facts: usize) {
        if facts > 0 {
            resume_unwind(Box::new("the process fails here"));
        }
    }
}

#[test]
fn what_violates_an_invariant_violates_it_again_after_a_restart() {
    let instance = started(&[]);
    let (ledger, context) = (instance.connect(), instance.context("run"));
    let make = || {
        let mut engine = engine(&[plan("lend")]);
        engine.register_invariant(NoPlans);
        engine
    };
    let recorder = Recorder::new(&ledger, "run").streaming(Arc::new(FailsBehindCycle));
    let killed = survived(|| block_on(recorder.run_with_hitl(&mut make(), with_term())));
    assert!(killed.is_none());
    drop(recorder);
    for attempt in 1..4 {
        let rebuilt = rebuild(&context, &texts()).expect("a run");
        assert_eq!((rebuilt.attempt, rebuilt.has_ended), (attempt, false));
        assert!(rebuilt.is_complete() && !rebuilt.context.has(ContextKey::Strategies));
        let recorder = Recorder::continuing(&ledger, &rebuilt);
        let result = block_on(rebuilt.resume(&recorder, &mut make())).expect("not ended");
        let RunResult::Complete(Err(error)) = result else {
            panic!("{result:?}");
        };
        assert!(
            matches!(error, ConvergeError::InvariantViolation { .. }),
            "{error}"
        );
    }
}

#[test]
fn of_two_facts_that_contradict_each_other_the_first_is_rebuilt() {
    let instance = started(&[]);
    let first = Rule::after("first", TERM).adds(ContextKey::Signals, "rate", "4 %");
    let late = Rule::after("late", &[(ContextKey::Signals, "rate")])
        .adds(ContextKey::Hypotheses, "late", "yes")
        .adds(ContextKey::Signals, "rate", "5 %");
    let recorder = Recorder::new(&instance.connect(), "run");
    let mut engine = engine(&[first, late]);
    let error = block_on(recorder.run(&mut engine, with_term())).expect_err("a conflict");
    assert!(matches!(error, ConvergeError::Conflict { .. }), "{error}");

    let context = instance.context("run");
    let recorded = explain(&context, "rate").expect("readable");
    let committed: Vec<bool> = recorded.iter().map(|fact| fact.is_committed).collect();
    assert_eq!(committed, [true, false]);
    let failed = payload(&context, "outcomes", "run_failed");
    assert_eq!(failed["error"], error.to_string());
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert_eq!(
        rebuilt.context.get(ContextKey::Signals)[0].text(),
        Some("4 %")
    );
    assert_eq!(rebuilt.context.get(ContextKey::Signals).len(), 1);
    assert!(!rebuilt.context.has(ContextKey::Hypotheses));
}

#[test]
fn what_a_host_stores_beside_a_run_does_not_change_what_is_rebuilt() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let rules = [
        plan("lend"),
        Rule::after("check", TERM).adds(ContextKey::Signals, "check", "ok"),
    ];
    let recorder = Recorder::new(&ledger, "run");
    let mut engine = gated(&rules);
    let pause = asked(block_on(recorder.run_with_hitl(&mut engine, with_term())));

    let context = instance.context("run");
    let appender = context.appender().expect("an appender");
    let events = LedgerExperienceStore::new(appender, recorder.run_id());
    let note = ExperienceEvent::FactPromoted {
        proposal_id: "note".into(),
        fact_id: "note".into(),
        promoted_by: "host".into(),
        reason: "told".into(),
        requires_human: false,
    };
    let event = ExperienceEventEnvelope::new("note-1", note);
    events.append_event(event).expect("stored");
    let store = LedgerContextStore::new(&ledger, texts());
    for _ in 0..2 {
        block_on(store.save_context("run", &pause.context)).expect("saved");
    }
    let query = EventQuery::default();
    assert_eq!(events.query_events(&query).expect("readable").len(), 1);
    let mut range = context.range(1);
    while let Some(entry) = range.next_entry().expect("readable") {
        for name in ["v", "run_id", "attempt", "cycle", "kind"] {
            let has = entry.metadata().any(|pair| pair.0 == name);
            assert!(has, "{name} of entry {}", entry.seq());
        }
    }

    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert!(rebuilt.is_complete(), "{:?}", rebuilt.missing);
    assert_eq!((rebuilt.attempt, rebuilt.open_gates.len()), (1, 1));
    assert!(
        !rebuilt.context.has(ContextKey::Signals),
        "no cycle has ended"
    );
    assert!(
        rebuilt.context.has_pending_proposals(),
        "so the input is staged again"
    );
}

#[test]
fn a_run_that_began_with_facts_is_rebuilt_with_them() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let before = block_on(Engine::new().run(with_term())).expect("it converges");
    let mut context = before.context;
    let added = context.add_input(ContextKey::Seeds, "rate", "4 %");
    assert!(added.expect("an input"));
    let rules = [Rule::after("check", &[(ContextKey::Seeds, "rate")]).adds(
        ContextKey::Signals,
        "check",
        "ok",
    )];
    let alone = block_on(engine(&rules).run(context.clone())).expect("it converges");

    let recorder = Recorder::new(&ledger, "run").streaming(Arc::new(Fails(Mutex::new(1))));
    let run = AssertUnwindSafe(|| block_on(recorder.run(&mut engine(&rules), context)));
    assert!(catch_unwind(run).is_err(), "it fails at its second fact");
    drop(recorder);
    let rebuilt = rebuild(&instance.context("run"), &texts()).expect("a run");
    assert!(rebuilt.is_complete(), "{:?}", rebuilt.missing);
    assert_eq!(ids(&rebuilt.context, ContextKey::Seeds), ["term"]);
    let recorder = Recorder::continuing(&ledger, &rebuilt);
    let resumed = block_on(rebuilt.resume(&recorder, &mut engine(&rules))).expect("not ended");
    let root = complete(resumed).snapshot().merkle_root().clone();
    assert_eq!(root, alone.integrity.merkle_root);
}

#[test]
fn an_id_that_is_given_twice_is_of_the_second_run() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let rules = ["a", "b"].map(|id| Rule::after(id, TERM).adds(ContextKey::Signals, id, "ok"));
    let fails = Recorder::new(&ledger, "run").with_run_id("loan");
    let fails = fails.streaming(Arc::new(Fails(Mutex::new(1))));
    let run = AssertUnwindSafe(|| block_on(fails.run(&mut engine(&rules), with_term())));
    assert!(catch_unwind(run).is_err(), "it fails at its second fact");
    drop(fails);

    let recorder = Recorder::new(&ledger, "run").with_run_id("loan");
    let result = block_on(recorder.run(&mut engine(&rules[1..]), with_term()));
    let root = result.expect("it converges").integrity.merkle_root;
    let rebuilt = rebuild(&instance.context("run"), &texts()).expect("a run");
    assert!(rebuilt.is_complete(), "{:?}", rebuilt.missing);
    assert_eq!(rebuilt.context.snapshot().merkle_root(), &root);
    let events = instance.context("run").appender().expect("an appender");
    let events = LedgerExperienceStore::new(events, "loan");
    let found = events
        .query_events(&EventQuery::default())
        .expect("readable");
    assert_eq!(found.len(), 2 + 2, "of both, as none has another's id");
}

pub(crate) fn loan_7() -> ContextState {
    loan::context(loan::application(7)).expect("a context")
}

#[test]
fn a_payload_that_nobody_registered_is_named_and_stays_readable() {
    let instance = started(&[]);
    let recorder = Recorder::new(&instance.connect(), "run");
    block_on(recorder.run(&mut loan::engine(), loan_7())).expect("it converges");
    let context = instance.context("run");
    let error = rebuild(&context, &texts()).expect_err("no loan is known");
    let said = error.to_string();
    let RebuildError::UnknownFamily { seq, family, .. } = error else {
        panic!("{said}");
    };
    assert_eq!(family, "loan.application");
    assert!(said.contains("register"), "{said}");
    let entry = context.get(seq).expect("readable").expect("there");
    assert!(entry.payload().starts_with(b"{"));
    let facts = explain(&context, "application").expect("readable");
    assert_eq!(facts[0].payload["number"], 7);
}

#[test]
fn fifty_engines_at_once_are_recorded_each_for_itself() {
    let instance = started(&[]);
    let ledger = instance.connect();
    std::thread::scope(|scope| {
        for number in 0..50 {
            let ledger = &ledger;
            scope.spawn(move || {
                let recorder = Recorder::new(ledger, format!("run-{number}"));
                let recorder = recorder.with_run_id(format!("loan-{number}"));
                block_on(loan::run(number, &recorder)).expect("it converges");
                assert_eq!(recorder.dropped(), 0, "{:?}", recorder.trouble());
            });
        }
    });
    for number in 0..50 {
        let context = loan::context(loan::application(number)).expect("a context");
        let alone = block_on(loan::engine().run(context)).expect("it converges");
        let context = instance.context(&format!("run-{number}"));
        let rebuilt = rebuilt(&context);
        assert_eq!(rebuilt.run_id, format!("loan-{number}"));
        assert!(rebuilt.has_ended && rebuilt.is_complete());
        let root = rebuilt.context.snapshot().merkle_root().clone();
        assert_eq!(root, alone.integrity.merkle_root);
        let mut range = context.range(1);
        while let Some(entry) = range.next_entry().expect("readable") {
            let (_, id) = entry
                .metadata()
                .find(|(name, _)| *name == "run_id")
                .expect("it has one");
            assert_eq!(id, rebuilt.run_id);
        }
    }
}
