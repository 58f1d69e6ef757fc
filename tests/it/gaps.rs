//! A run of which the ledger could not take everything: what is missing is known, and it goes
//! on from before that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use converge_core::{Budget, ContextFact, ContextKey, StreamingCallback};
use ledger_client::converge::{Missing, NotResumable, Recorder, rebuild};
use ledger_client::{Ledger, NewEntry};
use ledger_tests::{Instance, eventually};
use pollster::block_on;

use crate::rebuild::{loan_7, rebuilt};
use crate::suggestors::{AtCycle, Rule, TERM, complete, engine, ids, texts, with_term};
use crate::{IN_MEMORY, loan, started};

/// An instance whose memory one context can take all of.
fn small() -> Instance {
    let sizes = ["--memory-budget", "256K", "--window", "1G"];
    let spares = ["--spare-min", "16K", "--spare-max", "16K"];
    started(&[&sizes[..], &spares, &IN_MEMORY].concat())
}

/// Appends to a context until there is no memory left.
fn take_all_memory(ledger: &Ledger) {
    let context = ledger.context("other").open_or_create().expect("a context");
    let mut appender = context.appender().expect("an appender");
    let payload = [0; 1024];
    while appender.append(&NewEntry::new("fill", &payload)).is_ok() {}
}

/// Many facts in each of three cycles, of which the first is recorded and the others are
/// not: `take` takes away what the ledger needs, and `give` gives it back in the end.
fn incomplete(instance: Instance, take: fn(&mut Instance), give: fn(&mut Instance)) {
    let mut rules = vec![Rule::after("first", TERM).adds(ContextKey::Signals, "0", "one")];
    for round in 1..3_u32 {
        let needed = (round - 1).to_string();
        let id = if round == 1 {
            needed
        } else {
            format!("{needed}-0")
        };
        let mut rule = Rule::after("many", &[(ContextKey::Signals, &id)]);
        for fact in 0..500 {
            rule = rule.adds(
                ContextKey::Signals,
                &format!("{round}-{fact}"),
                &"x".repeat(500),
            );
        }
        rules.push(rule);
    }
    let alone = block_on(engine(&rules).run(with_term())).expect("it converges");

    let ledger = instance.connect();
    // Small enough, it may fit where the facts did not.
    let is_end_there = Arc::new(AtomicBool::new(false));
    let fitted = Arc::clone(&is_end_there);
    let recorder = Recorder::new(&ledger, "run").observed_by(move |tried| {
        if tried.outcome.is_ok() && tried.metadata.contains(&("kind", "run_ended")) {
            fitted.store(true, Ordering::Relaxed);
        }
    });
    let instance = Arc::new(Mutex::new(instance));
    let taken = Arc::clone(&instance);
    let taking = AtCycle(2, move || take(&mut taken.lock().expect("one thread")));
    let recording = recorder.clone().streaming(Arc::new(taking));
    let result = block_on(recording.run(&mut engine(&rules), with_term())).expect("it converges");
    assert_eq!(result.integrity.merkle_root, alone.integrity.merkle_root);
    assert_eq!(result.cycles, alone.cycles);
    let dropped = recorder.dropped();
    assert!(dropped > 100, "{dropped} dropped");
    // Nobody has it any more, and it says all the same what is missing. Others record on.
    drop((recorder, recording));
    let other = Recorder::new(&ledger, "busy");
    let busy = Arc::new(AtomicBool::new(true));
    let is_busy = Arc::clone(&busy);
    let recording = std::thread::spawn(move || {
        while is_busy.load(Ordering::Relaxed) {
            other.on_cycle_start(1);
            std::thread::yield_now();
        }
    });

    let mut instance = instance.lock().expect("one thread");
    give(&mut instance);
    let context = ledger.context("run").open_read_only().expect("there");
    let count = |missing: &Missing| match missing {
        Missing::Entries { dropped, .. } => *dropped,
        other => panic!("{other}"),
    };
    let missing = eventually("all that is missing is said", || {
        let rebuilt = rebuild(&context, &texts()).expect("a run");
        assert_eq!(rebuilt.has_ended, is_end_there.load(Ordering::Relaxed));
        let said: u64 = rebuilt.missing.iter().map(count).sum();
        (said == dropped).then_some(rebuilt.missing)
    });
    assert!(missing.len() < 10, "{missing:?}");
    busy.store(false, Ordering::Relaxed);
    recording.join().expect("no panic");
}

