//! Recording a run: never a wait, never a failure, every loss counted.

use std::time::{Duration, Instant};

use converge_core::StreamingCallback;
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
