//! A [`Recorder`] is handed to the engine as its streaming callback. It never blocks and
//! never fails the run: what cannot be appended at once is dropped and counted.

use std::fmt::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use converge_core::{ContextFact, StreamingCallback};
use converge_pack::FactTraceLink;
use ledger_shm::{Appended, NewEntry};

use crate::appender::Appender;
use crate::error::AppendError;

use super::VERSION;

/// One entry that a recorder tried to append, and what came of it.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use converge_core::StreamingCallback;
/// use ledger_client::converge::Recorder;
///
/// let appender = ledger.context("run-1").open_or_create()?.appender()?;
/// let recorder = Recorder::new(appender, "run-1").observed_by(|attempt| {
///     if let Err(error) = attempt.outcome {
///         eprintln!("{} is missing: {error}", attempt.key);
///     }
/// });
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct Attempt<'a> {
    /// The entry's key.
    pub key: &'a str,
    /// Its name and value pairs.
    pub metadata: &'a [(&'a str, &'a str)],
    /// Its payload.
    pub payload: &'a [u8],
    /// Where it is in the log, or why it is not there.
    pub outcome: &'a Result<Appended, AppendError>,
    /// How long the append took, without what led to the entry.
    pub elapsed: Duration,
}

type Observer = Box<dyn FnMut(&Attempt<'_>) + Send>;

/// Appends what a run does to one context.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use converge_core::StreamingCallback;
/// use ledger_client::converge::Recorder;
///
/// let context = ledger.context("run-1").open_or_create()?;
/// let appender = context.appender()?;
/// appender.wait_ready(std::time::Duration::from_secs(1));
/// let recorder = Recorder::new(appender, "run-1");
/// // The engine does this: `engine.set_streaming(Arc::new(recorder))`.
/// recorder.on_cycle_start(1);
/// recorder.on_cycle_end(1, 0);
/// assert_eq!((recorder.recorded(), recorder.dropped()), (2, 0));
/// assert_eq!(context.range(1).key("traces").next_entry()?.unwrap().payload(), br#"{"cycle":1}"#);
/// # Ok(()) });
/// ```
pub struct Recorder {
    /// The engine calls one after the other; the lock is for its `Sync` bound
    /// and is only ever tried.
    output: Mutex<(Appender, Option<Observer>)>,
    run_id: String,
    recorded: AtomicU64,
    dropped: AtomicU64,
}

impl Recorder {
    /// Records under this run id, which tells the runs in one context apart.
    ///
    /// It never waits for room, so give it an appender that has some: see
    /// [`Appender::wait_ready`].
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::StreamingCallback;
    /// use ledger_client::converge::Recorder;
    ///
    /// let appender = ledger.context("run-1").open_or_create()?.appender()?;
    /// let recorder = Recorder::new(appender, "run-1");
    /// recorder.on_cycle_start(1);
    /// # Ok(()) });
    /// ```
    pub fn new(appender: Appender, run_id: impl Into<String>) -> Recorder {
        Recorder {
            output: Mutex::new((appender, None)),
            run_id: run_id.into(),
            recorded: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
    }

    /// Shows every entry to `observer` right after its append was tried, for
    /// those who want to know why one was dropped or how long one took. It
    /// runs within the engine's call: it must not block either.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::StreamingCallback;
    /// use ledger_client::converge::Recorder;
    ///
    /// let appender = ledger.context("run-1").open_or_create()?.appender()?;
    /// let recorder = Recorder::new(appender, "run-1").observed_by(|attempt| {
    ///     println!("{} took {:?}", attempt.key, attempt.elapsed);
    /// });
    /// recorder.on_cycle_start(1);
    /// # Ok(()) });
    /// ```
    pub fn observed_by(mut self, observer: impl FnMut(&Attempt<'_>) + Send + 'static) -> Recorder {
        let (_, slot) = self
            .output
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        *slot = Some(Box::new(observer));
        self
    }

    /// Gives the appender back, for the next run in the same context.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::StreamingCallback;
    /// use ledger_client::converge::Recorder;
    ///
    /// let appender = ledger.context("run-1").open_or_create()?.appender()?;
    /// let first = Recorder::new(appender, "first run");
    /// let second = Recorder::new(first.into_appender(), "second run");
    /// # Ok(()) });
    /// ```
    pub fn into_appender(self) -> Appender {
        let output = self.output.into_inner();
        output.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Entries appended so far.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::StreamingCallback;
    /// use ledger_client::converge::Recorder;
    ///
    /// let appender = ledger.context("run-1").open_or_create()?.appender()?;
    /// let recorder = Recorder::new(appender, "run-1");
    /// recorder.on_cycle_start(1);
    /// assert_eq!(recorder.recorded(), 1);
    /// # Ok(()) });
    /// ```
    pub fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    /// Entries that could not be appended and are missing from the ledger.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::StreamingCallback;
    /// use ledger_client::converge::Recorder;
    ///
    /// let appender = ledger.context("run-1").open_or_create()?.appender()?;
    /// let recorder = Recorder::new(appender, "run-1");
    /// assert_eq!(recorder.dropped(), 0);
    /// # Ok(()) });
    /// ```
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn record(&self, cycle: u32, key: &str, kind: &str, more: &[(&str, &str)], payload: &[u8]) {
        let mut digits = String::new();
        write!(digits, "{cycle}").expect("a string takes everything");
        let mut metadata = vec![
            ("v", VERSION),
            ("run_id", &self.run_id),
            ("cycle", &digits),
            ("kind", kind),
        ];
        metadata.extend_from_slice(more);
        let entry = NewEntry::new(key, payload).metadata(&metadata);
        let is_appended = self.output.try_lock().is_ok_and(|mut output| {
            let (appender, observer) = &mut *output;
            let start = Instant::now();
            let outcome = appender.try_append(&entry);
            let elapsed = start.elapsed();
            if let Some(observer) = observer {
                observer(&Attempt {
                    key,
                    metadata: &metadata,
                    payload,
                    outcome: &outcome,
                    elapsed,
                });
            }
            outcome.is_ok()
        });
        let counter = if is_appended {
            &self.recorded
        } else {
            &self.dropped
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder")
            .field("run_id", &self.run_id)
            .field("recorded", &self.recorded())
            .field("dropped", &self.dropped())
            .finish_non_exhaustive()
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