#[test]
fn of_a_run_in_a_full_ledger_it_is_known_what_is_missing() {
    incomplete(
        small(),
        |instance| take_all_memory(&instance.connect()),
        |instance| _ = instance.printed(&["drop", "other", "--yes"]),
    );
}

#[test]
fn of_a_run_whose_daemon_is_killed_it_is_known_what_is_missing() {
    incomplete(
        small(),
        |instance| drop(instance.kill_daemon()),
        |instance| {
            let more = [
                "--memory-budget",
                "16M",
                "--spare-min",
                "16K",
                "--spare-max",
                "16K",
            ];
            instance.start(&[&more[..], &IN_MEMORY].concat());
        },
    );
}

#[test]
fn of_a_run_without_a_daemon_nothing_is_rebuilt() {
    let mut instance = started(&[]);
    let ledger = instance.connect();
    instance.kill_daemon();
    let recorder = Recorder::new(&ledger, "run");
    let result = block_on(recorder.run(&mut loan::engine(), loan_7())).expect("it converges");
    let alone = block_on(loan::engine().run(loan_7())).expect("it converges");
    assert_eq!(result.integrity, alone.integrity);
    let dropped = recorder.dropped();
    assert!(dropped > 20, "{dropped}");

    instance.start(&[]);
    let context = eventually("the context is made", || ledger.context("run").open().ok());
    eventually("the gap is recorded", || context.get(1).expect("readable"));
    let rebuilt = rebuilt(&context);
    let start = Missing::Start { attempt: 1 };
    assert!(rebuilt.missing.contains(&start), "{:?}", rebuilt.missing);
    let recorder = Recorder::continuing(&ledger, &rebuilt);
    let error = block_on(rebuilt.resume(&recorder, &mut loan::engine()));
    let error = error.expect_err("it would begin with nothing");
    assert!(matches!(error, NotResumable::Incomplete { .. }), "{error}");
}

#[test]
fn a_run_with_a_gap_goes_on_from_before_it() {
    let instance = small();
    let ledger = instance.connect();
    let needs = |id| [(ContextKey::Signals, id)];
    let long = "x".repeat(40_000);
    let mut large = Rule::after("large", &needs("first"));
    for fact in 0..3 {
        large = large.adds(ContextKey::Hypotheses, &format!("large-{fact}"), &long);
    }
    let rules = [
        Rule::after("first", TERM).adds(ContextKey::Signals, "first", "one"),
        large,
        Rule::after("last", &[(ContextKey::Hypotheses, "large-0")]).adds(
            ContextKey::Strategies,
            "last",
            "one",
        ),
    ];
    let alone = block_on(engine(&rules).run(with_term())).expect("it converges");
    // No memory while the large ones come, and some again for what comes after them.
    let (takes, gives) = (instance.connect(), Arc::new(instance));
    let given = Arc::clone(&gives);
    let taking = Both(
        AtCycle(2, move || take_all_memory(&takes)),
        AtCycle(3, move || _ = given.printed(&["drop", "other", "--yes"])),
    );
    let recorder = Recorder::new(&ledger, "run").streaming(Arc::new(taking));
    let mut failing = engine(&rules);
    failing.set_budget(Budget {
        max_cycles: 3,
        max_facts: 100,
    });
    block_on(recorder.run(&mut failing, with_term())).expect_err("the budget");
    assert!(recorder.dropped() > 0);
    drop(recorder);

    let context = gives.context("run");
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert!(
        !rebuilt.context.has(ContextKey::Hypotheses),
        "no cycle by halves"
    );
    assert_eq!(ids(&rebuilt.context, ContextKey::Signals), ["first"]);
    let recorder = Recorder::continuing(&ledger, &rebuilt);
    let resumed = block_on(rebuilt.resume(&recorder, &mut engine(&rules)));
    let resumed = complete(resumed.expect("it can be resumed"));
    let root = resumed.snapshot().merkle_root().clone();
    assert_eq!(root, alone.integrity.merkle_root);
}

/// One callback after the other.
struct Both<A, B>(A, B);

impl<A: StreamingCallback, B: StreamingCallback> StreamingCallback for Both<A, B> {
    fn on_cycle_start(&self, cycle: u32) {
        self.0.on_cycle_start(cycle);
        self.1.on_cycle_start(cycle);
    }
    fn on_fact(&self, _: u32, _: &ContextFact) {}
    fn on_cycle_end(&self, _: u32, _: usize) {}
}
