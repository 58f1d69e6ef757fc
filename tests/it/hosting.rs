//! Hosts that share a recorder among threads, give a run up, or listen themselves.

use std::panic::resume_unwind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context as TaskContext, Waker};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use converge_core::gates::GateDecision;
use converge_core::{
    AgentEffect, ContextKey, ContextState, Engine, ExperienceEvent, HitlPause, StreamingCallback,
    Suggestor, TypesIntentKind, TypesRootIntent, TypesRunHooks,
};
use ledger_client::converge::history::explain;
use ledger_client::converge::{Recorder, rebuild};
use ledger_tests::eventually;
use pollster::block_on;

use crate::commands::lines;
use crate::suggestors::{
    Heard, approve, asked, complete, engine, gated, reject, root, texts, two_plans, with_term,
};
use crate::waiting::dozing;
use crate::{loan, started};

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
    let (recorded, dropped) = (recorder.recorded(), recorder.dropped());
    assert_eq!(recorded + dropped, 8001);
    assert!(
        recorded > 100,
        "{dropped} dropped: {:?}",
        recorder.trouble()
    );
    let context = instance.context("run");
    // Nothing but the run and what says what is missing.
    let latest = context.latest().expect("readable");
    assert!(latest >= recorded, "{latest}");
    assert_eq!(
        rebuild(&context, &texts()).expect("a run").is_complete(),
        dropped == 0
    );
}

#[test]
fn an_observer_that_panics_beside_the_run_leaves_the_others_their_thread() {
    let mut instance = started(&["--spare-min", "16K", "--spare-max", "16K"]);
    let ledger = instance.connect();
    let host = std::thread::current().id();
    let panicked = Arc::new(AtomicBool::new(false));
    let noted = Arc::clone(&panicked);
    let recorder = Recorder::new(&ledger, "run").observed_by(move |_| {
        if std::thread::current().id() != host {
            noted.store(true, Ordering::SeqCst);
            resume_unwind(Box::new("beside the run"));
        }
    });
    instance.kill_daemon();
    while recorder.dropped() == 0 {
        recorder.on_cycle_start(1);
    }
    instance.start(&["--spare-min", "16K", "--spare-max", "16K"]);
    eventually("the thread has said what is missing", || {
        panicked.load(Ordering::SeqCst).then_some(())
    });
    // Without it nobody would ring.
    let other = Recorder::new(&ledger, "log");
    let mut sleeper = dozing(&instance, "log");
    other.on_cycle_start(1);
    assert_eq!(sleeper.hear(), "ok rung");
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
fn after_a_long_silence_who_sleeps_hears_of_the_next_entry() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let recorder = Recorder::new(&ledger, "log");
    let mut watcher = instance.context("log").watch(1);
    let mut silence = |millis| {
        while watcher.try_next().expect("readable").is_some() {}
        let nothing = watcher.next_timeout(Duration::from_millis(millis));
        assert!(nothing.expect("readable").is_none());
    };
    // Kept: the daemon rings for those that end.
    let mut sleepers = Vec::new();
    for cycle in 0..5 {
        // Longer than the thread beside the run looks by itself.
        silence(300);
        let mut sleeper = dozing(&instance, "log");
        recorder.on_cycle_start(cycle);
        assert_eq!(sleeper.hear(), "ok rung", "cycle {cycle}");
        sleepers.push(sleeper);
    }
    // And of one by a recorder that is made after that thread has ended.
    drop(recorder);
    silence(2500);
    let mut sleeper = dozing(&instance, "log");
    Recorder::new(&ledger, "log").on_cycle_start(9);
    assert_eq!(sleeper.hear(), "ok rung");
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
        let mut engine = gated(&two_plans());
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
        let mut engine = gated(&two_plans());
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

#[test]
fn in_a_forks_child_a_run_is_not_disturbed_and_a_new_connection_records_it() {
    let instance = started(&[]);
    let output = instance.engine(&["run", "7", "--fork"]);
    assert!(output.status.success(), "{output:?}");
    let said = lines(&String::from_utf8(output.stdout).expect("text"));
    let [inherited, own, parent] = &said[..] else {
        panic!("{said:?}")
    };
    for child in [inherited, own] {
        assert_eq!(child["merkle_root"], parent["merkle_root"]);
    }
    assert_eq!(
        (&inherited["recorded"], &own["dropped"]),
        (&0.into(), &0.into())
    );
    assert_eq!(inherited["dropped"], own["recorded"]);
    let trouble = inherited["trouble"].as_str().expect("it was refused");
    assert!(trouble.contains("fork"), "{trouble}");
    for scope in ["run", "child"] {
        let rebuilt = rebuild(&instance.context(scope), &loan::registry()).expect("a run");
        assert!(rebuilt.is_complete() && rebuilt.has_ended, "{scope}");
        assert_eq!(root(&rebuilt.context), parent["merkle_root"], "{scope}");
    }
    let latest = instance.context("run").latest().expect("readable");
    assert_eq!(
        parent["recorded"], latest,
        "the child has left nothing there"
    );
}
