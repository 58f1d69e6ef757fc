//! Runs whose process ends in the middle, several times over, and what humans say meanwhile.

use std::sync::Arc;

use converge_core::gates::GateDecision;
use converge_core::{ContextKey, ContextState, ContextStore, Engine, RunResult};
use ledger_client::converge::history::{diff, explain, gates};
use ledger_client::converge::{
    DecideError, LedgerContextStore, RebuildError, Recorder, decide, rebuild,
};
use ledger_client::{Context, Ledger};
use pollster::block_on;

use crate::started;
use crate::suggestors::{
    AtCycle, Rule, TERM, approve, asked, complete, dying, engine, failing_at, gated, gated_at, ids,
    reject, root, survived, texts, two_plans, whole, with_facts, with_term,
};

/// What a process does with a run: answers by itself every other time, else lets somebody
/// else answer after it has ended. None if it has to be started again.
fn lived(
    recorder: &Recorder,
    engine: &mut Engine,
    begun: RunResult,
    context: &Context,
) -> Option<ContextState> {
    let mut result = begun;
    loop {
        match result {
            RunResult::Complete(result) => return Some(result.expect("it converges").context),
            RunResult::HitlPause(pause) if pause.request.proposal_id.as_str() == "plan" => {
                let found = gates(context).expect("readable");
                let open = found.iter().find(|gate| gate.is_open).expect("one is open");
                let decision = GateDecision::approve(open.gate_id.clone().into(), "kari");
                decide(context, open, &decision).expect("there is room");
                return None;
            }
            RunResult::HitlPause(pause) => {
                let decision = approve(&pause);
                result = block_on(recorder.resume(engine, *pause, decision));
            }
        }
    }
}

/// One process after the other until the run has ended: the first ones die after so many
/// entries of their own.
fn finished(
    ledger: &Ledger,
    scope: &str,
    make: &dyn Fn() -> Engine,
    begin: &dyn Fn() -> ContextState,
    named: Option<&str>,
    deaths: &[u64],
) -> ContextState {
    let context = ledger.context(scope).open_or_create().expect("a context");
    let mut deaths = deaths.iter().copied();
    for _ in 0..20 {
        let death = deaths.next().unwrap_or(u64::MAX);
        let mut engine = make();
        let done = match rebuild(&context, &texts()) {
            Ok(rebuilt) if rebuilt.has_ended => return rebuilt.context,
            Ok(rebuilt) => {
                assert!(rebuilt.is_complete(), "{scope}: {:?}", rebuilt.missing);
                let recorder = dying(Recorder::continuing(ledger, &rebuilt), death);
                survived(|| {
                    let begun = block_on(rebuilt.resume(&recorder, &mut engine));
                    lived(&recorder, &mut engine, begun.expect("not ended"), &context)
                })
            }
            Err(RebuildError::NotStarted { .. }) => {
                let mut recorder = Recorder::new(ledger, scope);
                if let Some(name) = named {
                    recorder = recorder.with_run_id(name);
                }
                let recorder = dying(recorder, death);
                survived(|| {
                    let begun = block_on(recorder.run_with_hitl(&mut engine, begin()));
                    lived(&recorder, &mut engine, begun, &context)
                })
            }
            Err(error) => panic!("{scope}: {error}"),
        };
        if let Some(Some(done)) = done {
            let rebuilt = rebuild(&context, &texts()).expect("a run");
            assert!(
                rebuilt.has_ended && rebuilt.is_complete(),
                "{scope}: {:?}",
                rebuilt.missing
            );
            assert_eq!(root(&rebuilt.context), root(&done), "{scope}");
            return done;
        }
    }
    panic!("{scope}: it never ends");
}

#[test]
fn with_two_pauses_and_killed_twice_anywhere_it_comes_to_the_same() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let make = || gated(&two_plans());
    let (expected, pauses) = whole(make(), with_term());
    assert_eq!(pauses, 2);
    for first in 1..=24 {
        for second in [1, 2, 3, 5, 8, 13] {
            let scope = format!("killed-{first}-{second}");
            let found = finished(&ledger, &scope, &make, &with_term, None, &[first, second]);
            assert_eq!(root(&found), root(&expected), "{scope}");
        }
    }
}

#[test]
fn a_named_run_whose_start_was_cut_short_begins_again_under_its_name() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let begin = || {
        let mut context = with_facts("old", 3, 10);
        for number in 0..3 {
            let id = format!("input-{number}");
            context
                .add_input(ContextKey::Seeds, id, "x")
                .expect("an input");
        }
        context
            .add_input(ContextKey::Seeds, "term", "42 months")
            .expect("an input");
        context
    };
    let make = || engine(&two_plans());
    let (expected, _) = whole(make(), begin());
    finished(&ledger, "whole", &make, &begin, None, &[]);
    let uninterrupted = instance.context("whole");
    for first in 1..=6 {
        for second in [1, 4, 7, 9] {
            let scope = format!("named-{first}-{second}");
            let deaths = [first, second, 8];
            let found = finished(&ledger, &scope, &make, &begin, Some("loan"), &deaths);
            assert_eq!(root(&found), root(&expected), "{scope}");
            let context = instance.context(&scope);
            let parted = diff(&context, None, &uninterrupted, None).expect("readable");
            assert_eq!(
                (parted.first, parted.a.facts),
                (None, parted.b.facts),
                "{scope}"
            );
            assert_eq!(explain(&context, "old-0").expect("readable").len(), 1);
        }
    }
}

