//! Recording a run: what it adds to each fact within the engine's loop, and when somebody
//! who watches hears of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use async_trait::async_trait;
use converge_core::{
    AgentEffect, Budget, Context, ContextFact, ContextKey, ContextState, Engine, ExperienceEvent,
    ExperienceEventObserver, ProposedFact, StreamingCallback, Suggestor, TextPayload,
};
use hdrhistogram::Histogram;
use ledger_client::NewEntry;
use ledger_client::converge::Recorder;
use pollster::block_on;

use crate::instance::Instance;
use crate::report::{histogram, mean, percentiles, pin, ratio};
use crate::watch;

const FACT_LEN: usize = 1024;
const FACTS_PER_CYCLE: usize = 100;

/// Adds facts in every cycle until there are enough.
struct Many(usize);

#[async_trait]
impl Suggestor for Many {
    fn name(&self) -> &str {
        "many"
    }

    fn dependencies(&self) -> &[ContextKey] {
        &[ContextKey::Seeds, ContextKey::Signals]
    }

    fn accepts(&self, context: &dyn Context) -> bool {
        context.get(ContextKey::Signals).len() < self.0
    }

    async fn execute(&self, context: &dyn Context) -> AgentEffect {
        let first = context.get(ContextKey::Signals).len();
        let facts = (first..first + FACTS_PER_CYCLE).map(|fact| {
            let text = TextPayload::new("x".repeat(FACT_LEN));
            ProposedFact::new(ContextKey::Signals, format!("fact-{fact}"), text, "many")
        });
        AgentEffect::with_proposals(facts.collect())
    }
}

fn engine(facts: usize) -> Engine {
    let mut engine = Engine::with_budget(Budget {
        max_cycles: u32::MAX,
        max_facts: u32::MAX,
    });
    engine.register_suggestor(Many(facts));
    engine
}

fn context() -> ContextState {
    let mut context = ContextState::new();
    let staged = context.add_input(ContextKey::Seeds, "seed", "seed");
    assert!(staged.expect("an input"));
    context
}

/// Passes calls on to a recorder and takes the time of those that a fact causes.
struct Timed {
    recorder: Recorder,
    taken: Mutex<Taken>,
}

/// A fact's event comes right before the fact itself.
struct Taken {
    event: Duration,
    events: Histogram<u64>,
    facts: Histogram<u64>,
    both: Histogram<u64>,
}

impl Taken {
    fn new() -> Taken {
        Taken {
            event: Duration::ZERO,
            events: histogram(),
            facts: histogram(),
            both: histogram(),
        }
    }
}

impl StreamingCallback for Timed {
    fn on_cycle_start(&self, cycle: u32) {
        self.recorder.on_cycle_start(cycle);
    }

    fn on_fact(&self, cycle: u32, fact: &ContextFact) {
        let start = Instant::now();
        self.recorder.on_fact(cycle, fact);
        let fact = start.elapsed();
        let mut taken = self.taken.lock().expect("one thread");
        let both = fact + taken.event;
        taken.facts.saturating_record(fact.as_nanos() as u64);
        taken.both.saturating_record(both.as_nanos() as u64);
    }

    fn on_cycle_end(&self, cycle: u32, facts_added: usize) {
        self.recorder.on_cycle_end(cycle, facts_added);
    }
}

impl ExperienceEventObserver for Timed {
    fn on_event(&self, event: &ExperienceEvent) {
        let start = Instant::now();
        self.recorder.on_event(event);
        let event = start.elapsed();
        let mut taken = self.taken.lock().expect("one thread");
        taken.events.saturating_record(event.as_nanos() as u64);
        taken.event = event;
    }
}

/// Writes each fact as JSON to nowhere: what this machine does to a callback that waits for
/// nothing and shares nothing.
struct Unshared(Mutex<(Vec<u8>, Histogram<u64>)>);

impl StreamingCallback for Unshared {
    fn on_cycle_start(&self, _: u32) {}

    fn on_fact(&self, _: u32, fact: &ContextFact) {
        let (json, latencies) = &mut *self.0.lock().expect("one thread");
        json.clear();
        let start = Instant::now();
        serde_json::to_writer(&mut *json, fact).expect("a fact is JSON");
        latencies.saturating_record(start.elapsed().as_nanos() as u64);
    }

    fn on_cycle_end(&self, _: u32, _: usize) {}
}

