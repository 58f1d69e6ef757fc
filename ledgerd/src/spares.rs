//! Spares: how many, how large, and what is answered to who wants one.

use std::ops::RangeInclusive;

use ledger_client::wire::{Refusal, Reply};
use ledger_shm::control::State;
use ledger_shm::entry::Limits;
use ledger_shm::format::PAGE_LEN;
use ledger_shm::object::{Epoch, MapError};
use ledger_shm::segment::Geometry;

use crate::log::{Log, Part};
use crate::maker::{Job, Made, Maker};
use crate::registry::{Registry, failed, refusal};

/// Spares kept ready per context that is appended to.
const SPARE_COUNT: usize = 2;
/// No spare is larger than this fraction of a context's share: the current
/// segment and two spares are held beside the sealed ones.
const SPARES_PER_SHARE_MIN: u64 = 4;
/// No spare is larger than this fraction of the budget.
const SPARES_PER_BUDGET_MIN: u64 = 16;

/// What came of asking for spares.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Spares {
    /// This is the answer.
    Now(Reply),
    /// They are being made.
    Later,
}

/// What the next spares of a context may be.
struct Bounds {
    /// Takes the record that is waiting.
    needed: Geometry,
    /// No spare is larger, unless that record needs it.
    len_max: usize,
    /// Bytes that the context may have committed in all.
    room: u64,
}

impl Registry {
    /// A length that a client asks for, at most that of the longest record that
    /// the context takes, which may be older than today's limits.
    pub(crate) fn record_len(&self, epoch: Epoch, wanted: u64) -> usize {
        let live = self.logs.get(epoch).and_then(|log| log.live.as_ref());
        let limits = live.map_or(self.options.limits, |live| live.control.limits());
        usize::try_from(wanted)
            .unwrap_or(usize::MAX)
            .min(record_len_max(&limits))
    }

    /// The spares of a context; has more made if there are too few, or none
    /// that takes a record of this length.
    pub(crate) fn spares(&mut self, epoch: Epoch, record_len: usize) -> Result<Spares, Refusal> {
        let followed = self.logs.change(epoch, |log| {
            log.check_usable()?;
            log.follow(&self.instance)
                .map_err(|error| failed(log, error))?;
            Ok((log.state, log.lengths))
        });
        let (state, lengths) = followed.ok_or(Refusal::UnknownContext)??;
        if state == State::Idle {
            self.reopen(epoch)?;
        }
        self.keep_window(epoch);
        let needed = Geometry::for_record(record_len);
        let len_max = (self.share() / SPARES_PER_SHARE_MIN)
            .min(self.budget / SPARES_PER_BUDGET_MIN)
            .min(lengths.spare_max as u64) as usize;
        let missing = self.logs.get(epoch);
        let missing = missing.map_or(0..=0, |log| log.missing_len(needed, len_max));
        if !self.has_room(*missing.end()) {
            self.make_room(*missing.start());
        }
        let free = self.budget.saturating_sub(self.logs.committed_len());
        let planned = self.logs.change(epoch, |log| {
            let bounds = Bounds {
                needed,
                len_max,
                room: log.committed_len() + free,
            };
            log.plan_spares(&bounds, &self.maker)
                .map_err(|error| failed(log, error))?;
            Ok(log.making.is_empty())
        });
        if planned.ok_or(Refusal::UnknownContext)?? {
            Ok(Spares::Now(self.answer(epoch, record_len)))
        } else {
            Ok(Spares::Later)
        }
    }

    /// The spares of a context, or why there is none for a record of this
    /// length, now that nothing more is being made.
    pub(crate) fn answer(&self, epoch: Epoch, record_len: usize) -> Reply {
        let Some(log) = self.logs.get(epoch) else {
            return Reply::Refused(Refusal::UnknownContext);
        };
        let needed = Geometry::for_record(record_len);
        let fits = |part: &Part| part.segment_len >= needed.segment_len;
        match &log.why_not {
            Some(why_not) if !log.spares.iter().any(fits) => {
                Reply::Refused(self.explained(why_not.clone()))
            }
            _ => Reply::Spares {
                current: log.current(),
                parts: log.spares.iter().map(|part| part.number).collect(),
            },
        }
    }

    /// Takes over what the maker has made. Returns the context, and whether
    /// nothing more is being made for it.
    pub(crate) fn take_made(&mut self) -> Option<(Epoch, bool)> {
        let Made {
            epoch,
            part,
            segment_len,
            outcome,
        } = self.maker.take_made()?;
        let is_done = self.logs.change(epoch, |log| {
            if !log.making.iter().any(|making| making.number == part) {
                // Its memory was given up, this spare included.
                return true;
            }
            log.making.retain(|making| making.number != part);
            match outcome {
                Ok(()) => log.spares.push(Part {
                    number: part,
                    segment_len,
                }),
                Err(error) => log.why_not = Some(refusal(error)),
            }
            log.making.is_empty()
        });
        Some((epoch, is_done.unwrap_or(true)))
    }
}

impl Log {
    /// Bytes of the spares that it lacks: at least of one, and of all of them.
    fn missing_len(&self, needed: Geometry, len_max: usize) -> RangeInclusive<u64> {
        let fits = |part: &Part| part.segment_len >= needed.segment_len;
        let has_fitting = self.spares.iter().chain(&self.making).any(fits);
        let missing = SPARE_COUNT.saturating_sub(self.spares.len() + self.making.len());
        let (least, missing) = match (has_fitting, missing) {
            (true, 0) => return 0..=0,
            (true, _) => (self.lengths.smallest(), missing),
            (false, _) => (needed.segment_len, missing.max(1)),
        };
        let len = least.max(self.lengths.spare_min.min(len_max));
        least as u64..=(missing * len) as u64
    }

    /// Has spares made until there are enough, and one that is large enough.
    fn plan_spares(&mut self, bounds: &Bounds, maker: &Maker) -> Result<(), MapError> {
        let fits = |part: &Part| part.segment_len >= bounds.needed.segment_len;
        self.why_not = None;
        loop {
            let has_fitting = self.spares.iter().chain(&self.making).any(fits);
            if has_fitting && self.spares.len() + self.making.len() >= SPARE_COUNT {
                return Ok(());
            }
            let smallest = if has_fitting {
                Geometry::of_len(self.lengths.smallest())
            } else {
                bounds.needed
            };
            let len = self.spare_len.min(bounds.len_max);
            let mut geometry = Geometry::of_len(len.max(smallest.segment_len));
            let has_room = |len: usize| self.committed_len() + len as u64 <= bounds.room;
            while !has_room(geometry.segment_len) && geometry.segment_len > smallest.segment_len {
                geometry = Geometry::of_len((geometry.segment_len / 2).max(smallest.segment_len));
            }
            if !has_room(geometry.segment_len) {
                self.why_not = Some(Refusal::Budget);
                return Ok(());
            }
            let live = self.live.as_ref().expect("whoever asks is attached");
            let part = Part {
                number: live.control.take_part_number()?,
                segment_len: geometry.segment_len,
            };
            self.making.push(part);
            let len_max = bounds.len_max.max(self.lengths.spare_min);
            self.spare_len = (self.spare_len * 2).min(len_max);
            maker.give(Job::Make {
                epoch: self.epoch,
                part: part.number,
                segment_len: part.segment_len,
                segment_len_min: smallest.segment_len,
            });
        }
    }
}

/// No record that keeps these limits is longer.
fn record_len_max(limits: &Limits) -> usize {
    // A page holds the header, the longest key and the root.
    limits.payload_len_max + limits.metadata_len_max + PAGE_LEN
}

#[cfg(test)]
mod tests;
