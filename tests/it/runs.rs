//! Whatever becomes of the ledger, an engine does the same, and is not kept
//! waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use converge_core::StreamingCallback;
use ledger_client::converge::Recorder;
use ledger_client::{AppendError, Context, Full, NewEntry, Refused};
use ledger_tests::{Instance, eventually};
use pollster::block_on;

use crate::suggestors::Heard;
use crate::{loan, started};

/// An `append` would wait for a second.
const NO_WAIT: Duration = Duration::from_millis(500);
const APPLICATIONS: u64 = 20;
/// Entries of one run: the application, seven facts and their promotions, both ends of five
/// cycles and of the run.
const ENTRIES: u64 = 27;

/// Everything that a run does without a ledger, to the byte.
fn alone(number: u64) -> (loan::Outcome, Vec<String>) {
    let listener = Arc::new(Heard::default());
    let mut engine = loan::engine();
    engine.set_streaming(listener.clone());
    let context = loan::context(loan::application(number)).expect("a context");
    let result = block_on(engine.run(context)).expect("it converges");
    (
        loan::Outcome::of(&result).expect("decided"),
        listener.take(),
    )
}

/// Has engines run with and without this recorder; how many of their entries were
/// recorded, and how many were dropped.
fn runs_are_the_same(recorder: &Recorder) -> (u64, u64) {
    let before = (recorder.recorded(), recorder.dropped());
    let listener = Arc::new(Heard::default());
    let recorder = recorder.clone().streaming(listener.clone());
    for number in 0..APPLICATIONS {
        let (expected, heard) = alone(number);
        let start = Instant::now();
        let outcome = block_on(loan::run(number, &recorder)).expect("it converges");
        let elapsed = start.elapsed();
        assert!(elapsed < NO_WAIT, "{elapsed:?}");
        assert_eq!(outcome, expected);
        assert_eq!(listener.take(), heard);
    }
    let (recorded, dropped) = (recorder.recorded(), recorder.dropped());
    let (recorded, dropped) = (recorded - before.0, dropped - before.1);
    // Those that say what is missing are none of the runs'.
    assert!(recorded + dropped >= APPLICATIONS * ENTRIES);
    (recorded, dropped)
}

/// An instance in which one context soon takes all the memory it can have.
fn small() -> Instance {
    started(&[
        "--memory-budget",
        "128K",
        "--window",
        "1G",
        "--spare-min",
        "16K",
        "--spare-max",
        "16K",
        "--durability",
        "memory",
    ])
}

/// Appends until not even a small entry has room, and never will have.
fn fill(context: &Context) {
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(NO_WAIT);
    let over = AppendError::from(Refused::Full(Full::Budget));
    eventually("there is no room", || {
        loop {
            match appender.append(&NewEntry::new("fill", b"")) {
                Ok(_) => {}
                Err(error) if error == over => return Some(()),
                // The daemon has not answered yet, or another part is on its way.
                Err(error) => {
                    assert!(error.is_full(), "{error}");
                    return None;
                }
            }
        }
    });
}

#[test]
fn with_a_ledger_that_works_everything_is_recorded() {
    let instance = started(&[]);
    let recorder = Recorder::new(&instance.connect(), "run");
    assert_eq!(runs_are_the_same(&recorder), (APPLICATIONS * ENTRIES, 0));
}

#[test]
fn with_a_full_ledger() {
    let instance = small();
    let recorder = Recorder::new(&instance.connect(), "run");
    fill(&instance.context("run"));
    assert_eq!(runs_are_the_same(&recorder), (0, APPLICATIONS * ENTRIES));
    // What is asked of the daemon anew has no answer at once.
    eventually("it says why", || {
        recorder.on_cycle_start(1);
        let trouble = recorder.trouble()?;
        trouble.contains("--memory-budget").then_some(())
    });
}

#[test]
fn with_a_daemon_that_is_absent() {
    let mut instance = started(&[]);
    let ledger = instance.connect();
    instance.kill_daemon();
    let recorder = Recorder::new(&ledger, "run");
    assert_eq!(runs_are_the_same(&recorder), (0, APPLICATIONS * ENTRIES));
    let trouble = recorder.trouble().expect("there is some");
    assert!(trouble.contains("ledgerd run"), "{trouble}");
}

#[test]
fn with_a_daemon_that_is_dead() {
    let mut instance = small();
    let recorder = Recorder::new(&instance.connect(), "run");
    instance.kill_daemon();
    // Until what it had been given before is full.
    while recorder.dropped() == 0 {
        recorder.on_cycle_start(0);
    }
    assert_eq!(runs_are_the_same(&recorder), (0, APPLICATIONS * ENTRIES));
}

#[test]
fn with_a_daemon_that_is_stopped() {
    let instance = small();
    let recorder = Recorder::new(&instance.connect(), "run");
    instance.pause_daemon();
    let (recorded, dropped) = runs_are_the_same(&recorder);
    assert!(recorded > 0 && dropped > 0, "{recorded} and {dropped}");
    instance.resume_daemon();
}

#[test]
fn with_a_context_that_was_purged() {
    let mut instance = small();
    let recorder = Recorder::new(&instance.connect(), "run");
    instance.stop_daemon();
    instance.printed(&["purge"]);
    assert_eq!(runs_are_the_same(&recorder), (0, APPLICATIONS * ENTRIES));
}
