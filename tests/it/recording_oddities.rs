//! Runs that nobody would set up like that, and what is recorded and rebuilt of them.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context as TaskContext, Waker};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use converge_core::gates::{GateDecision, TimeoutPolicy};
use converge_core::{
    AgentEffect, Budget, ContextFact, ContextKey, ContextState, ContextStore, Engine,
    EngineHitlPolicy, EventQuery, ExperienceEvent, ExperienceStore, FactPayload, HitlPause,
    ProposedFact, RunResult, StreamingCallback, Suggestor, TypesIntentKind, TypesRootIntent,
    TypesRunHooks,
};
use ledger_client::converge::history::{diff, explain, gates, timeline};
use ledger_client::converge::{
    LedgerContextStore, LedgerExperienceStore, Missing, RebuildError, Rebuilt, Recorder, decide,
    rebuild,
};
use ledger_client::{Context, Ledger, NewEntry};
use ledger_tests::eventually;
use pollster::block_on;
use serde::{Deserialize, Serialize};

use crate::suggestors::{AtCycle, Rule, TERM, asked, complete, engine, ids, texts, with_term};
use crate::{IN_MEMORY, loan, started};

fn staged(text: &str) -> ContextState {
    let mut context = ContextState::new();
    let added = context.add_input(ContextKey::Seeds, "term", text);
    added.expect("an input");
    context
}

/// A human has to approve everything under these keys.
fn gated(rules: &[Rule], keys: &[ContextKey]) -> Engine {
    let mut engine = engine(rules);
    engine.set_hitl_policy(EngineHitlPolicy {
        confidence_threshold: None,
        gated_keys: keys.to_vec(),
        timeout: TimeoutPolicy::default(),
    });
    engine
}

fn root(context: &ContextState) -> String {
    context.snapshot().merkle_root().to_hex()
}

fn approve(pause: &HitlPause) -> GateDecision {
    GateDecision::approve(pause.request.gate_id.clone(), "kari")
}

fn reject(pause: &HitlPause) -> GateDecision {
    GateDecision::reject(pause.request.gate_id.clone(), "ola", Some("no".to_owned()))
}

/// Has the process fail right after its `count`th entry, as a panic without the report of one.
fn dying(recorder: Recorder, count: u64) -> Recorder {
    let mut left = count;
    recorder.observed_by(move |_| {
        left = left.saturating_sub(1);
        if left == 0 {
            resume_unwind(Box::new("the process fails here"));
        }
    })
}

/// Whether a part of a host's process came to its end.
fn survived<T>(part: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(part)).ok()
}

/// Has the process fail as this cycle starts.
fn failing_at(cycle: u32) -> Arc<dyn StreamingCallback> {
    Arc::new(AtCycle(cycle, || {
        resume_unwind(Box::new("the process fails here"))
    }))
}

// ------------------------------------------------------- killed several times

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

fn two_plans() -> [Rule; 5] {
    [
        Rule::after("planner", TERM).adds(ContextKey::Strategies, "plan", "lend"),
        Rule::after("identity", TERM).adds(ContextKey::Signals, "identity", "known"),
        Rule::after("checker", &[(ContextKey::Strategies, "plan")]).adds(
            ContextKey::Signals,
            "check",
            "ok",
        ),
        Rule::after("second", &[(ContextKey::Signals, "check")]).adds(
            ContextKey::Strategies,
            "second",
            "lend more",
        ),
        Rule::after("end", &[(ContextKey::Strategies, "second")]).adds(
            ContextKey::Evaluations,
            "end",
            "done",
        ),
    ]
}

/// What the run comes to if nothing happens to it.
fn whole(mut engine: Engine, context: ContextState) -> (ContextState, u32) {
    let mut result = block_on(engine.run_with_hitl(context));
    let mut pauses = 0;
    loop {
        match result {
            RunResult::Complete(result) => return (result.expect("it converges").context, pauses),
            RunResult::HitlPause(pause) => {
                pauses += 1;
                let decision = approve(&pause);
                result = block_on(engine.resume(*pause, decision));
            }
        }
    }
}

