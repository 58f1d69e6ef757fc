//! Recording a run: never a wait, never a failure, every loss counted.

use std::sync::Arc;
use std::time::{Duration, Instant};

use converge_core::{
    ContextKey, ContextState, Engine, ProposedFact, StreamingCallback, TextPayload,
};
use ledger_client::converge::Recorder;

use crate::started;

#[test]
fn cycle_marks_are_recorded_with_what_tells_them_apart() {
    let instance = started(&[]);
    let context = instance.context("run");
    let recorder = Recorder::new(context.appender().expect("an appender"), "run-7");
    recorder.on_cycle_start(1);
    recorder.on_cycle_end(1, 3);
    assert_eq!((recorder.recorded(), recorder.dropped()), (2, 0));
    let entry = context.get(2).expect("readable").expect("there");
    assert_eq!(entry.key(), "traces");
    assert_eq!(entry.payload(), br#"{"cycle":1,"facts_added":3}"#);
    let metadata: Vec<_> = entry.metadata().collect();
    assert_eq!(
        metadata,
        [
            ("v", "1"),
            ("run_id", "run-7"),
            ("cycle", "1"),
            ("kind", "cycle_end")
        ]
    );
}

#[test]
fn a_runs_facts_are_recorded_whole_with_what_they_are_found_by() {
    let instance = started(&[]);
    let context = instance.context("run");
    let recorder = Arc::new(Recorder::new(
        context.appender().expect("an appender"),
        "run-7",
    ));
    let mut state = ContextState::new();
    let text = TextPayload::new("42 months");
    let proposal = ProposedFact::new(ContextKey::Seeds, "term", text, "applicant");
    state.add_proposal(proposal).expect("a proposal");
    let mut engine = Engine::new();
    engine.set_streaming(recorder.clone());
    let result = pollster::block_on(engine.run(state)).expect("it converges");
    let [fact] = result.context.get(ContextKey::Seeds) else {
        panic!("one fact");
    };

    let mut facts = context.range(1).key("facts");
    let entry = facts.next_entry().expect("readable").expect("one fact");
    let recorded: serde_json::Value = serde_json::from_slice(entry.payload()).expect("JSON");
    assert_eq!(recorded, serde_json::to_value(fact).expect("JSON"));
    let metadata: Vec<_> = entry.metadata().collect();
    assert_eq!(
        metadata[1..4],
        [("run_id", "run-7"), ("cycle", "0"), ("kind", "fact")]
    );
    for pair in [
        ("fact_id", "term"),
        ("ckey", "Seeds"),
        ("family", "converge.text"),
    ] {
        assert!(metadata.contains(&pair), "{pair:?} in {metadata:?}");
    }
    assert!(facts.next_entry().expect("readable").is_none());
    assert_eq!(context.latest().expect("readable"), recorder.recorded());
    assert_eq!(recorder.dropped(), 0);
}

#[test]
fn without_room_or_daemon_a_run_goes_on_and_losses_are_counted() {
    let mut instance = started(&["--spare-min", "16K", "--spare-max", "16K"]);
    let context = instance.context("run");
    let recorder = Recorder::new(context.appender().expect("an appender"), "run");
    instance.kill_daemon();
    let started = Instant::now();
    for cycle in 0..10_000 {
        recorder.on_cycle_start(cycle);
    }
    // One wait for room alone would be a second; ten thousand would be hours.
    assert!(started.elapsed() < Duration::from_secs(20));
    let (recorded, dropped) = (recorder.recorded(), recorder.dropped());
    assert_eq!(recorded + dropped, 10_000);
    assert!(dropped > 0 && recorded > 0, "{recorded} and {dropped}");
    assert_eq!(context.latest().expect("readable"), recorded);
}
