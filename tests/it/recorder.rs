//! Recording a run: what is written, never a wait, never a failure, every loss counted.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use converge_core::{
    ContextFact, ContextKey, ContextState, Engine, ExperienceEvent, ExperienceEventEnvelope,
    StreamingCallback,
};
use ledger_client::Context;
use ledger_client::converge::Recorder;
use pollster::block_on;

use crate::waiting::dozing;
use crate::{loan, started};

/// Key, kind and metadata of every entry.
fn recorded(context: &Context) -> Vec<(String, Vec<(String, String)>)> {
    let mut found = Vec::new();
    let mut range = context.range(1);
    while let Some(entry) = range.next_entry().expect("readable") {
        let pairs = entry.metadata().map(|(k, v)| (k.to_owned(), v.to_owned()));
        found.push((entry.key().to_owned(), pairs.collect()));
    }
    found
}

fn value<'p>(pairs: &'p [(String, String)], name: &str) -> Option<&'p str> {
    let mut pairs = pairs.iter();
    pairs.find_map(|(key, value)| (key == name).then_some(&**value))
}

fn with_input() -> ContextState {
    let mut state = ContextState::new();
    let added = state.add_input(ContextKey::Seeds, "term", "42 months");
    added.expect("an input");
    state
}

#[test]
fn a_run_is_recorded_whole_and_in_order() {
    let instance = started(&[]);
    let recorder = Recorder::new(&instance.connect(), "run").with_run_id("run-7");
    let result = block_on(recorder.run(&mut Engine::new(), with_input())).expect("it converges");
    let [fact] = result.context.get(ContextKey::Seeds) else {
        panic!("one fact");
    };

    let context = instance.context("run");
    let entries = recorded(&context);
    let kinds: Vec<_> = entries
        .iter()
        .map(|(key, pairs)| {
            let kind = value(pairs, "kind").expect("every entry has one");
            let cycle = value(pairs, "cycle").expect("every entry has one");
            (&**key, kind, cycle)
        })
        .collect();
    assert_eq!(
        kinds,
        [
            ("proposals", "input", "0"),
            ("intents", "run_started", "0"),
            ("events", "FactPromoted", "0"),
            ("facts", "fact", "0"),
            ("traces", "cycle_start", "1"),
            ("traces", "cycle_end", "1"),
            ("outcomes", "run_ended", "1"),
        ]
    );
    for (_, pairs) in &entries {
        let always = ["v", "run_id", "attempt"].map(|name| value(pairs, name));
        assert_eq!(always, [Some("1"), Some("run-7"), Some("1")], "{pairs:?}");
    }
    let of_fact = &entries[3].1;
    for (name, expected) in [
        ("fact_id", "term"),
        ("proposal_id", "term"),
        ("ckey", "Seeds"),
        ("family", "converge.text"),
        ("agent", "context-input"),
    ] {
        assert_eq!(value(of_fact, name), Some(expected), "{of_fact:?}");
    }
    let entry = context.get(4).expect("readable").expect("there");
    assert_eq!(entry.payload(), serde_json::to_vec(fact).expect("JSON"));
    let entry = context.get(7).expect("readable").expect("there");
    let ended: serde_json::Value = serde_json::from_slice(entry.payload()).expect("JSON");
    let root = result.integrity.merkle_root.to_hex();
    assert_eq!(ended["integrity"]["merkle_root"], *root);
    assert_eq!((recorder.recorded(), recorder.dropped()), (7, 0));
}

#[test]
fn facts_of_any_type_are_written_as_the_engine_writes_them() {
    let instance = started(&[]);
    let recorder = Recorder::new(&instance.connect(), "run");
    let context = loan::context(loan::application(7)).expect("a context");
    let result = block_on(recorder.run(&mut loan::engine(), context)).expect("it converges");
    let keys = result.context.all_keys().into_iter();
    let facts = keys.flat_map(|key| result.context.get(key));
    let texts: Vec<_> = facts
        .map(|fact| serde_json::to_vec(fact).expect("JSON"))
        .collect();
    let context = instance.context("run");
    let mut range = context.range(1).key("facts");
    let mut count = 0;
    while let Some(entry) = range.next_entry().expect("readable") {
        let is_one = texts.iter().any(|text| text == entry.payload());
        assert!(is_one, "entry {}", entry.seq());
        count += 1;
    }
    assert_eq!(count, 7);
}

#[test]
fn what_an_engine_does_not_tell_of_itself_is_recorded_with_the_start() {
    let instance = started(&[]);
    let budget = converge_core::Budget {
        max_cycles: 9,
        max_facts: 90,
    };
    let recorder = Recorder::new(&instance.connect(), "run")
        .suggestors(loan::SUGGESTORS)
        .budget(&budget)
        .policy(&loan::policy());
    recorder.started("host", &ContextState::new());
    let entry = instance.context("run").get(1).expect("readable");
    let entry = entry.expect("there");
    let started: serde_json::Value = serde_json::from_slice(entry.payload()).expect("JSON");
    assert_eq!(started["entry_point"], "host");
    assert_eq!(started["suggestors"], serde_json::json!(loan::SUGGESTORS));
    assert_eq!(started["budget"]["max_cycles"], 9);
    assert_eq!(started["policy"]["gated_keys"][0], "Strategies");
    assert_eq!(started["intent"], serde_json::Value::Null);
}

