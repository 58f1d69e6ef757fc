//! One mapped part of a log: a header, an index of slots, a data area.
//!
//! A segment is created by the daemon, filled by appenders and never rewritten.
//! Opening one validates its geometry once; after that every view is bounds-
//! checked against this process's copy of it, never against the header again.
#![allow(unsafe_code, reason = "published bytes become references here")]

#[cfg(not(loom))]
mod file;
mod geometry;
#[cfg(not(loom))]
mod glance;
mod header;
#[cfg(not(loom))]
mod stored;

use std::mem::offset_of;

use crate::error::Corrupt;
use crate::format::{
    PAGE_LEN, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader, SegmentHeader, WITHDRAWN,
};
use crate::region::Region;
use crate::slot::{Extent, Slot};
use crate::sync::{AtomicU64, Label, Ordering};

pub use geometry::Geometry;
#[cfg(not(loom))]
pub use glance::Glance;
#[cfg(loom)]
pub use header::Memory;
#[cfg(not(loom))]
pub use stored::StoredNodes;

/// A mapped segment.
#[derive(Debug)]
pub struct Segment {
    region: Region,
    epoch: [u8; 16],
    part: u64,
    geometry: Geometry,
    is_trusted: bool,
}

const BASE_LAMPORT_AT: usize = offset_of!(SegmentHeader, base_lamport_word);
const BASE_SEQ_AT: usize = offset_of!(SegmentHeader, base_seq_word);
const SUCCESSOR_AT: usize = offset_of!(SegmentHeader, successor_word);
const DATA_TAIL_AT: usize = offset_of!(SegmentHeader, data_tail_word);

/// By value, as in `region`.
#[cold]
#[inline(never)]
fn no_such_slot(index: usize, capacity: usize) -> ! {
    panic!("slot {index} of {capacity}");
}

impl Segment {
    /// The context this segment is a part of.
    pub fn epoch(&self) -> [u8; 16] {
        self.epoch
    }

    /// Its number within the context.
    pub fn part(&self) -> u64 {
        self.part
    }

    /// That it is the part that its name says.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] names the field of its header that says otherwise.
    pub fn check_is(&self, epoch: [u8; 16], part: u64) -> Result<(), Corrupt> {
        Corrupt::check("part number in a header", self.part, part)?;
        let halves = |epoch: [u8; 16]| {
            let epoch = u128::from_be_bytes(epoch);
            [(epoch >> 64) as u64, epoch as u64]
        };
        for (found, expected) in halves(self.epoch).into_iter().zip(halves(epoch)) {
            Corrupt::check("epoch in a header", found, expected)?;
        }
        Ok(())
    }

    /// Where its index and data lie.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Whether only this process's own uid can write the memory, so that
    /// entries may be used where they lie.
    pub fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// Whether this process may append here.
    pub fn is_writable(&self) -> bool {
        self.region.is_writable()
    }

    /// # Panics
    ///
    /// If `index` is beyond the seal's slot.
    #[inline]
    pub(crate) fn slot(&self, index: usize) -> &AtomicU64 {
        if index > self.geometry.slot_capacity {
            no_such_slot(index, self.geometry.slot_capacity);
        }
        self.region
            .word(self.geometry.index_offset + index * size_of::<u64>())
    }

    #[inline]
    pub(crate) fn data_tail(&self) -> &AtomicU64 {
        self.region.word(DATA_TAIL_AT)
    }

    /// Bytes of the data area that appenders have taken.
    pub fn data_taken(&self) -> usize {
        let taken = self.data_tail().load(Ordering::Relaxed);
        usize::try_from(taken)
            .unwrap_or(usize::MAX)
            .min(self.geometry.data_len)
    }

    /// What a slot says, ready for its record to be read.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if the word is none that we write.
    ///
    /// # Panics
    ///
    /// If `index` is beyond the seal's slot.
    #[inline]
    pub fn look(&self, index: usize) -> Result<Slot, Corrupt> {
        let word = self.slot(index).load(Ordering::Relaxed);
        // ORDER(publish): the mapping may be read-only, where only relaxed
        // loads are defined; the fence makes this one acquire.
        Label::Publish.fence(Ordering::Acquire);
        Slot::decode(word).map_err(|invalid| Corrupt::new("slot", invalid.0, 0))
    }

    /// Seq of the first entry here; 0 while this is a spare, [`WITHDRAWN`] if
    /// it was withdrawn.
    #[inline]
    pub fn base_seq(&self) -> u64 {
        let base = self.region.word(BASE_SEQ_AT).load(Ordering::Relaxed);
        // ORDER(roll): what travels is `base_lamport`, and why this is no spare
        // any more; a fence, as in `look`.
        Label::Roll.fence(Ordering::Acquire);
        base
    }

    /// Lamport time of the entry before the first one here. Meaningful once
    /// [`base_seq`](Self::base_seq) is set.
    pub fn base_lamport(&self) -> u64 {
        self.region.word(BASE_LAMPORT_AT).load(Ordering::Relaxed)
    }

    /// Whether this segment could still be named by a seal.
    pub fn is_spare(&self) -> bool {
        self.base_seq() == 0
    }

    /// The part that goes on after CLOSED, if the daemon made one.
    pub fn successor(&self) -> Option<u64> {
        let part = self.region.word(SUCCESSOR_AT).load(Ordering::Relaxed);
        // ORDER(create): what travels is the successor's header.
        Label::Create.fence(Ordering::Acquire);
        (part != 0).then_some(part)
    }

