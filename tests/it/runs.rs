//! Whatever becomes of the ledger, an engine does the same, and is not kept
//! waiting.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use converge_core::{ContextFact, StreamingCallback};
use ledger_client::converge::Recorder;
use ledger_client::{Appender, Full, NewEntry};
use ledger_tests::{Instance, PATIENCE};
use pollster::block_on;

use crate::{loan, started};

/// An `append` would wait for a second.
const NO_WAIT: Duration = Duration::from_millis(500);
const APPLICATIONS: u64 = 20;
/// Calls of one run: seven facts, and both ends of five cycles.
const CALLS: u64 = 17;

/// Hears everything that an engine says, and passes it on to a recorder.
#[derive(Default)]
struct Listener {
    recorder: Option<Recorder>,
    heard: Mutex<Vec<String>>,
    slowest: Mutex<Duration>,
}

impl Listener {
    fn hear(&self, what: String, record: impl FnOnce(&Recorder)) {
        self.heard.lock().expect("one thread").push(what);
        let start = Instant::now();
        self.recorder.as_ref().map(record);
        let mut slowest = self.slowest.lock().expect("one thread");
        *slowest = start.elapsed().max(*slowest);
    }
}

impl StreamingCallback for Listener {
    fn on_cycle_start(&self, cycle: u32) {
        self.hear(format!("start {cycle}"), |recorder| {
            recorder.on_cycle_start(cycle);
        });
    }

    fn on_fact(&self, cycle: u32, fact: &ContextFact) {
        let text = serde_json::to_string(fact).expect("a fact is JSON");
        self.hear(format!("{cycle} {text}"), |recorder| {
            recorder.on_fact(cycle, fact);
        });
    }

    fn on_cycle_end(&self, cycle: u32, facts_added: usize) {
        self.hear(format!("end {cycle} {facts_added}"), |recorder| {
            recorder.on_cycle_end(cycle, facts_added);
        });
    }
}

/// Everything that a run does, to the byte.
fn run(number: u64, listener: Listener) -> (loan::Outcome, Listener) {
    let listener = Arc::new(listener);
    let outcome = block_on(loan::run(number, listener.clone())).expect("it converges");
    let listener = Arc::into_inner(listener).expect("the engine is gone");
    (outcome, listener)
}

/// Has engines run with and without this appender; how many of their calls were
/// recorded, and how many were dropped.
fn runs_are_the_same(mut appender: Appender) -> (u64, u64) {
    let (mut recorded, mut dropped) = (0, 0);
    for number in 0..APPLICATIONS {
        let (expected, alone) = run(number, Listener::default());
        let recorder = Some(Recorder::new(appender, format!("loan-{number}")));
        let listener = Listener {
            recorder,
            ..Listener::default()
        };
        let (outcome, beside) = run(number, listener);
        assert_eq!(outcome, expected);
        let heard = |listener: &Listener| listener.heard.lock().expect("one thread").clone();
        assert_eq!(heard(&beside), heard(&alone));
        let slowest = *beside.slowest.lock().expect("one thread");
        assert!(slowest < NO_WAIT, "{slowest:?}");
        let recorder = beside.recorder.expect("set above");
        recorded += recorder.recorded();
        dropped += recorder.dropped();
        appender = recorder.into_appender();
    }
    assert_eq!(recorded + dropped, APPLICATIONS * CALLS);
    (recorded, dropped)
}

/// An instance in which one context soon takes all the memory it can have.
fn small() -> (Instance, Appender) {
    let instance = started(&[
        "--memory-budget",
        "128K",
        "--window",
        "1G",
        "--spare-min",
        "16K",
        "--spare-max",
        "16K",
    ]);
    let appender = instance.context("run").appender().expect("an appender");
    (instance, appender)
}

/// Appends until not even a small entry has room.
fn fill(appender: &mut Appender, why: Full) {
    appender.set_wait(NO_WAIT);
    let error = loop {
        if let Err(error) = appender.append(&NewEntry::new("fill", b"")) {
            break error;
        }
    };
    assert_eq!(error, ledger_client::Refused::Full(why).into());
}

#[test]
fn with_a_ledger_that_works_everything_is_recorded() {
    let instance = started(&[]);
    let appender = instance.context("run").appender().expect("an appender");
    assert!(appender.wait_ready(PATIENCE));
    assert_eq!(runs_are_the_same(appender), (APPLICATIONS * CALLS, 0));
}

#[test]
fn with_a_full_ledger() {
    let (_instance, mut appender) = small();
    fill(&mut appender, Full::Budget);
    assert_eq!(runs_are_the_same(appender), (0, APPLICATIONS * CALLS));
}

#[test]
fn with_a_daemon_that_is_dead() {
    let (mut instance, mut appender) = small();
    instance.kill_daemon();
    fill(&mut appender, Full::DaemonDown);
    assert!(!appender.wait_ready(Duration::ZERO));
    assert_eq!(runs_are_the_same(appender), (0, APPLICATIONS * CALLS));
}

#[test]
fn with_a_daemon_that_is_stopped() {
    let (instance, appender) = small();
    instance.pause_daemon();
    let (recorded, dropped) = runs_are_the_same(appender);
    assert!(recorded > 0 && dropped > 0, "{recorded} and {dropped}");
    instance.resume_daemon();
}

#[test]
fn with_a_context_that_was_purged() {
    let (mut instance, appender) = small();
    instance.stop_daemon();
    instance.printed(&["purge"]);
    assert_eq!(runs_are_the_same(appender), (0, APPLICATIONS * CALLS));
}