#[test]
fn each_run_of_a_recorder_has_an_id_of_its_own() {
    let instance = started(&[]);
    let recorder = Recorder::new(&instance.connect(), "run").with_run_id("first");
    for _ in 0..3 {
        block_on(recorder.run(&mut Engine::new(), with_input())).expect("it converges");
    }
    let mut ids = Vec::new();
    for (_, pairs) in recorded(&instance.context("run")) {
        let id = value(&pairs, "run_id")
            .expect("every entry has one")
            .to_owned();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    assert_eq!((ids.len(), &*ids[0]), (3, "first"), "{ids:?}");
}

/// What a host's own callback and observer hear.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Heard {
    fn note(&self, what: String) {
        self.0.lock().expect("one thread").push(what);
    }
}

impl StreamingCallback for Heard {
    fn on_cycle_start(&self, cycle: u32) {
        self.note(format!("start {cycle}"));
    }
    fn on_fact(&self, _: u32, fact: &ContextFact) {
        self.note(format!("fact {}", fact.id()));
    }
    fn on_cycle_end(&self, cycle: u32, _: usize) {
        self.note(format!("end {cycle}"));
    }
}

#[test]
fn a_hosts_own_callback_and_observer_hear_what_they_would_have_heard() {
    let instance = started(&[]);
    let heard = Arc::new(Heard::default());
    let noted = Arc::clone(&heard);
    let observer = move |event: &ExperienceEvent| noted.note(format!("{:?}", event.kind()));
    let observer = Arc::new(observer);
    let mut engine = Engine::new();
    engine.set_streaming(heard.clone());
    engine.set_event_observer(observer.clone());
    block_on(engine.run(with_input())).expect("it converges");
    let alone = std::mem::take(&mut *heard.0.lock().expect("one thread"));
    assert!(alone.len() > 3, "{alone:?}");

    let recorder = Recorder::new(&instance.connect(), "run")
        .streaming(heard.clone())
        .event_observer(observer);
    block_on(recorder.run(&mut engine, with_input())).expect("it converges");
    let beside = std::mem::take(&mut *heard.0.lock().expect("one thread"));
    assert_eq!(beside, alone);
    // And the engine is the host's again.
    let before = recorder.recorded();
    block_on(engine.run(with_input())).expect("it converges");
    let after = std::mem::take(&mut *heard.0.lock().expect("one thread"));
    assert_eq!((after, recorder.recorded()), (alone, before));
}

#[test]
fn events_have_ids_that_no_other_has_and_the_time_at_which_they_were() {
    let instance = started(&[]);
    let recorder = Recorder::new(&instance.connect(), "run");
    let start = humantime::format_rfc3339_nanos(std::time::SystemTime::now()).to_string();
    let context = loan::context(loan::application(7)).expect("a context");
    block_on(recorder.run(&mut loan::engine(), context)).expect("it converges");
    let context = instance.context("run");
    let mut range = context.range(1).key("events");
    let mut ids = Vec::new();
    while let Some(entry) = range.next_entry().expect("readable") {
        let event: ExperienceEventEnvelope =
            serde_json::from_slice(entry.payload()).expect("an event");
        assert_eq!(entry.payload(), serde_json::to_vec(&event).expect("JSON"));
        assert!(event.occurred_at.as_str() >= &*start);
        let id = event.event_id.to_string();
        let in_metadata = entry.metadata().find(|(name, _)| *name == "event_id");
        assert_eq!(in_metadata, Some(("event_id", &*id)));
        assert!(!ids.contains(&id), "{id} twice");
        ids.push(id);
    }
    assert_eq!(ids.len(), 7);
}

#[test]
fn who_sleeps_hears_of_entries_though_the_run_does_not_tell_it() {
    let instance = started(&[]);
    let recorder = Recorder::new(&instance.connect(), "log");
    // Kept: the daemon rings for those that end.
    let mut sleepers = Vec::new();
    for cycle in 0..20 {
        let mut sleeper = dozing(&instance, "log");
        recorder.on_cycle_start(cycle);
        assert_eq!(sleeper.hear(), "ok rung");
        sleepers.push(sleeper);
    }
}

#[test]
fn without_room_or_daemon_a_run_goes_on_and_losses_are_counted() {
    let mut instance = started(&["--spare-min", "16K", "--spare-max", "16K"]);
    let recorder = Recorder::new(&instance.connect(), "run");
    let context = instance.context("run");
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
