//! Recording a run of converge-core: its facts and its cycle marks.
//!
//! A [`Recorder`] is handed to the engine as its streaming callback. It never
//! blocks and never fails the run: what cannot be appended at once is dropped
//! and counted.
//!
//! | called | key | payload | `kind` |
//! |---|---|---|---|
//! | `on_cycle_start` | `traces` | `{"cycle":N}` | `cycle_start` |
//! | `on_fact` | `facts` | the fact, as `WireContextFact` | `fact` |
//! | `on_cycle_end` | `traces` | `{"cycle":N,"facts_added":M}` | `cycle_end` |
//!
//! Every entry's metadata has `v`, `run_id`, `cycle` and `kind`; a fact's also
//! `fact_id`, `ckey`, `family` and, where the engine tells, `agent`.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use converge_core::{ContextFact, StreamingCallback};
use converge_pack::FactTraceLink;
use ledger_shm::NewEntry;

use crate::appender::Appender;

/// Version of what is recorded, in the metadata as `v`.
const RECORD_VERSION: &str = "1";

/// Appends what a run does to one context.
#[derive(Debug)]
pub struct Recorder {
    /// The engine calls one after the other; the lock is for its `Sync` bound
    /// and is only ever tried.
    appender: Mutex<Appender>,
    run_id: String,
    recorded: AtomicU64,
    dropped: AtomicU64,
}

impl Recorder {
    /// Records under this run id, which tells the runs in one context apart.
    pub fn new(appender: Appender, run_id: impl Into<String>) -> Recorder {
        Recorder {
            appender: Mutex::new(appender),
            run_id: run_id.into(),
            recorded: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Entries appended so far.
    pub fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    /// Entries that could not be appended and are missing from the ledger.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn record(&self, cycle: u32, key: &str, kind: &str, more: &[(&str, &str)], payload: &[u8]) {
        let mut digits = String::new();
        write!(digits, "{cycle}").expect("a string takes everything");
        let mut metadata = vec![
            ("v", RECORD_VERSION),
            ("run_id", &self.run_id),
            ("cycle", &digits),
            ("kind", kind),
        ];
        metadata.extend_from_slice(more);
        let entry = NewEntry::new(key, payload).metadata(&metadata);
        let outcome = self
            .appender
            .try_lock()
            .ok()
            .and_then(|mut appender| appender.try_append(&entry).ok());
        let counter = if outcome.is_some() {
            &self.recorded
        } else {
            &self.dropped
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl StreamingCallback for Recorder {
    fn on_cycle_start(&self, cycle: u32) {
        self.record(
            cycle,
            "traces",
            "cycle_start",
            &[],
            format!("{{\"cycle\":{cycle}}}").as_bytes(),
        );
    }

    fn on_fact(&self, cycle: u32, fact: &ContextFact) {
        let Ok(payload) = serde_json::to_vec(fact) else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let ckey = format!("{:?}", fact.key());
        let family = fact.payload_family();
        let mut more = vec![
            ("fact_id", fact.id().as_str()),
            ("ckey", &ckey),
            ("family", family.as_str()),
        ];
        if let FactTraceLink::Local(trace) = fact.promotion_record().trace_link() {
            more.push(("agent", trace.span_id().as_str()));
        }
        self.record(cycle, "facts", "fact", &more, &payload);
    }

    fn on_cycle_end(&self, cycle: u32, facts_added: usize) {
        let payload = format!("{{\"cycle\":{cycle},\"facts_added\":{facts_added}}}");
        self.record(cycle, "traces", "cycle_end", &[], payload.as_bytes());
    }
}
