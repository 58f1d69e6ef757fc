//! Who keeps what when memory is short: the budget, the window, idle contexts.

use std::time::{Duration, Instant};

use ledger_shm::control::State;
use ledger_shm::object::{self, Epoch, Name};

use crate::archive::Order;
use crate::log::{Log, Part};
use crate::maker::Job;
use crate::registry::Registry;

/// No pause is shorter than this, or longer than the next.
const IDLE_CLOSE_AFTER_MIN: Duration = Duration::from_millis(10);
/// Ten years: never.
const IDLE_CLOSE_AFTER_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl Registry {
    /// Whether there is room for `len` bytes more, after making some. Where little is
    /// left, what could be evicted next is written first.
    pub(crate) fn has_room(&mut self, len: u64) -> bool {
        self.make_room(len);
        let is_tight = self.logs.committed_len().saturating_add(len) > self.budget / 8 * 7;
        if is_tight && self.has_archive() {
            self.finish_ahead();
        }
        self.fits(len)
    }

    /// Has those that have more than their window or their share written, so that they can
    /// be evicted from when there is need.
    fn finish_ahead(&mut self) {
        let kept_len = self.share().min(self.window_len);
        // What is done already is no reason not to ask again.
        self.is_finishing();
        let evictable = self.logs.active().filter(|log| {
            let is_asked = self.finishing.contains_key(&log.epoch);
            let is_over = log.sealed_len() > log.lengths.window.unwrap_or(kept_len);
            is_over && !is_asked && !log.is_leaving
        });
        for epoch in evictable.map(|log| log.epoch).collect::<Vec<_>>() {
            let mut unfinished = None;
            self.logs.change(epoch, |log| {
                log.visit(&self.instance, |log, instance| {
                    unfinished = log.unfinished_seq(instance)?;
                    Ok(())
                });
            });
            if let Some(seq) = unfinished {
                self.finish(epoch, seq);
            }
        }
    }

    /// Has a context in finished files up to a seq.
    fn finish(&mut self, epoch: Epoch, seq: u64) {
        self.finishing.insert(epoch, seq);
        self.archive(epoch, |epoch, marks| Order::Finish { epoch, marks, seq });
    }

    /// Whether memory may be freed soon, because something is being written for that.
    pub(crate) fn is_finishing(&mut self) -> bool {
        self.finishing.retain(|epoch, seq| {
            let log = self.logs.get(*epoch);
            let log = log.filter(|log| log.state != State::Quarantined);
            let marks = log.and_then(|log| log.marks.as_ref());
            let is_under_way = marks.is_some_and(|marks| marks.finished_seq() < *seq);
            is_under_way && !self.troubles.contains_key(epoch)
        });
        !self.finishing.is_empty()
    }

    fn fits(&self, len: u64) -> bool {
        self.logs.committed_len().saturating_add(len) <= self.budget
    }

    /// Half of the budget, divided among the contexts that are in use.
    pub(crate) fn share(&self) -> u64 {
        self.budget / 2 / self.logs.active().len().max(1) as u64
    }

    /// When the budget does not allow for `len` bytes more: takes back what
    /// contexts without appenders hold in advance, and then the oldest entries
    /// of those that have more than their share, unless somebody has said how
    /// much they keep. Nobody loses entries for a wish that cannot be met.
    pub(crate) fn make_room(&mut self, len: u64) {
        if self.fits(len) || len > self.budget {
            return;
        }
        let closable = self.logs.active().filter(|log| log.can_close());
        for epoch in closable.map(|log| log.epoch).collect::<Vec<_>>() {
            self.close(epoch);
        }
        let share = self.share();
        let mut beyond_share: Vec<(u64, Epoch)> = self
            .logs
            .active()
            .filter(|log| log.lengths.window.is_none() && log.state != State::Quarantined)
            .map(|log| (log.sealed_len(), log.epoch))
            .filter(|(sealed_len, _)| *sealed_len > share)
            .collect();
        let evictable: u64 = beyond_share.iter().map(|(len, _)| len - share).sum();
        // More may be committed than a budget that was lowered.
        if self.logs.committed_len() + len > self.budget + evictable {
            return;
        }
        while !self.fits(len) {
            beyond_share.sort_unstable_by_key(|(sealed_len, _)| *sealed_len);
            let Some((sealed_len, epoch)) = beyond_share.pop() else {
                return;
            };
            // One part at least; then the next largest has its turn.
            let next_len = beyond_share.last().map_or(share, |(len, _)| *len);
            let missing = self.logs.committed_len().saturating_add(len) - self.budget;
            let kept_len = next_len.max(sealed_len.saturating_sub(missing));
            let is_evicted = self.evict(epoch, kept_len.min(sealed_len - 1));
            let sealed_len = self.logs.get(epoch).map_or(0, Log::sealed_len);
            if is_evicted && sealed_len > share {
                beyond_share.push((sealed_len, epoch));
            }
        }
    }

    /// Evicts what a context has in memory beyond its window.
    pub(crate) fn keep_window(&mut self, epoch: Epoch) {
        if let Some(log) = self.logs.get(epoch) {
            let window_len = log.lengths.window.unwrap_or(self.window_len);
            self.evict(epoch, window_len);
        }
    }

    /// Evicts the oldest parts of a context that has more sealed than this; false if it
    /// still has, because one cannot be evicted.
    fn evict(&mut self, epoch: Epoch, kept_len: u64) -> bool {
        let is_over = |log: &Log| log.sealed_len() > kept_len;
        match self.logs.get(epoch) {
            Some(log) if is_over(log) && !log.is_leaving => {}
            log => return !log.is_some_and(is_over),
        }
        let mut unfinished = None;
        let mut retired = Vec::new();
        // In one visit: nobody may be attached, and then each maps all of the chain.
        self.logs.change(epoch, |log| {
            log.visit(&self.instance, |log, instance| {
                log.follow(instance)?;
                while is_over(log) {
                    unfinished = log.unfinished_seq(instance)?;
                    if unfinished.is_some() {
                        break;
                    }
                    match log.retire_oldest() {
                        Some(part) => retired.push(part),
                        None => break,
                    }
                }
                Ok(())
            });
        });
        if let Some(seq) = unfinished {
            self.finish(epoch, seq);
        }
        self.unlink_later(epoch, retired);
        !self.logs.get(epoch).is_some_and(is_over)
    }

    /// Begins to give up the memory of a context that nobody has open: closed, it is
    /// written to its end, and nobody opens it until that is done.
    fn leave(&mut self, epoch: Epoch) {
        if !self.has_archive() {
            return;
        }
        let has_entries = self.logs.change(epoch, |log| {
            let mut has_entries = false;
            log.visit(&self.instance, |log, instance| {
                has_entries = log.latest(instance).is_some_and(|latest| latest > 0);
                if has_entries && log.state == State::Open {
                    log.close(instance, self.made_in)?;
                }
                Ok(())
            });
            // One without entries has no files.
            log.is_leaving = has_entries && log.state == State::Idle && log.spares.is_empty();
            log.may_be_complete |= log.is_leaving;
            log.is_leaving
        });
        if has_entries == Some(true) {
            self.archive(epoch, |epoch, marks| Order::Complete { epoch, marks });
        }
    }

    /// The files of a context that is leaving are complete, or cannot be completed now.
    pub(crate) fn left(&mut self, epoch: Epoch, is_done: bool) {
        let was_leaving = self
            .logs
            .change(epoch, |log| std::mem::take(&mut log.is_leaving));
        if self.closed_to_load(epoch, is_done) {
            return;
        }
        if was_leaving == Some(true) && is_done {
            self.forget_memory(epoch, State::Archived);
        } else {
            self.close_later(epoch);
        }
    }

    /// Gives up the memory of a context; whoever has it mapped all the same finds out
    /// why.
    pub(crate) fn forget_memory(&mut self, epoch: Epoch, why: State) {
        let mut parts = Vec::new();
        self.logs.change(epoch, |log| {
            log.visit(&self.instance, |log, _| {
                if let Some(live) = &log.live {
                    live.control.set_state(why);
                }
                Ok(())
            });
            // Without it the parts are leftovers, as is one that says so: what cannot be
            // removed now the next start removes.
            let _ = object::unlink(&self.instance, Name::Control(epoch));
            parts.extend(log.chain.drain(..));
            parts.append(&mut log.spares);
            // The maker comes to removing them after having made them.
            parts.append(&mut log.making);
            log.state = State::Archived;
            log.spare_len = log.lengths.spare_min;
        });
        for part in parts {
            self.lent.retire(&self.instance, epoch, part.number);
            let part = part.number;
            match why {
                // It may come back any moment, and number its parts from the first on.
                State::Archived => {
                    let _ = object::unlink(&self.instance, Name::Part(epoch, part));
                }
                _ => self.maker.give(Job::Unlink { epoch, part }),
            }
        }
    }

    /// Removes parts that nobody looks for any more.
    pub(crate) fn unlink_later(&mut self, epoch: Epoch, parts: Vec<Part>) {
        for part in parts {
            self.lent.retire(&self.instance, epoch, part.number);
            let part = part.number;
            self.maker.give(Job::Unlink { epoch, part });
        }
    }

    fn close(&mut self, epoch: Epoch) {
        self.logs.change(epoch, |log| {
            log.visit(&self.instance, |log, instance| {
                log.close(instance, self.made_in)
            });
        });
    }

    /// A pause that lets everything else be done between two looks at a
    /// context, and that a clock can be advanced by.
    fn idle_close_after(&self) -> Duration {
        let asked = self.options.idle_close_after;
        asked.clamp(IDLE_CLOSE_AFTER_MIN, IDLE_CLOSE_AFTER_MAX)
    }

    /// Has a context closed in some time, if nobody appends to it then.
    pub(crate) fn close_later(&mut self, epoch: Epoch) {
        let now = Instant::now();
        let since = self
            .logs
            .get(epoch)
            .map_or(now, |log| log.idle_since.max(now));
        let due = since + self.idle_close_after();
        self.to_close.push_back((due, epoch));
    }

    /// Closes contexts whose appenders left long ago and that hold spares.
    /// Returns when to look again.
    pub(crate) fn close_idle(&mut self) -> Option<Instant> {
        // All wait equally long, so the first one is the next one; who leaves just after a
        // daemon has started, or after one who may come back, waits as long as those.
        while let Some((due, epoch)) = self.to_close.front().copied() {
            if due > Instant::now() {
                return Some(due);
            }
            self.to_close.pop_front();
            let idle_close_after = self.idle_close_after();
            // Whoever came back since then has it noted again when leaving.
            let is_idle =
                |log: &Log| log.appender_count == 0 && log.idle_since + idle_close_after <= due;
            if self
                .logs
                .get(epoch)
                .is_some_and(|log| is_idle(log) && log.can_close())
            {
                self.close(epoch);
            }
            if self
                .logs
                .get(epoch)
                .is_some_and(|log| is_idle(log) && log.may_leave())
            {
                self.leave(epoch);
            }
            // What could not be closed now is not forgotten.
            if self
                .logs
                .get(epoch)
                .is_some_and(|log| is_idle(log) && log.may_close_later())
            {
                self.close_later(epoch);
            }
        }
        None
    }
}