#[test]
fn a_plan_that_replaces_a_rejected_one_is_asked_about_after_a_restart_too() {
    let instance = started(&[]);
    let (ledger, context) = (instance.connect(), instance.context("run"));
    let rules = [
        Rule::after("planner", TERM).adds(ContextKey::Strategies, "plan", "lend"),
        Rule::after("other", &[(ContextKey::Diagnostic, "hitl-rejected:plan")]).adds(
            ContextKey::Strategies,
            "plan-b",
            "lend half",
        ),
    ];
    let make = || gated(&rules);
    // As it is without a restart.
    let mut engine = make();
    let pause = asked(block_on(engine.run_with_hitl(with_term())));
    let decision = reject(&pause);
    let pause = asked(block_on(engine.resume(*pause, decision)));
    assert_eq!(pause.request.proposal_id.as_str(), "plan-b");

    let recorder = Recorder::new(&ledger, "run").streaming(failing_at(2));
    let mut engine = make();
    let pause = asked(block_on(recorder.run_with_hitl(&mut engine, with_term())));
    let decision = reject(&pause);
    let killed = survived(|| block_on(recorder.resume(&mut engine, *pause, decision)));
    assert!(killed.is_none());
    drop((recorder, engine));

    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert_eq!(
        ids(&rebuilt.context, ContextKey::Diagnostic),
        ["hitl-rejected:plan"]
    );
    let recorder = Recorder::continuing(&ledger, &rebuilt);
    let result = block_on(rebuilt.resume(&recorder, &mut make())).expect("not ended");
    let pause = asked(result);
    assert_eq!(pause.request.proposal_id.as_str(), "plan-b");
    assert!(!pause.context.has(ContextKey::Strategies));
}

#[test]
fn a_rejected_proposal_that_comes_again_after_each_restart_stays_out() {
    let instance = started(&[]);
    let (ledger, context) = (instance.connect(), instance.context("run"));
    let chain = |at: u32| {
        let needs = match at {
            0 => "term".to_owned(),
            _ => format!("step-{}", at - 1),
        };
        let key = if at == 0 {
            ContextKey::Seeds
        } else {
            ContextKey::Signals
        };
        Rule::after("step", &[(key, &needs)]).adds(ContextKey::Signals, &format!("step-{at}"), "x")
    };
    let rules = [
        Rule::after("planner", TERM).adds(ContextKey::Strategies, "plan", "lend"),
        chain(0),
        chain(1),
        chain(2),
        chain(3),
        chain(4),
    ];
    let make = || gated(&rules);
    let mut engine = make();
    let pause = asked(block_on(engine.run_with_hitl(with_term())));
    let decision = reject(&pause);
    let expected = complete(block_on(engine.resume(*pause, decision)));

    let recorder = Recorder::new(&ledger, "run").streaming(failing_at(2));
    let mut engine = make();
    let pause = asked(block_on(recorder.run_with_hitl(&mut engine, with_term())));
    let decision = reject(&pause);
    assert!(survived(|| block_on(recorder.resume(&mut engine, *pause, decision))).is_none());
    drop((recorder, engine));
    for attempt in 1..4 {
        let rebuilt = rebuild(&context, &texts()).expect("a run");
        assert_eq!(rebuilt.attempt, attempt);
        assert!(rebuilt.open_gates.is_empty() && rebuilt.is_complete());
        let recorder = Recorder::continuing(&ledger, &rebuilt).streaming(failing_at(2));
        let killed = survived(|| block_on(rebuilt.resume(&recorder, &mut make())));
        assert!(killed.is_none(), "attempt {attempt}");
    }
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    let recorder = Recorder::continuing(&ledger, &rebuilt);
    let found = complete(block_on(rebuilt.resume(&recorder, &mut make())).expect("not ended"));
    assert_eq!(root(&found), root(&expected));
    assert!(!found.has(ContextKey::Strategies));
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert_eq!(root(&rebuilt.context), root(&expected));
}

#[test]
fn an_answer_to_one_gate_is_none_to_another() {
    let instance = started(&[]);
    let (ledger, context) = (instance.connect(), instance.context("run"));
    let rules = two_plans();
    let recorder = Recorder::new(&ledger, "run");
    let mut engine = gated(&rules[..3]);
    let pause = asked(block_on(recorder.run_with_hitl(&mut engine, with_term())));
    let gate = gates(&context).expect("readable").remove(0);
    let other = GateDecision::approve("another".into(), "kari");
    let refused = decide(&context, &gate, &other).expect_err("of another gate");
    assert!(
        matches!(refused, DecideError::OtherGate { .. }),
        "{refused}"
    );
    assert!(gates(&context).expect("readable")[0].is_open);
    decide(&context, &gate, &reject(&pause)).expect("it is open");
    let refused = decide(&context, &gate, &approve(&pause)).expect_err("it was rejected");
    assert!(
        refused.to_string().contains("does not wait for an answer"),
        "{refused}"
    );
}

