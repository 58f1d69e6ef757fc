//! Where a recorder's entries go: into the log at once, or into a count of what is missing.

use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::time::{Duration, Instant};

use ledger_shm::{Appended, Full, NewEntry, Refused};
use serde::Serialize;

use crate::appender::Appender;
use crate::converge::record::{self, VERSION};
use crate::error::AppendError;

use super::start::Start;

/// How long nothing is tried after nothing fitted.
const SHORTAGE: Duration = Duration::from_millis(10);

/// Bytes of memory that are kept for the next payload.
const KEPT_LEN_MAX: usize = 1 << 20;

/// One entry that a recorder tried to append, and what came of it.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::converge::{Recorder, Tried};
///
/// let recorder = Recorder::new(&ledger, "loan-7").observed_by(|tried: &Tried<'_>| {
///     if let Err(error) = tried.outcome {
///         eprintln!("{} is missing: {error}", tried.key);
///     }
/// });
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct Tried<'a> {
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

type Observer = Box<dyn FnMut(&Tried<'_>) + Send>;

/// What an entry is, apart from its payload and its run.
pub(super) struct What<'a> {
    pub(super) key: &'a str,
    pub(super) kind: &'a str,
    pub(super) cycle: u32,
    /// Pairs beside those that every entry has.
    pub(super) more: &'a [(&'a str, &'a str)],
}

/// Entries of a run that did not fit.
#[derive(Debug)]
struct Lost {
    start: Start,
    dropped: u64,
    since_cycle: u32,
}

/// No entry fits, although what says so may: without this it would be said for each.
#[derive(Clone, Copy, Debug)]
struct Shortage {
    since: Instant,
    arrivals: u64,
}

impl Shortage {
    /// Until memory arrives, or long enough for it to have come by another way.
    fn lasts(self, arrivals: u64) -> bool {
        self.arrivals == arrivals && self.since.elapsed() < SHORTAGE
    }
}

#[derive(Serialize)]
struct Gap {
    dropped: u64,
    since_cycle: u32,
}

/// The log's end, as one thread at a time has it.
#[derive(Default)]
pub(super) struct Output {
    /// None as long as the context could not be opened.
    pub(super) appender: Option<Appender>,
    observer: Option<Observer>,
    /// Per run, the oldest first.
    lost: VecDeque<Lost>,
    shortage: Option<Shortage>,
    pub(super) recorded: u64,
    pub(super) dropped: u64,
    pub(super) trouble: Option<String>,
    /// Kept for their memory.
    payload: Vec<u8>,
    digits: String,
}

impl Output {
    pub(super) fn set_observer(&mut self, observer: impl FnMut(&Tried<'_>) + Send + 'static) {
        self.observer = Some(Box::new(observer));
    }

    pub(super) fn forget_observer(&mut self) {
        self.observer = None;
    }

    pub(super) fn has_lost(&self) -> bool {
        !self.lost.is_empty()
    }

    /// Appends an entry without telling watchers, or counts it.
    pub(super) fn record<E: fmt::Display>(
        &mut self,
        start: &Start,
        what: &What<'_>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) {
        let mut buffer = std::mem::take(&mut self.payload);
        buffer.clear();
        match write(&mut buffer) {
            Ok(()) => self.record_bytes(start, what, &buffer),
            Err(error) => {
                self.trouble = Some(format!("a {} cannot be written: {error}", what.kind));
                self.lose(start, what.cycle);
            }
        }
        if buffer.capacity() <= KEPT_LEN_MAX {
            self.payload = buffer;
        }
    }

    /// As [`record`](Self::record), of what is JSON already.
    pub(super) fn record_bytes(&mut self, start: &Start, what: &What<'_>, payload: &[u8]) {
        let was_short = !self.lost.is_empty();
        let is_hopeless = was_short && self.shortage.is_some_and(|it| it.lasts(self.arrivals()));
        let outcome = match is_hopeless {
            true => None,
            false => Some(
                self.try_settle()
                    .and_then(|()| self.append(start, what, payload)),
            ),
        };
        match outcome {
            Some(Ok(())) => {
                self.recorded += 1;
                return;
            }
            Some(Err(error)) if was_short && error.is_full() => {
                self.shortage = Some(Shortage {
                    since: Instant::now(),
                    arrivals: self.arrivals(),
                });
            }
            _ => {}
        }
        self.lose(start, what.cycle);
    }

    /// Changes when memory arrives, if there is a context for which it could.
    fn arrivals(&self) -> u64 {
        let appender = self.appender.as_ref();
        appender.map_or(0, |appender| appender.context().shared().arrivals())
    }

    /// Appends the gaps that are due; says whether none is left.
    pub(super) fn settle(&mut self) -> bool {
        self.try_settle().is_ok()
    }

    /// Nothing may come before the gaps that are due.
    fn try_settle(&mut self) -> Result<(), AppendError> {
        while let Some(lost) = self.lost.front() {
            let gap = Gap {
                dropped: lost.dropped,
                since_cycle: lost.since_cycle,
            };
            let start = lost.start.clone();
            let payload = serde_json::to_vec(&gap).expect("numbers are JSON");
            let what = What {
                key: record::TRACES,
                kind: record::GAP,
                cycle: gap.since_cycle,
                more: &[],
            };
            self.append(&start, &what, &payload)?;
            self.lost.pop_front();
        }
        Ok(())
    }

    fn append(
        &mut self,
        start: &Start,
        what: &What<'_>,
        payload: &[u8],
    ) -> Result<(), AppendError> {
        self.digits.clear();
        write!(self.digits, "{}", what.cycle).expect("a string takes everything");
        // More than any entry has.
        let mut pairs = [("", ""); 16];
        let always = [
            ("v", VERSION),
            ("run_id", start.run_id()),
            ("attempt", start.attempt_text()),
            ("start", start.unique()),
            ("cycle", &self.digits),
            ("kind", what.kind),
        ];
        let len = always.len() + what.more.len();
        pairs[..always.len()].copy_from_slice(&always);
        pairs[always.len()..len].copy_from_slice(what.more);
        let metadata = &pairs[..len];
        let entry = NewEntry::new(what.key, payload).metadata(metadata);
        let began = self.observer.is_some().then(Instant::now);
        let outcome = match &mut self.appender {
            Some(appender) => appender.try_append_quietly(&entry),
            None => Err(Refused::Full(Full::DaemonDown).into()),
        };
        if let (Some(observer), Some(began)) = (&mut self.observer, began) {
            observer(&Tried {
                key: what.key,
                metadata,
                payload,
                outcome: &outcome,
                elapsed: began.elapsed(),
            });
        }
        // What kept the context from being opened says more.
        if self.appender.is_some() {
            self.trouble = outcome.as_ref().err().map(AppendError::to_string);
        }
        outcome.map(drop)
    }

    /// Counts an entry that is not there.
    pub(super) fn lose(&mut self, start: &Start, cycle: u32) {
        self.dropped += 1;
        match self.lost.back_mut() {
            Some(lost) if lost.start == *start => lost.dropped += 1,
            _ => self.lost.push_back(Lost {
                start: start.clone(),
                dropped: 1,
                since_cycle: cycle,
            }),
        }
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("recorded", &self.recorded)
            .field("dropped", &self.dropped)
            .field("trouble", &self.trouble)
            .finish_non_exhaustive()
    }
}