/// What recording adds to one fact of a kilobyte, its event included, with two parked
/// watchers in other processes; beside what the engine itself takes for one.
pub fn fact(scale: u64) {
    let facts = 1_000 / scale as usize;
    let instance = Instance::start(|options| options.sizes.spare_len_min = Some(64 << 20));
    let ledger = instance.connect();
    let there = ledger.context("there").open_or_create().expect("room");
    let dir = instance.dir.to_string_lossy();
    let mut watchers: Vec<_> = (0..2)
        .map(|_| watch::start("sleep", &[&instance.name, &dir]))
        .collect();
    let recorder = Recorder::new(&ledger, "there");
    std::thread::sleep(Duration::from_millis(200));
    // Not before: threads run where those do that start them.
    pin(0);

    let (mut json, mut taken, mut ratios) = (histogram(), Taken::new(), Vec::new());
    for round in 0..32 {
        let start = Instant::now();
        let result = block_on(engine(facts).run(context()));
        let alone = start.elapsed();
        let facts = result.expect("it converges").integrity.fact_count as u64;

        let unshared = Arc::new(Unshared(Mutex::new((Vec::new(), histogram()))));
        let mut unrecorded = engine(facts as usize - 1);
        unrecorded.set_streaming(unshared.clone());
        block_on(unrecorded.run(context())).expect("it converges");
        let (_, of_round) = &*unshared.0.lock().expect("one thread");
        json.add(of_round).expect("the same bounds");

        let timed = Arc::new(Timed {
            recorder: recorder.clone(),
            taken: Mutex::new(Taken::new()),
        });
        let mut engine = engine(facts as usize - 1);
        engine.set_streaming(timed.clone());
        engine.set_event_observer(timed.clone());
        let start = Instant::now();
        let result = block_on(engine.run(context()));
        let recorded = start.elapsed();
        assert_eq!(
            result.expect("it converges").integrity.fact_count as u64,
            facts
        );
        assert_eq!(recorder.dropped(), 0, "{:?}", recorder.trouble());
        mean(&format!("converge/fact alone {round}"), facts, alone);
        mean(&format!("converge/fact recorded {round}"), facts, recorded);
        ratios.push(recorded.as_secs_f64() / alone.as_secs_f64());
        let of_round = timed.taken.lock().expect("one thread");
        taken.events.add(&of_round.events).expect("the same bounds");
        taken.facts.add(&of_round.facts).expect("the same bounds");
        taken.both.add(&of_round.both).expect("the same bounds");
    }
    let mut appender = there.appender().expect("an appender");
    appender.append(&NewEntry::new("end", b"")).expect("room");
    for watcher in &mut watchers {
        watcher.wait().expect("our child");
    }
    percentiles("converge/fact as JSON, to nowhere", &json);
    percentiles("converge/fact its event", &taken.events);
    percentiles("converge/fact itself", &taken.facts);
    percentiles("converge/fact both", &taken.both);
    ratio("converge/fact recorded to alone", ratios);
}

/// How long after its append a parked watcher has an entry: of a recorder, whose thread
/// tells it, and of an appender, who does it itself.
pub fn heard(scale: u64) {
    let instance = Instance::start(|_| {});
    let ledger = instance.connect();
    for who in ["appender", "recorder"] {
        let context = ledger.context(who).open_or_create().expect("room");
        let mut appender = context.appender().expect("an appender");
        let recorder = Recorder::new(&ledger, who);
        let count = 2_000 / scale;
        let mut watcher = context.watch(1);
        let watching = std::thread::spawn(move || {
            pin(1);
            let mut latencies = histogram();
            for _ in 0..count {
                let entry = watcher.next().expect("readable");
                let now = UNIX_EPOCH.elapsed().unwrap_or_default();
                let age = (now.as_nanos() as u64).saturating_sub(entry.appended_at_ns());
                latencies.saturating_record(age);
            }
            latencies
        });
        pin(0);
        for cycle in 0..count {
            // Long enough for the watcher to be asleep again.
            std::thread::sleep(Duration::from_millis(3));
            match who {
                "recorder" => recorder.on_cycle_start(cycle as u32),
                _ => {
                    _ = appender
                        .append(&NewEntry::new("traces", b"{}"))
                        .expect("room")
                }
            }
        }
        let latencies = watching.join().expect("it has seen all");
        percentiles(&format!("converge/heard of an {who}"), &latencies);
    }
}
