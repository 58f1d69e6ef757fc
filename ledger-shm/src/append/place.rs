//! Placing: a record is written into a block of the appender's own, where
//! nobody else looks.
#![allow(unsafe_code, reason = "blocks are written in place")]

use super::{Clock, End, Placed, Stop, Tail, Why};
use crate::entry::{Limits, NewEntry};
use crate::error::Refused;
use crate::format::{LINE_LEN, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader};
use crate::record::{self, Payload};
use crate::segment::Segment;
use crate::slot::Extent;
use crate::sync::Ordering;

/// Blocks grow towards this, so that most appends take no room of their own.
const BLOCK_LEN_MAX: usize = 64 << 10;
/// A block is at most this fraction of a segment's data area.
const BLOCKS_PER_SEGMENT_MIN: usize = 32;

#[inline]
fn record_len<P>(entry: &NewEntry<'_, P>, payload_len: usize) -> usize {
    RECORD_HEADER_LEN + record::body_len(payload_len, entry.key(), entry.pairs())
}

impl Segment {
    /// The bytes of a record that will lie here.
    ///
    /// # Safety
    ///
    /// The extent was given to this caller by [`Tail::take`], or is what is left of
    /// its block, and no slot names anything in it yet.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "exclusive by the caller's contract")]
    unsafe fn taken(&self, extent: Extent) -> &mut [u8] {
        // SAFETY: by the caller's contract.
        unsafe { self.block_mut(extent.offset, extent.len) }
    }

    /// The same without the header.
    ///
    /// # Safety
    ///
    /// As for [`taken`](Self::taken).
    #[allow(clippy::mut_from_ref, reason = "exclusive by the caller's contract")]
    unsafe fn taken_body(&self, extent: Extent) -> &mut [u8] {
        // SAFETY: by the caller's contract.
        let record = unsafe { self.taken(extent) };
        &mut record[RECORD_HEADER_LEN..]
    }
}

impl Tail {
    /// Writes a record, all but its number, into memory that is ours alone.
    #[inline(always)]
    pub(super) fn place<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
        limits: &Limits,
        clock: &mut impl Clock,
    ) -> Result<Placed, Stop> {
        let bytes = entry.payload().bytes();
        let (extent, payload_len) = match bytes {
            Some(bytes) => match self.take(record_len(entry, bytes.len())) {
                Ok(extent) => (extent, bytes.len()),
                Err(why) => return Err(self.stop(why)),
            },
            None => match self.place_typed(entry, limits) {
                Ok(placed) => placed,
                Err(why) => return Err(self.stop(why)),
            },
        };
        // SAFETY: taken above, and not published.
        let record = unsafe { self.segment.taken(extent) };
        let body = &mut record[RECORD_HEADER_LEN..];
        if let Some(bytes) = bytes {
            body[..payload_len].copy_from_slice(bytes);
        }
        if let Err(error) = record::write_around(body, payload_len, entry.key(), entry.pairs()) {
            return Err(self.stop(Refused::unserializable(error)));
        }
        let appended_at_ns = clock.now_ns();
        RecordHeader::write_unnumbered(record, entry.key(), appended_at_ns);
        Ok(Placed {
            extent,
            appended_at_ns,
        })
    }

    /// Takes room for a payload whose length only its serialisation tells, and
    /// writes it there: into what is left of the block if the record fits, else
    /// it is measured first. Returns the record's extent and the payload's length.
    fn place_typed<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
        limits: &Limits,
    ) -> Result<(Extent, usize), Why> {
        let rest = Extent {
            offset: self.block.start,
            len: self.block.len(),
        };
        if rest.len > RECORD_HEADER_LEN
            && let Ok(payload_len) = record::write_payload(
                // SAFETY: what is left of the block.
                Some(unsafe { self.segment.taken_body(rest) }),
                entry.payload(),
                &mut self.scratch,
            )
        {
            limits.check_payload(payload_len)?;
            let record_len = record_len(entry, payload_len);
            if record_len.next_multiple_of(RECORD_ALIGN) <= rest.len {
                return Ok((self.take(record_len)?, payload_len));
            }
        }
        let measured = record::write_payload(None, entry.payload(), &mut self.scratch);
        let payload_len = measured.map_err(Refused::unserializable)?;
        limits.check_payload(payload_len)?;
        let extent = self.take(record_len(entry, payload_len))?;
        // SAFETY: just taken.
        let body = unsafe { self.segment.taken_body(extent) };
        record::write_measured(body, entry.payload(), payload_len, &mut self.scratch)
            .map_err(Refused::unserializable)?;
        Ok((extent, payload_len))
    }

    /// Takes room in the data area for one record: from the block if it fits.
    #[inline(always)]
    fn take(&mut self, record_len: usize) -> Result<Extent, Why> {
        let need = record_len.next_multiple_of(RECORD_ALIGN);
        let offset = if self.block.start + need <= self.block.end {
            let offset = self.block.start;
            self.block.start += need;
            offset
        } else {
            let offset = self.take_contended(need);
            offset.ok_or(Why::End(End::Full, record_len))?
        };
        Ok(Extent {
            offset,
            len: record_len,
        })
    }

    /// Takes a new block, or, for a large record, a run of its own.
    #[cold]
    fn take_contended(&mut self, need: usize) -> Option<usize> {
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
        let (taken, rest) = if fits {
            (Some(start), start + need..end)
        } else {
            (None, start..end)
        };
        if is_continued || rest.len() > self.block.len() {
            self.block = rest;
        }
        taken
    }
}