#[test]
fn with_two_pauses_and_killed_twice_anywhere_it_comes_to_the_same() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let make = || gated(&two_plans(), &[ContextKey::Strategies]);
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
    for first in 1..=6 {
        for second in [1, 4, 7, 9] {
            let scope = format!("named-{first}-{second}");
            let deaths = [first, second, 8];
            let found = finished(&ledger, &scope, &make, &begin, Some("loan"), &deaths);
            assert_eq!(root(&found), root(&expected), "{scope}");
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
    let make = || gated(&rules, &[ContextKey::Strategies]);
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
    let make = || gated(&rules, &[ContextKey::Strategies]);
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
fn what_a_second_human_says_too_late_is_not_what_the_run_has_done() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let rules = two_plans();
    for is_before in [true, false] {
        let scope = format!("run-{is_before}");
        let context = instance.context(&scope);
        let mut engine = gated(&rules[..3], &[ContextKey::Strategies]);
        let recorder = Recorder::new(&ledger, &*scope);
        let pause = asked(block_on(recorder.run_with_hitl(&mut engine, with_term())));
        let gate = gates(&context).expect("readable").remove(0);
        let (decision, other) = (approve(&pause), reject(&pause));
        let late = context.clone();
        let no = move || _ = decide(&late, &gate, &other).expect("there is room");
        // While the engine waits, or while it goes on.
        if is_before {
            no();
        }
        let recorder = match is_before {
            true => recorder,
            false => recorder.streaming(Arc::new(AtCycle(2, no))),
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
    let make = || gated(&rules, &keys);
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

// ------------------------------------------------------ what was there before

/// Facts of another run.
fn with_facts(prefix: &str, count: usize, len: usize) -> ContextState {
    let mut context = ContextState::new();
    for fact in 0..count {
        let staged = context.add_input(
            ContextKey::Signals,
            format!("{prefix}-{fact}"),
            "y".repeat(len),
        );
        assert!(staged.expect("nothing contradicts it"));
    }
    let result = block_on(Engine::new().run(context));
    result.expect("it converges").context
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

#[test]
fn a_large_context_is_recorded_whole_by_default() {
    let instance = started(&[]);
    let begin = with_facts("old", 10, 500_000);
    for round in 0..10 {
        let scope = format!("run-{round}");
        let recorder = Recorder::new(&instance.connect(), &*scope);
        recorder.started("host", &begin);
        let (dropped, trouble) = (recorder.dropped(), recorder.trouble());
        assert_eq!(dropped, 0, "round {round}: {trouble:?}");
    }
}

/// An entry of a run that no recorder has written.
fn forged(context: &Context, key: &str, payload: &str, pairs: &[(&str, &str)]) -> u64 {
    let mut metadata = vec![("v", "1")];
    for (name, value) in [
        ("run_id", "one"),
        ("attempt", "1"),
        ("start", "first"),
        ("cycle", "1"),
    ] {
        if pairs.iter().all(|(given, _)| *given != name) {
            metadata.push((name, value));
        }
    }
    metadata.extend(pairs);
    let entry = NewEntry::new(key, payload).metadata(&metadata);
    let appended = context.appender().expect("an appender").append(&entry);
    appended.expect("there is room").seq
}

const STARTED: &str = r#"{"entry_point":"run","suggestors":null,"inputs":0,"facts":0}"#;

#[test]
fn without_what_a_context_held_before_a_run_is_not_complete() {
    let instance = started(&[]);
    // All of it has left memory, or the beginning, or the end did not fit.
    let context = instance.context("gone");
    let three = STARTED.replace("\"facts\":0", "\"facts\":3");
    forged(&context, "intents", &three, &[("kind", "run_started")]);
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert!(!rebuilt.is_complete());

    let small = started(&[&["--memory-budget", "2M", "--window", "1G"][..], &IN_MEMORY].concat());
    let recorder = Recorder::new(&small.connect(), "run");
    let begin = with_facts("old", 10, 500_000);
    let mut engine = engine(&two_plans());
    let result = block_on(recorder.run(&mut engine, begin)).expect("it converges");
    assert_eq!(result.integrity.fact_count, 10);
    assert!(recorder.dropped() > 0, "five megabytes do not fit");
    drop(recorder);
    match rebuild(&small.context("run"), &texts()) {
        Ok(rebuilt) => assert!(!rebuilt.is_complete()),
        Err(RebuildError::NotStarted { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

// ------------------------------------------------------------ which run it is

#[test]
fn a_name_that_an_ended_run_has_had_is_of_the_run_that_was_started_last() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let rules = two_plans();
    let recorder = Recorder::new(&ledger, "run").with_run_id("loan");
    let first =
        block_on(recorder.run(&mut engine(&rules), staged("36 months"))).expect("it converges");
    drop(recorder);
    let recorder = Recorder::new(&ledger, "run")
        .with_run_id("loan")
        .streaming(failing_at(3));
    let killed = survived(|| block_on(recorder.run(&mut engine(&rules), with_term())));
    assert!(killed.is_none());
    drop(recorder);

    let rebuilt = rebuild(&instance.context("run"), &texts()).expect("a run");
    assert!(!rebuilt.has_ended, "it was killed");
    let term = rebuilt.context.get(ContextKey::Seeds)[0].text();
    assert_eq!(term, Some("42 months"));
    let (expected, _) = whole(engine(&rules), with_term());
    assert_ne!(root(&expected), first.integrity.merkle_root.to_hex());
    let recorder = Recorder::continuing(&ledger, &rebuilt);
    let done =
        complete(block_on(rebuilt.resume(&recorder, &mut engine(&rules))).expect("not ended"));
    assert_eq!(root(&done), root(&expected));
    // Of the first one everything is still told.
    let facts = explain(&instance.context("run"), "term").expect("readable");
    let said: Vec<_> = facts
        .iter()
        .map(|fact| fact.payload["text"].as_str())
        .collect();
    assert_eq!(said, [Some("36 months"), Some("42 months")]);
    let rebuilt = rebuild(&instance.context("run"), &texts()).expect("a run");
    assert_eq!(root(&rebuilt.context), root(&expected));
    assert!(
        rebuilt.has_ended && rebuilt.is_complete(),
        "{:?}",
        rebuilt.missing
    );
}

#[test]
fn two_runs_at_once_in_one_context_are_told_apart() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let rules = two_plans();
    let (expected, _) = whole(engine(&rules), with_term());
    for round in 0..20 {
        let names = ["a", "b"].map(|name| format!("{name}-{round}"));
        std::thread::scope(|scope| {
            for name in &names {
                let (ledger, rules) = (&ledger, &rules);
                scope.spawn(move || {
                    let recorder = Recorder::new(ledger, "run").with_run_id(&**name);
                    block_on(recorder.run(&mut engine(rules), with_term())).expect("it converges");
                });
            }
        });
        let context = instance.context("run");
        let found = diff(&context, Some(&names[0]), &context, Some(&names[1])).expect("readable");
        assert_eq!(found.first, None);
        assert_eq!(found.a.merkle_root, Some(root(&expected)));
        assert_eq!(found.b.merkle_root, Some(root(&expected)));
        let rebuilt = rebuild(&context, &texts()).expect("a run");
        assert!(names.contains(&rebuilt.run_id) && rebuilt.is_complete());
        assert_eq!(root(&rebuilt.context), root(&expected));
    }
}

#[test]
fn after_a_run_that_failed_a_recorder_records_the_next_one() {
    let instance = started(&[]);
    let recorder = Recorder::new(&instance.connect(), "run").with_run_id("first");
    let mut engine = engine(&two_plans());
    engine.set_budget(Budget {
        max_cycles: 1,
        max_facts: 100,
    });
    block_on(recorder.run(&mut engine, with_term())).expect_err("the budget");
    let failed = rebuild(&instance.context("run"), &texts()).expect("a run");
    assert_eq!((&*failed.run_id, failed.has_ended), ("first", false));
    engine.set_budget(Budget::default());
    let result = block_on(recorder.run(&mut engine, staged("36 months"))).expect("it converges");
    let rebuilt = rebuild(&instance.context("run"), &texts()).expect("a run");
    assert_ne!(rebuilt.run_id, "first");
    assert!(rebuilt.has_ended && rebuilt.is_complete());
    assert_eq!(
        rebuilt.context.snapshot().merkle_root(),
        &result.integrity.merkle_root
    );
}

#[test]
fn two_processes_that_resume_one_run_at_once_come_to_the_same() {
    let instance = started(&[]);
    let (ledger, context) = (instance.connect(), instance.context("run"));
    let rules = two_plans();
    let (expected, _) = whole(engine(&rules), with_term());
    let recorder = Recorder::new(&ledger, "run").streaming(failing_at(2));
    assert!(survived(|| block_on(recorder.run(&mut engine(&rules), with_term()))).is_none());
    drop(recorder);
    let both: [Rebuilt; 2] = [(); 2].map(|()| rebuild(&context, &texts()).expect("a run"));
    let both = both.map(|rebuilt| (Recorder::continuing(&ledger, &rebuilt), rebuilt.context));
    std::thread::scope(|scope| {
        for (recorder, begin) in both {
            let (rules, expected) = (&rules, &expected);
            scope.spawn(move || {
                let done = block_on(recorder.run(&mut engine(rules), begin));
                assert_eq!(root(&done.expect("it converges").context), root(expected));
            });
        }
    });
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert!(rebuilt.has_ended && rebuilt.is_complete());
    assert_eq!(
        (root(&rebuilt.context), rebuilt.attempt),
        (root(&expected), 2)
    );
    // What each has seen is an event of its own.
    let mut range = context.range(1).key("events");
    let mut recorded = 0;
    while range.next_entry().expect("readable").is_some() {
        recorded += 1;
    }
    let store = LedgerExperienceStore::new(context.appender().expect("an appender"), "reader");
    let events = store
        .query_events(&EventQuery::default())
        .expect("readable");
    assert_eq!(events.len(), recorded);
}

#[test]
fn of_two_processes_that_resume_one_run_the_one_that_ends_it_is_rebuilt() {
    let instance = started(&[]);
    let (ledger, context) = (instance.connect(), instance.context("run"));
    let says = |text| [Rule::after("model", TERM).adds(ContextKey::Signals, "score", text)];
    let recorder = Recorder::new(&ledger, "run").streaming(failing_at(1));
    let killed = survived(|| block_on(recorder.run(&mut engine(&says("any")), with_term())));
    assert!(killed.is_none());
    drop(recorder);
    let [killed, ending] = [(); 2].map(|()| rebuild(&context, &texts()).expect("a run"));
    // What a model says is another thing each time. One dies before its cycle ends.
    let recorder = dying(Recorder::continuing(&ledger, &killed), 7);
    let run = || block_on(recorder.run(&mut engine(&says("low")), killed.context));
    assert!(survived(run).is_none());
    assert_eq!(explain(&context, "score").expect("readable").len(), 1);
    let recorder = Recorder::continuing(&ledger, &ending);
    let run = block_on(recorder.run(&mut engine(&says("high")), ending.context));
    let done = run.expect("it converges").context;
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert_eq!(root(&rebuilt.context), root(&done));
}

#[test]
fn an_input_that_nobody_registered_is_named_with_its_entry() {
    let instance = started(&[]);
    let recorder = dying(Recorder::new(&instance.connect(), "run"), 3);
    let begin = loan::context(loan::application(7)).expect("a context");
    assert!(survived(|| block_on(recorder.run(&mut loan::engine(), begin))).is_none());
    let context = instance.context("run");
    let error = rebuild(&context, &texts()).expect_err("no loan is known");
    let RebuildError::UnknownFamily { seq, family, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(family, "loan.application");
    let entry = context
        .get(seq)
        .expect("a number of an entry")
        .expect("there");
    assert_eq!(entry.key(), "proposals");
}

// ------------------------------------------------------------------- payloads

/// Proposes one payload.
struct Proposes<P>(ContextKey, &'static str, P);

#[async_trait]
impl<P: FactPayload + PartialEq> Suggestor for Proposes<P> {
    fn name(&self) -> &str {
        "proposes"
    }
    fn dependencies(&self) -> &[ContextKey] {
        &[ContextKey::Seeds]
    }
    fn accepts(&self, context: &dyn converge_core::Context) -> bool {
        !context
            .get(self.0)
            .iter()
            .any(|fact| fact.id().as_str() == self.1)
    }
    async fn execute(&self, _: &dyn converge_core::Context) -> AgentEffect {
        AgentEffect::with_proposal(ProposedFact::new(
            self.0,
            self.1,
            self.2.clone(),
            "proposes",
        ))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Numbers {
    doubles: Vec<f64>,
    singles: Vec<f32>,
    large: u64,
    small: i64,
    nested: BTreeMap<String, BTreeMap<String, Option<f64>>>,
}

impl FactPayload for Numbers {
    const FAMILY: &'static str = "oddities.numbers";
    const VERSION: u16 = u16::MAX;
}

/// Doubles of all sizes, the same in every run.
fn doubles() -> Vec<f64> {
    let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
    let mut found = vec![
        0.1 + 0.2,
        1e-7,
        -0.0,
        f64::MIN_POSITIVE,
        f64::MAX,
        5e-324,
        1e21,
        1e16,
    ];
    while found.len() < 5000 {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        let double = f64::from_bits(bits);
        if double.is_finite() {
            found.push(double);
        }
    }
    found
}

#[test]
fn numbers_are_rebuilt_to_the_last_bit() {
    let instance = started(&[]);
    let inner: BTreeMap<_, _> = [
        ("\u{1f980}\u{202e}\"\\\u{0}".to_owned(), Some(1e-7)),
        (String::new(), None),
    ]
    .into();
    let numbers = Numbers {
        singles: doubles()
            .iter()
            .map(|double| *double as f32)
            .filter(|it| it.is_finite())
            .collect(),
        doubles: doubles(),
        large: u64::MAX,
        small: i64::MIN,
        nested: [("Größe\u{2028}\n".to_owned(), inner)].into(),
    };
    let mut registry = texts();
    registry.register::<Numbers>();
    let mut engine = Engine::new();
    engine.register_suggestor(Proposes(ContextKey::Signals, "numbers", numbers.clone()));
    let recorder = Recorder::new(&instance.connect(), "run");
    let result = block_on(recorder.run(&mut engine, with_term())).expect("it converges");
    assert!(result.context.has(ContextKey::Signals));
    let rebuilt = rebuild(&instance.context("run"), &registry).expect("a run");
    let fact = &rebuilt.context.get(ContextKey::Signals)[0];
    let found: &Numbers = fact.payload().expect("of this type");
    let bits = |numbers: &Numbers| -> Vec<u64> {
        numbers
            .doubles
            .iter()
            .map(|double| double.to_bits())
            .collect()
    };
    let differing = bits(found)
        .iter()
        .zip(bits(&numbers))
        .filter(|(a, b)| **a != *b)
        .count();
    assert_eq!(differing, 0, "of {}", numbers.doubles.len());
    assert_eq!(found, &numbers);
    assert_eq!(
        root(&rebuilt.context),
        result.integrity.merkle_root.to_hex()
    );
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unordered(HashMap<String, u32>);

impl FactPayload for Unordered {
    const FAMILY: &'static str = "oddities.unordered";
    const VERSION: u16 = 1;
}

#[test]
fn a_payload_that_has_no_order_is_rebuilt_right_or_refused_by_name() {
    let instance = started(&[]);
    let mut registry = texts();
    registry.register::<Unordered>();
    let mut refusals = 0;
    for size in [0_u32, 1, 20] {
        let scope = format!("run-{size}");
        let map = (0..size)
            .map(|number| (format!("name-{number}"), number))
            .collect();
        let mut engine = Engine::new();
        engine.register_suggestor(Proposes(ContextKey::Signals, "map", Unordered(map)));
        let recorder = Recorder::new(&instance.connect(), &*scope);
        let result = block_on(recorder.run(&mut engine, with_term())).expect("it converges");
        match rebuild(&instance.context(&scope), &registry) {
            Ok(rebuilt) => {
                let found: Option<&Unordered> =
                    rebuilt.context.get(ContextKey::Signals)[0].payload();
                assert!(found.is_some_and(|found| found.0.len() == size as usize));
                if size < 2 {
                    assert_eq!(
                        root(&rebuilt.context),
                        result.integrity.merkle_root.to_hex()
                    );
                }
            }
            Err(RebuildError::Rejected { why, .. }) => {
                assert!(why.to_lowercase().contains("merkle"), "{why}");
                refusals += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refusals <= 1, "a map of one has an order");
}

// --------------------------------------------------------- ids, sizes, losses

#[test]
fn ids_of_any_characters_are_recorded_found_and_rebuilt() {
    let instance = started(&[]);
    let ids_ = [
        "\u{0}",
        " ",
        "a\nb",
        "\"\\",
        "\u{202e}x",
        "\u{1f980}",
        "--",
        "Signals/x",
        "a\tb",
        "é\u{301}",
    ];
    let rule = ids_.iter().fold(Rule::after("odd", TERM), |rule, id| {
        rule.adds(ContextKey::Signals, id, "x")
    });
    let recorder = Recorder::new(&instance.connect(), "run").with_run_id("\u{1f980} \n\"run\"");
    let result = block_on(recorder.run(&mut engine(&[rule]), with_term())).expect("it converges");
    assert_eq!((recorder.dropped(), recorder.trouble()), (0, None));
    let context = instance.context("run");
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert_eq!(
        ids(&rebuilt.context, ContextKey::Signals),
        ids(&result.context, ContextKey::Signals)
    );
    assert_eq!(
        rebuilt.context.snapshot().merkle_root(),
        &result.integrity.merkle_root
    );
    assert!(result.context.has(ContextKey::Signals));
    for id in ids(&result.context, ContextKey::Signals) {
        let found = explain(&context, &id).expect("readable");
        assert_eq!(found.len(), 1, "{id:?}");
        assert_eq!((&found[0].id, found[0].is_committed), (&id, true));
    }
}

/// A run in which one fact cannot be recorded.
fn with_a_loss(rule: Rule) {
    let instance = started(&[]);
    let rules = [
        rule,
        Rule::after("after", &[(ContextKey::Signals, "before")]).adds(
            ContextKey::Hypotheses,
            "after",
            "x",
        ),
    ];
    let alone = block_on(engine(&rules).run(with_term())).expect("it converges");
    let recorder = Recorder::new(&instance.connect(), "run");
    let result = block_on(recorder.run(&mut engine(&rules), with_term())).expect("it converges");
    assert_eq!(result.integrity, alone.integrity);
    let dropped = recorder.dropped();
    assert!(
        (1..=2).contains(&dropped),
        "{dropped}: the fact, and perhaps its event"
    );
    let rebuilt = rebuild(&instance.context("run"), &texts()).expect("a run");
    assert!(!rebuilt.is_complete() && rebuilt.has_ended);
    let said: Vec<String> = rebuilt.missing.iter().map(ToString::to_string).collect();
    assert!(
        said.iter()
            .all(|said| said.contains("entries since cycle 1")),
        "{said:?}"
    );
    // Nothing of a cycle that may be there by halves, or of what came of it.
    assert!(!rebuilt.context.has(ContextKey::Signals));
    assert!(!rebuilt.context.has(ContextKey::Hypotheses));
    let found = explain(&instance.context("run"), "behind").expect("readable");
    assert_eq!((found.len(), found[0].is_committed), (1, false));
}

#[test]
fn a_fact_with_an_id_that_no_metadata_holds_is_counted_and_missing() {
    let id = "i".repeat(100 << 10);
    let rule = Rule::after("odd", TERM)
        .adds(ContextKey::Signals, "before", "x")
        .adds(ContextKey::Signals, &id, "x")
        .adds(ContextKey::Signals, "behind", "x");
    with_a_loss(rule);
}

#[test]
fn a_fact_larger_than_an_entry_is_counted_and_missing() {
    let text = "x".repeat(5 << 20);
    let rule = Rule::after("odd", TERM)
        .adds(ContextKey::Signals, "before", "x")
        .adds(ContextKey::Signals, "large", &text)
        .adds(ContextKey::Signals, "behind", "x");
    with_a_loss(rule);
}

#[test]
fn a_run_with_an_empty_name_is_found_again() {
    let instance = started(&[]);
    let recorder = Recorder::new(&instance.connect(), "run").with_run_id("");
    let result = block_on(recorder.run(&mut Engine::new(), with_term())).expect("it converges");
    let rebuilt = rebuild(&instance.context("run"), &texts()).expect("a run");
    assert_eq!(
        rebuilt.context.snapshot().merkle_root(),
        &result.integrity.merkle_root
    );
}

// -------------------------------------------------------------------- garbage

/// Asks everything that there is to ask of a context; each answers or says which entry it
/// cannot read.
fn asked_everything(context: &Context) {
    let said = [
        rebuild(context, &texts())
            .err()
            .map(|error| error.to_string()),
        gates(context).err().map(|error| error.to_string()),
        explain(context, "x").err().map(|error| error.to_string()),
        diff(context, None, context, None)
            .err()
            .map(|error| error.to_string()),
        diff(context, Some("one"), context, Some("two"))
            .err()
            .map(|error| error.to_string()),
    ];
    for said in said.into_iter().flatten() {
        assert!(
            [
                "entry ",
                "run ",
                "no run was started",
                "has no run",
                "cannot be read as"
            ]
            .iter()
            .any(|named| said.contains(named)),
            "{said}"
        );
    }
    for event in timeline(context).expect("readable") {
        event.expect("readable");
    }
    if let Ok(rebuilt) = rebuild(context, &texts()) {
        let ledger = context.clone();
        drop(ledger);
        let _ = rebuilt.is_complete();
    }
}

const NULLS: [&str; 8] = [
    "",
    "null",
    "1",
    "\"x\"",
    "[null]",
    "{}",
    "{\"payload\":1}",
    "\u{1f980}",
];

#[test]
fn garbage_under_a_recorders_keys_is_named_and_nothing_panics() {
    let instance = started(&[]);
    let kinds = [
        ("intents", "run_started"),
        ("proposals", "input"),
        ("facts", "fact"),
        ("traces", "cycle_start"),
        ("traces", "cycle_end"),
        ("traces", "gap"),
        ("gates", "gate_requested"),
        ("gates", "gate_decided"),
        ("snapshots", "checkpoint"),
        ("outcomes", "run_ended"),
        ("outcomes", "run_failed"),
        ("events", "FactPromoted"),
    ];
    for (at, (key, kind)) in kinds.into_iter().enumerate() {
        for (which, payload) in NULLS.into_iter().enumerate() {
            for is_started in [false, true] {
                let scope = format!("garbage-{at}-{which}-{is_started}");
                let context = instance.context(&scope);
                if is_started {
                    forged(&context, "intents", STARTED, &[("kind", "run_started")]);
                }
                let pairs = [("kind", kind), ("fact_id", "x"), ("ckey", "Signals")];
                forged(&context, key, payload, &pairs);
                if !is_started {
                    forged(&context, "intents", STARTED, &[("kind", "run_started")]);
                }
                let end = r#"{"cycle":1,"facts_added":1}"#;
                forged(&context, "traces", end, &[("kind", "cycle_end")]);
                assert!(
                    survived(|| asked_everything(&context)).is_some(),
                    "{kind}: {payload}"
                );
            }
        }
    }
}

#[test]
fn numbers_that_no_run_comes_to_are_no_trouble() {
    let instance = started(&[]);
    let (ledger, context) = (instance.connect(), instance.context("run"));
    let most = u32::MAX.to_string();
    let end = r#"{"cycle":1,"facts_added":1}"#;
    for attempt in ["1", "2", &most] {
        let at = [("attempt", attempt)];
        forged(
            &context,
            "intents",
            STARTED,
            &[&at[..], &[("kind", "run_started")]].concat(),
        );
        let gap = r#"{"dropped":18446744073709551615,"since_cycle":4294967295}"#;
        forged(
            &context,
            "traces",
            gap,
            &[&at[..], &[("kind", "gap")]].concat(),
        );
        let last = [&at[..], &[("cycle", &*most), ("kind", "cycle_end")]].concat();
        forged(&context, "traces", end, &last);
    }
    forged(
        &context,
        "traces",
        end,
        &[("attempt", "4294967296"), ("kind", "cycle_end")],
    );
    forged(
        &context,
        "traces",
        end,
        &[("attempt", "-1"), ("kind", "cycle_end")],
    );
    asked_everything(&context);
    // A fact in a cycle after the last one there is.
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert_eq!(rebuilt.attempt, u32::MAX);
    assert!(!rebuilt.is_complete());
    let recorder = Recorder::continuing(&ledger, &rebuilt);
    let result = block_on(recorder.run(&mut Engine::new(), rebuilt.context)).expect("it converges");
    assert!(result.converged);
    asked_everything(&context);
}

#[test]
fn facts_of_a_run_that_was_never_started_are_told_and_not_rebuilt() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let recorder = Recorder::new(&ledger, "other");
    let result = block_on(recorder.run(&mut Engine::new(), with_term())).expect("it converges");
    let fact = serde_json::to_string(&result.context.get(ContextKey::Seeds)[0]).expect("JSON");
    let context = instance.context("run");
    let pairs = [("kind", "fact"), ("fact_id", "term"), ("ckey", "Seeds")];
    forged(&context, "facts", &fact, &pairs);
    forged(
        &context,
        "traces",
        r#"{"cycle":1,"facts_added":1}"#,
        &[("kind", "cycle_end")],
    );
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    let start = Missing::Start { attempt: 1 };
    assert_eq!(rebuilt.missing, [start]);
    assert_eq!(explain(&context, "term").expect("readable").len(), 1);
    asked_everything(&context);
}

#[test]
fn a_saved_context_without_one_of_its_parts_is_passed_over() {
    let instance = started(&[]);
    let store = LedgerContextStore::new(&instance.connect(), texts());
    let saved = with_facts("a", 3, 10);
    block_on(store.save_context("run", &saved)).expect("saved");
    let context = instance.context("run");
    for parts in [
        &["1/3", "3/3"][..],
        &["2/2"],
        &["1/2", "1/2"],
        &["0/1", "1/0"],
        &["1/3", "2/3", "2/3", "3/3"],
    ] {
        let id = format!("{parts:?}");
        for part in parts {
            let pairs = [("kind", "checkpoint"), ("checkpoint", &*id), ("part", part)];
            forged(&context, "snapshots", "{\"version\":", &pairs);
        }
        let loaded = block_on(store.load_context("run")).expect("the one before it is whole");
        assert_eq!(root(&loaded.expect("saved")), root(&saved), "{id}");
    }
}

// ----------------------------------------------- threads, tasks and the engine

#[test]
fn clones_in_many_threads_lose_nothing() {
    let instance = started(&[]);
    let recorder = Recorder::new(&instance.connect(), "run");
    recorder.started("host", &ContextState::new());
    std::thread::scope(|scope| {
        for _ in 0..8 {
            let recorder = recorder.clone();
            scope.spawn(move || {
                for cycle in 0..500 {
                    recorder.on_cycle_start(cycle);
                    recorder.on_cycle_end(cycle, 0);
                }
            });
        }
    });
    assert_eq!(recorder.recorded() + recorder.dropped(), 8001);
    let context = instance.context("run");
    // Nothing but the run and what says what is missing.
    let latest = context.latest().expect("readable");
    assert!(latest >= recorder.recorded(), "{latest}");
    if recorder.dropped() == 0 {
        assert_eq!(latest, 8001);
        assert!(rebuild(&context, &texts()).expect("a run").is_complete());
    }
}

/// Never comes to an end.
struct Waits;

#[async_trait]
impl Suggestor for Waits {
    fn name(&self) -> &str {
        "waits"
    }
    fn dependencies(&self) -> &[ContextKey] {
        &[ContextKey::Seeds]
    }
    fn accepts(&self, context: &dyn converge_core::Context) -> bool {
        context
            .get(ContextKey::Seeds)
            .iter()
            .any(|fact| fact.id().as_str() == "term")
    }
    async fn execute(&self, _: &dyn converge_core::Context) -> AgentEffect {
        std::future::pending().await
    }
}

#[test]
fn a_run_that_its_host_gives_up_leaves_the_engine_to_the_host() {
    let instance = started(&[]);
    let ledger = instance.connect();
    for which in ["run", "run_with_hitl"] {
        let recorder = Recorder::new(&ledger, which);
        let mut engine = Engine::new();
        engine.register_suggestor(Waits);
        let mut task = TaskContext::from_waker(Waker::noop());
        match which {
            "run" => {
                let run = pin!(recorder.run(&mut engine, with_term()));
                assert!(run.poll(&mut task).is_pending());
            }
            _ => {
                let run = pin!(recorder.run_with_hitl(&mut engine, with_term()));
                assert!(run.poll(&mut task).is_pending());
            }
        }
        let before = recorder.recorded();
        let mut other = ContextState::new();
        other
            .add_input(ContextKey::Seeds, "other", "of another run")
            .expect("an input");
        block_on(engine.run(other)).expect("it converges");
        assert_eq!(recorder.recorded(), before, "{which}");
        let found = explain(&instance.context(which), "other").expect("readable");
        assert!(found.is_empty(), "{which}");
    }
}

#[test]
fn a_recorder_that_a_task_drops_is_gone_without_a_wait() {
    let mut instance = started(&["--spare-min", "16K", "--spare-max", "16K"]);
    let ledger = instance.connect();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    let recorder = Recorder::new(&ledger, "run");
    instance.kill_daemon();
    let elapsed = runtime.block_on(async move {
        while recorder.dropped() == 0 {
            recorder.on_cycle_start(1);
        }
        let start = Instant::now();
        drop(recorder);
        start.elapsed()
    });
    assert!(elapsed < Duration::from_millis(500), "{elapsed:?}");
}

/// Threads of this process beside its recorders.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names
        .filter(|name| name.trim() == "ledger-recorder")
        .count()
}

#[test]
fn two_hundred_recorders_have_one_thread_and_leave_none_behind() {
    let instance = started(&[]);
    let ledger = instance.connect();
    for round in 0..2 {
        let recorders: Vec<_> = (0..200).map(|_| Recorder::new(&ledger, "run")).collect();
        eventually("one thread for all of them", || {
            (threads() == 1).then_some(())
        });
        for recorder in &recorders {
            recorder.on_cycle_start(round);
        }
        drop(recorders);
        // Those of other tests in this process may need theirs.
        eventually("at most one is left", || (threads() <= 1).then_some(()));
    }
    assert_eq!(instance.context("run").latest().expect("readable"), 400);
}

#[test]
fn after_a_long_silence_a_watcher_hears_of_the_next_entry() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let recorder = Recorder::new(&ledger, "run");
    let mut watcher = instance.context("run").watch(1);
    for cycle in 0..5 {
        // Longer than the thread beside the run looks by itself.
        let nothing = watcher
            .next_timeout(Duration::from_millis(300))
            .expect("readable");
        assert!(nothing.is_none());
        let other = recorder.clone();
        let recording = std::thread::spawn(move || other.on_cycle_start(cycle));
        let entry = watcher
            .next_timeout(Duration::from_secs(1))
            .expect("readable");
        assert!(entry.is_some(), "cycle {cycle}");
        recording.join().expect("no panic");
    }
    // And one that is made after the thread beside the runs before has ended.
    drop(recorder);
    let nothing = watcher
        .next_timeout(Duration::from_millis(2500))
        .expect("readable");
    assert!(nothing.is_none());
    Recorder::new(&ledger, "run").on_cycle_start(9);
    let entry = watcher
        .next_timeout(Duration::from_secs(1))
        .expect("readable");
    assert!(entry.is_some());
}

/// Everything that an engine says, to the byte.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn note(&self, what: String) {
        self.0.lock().expect("no panic").push(what);
    }
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

impl StreamingCallback for Heard {
    fn on_cycle_start(&self, cycle: u32) {
        self.note(format!("start {cycle}"));
    }
    fn on_fact(&self, cycle: u32, fact: &ContextFact) {
        self.note(format!(
            "fact {cycle} {}",
            serde_json::to_string(fact).expect("JSON")
        ));
    }
    fn on_cycle_end(&self, cycle: u32, facts: usize) {
        self.note(format!("end {cycle} {facts}"));
    }
}

#[test]
fn a_host_hears_the_same_of_pauses_and_answers() {
    let instance = started(&[]);
    let heard = Arc::new(Heard::default());
    let noted = Arc::clone(&heard);
    let observer = Arc::new(move |event: &ExperienceEvent| {
        let mut event = serde_json::to_value(event).expect("JSON");
        // When it was asked and answered.
        event["data"]["request"]["requested_at"].take();
        event["data"]["decision"]["decided_at"].take();
        noted.note(event.to_string());
    });
    let answers: [fn(&HitlPause) -> GateDecision; 2] = [approve, reject];
    for last in answers {
        let mut engine = gated(&two_plans(), &[ContextKey::Strategies]);
        engine.set_streaming(heard.clone());
        engine.set_event_observer(observer.clone());
        let pause = asked(block_on(engine.run_with_hitl(with_term())));
        let decision = approve(&pause);
        let pause = asked(block_on(engine.resume(*pause, decision)));
        let decision = last(&pause);
        let alone = complete(block_on(engine.resume(*pause, decision)));
        let expected = heard.take();
        assert!(expected.len() > 10, "{expected:?}");

        let recorder = Recorder::new(&instance.connect(), "run");
        let recorder = recorder
            .streaming(heard.clone())
            .event_observer(observer.clone());
        let mut engine = gated(&two_plans(), &[ContextKey::Strategies]);
        let pause = asked(block_on(recorder.run_with_hitl(&mut engine, with_term())));
        let decision = approve(&pause);
        let pause = asked(block_on(recorder.resume(&mut engine, *pause, decision)));
        let decision = last(&pause);
        let beside = complete(block_on(recorder.resume(&mut engine, *pause, decision)));
        assert_eq!(heard.take(), expected);
        assert_eq!(root(&beside), root(&alone));
    }
}

#[test]
fn the_observer_of_a_typed_intent_hears_the_same() {
    let instance = started(&[]);
    let intent = TypesRootIntent::builder()
        .id("loan-7".into())
        .kind(TypesIntentKind::Custom)
        .request("decide loan 7")
        .build();
    let heard = Arc::new(Heard::default());
    let own = Arc::new(Heard::default());
    let observing = |heard: &Arc<Heard>| {
        let heard = Arc::clone(heard);
        Arc::new(move |event: &ExperienceEvent| {
            heard.note(serde_json::to_string(event).expect("JSON"));
        })
    };
    let hooks = || TypesRunHooks {
        event_observer: Some(observing(&heard)),
        ..TypesRunHooks::default()
    };
    let mut engine = engine(&two_plans());
    engine.set_streaming(heard.clone());
    engine.set_event_observer(observing(&own));
    let run = engine.run_with_types_intent_and_hooks(with_term(), &intent, hooks());
    let alone = block_on(run).expect("it converges");
    let expected = (heard.take(), own.take());
    assert!(expected.0.len() > 10, "{expected:?}");

    let recorder = Recorder::new(&instance.connect(), "run");
    let recorder = recorder
        .streaming(heard.clone())
        .event_observer(observing(&own));
    let run = recorder.run_with_types_intent_and_hooks(&mut engine, with_term(), &intent, hooks());
    let beside = block_on(run).expect("it converges");
    assert_eq!((heard.take(), own.take()), expected);
    assert_eq!(beside.integrity, alone.integrity);
    // The observer of the host's engine is the engine's again.
    block_on(engine.run(with_term())).expect("it converges");
    assert!(!own.take().is_empty());
}