#[test]
fn what_a_second_human_says_too_late_is_not_what_the_run_has_done() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let rules = two_plans();
    for is_before in [true, false] {
        let scope = format!("run-{is_before}");
        let context = instance.context(&scope);
        let mut engine = gated(&rules[..3]);
        let recorder = Recorder::new(&ledger, &*scope);
        let pause = asked(block_on(recorder.run_with_hitl(&mut engine, with_term())));
        let gate = gates(&context).expect("readable").remove(0);
        let (decision, other) = (approve(&pause), reject(&pause));
        let late = context.clone();
        let no = move || decide(&late, &gate, &other);
        // While the engine waits, or while it goes on: then nobody asks any more.
        let recorder = match is_before {
            true => {
                no().expect("there is room");
                recorder
            }
            false => recorder.streaming(Arc::new(AtCycle(2, move || {
                let refused = no().expect_err("it was answered");
                assert!(matches!(refused, DecideError::NotOpen { .. }), "{refused}");
            }))),
        };
        let done = complete(block_on(recorder.resume(&mut engine, *pause, decision)));
        assert_eq!(ids(&done, ContextKey::Strategies), ["plan"]);
        let rebuilt = rebuild(&context, &texts()).expect("a run");
        assert_eq!(root(&rebuilt.context), root(&done), "before: {is_before}");
    }
}

#[test]
fn at_a_second_pause_what_was_asked_is_not_saved_and_one_id_under_two_keys_is_two() {
    let instance = started(&[]);
    let (ledger, context) = (instance.connect(), instance.context("run"));
    let keys = [ContextKey::Strategies, ContextKey::Evaluations];
    let rules = [
        Rule::after("planner", TERM).adds(keys[0], "plan", "lend"),
        Rule::after("other", &[(keys[0], "plan")]).adds(keys[1], "plan", "lend"),
    ];
    let make = || gated_at(&keys, &rules);
    let (expected, pauses) = whole(make(), with_term());
    assert_eq!(pauses, 2);
    let mut engine = make();
    let recorder = Recorder::new(&ledger, "run");
    let store = LedgerContextStore::new(&ledger, texts());
    let pause = asked(block_on(recorder.run_with_hitl(&mut engine, with_term())));
    block_on(store.save_context("run", &pause.context)).expect("saved");
    let decision = approve(&pause);
    let pause = asked(block_on(recorder.resume(&mut engine, *pause, decision)));
    assert!(pause.context.has_pending_proposals());
    block_on(store.save_context("run", &pause.context)).expect("saved");
    let loaded = block_on(store.load_context("run"))
        .expect("readable")
        .expect("saved");
    assert_eq!(root(&loaded), root(&pause.context));
    assert!(!loaded.has_pending_proposals(), "nobody has approved it");
    let found = gates(&context).expect("readable");
    assert_eq!(found.len(), 2, "{found:?}");
    assert_eq!([found[0].is_open, found[1].is_open], [false, true]);
    drop((recorder, engine, pause));

    // The yes to one of them is none to the other.
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert_eq!(rebuilt.open_gates.len(), 1);
    let recorder = Recorder::continuing(&ledger, &rebuilt);
    let mut engine = make();
    let pause = asked(block_on(rebuilt.resume(&recorder, &mut engine)).expect("not ended"));
    assert!(pause.context.has(keys[0]) && !pause.context.has(keys[1]));
    let decision = approve(&pause);
    let done = complete(block_on(recorder.resume(&mut engine, *pause, decision)));
    assert_eq!(root(&done), root(&expected));
    let facts = explain(&context, "plan").expect("readable");
    let by: Vec<_> = facts
        .iter()
        .map(|fact| {
            (
                &*fact.key,
                fact.gate.as_ref().and_then(|gate| gate.key.as_deref()),
            )
        })
        .collect();
    assert_eq!(
        by,
        [
            ("Strategies", Some("Strategies")),
            ("Evaluations", Some("Evaluations"))
        ]
    );
}

#[test]
fn a_context_larger_than_an_entry_is_where_a_run_begins_and_goes_on() {
    // Room for all of it at once: a recorder waits for none.
    let instance = started(&["--spare-min", "8M"]);
    let ledger = instance.connect();
    let rules = two_plans();
    let make = || engine(&rules);
    for is_staged in [false, true] {
        // Without anything that is new, the engine looks at everything.
        let begin = move || {
            let mut context = with_facts("old", 10, 500_000);
            if is_staged {
                context
                    .add_input(ContextKey::Seeds, "term", "42 months")
                    .expect("an input");
            }
            context
        };
        let (expected, _) = whole(make(), begin());
        for deaths in [[4, 3], [9, 1], [11, 4]] {
            let scope = format!("large-{is_staged}-{deaths:?}");
            let found = finished(&ledger, &scope, &make, &begin, None, &deaths);
            assert_eq!(root(&found), root(&expected), "{scope}");
        }
    }
}
