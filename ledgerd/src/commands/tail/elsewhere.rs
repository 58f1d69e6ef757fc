//! `ledgerd tail` of a context elsewhere: what there is comes in pages, and what follows by
//! itself.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant};

use ledger_client::remote::{Context, Range};

use super::Args;
use super::begin::Begin;
use super::filter::Filter;
use super::reading::{KEEP_HOUSE, Shown, is_closed};
use crate::cli::{Failure, Kind};
use crate::commands::print::Printer;

pub(super) struct Elsewhere {
    context: Context,
    filter: Filter,
    shown: Shown,
    begin: Begin,
    follow: bool,
    timeout: Option<Duration>,
}

impl Elsewhere {
    pub(super) fn new(context: Context, args: Args) -> Result<Elsewhere, Failure> {
        if args.cursor_file.is_some() {
            let message = "--cursor-file remembers places of ledgers on this host; give --after";
            return Err(Failure::Said(Kind::Usage, message.to_owned()));
        }
        let is_told = args.filter.since.is_some();
        Ok(Elsewhere {
            context,
            begin: Begin::told(args.from, args.after, args.lines, is_told),
            shown: Shown {
                printer: Printer::new(args.output.output()),
                template: args.template,
            },
            filter: args.filter,
            follow: args.follow,
            timeout: args.timeout,
        })
    }

    pub(super) fn run(mut self) -> Result<(), Failure> {
        let latest = self.context.latest()?;
        let first = self.first(latest)?;
        self.print(self.range(first)?)?;
        if self.follow {
            self.shown.printer.flush()?;
            self.follow(first.max(latest + 1))?;
        }
        Ok(self.shown.printer.finish()?)
    }

    fn print(&mut self, mut range: Range) -> Result<(), Failure> {
        while let Some(entry) = range.next_entry()? {
            if self.filter.lets_through(&entry) {
                self.shown.entry(&entry)?;
            }
        }
        Ok(())
    }

    /// What there is now, from this seq on.
    fn range(&self, first: u64) -> Result<Range, Failure> {
        let range = self.context.range(first).until_now()?;
        Ok(match &self.filter.key {
            Some(key) => range.key(key),
            None => range,
        })
    }

    /// The seq of the first entry to look at.
    fn first(&self, latest: u64) -> Result<u64, Failure> {
        let lines = match self.begin {
            Begin::At(seq) => return Ok(seq),
            Begin::FirstAvailable => return Ok(1),
            Begin::Last(lines) => lines,
        };
        if self.filter.is_empty() {
            let first = latest.saturating_sub(lines).saturating_add(1);
            return Ok(first.max(self.context.first_available()?));
        }
        let mut range = self.range(1)?;
        let mut last = VecDeque::new();
        while let Some(entry) = range.next_entry()? {
            if self.filter.lets_through(&entry) {
                last.push_back(entry.seq());
            }
            if last.len() as u64 > lines {
                last.pop_front();
            }
        }
        Ok(last.front().copied().unwrap_or(latest + 1))
    }

    /// Prints what comes, until nothing more is wanted.
    fn follow(&mut self, first: u64) -> Result<(), Failure> {
        let mut watcher = self.context.watch(first);
        if let Some(key) = &self.filter.key {
            watcher = watcher.key(key);
        }
        let (mut last, mut kept_house) = (Instant::now(), Instant::now());
        loop {
            let mut next = watcher.try_next()?;
            if next.is_none() || kept_house.elapsed() >= KEEP_HOUSE {
                self.shown.printer.flush()?;
                if is_closed(&io::stdout()) {
                    return Err(Failure::ClosedPipe);
                }
                if self.filter.is_over() {
                    let left_from = next.map_or_else(|| watcher.next_seq(), |entry| entry.seq());
                    return self.print(self.range(left_from)?);
                }
                kept_house = Instant::now();
            }
            if next.is_none() {
                let left = self.timeout.map_or(KEEP_HOUSE, |timeout| {
                    timeout.saturating_sub(last.elapsed()).min(KEEP_HOUSE)
                });
                if left.is_zero() {
                    let message = format!("nothing new for {:?}", self.timeout.unwrap_or_default());
                    return Err(Failure::Said(Kind::TimedOut, message));
                }
                next = watcher.next_timeout(left)?;
            }
            if let Some(entry) = next.filter(|entry| self.filter.lets_through(entry)) {
                self.shown.entry(&entry)?;
                last = Instant::now();
            }
        }
    }
}
