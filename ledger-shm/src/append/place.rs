//! Placing: a record is written into a block of the appender's own, where
//! nobody else looks.
#![allow(unsafe_code, reason = "blocks are written in place")]

use std::mem::MaybeUninit;
use std::ops::Range;

use super::{Clock, Placed, Tail};
use crate::entry::{Limits, NewEntry};
use crate::error::Refused;
use crate::format::{LINE_LEN, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader};
use crate::record::{self, BodyLen, Payload};
use crate::slot::Extent;
use crate::sync::Ordering;

/// Blocks grow towards this, so that most appends take no room of their own.
const BLOCK_LEN_MAX: usize = 64 << 10;
/// A block is at most this fraction of a segment's data area.
const BLOCKS_PER_SEGMENT_MIN: usize = 32;

impl Tail {
    /// Writes a record, all but its number, into memory that is ours alone.
    /// `Err` is the length of a record that this segment has no room for.
    #[inline]
    pub(super) fn place<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
        limits: &Limits,
        clock: &mut impl Clock,
    ) -> Result<Result<Placed, usize>, Refused> {
        let pairs = entry.pairs();
        if self.scratch.len() < record::scratch_len(pairs.len()) {
            self.scratch
                .resize(record::scratch_len(pairs.len()), MaybeUninit::uninit());
        }
        let known = entry.payload().known_len();
        let (run, len) = if let Some(payload_len) = known {
            let body = record::body_len(payload_len, entry.key(), pairs);
            let Some(run) = self.take(RECORD_HEADER_LEN + body) else {
                return Ok(Err(RECORD_HEADER_LEN + body));
            };
            (
                run.clone(),
                self.write(run, entry).map_err(Refused::unserializable)?,
            )
        } else {
            match self.place_unmeasured(entry, limits)? {
                Ok(placed) => placed,
                Err(record_len) => return Ok(Err(record_len)),
            }
        };
        // SAFETY: `run` came from `take` and has not been published.
        let bytes = unsafe {
            self.segment
                .block_mut(run.start, RECORD_HEADER_LEN + len.body)
        };
        let body = &bytes[RECORD_HEADER_LEN..];
        let header = RecordHeader::unnumbered(body, entry.key(), clock.now_ns());
        let extent = Extent {
            offset: run.start,
            len: RECORD_HEADER_LEN + len.body,
        };
        Ok(Ok(Placed { extent, header }))
    }

    /// Places a payload whose length only its serialisation tells: into what
    /// is left of the block if it fits, else measured first.
    fn place_unmeasured<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
        limits: &Limits,
    ) -> Result<Result<(Range<usize>, BodyLen), usize>, Refused> {
        let rest = self.block.clone();
        if rest.len() > RECORD_HEADER_LEN
            && let Ok(len) = self.write(rest.clone(), entry)
        {
            limits.check_payload(len.payload)?;
            self.block.start += (RECORD_HEADER_LEN + len.body).next_multiple_of(RECORD_ALIGN);
            return Ok(Ok((rest, len)));
        }
        let len = record::write_body(
            None,
            entry.payload(),
            entry.key(),
            entry.pairs(),
            &mut self.scratch,
        )
        .map_err(Refused::unserializable)?;
        limits.check_payload(len.payload)?;
        match self.take(RECORD_HEADER_LEN + len.body) {
            Some(run) => Ok(Ok((
                run.clone(),
                self.write(run, entry).map_err(Refused::unserializable)?,
            ))),
            None => Ok(Err(RECORD_HEADER_LEN + len.body)),
        }
    }

    #[inline]
    fn write<P: Payload>(
        &mut self,
        run: Range<usize>,
        entry: &NewEntry<'_, P>,
    ) -> Result<BodyLen, rkyv::rancor::Error> {
        // SAFETY: the run is ours and unpublished, see `take`.
        let bytes = unsafe { self.segment.block_mut(run.start, run.len()) };
        record::write_body(
            Some(&mut bytes[RECORD_HEADER_LEN..]),
            entry.payload(),
            entry.key(),
            entry.pairs(),
            &mut self.scratch,
        )
    }

    /// Takes a run of the data area for one record: from the block if it fits.
    #[inline]
    fn take(&mut self, record_len: usize) -> Option<Range<usize>> {
        let need = record_len.next_multiple_of(RECORD_ALIGN);
        if need > self.block.len() {
            return self.take_contended(need);
        }
        let start = self.block.start;
        self.block.start += need;
        Some(start..start + need)
    }

    /// Takes a new block, or, for a large record, a run of its own.
    #[cold]
    fn take_contended(&mut self, need: usize) -> Option<Range<usize>> {
        let data_len = self.segment.geometry().data_len;
        let tail = self.segment.data_tail();
        // Relaxed throughout: the tail only divides room; what lies there is
        // published by slots.
        let left = data_len.saturating_sub(tail.load(Ordering::Relaxed) as usize);
        if need > left {
            // Asking anyway would burn what a smaller record could still use.
            return None;
        }
        let goal_max = BLOCK_LEN_MAX.min(data_len / BLOCKS_PER_SEGMENT_MIN);
        let want = self
            .block_goal
            .clamp(need, goal_max.max(need))
            .next_multiple_of(LINE_LEN)
            .min(left);
        self.block_goal = (want * 2).min(goal_max);
        let start = tail.fetch_add(want as u64, Ordering::Relaxed) as usize;
        let geometry = self.segment.geometry();
        if !self.has_seen_end && (start >= data_len / 2 || self.next >= geometry.slot_capacity / 2)
        {
            self.has_seen_end = true;
            self.wants_spare = true;
        }
        let end = start.saturating_add(want).min(data_len);
        if start >= end || !start.is_multiple_of(LINE_LEN) {
            return None;
        }
        // Right behind the last block, it goes on with what is left of that.
        let is_continued = start == self.block.end;
        let start = if is_continued {
            self.block.start
        } else {
            start
        };
        // Somebody may have been faster: keep what is left for smaller records.
        let fits = end - start >= need;
        let (run, rest) = if fits {
            (Some(start..start + need), start + need..end)
        } else {
            (None, start..end)
        };
        if is_continued || rest.len() > self.block.len() {
            self.block = rest;
        }
        run
    }
}