    /// Names the part that goes on after CLOSED. Only the daemon does.
    pub fn set_successor(&self, part: u64) {
        // ORDER(create): whoever sees the number finds the part finished.
        self.region
            .word(SUCCESSOR_AT)
            .store(part, Label::Create.at(Ordering::Release));
    }

    /// Fills in what follows from the position of the seal that names this
    /// segment. Everybody who rolls does, and everybody computes the same.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if somebody computed something else.
    pub fn complete(&self, base_seq: u64, base_lamport: u64) -> Result<(), Corrupt> {
        let lamport = self.region.word(BASE_LAMPORT_AT);
        let first = lamport.compare_exchange(0, base_lamport, Ordering::Relaxed, Ordering::Relaxed);
        let found = first.unwrap_or_else(|found| found);
        if found != 0 && found != base_lamport {
            return Err(Corrupt::new("base lamport", found, base_lamport));
        }
        let base = self.region.word(BASE_SEQ_AT);
        // ORDER(roll): whoever sees this base_seq sees that base_lamport, and
        // the seal that names this part.
        match base.compare_exchange(
            0,
            base_seq,
            Label::Roll.at(Ordering::Release),
            Ordering::Relaxed,
        ) {
            Ok(_) => Ok(()),
            Err(found) => Corrupt::check("base seq", found, base_seq),
        }
    }

    /// Makes sure that no seal can name this spare any more. The log must have
    /// been closed before, so that nobody can be about to.
    ///
    /// # Errors
    ///
    /// The base seq it has, if it is no spare any more.
    pub fn withdraw(&self) -> Result<(), u64> {
        let base = self.region.word(BASE_SEQ_AT);
        // ORDER(roll): who sees that this is no spare sees CLOSED as well.
        match base.compare_exchange(
            0,
            WITHDRAWN,
            Label::Roll.at(Ordering::Release),
            Ordering::Relaxed,
        ) {
            Ok(_) | Err(WITHDRAWN) => Ok(()),
            Err(base_seq) => Err(base_seq),
        }
    }

    /// Checks an extent that a slot named against this segment's geometry.
    #[inline]
    pub(crate) fn validate_extent(&self, extent: Extent) -> Result<Extent, Corrupt> {
        let Extent { offset, len } = extent;
        if len < RECORD_HEADER_LEN {
            return Err(Corrupt::short_record(len));
        }
        if offset > self.geometry.data_len || len > self.geometry.data_len - offset {
            return Err(Corrupt::new(
                "record end",
                (offset + len) as u64,
                self.geometry.data_len as u64,
            ));
        }
        debug_assert!(offset.is_multiple_of(RECORD_ALIGN), "a decoded offset");
        Ok(extent)
    }

    /// One word of the header of a record that a slot named, by its offset in
    /// [`RecordHeader`]: a copy, believed for nothing yet.
    #[inline]
    pub(crate) fn header_word(&self, extent: Extent, at: usize) -> Result<u64, Corrupt> {
        let Extent { offset, .. } = self.validate_extent(extent)?;
        Ok(self
            .region
            .copy_word(self.geometry.data_offset + offset + at))
    }

    /// Lamport time of the last entry before a slot, or of the one before this
    /// segment.
    pub fn lamport_before(&self, index: usize) -> Result<u64, Corrupt> {
        let last = index
            .checked_sub(1)
            .map(|last| self.extent(last))
            .transpose()?
            .flatten();
        match last {
            Some(extent) => self.header_word(extent, offset_of!(RecordHeader, lamport)),
            None => Ok(self.base_lamport()),
        }
    }

    /// The bytes of a published record, where they lie.
    ///
    /// # Safety
    ///
    /// A slot of this segment named `extent`, the caller read it with
    /// [`look`](Self::look) or stronger, and no process writes published
    /// records: either [`is_trusted`](Self::is_trusted), or the caller vouches
    /// for whoever else may write this memory.
    #[inline]
    pub unsafe fn record(&self, extent: Extent) -> Result<&[u8], Corrupt> {
        let Extent { offset, len } = self.validate_extent(extent)?;
        // SAFETY: published and acquired by the caller's contract; a published
        // record is never written again.
        Ok(unsafe { self.region.bytes(self.geometry.data_offset + offset, len) })
    }

    /// Copies a record out; whoever wants to believe it verifies it first.
    pub fn copy_record(&self, extent: Extent, target: &mut [u8]) -> Result<(), Corrupt> {
        let Extent { offset, len } = self.validate_extent(extent)?;
        self.region
            .copy_to(self.geometry.data_offset + offset, &mut target[..len]);
        Ok(())
    }

    /// A run of the data area that the caller took and has not published.
    ///
    /// # Safety
    ///
    /// The range came out of this segment's data tail, was given to this
    /// caller only, and nothing in it is named by a slot yet.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "exclusive by the caller's contract")]
    pub(crate) unsafe fn block_mut(&self, offset: usize, len: usize) -> &mut [u8] {
        debug_assert!(
            offset + len <= self.geometry.data_len,
            "a block inside the data area"
        );
        // SAFETY: exclusive by the caller's contract.
        unsafe {
            self.region
                .bytes_mut(self.geometry.data_offset + offset, len)
        }
    }

    /// Enters pages into this process's page table, so that no append or read
    /// faults there later. `offset` and `len` are rounded to pages.
    pub fn populate(&self, offset: usize, len: usize) -> std::io::Result<()> {
        let start = offset / PAGE_LEN * PAGE_LEN;
        let end = (offset + len)
            .next_multiple_of(PAGE_LEN)
            .min(self.geometry.segment_len);
        if start < end {
            self.region.populate(start, end - start)
        } else {
            Ok(())
        }
    }
}
