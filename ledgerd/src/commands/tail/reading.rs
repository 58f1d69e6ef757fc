//! The loop of `ledgerd tail`, and what else has to be looked after meanwhile.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ledger_client::{Context, Entry, ReadError, Watcher};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cli::{Failure, Kind, Output};
use crate::commands::cursor_file::CursorFile;
use crate::commands::print::Printer;
use crate::commands::tail::begin::Begin;
use crate::commands::tail::filter::Filter;
use crate::commands::template::Template;

/// How often what was printed is delivered, and everything else looked after.
pub(super) const KEEP_HOUSE: Duration = Duration::from_millis(500);

pub(super) struct Reading<'a> {
    context: &'a Context,
    begin: Begin,
    filter: &'a Filter,
    shown: Shown,
    watcher: Watcher,
    /// The first seq, and what was the latest when it was chosen.
    first: u64,
    latest: u64,
    /// The last seq of all. A log that never pauses has an end, too, once nothing
    /// that is appended later can be wanted.
    end: Option<u64>,
    timeout: Option<Duration>,
    /// Whether it has come to what was appended after it began.
    is_live: bool,
    /// When something was printed, or there was still something old to read; time
    /// in which nobody took what was printed does not count.
    last: Instant,
    kept_house: Instant,
    /// What is before this has been printed, or is not wanted.
    done: u64,
    cursor_file: Option<CursorFile>,
    remembered: Option<u64>,
}

/// What is printed, and how.
pub(super) struct Shown {
    pub(super) printer: Printer,
    pub(super) template: Option<Template>,
}

impl Shown {
    pub(super) fn entry(&mut self, entry: &Entry<'_>) -> Result<(), Failure> {
        match &self.template {
            Some(template) => self.printer.line(&template.of(entry)?)?,
            None => self.printer.entry(entry)?,
        }
        Ok(())
    }
}

impl<'a> Reading<'a> {
    pub(super) fn new(
        context: &'a Context,
        begin: Begin,
        filter: &'a Filter,
        output: Output,
    ) -> Result<Reading<'a>, ReadError> {
        let latest = context.latest()?;
        let first = begin.seq(context, latest, filter)?;
        let mut watcher = context.watch(first);
        if let Some(key) = &filter.key {
            watcher = watcher.key(key);
        }
        Ok(Reading {
            context,
            begin,
            filter,
            shown: Shown {
                printer: Printer::new(output),
                template: None,
            },
            watcher,
            first,
            latest,
            end: Some(latest),
            timeout: None,
            is_live: false,
            last: Instant::now(),
            kept_house: Instant::now(),
            done: first,
            cursor_file: None,
            remembered: None,
        })
    }

    pub(super) fn template(mut self, template: Option<Template>) -> Reading<'a> {
        self.shown.template = template;
        self
    }

    pub(super) fn cursor_file(mut self, file: Option<CursorFile>) -> Reading<'a> {
        self.cursor_file = file;
        self
    }

    pub(super) fn follow(mut self, follow: bool, timeout: Option<Duration>) -> Reading<'a> {
        if follow {
            self.end = None;
        }
        self.timeout = timeout;
        self
    }

    /// Prints until the end. What was printed is delivered and remembered,
    /// whatever ends it.
    pub(super) fn run(mut self) -> Result<(), Failure> {
        // Before anything is printed: whether it can be remembered at all.
        self.deliver()?;
        let ended = self.read();
        let kept = self.deliver();
        ended.and(kept)?;
        Ok(self.shown.printer.finish()?)
    }

    fn read(&mut self) -> Result<(), Failure> {
        let mut wait = Duration::ZERO;
        loop {
            let read = if wait.is_zero() {
                self.watcher.try_next()
            } else {
                self.watcher.next_timeout(wait)
            };
            let is_caught_up = match read {
                Ok(Some(entry)) => {
                    let seq = entry.seq();
                    if let Some(end) = self.end.filter(|end| seq > *end) {
                        self.done = (end + 1).max(self.first);
                        return Ok(());
                    }
                    let is_shown = self.filter.lets_through(&entry);
                    if is_shown {
                        self.shown.entry(&entry)?;
                    }
                    self.done = seq + 1;
                    if is_shown || !self.is_live {
                        self.last = Instant::now();
                    }
                    self.is_live |= seq > self.latest;
                    false
                }
                Ok(None) => {
                    self.done = self.watcher.next_seq();
                    if self.end.is_some() {
                        return Ok(());
                    }
                    if !self.is_live {
                        self.is_live = true;
                        self.last = Instant::now();
                    }
                    true
                }
                Err(error) => {
                    let next_seq = self.watcher.next_seq();
                    // Nobody can append to it any more, and nothing else was wanted.
                    if error.is_closed() && self.end.is_some_and(|end| next_seq > end) {
                        self.done = next_seq;
                        return Ok(());
                    }
                    self.begin_anew(error)?;
                    false
                }
            };
            wait = self.keep_house(is_caught_up)?;
        }
    }

    /// A place that was chosen for the user, and has left memory before anything
    /// was read there, is chosen again.
    fn begin_anew(&mut self, error: ReadError) -> Result<(), Failure> {
        let is_first = matches!(error, ReadError::Evicted { seq, .. } if seq == self.first);
        match (&self.begin, &self.cursor_file) {
            (Begin::At(_), Some(file)) if is_first => return Err(file.is_behind(&error)),
            (Begin::FirstAvailable | Begin::Last(_), _) if is_first => {}
            _ => return Err(error.into()),
        }
        self.latest = self.context.latest()?;
        self.end = self.end.map(|_| self.latest);
        self.first = self.begin.seq(self.context, self.latest, self.filter)?;
        self.done = self.first;
        self.watcher.seek(self.first);
        Ok(())
    }

    /// Looks after everything but entries when there is time or it is time, and
    /// returns how long to wait for the next one.
    fn keep_house(&mut self, is_caught_up: bool) -> Result<Duration, Failure> {
        let often = self.timeout.unwrap_or(KEEP_HOUSE).min(KEEP_HOUSE);
        if !is_caught_up && self.kept_house.elapsed() < often {
            return Ok(Duration::ZERO);
        }
        let begun = Instant::now();
        self.deliver()?;
        self.kept_house = Instant::now();
        self.last += begun.elapsed();
        if is_closed(&io::stdout()) {
            return Err(Failure::ClosedPipe);
        }
        if self.end.is_none() && self.filter.is_over() {
            self.end = Some(self.context.latest()?);
        }
        let left = self.timeout.map_or(KEEP_HOUSE, |timeout| {
            timeout.saturating_sub(self.last.elapsed()).min(KEEP_HOUSE)
        });
        if left.is_zero() && self.is_live && self.end.is_none() {
            let message = format!("nothing new for {:?}", self.timeout.unwrap_or_default());
            return Err(Failure::Said(Kind::TimedOut, message));
        }
        let waits = is_caught_up && self.end.is_none();
        Ok(if waits { left } else { Duration::ZERO })
    }

    /// Has everything seen that was printed, and remembers how far that is.
    fn deliver(&mut self) -> Result<(), Failure> {
        self.shown.printer.flush()?;
        let Some(file) = &self.cursor_file else {
            return Ok(());
        };
        if self.remembered != Some(self.done) {
            file.write(self.context.epoch(), self.done)?;
            self.remembered = Some(self.done);
        }
        Ok(())
    }
}

