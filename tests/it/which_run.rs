//! Which run an entry is of, where several are in one context, one after the other or at once.

use converge_core::{Budget, ContextKey, Engine, EventQuery, ExperienceStore, StreamingCallback};
use ledger_client::converge::history::{diff, explain};
use ledger_client::converge::{LedgerExperienceStore, Rebuilt, Recorder, rebuild, rebuild_run};
use pollster::block_on;

use crate::started;
use crate::suggestors::{
    Rule, TERM, complete, dying, engine, failing_at, root, staged, survived, texts, two_plans,
    whole, with_term,
};

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
fn the_run_that_was_started_last_is_rebuilt_whoever_records_last_and_any_by_its_name() {
    let instance = started(&[]);
    let (ledger, context) = (instance.connect(), instance.context("run"));
    let named = |name: &str| Recorder::new(&ledger, "run").with_run_id(name);
    let (first, second) = (named("first"), named("second"));
    first.started("host", &staged("36 months"));
    second.started("host", &with_term());
    first.on_cycle_start(1);
    let last = || rebuild(&context, &texts()).expect("a run").run_id;
    assert_eq!(last(), "second");
    let of_first = rebuild_run(&context, "first", &texts()).expect("a run");
    assert_eq!(of_first.run_id, "first");
    let said = rebuild_run(&context, "third", &texts()).expect_err("no such run");
    assert!(said.to_string().contains("has no run \"third\""), "{said}");
    // Started once more it is the last one.
    let again = Recorder::continuing(&ledger, &of_first);
    again.started("host", &of_first.context);
    second.on_cycle_start(1);
    assert_eq!(last(), "first");
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