/// Whether nobody reads a pipe any more (poll(2), POLLERR).
pub(super) fn is_closed(pipe: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

#[cfg(test)]
mod tests {
    use std::thread::yield_now;
    use std::time::{Duration, Instant};

    use ledger_client::{Context, NewEntry, Sizes};
    use regex::bytes::Regex;

    use super::{Begin, Filter, Output, Reading};
    use crate::cli::Failure;

    /// Appends until an entry has left memory.
    fn push_out(context: &Context, seq: u64) {
        let mut appender = context.appender().expect("an appender");
        let patience = Instant::now() + Duration::from_secs(60);
        // Also from what this process still maps.
        while context.get(seq).is_ok() {
            appender
                .append(&NewEntry::new("k", &[0; 1000]))
                .expect("room");
            assert!(Instant::now() < patience, "entry {seq} stays");
            yield_now();
        }
    }

    /// What becomes of a command whose first entry leaves memory before it is read.
    fn pushed_out(begin: Begin) -> Result<(), Failure> {
        let mut outcome = None;
        ledger_tests::example_in_memory(|ledger| {
            let small = Sizes {
                first_len: Some(16 << 10),
                spare_len_min: Some(64 << 10),
                spare_len_max: Some(64 << 10),
                window_len: Some(64 << 10),
            };
            let context = ledger.context("log").sizes(small).open_or_create()?;
            context.appender()?.append(&NewEntry::new("k", b"v"))?;
            // None is let through: what is printed is not what is asked here.
            let filter = Filter {
                grep: Some(Regex::new("nothing")?),
                ..Filter::default()
            };
            let reading = Reading::new(&context, begin, &filter, Output::Raw)?;
            push_out(&context, 1);
            outcome = Some(reading.run());
            Ok(())
        });
        outcome.expect("it ran")
    }

    #[test]
    fn a_place_that_nobody_named_is_chosen_anew_when_it_has_left_memory() {
        pushed_out(Begin::FirstAvailable).expect("another place");
        pushed_out(Begin::Last(10)).expect("another place");
        match pushed_out(Begin::At(1)) {
            Err(Failure::Said(_, said)) => {
                assert!(said.starts_with("entry 1 has left memory"), "{said}");
            }
            other => panic!("{other:?}"),
        }
    }
}
