//! One mapped part of a log: a header, an index of slots, a data area.
//!
//! A segment is created by the daemon, filled by appenders and never rewritten.
//! Opening one validates its geometry once; after that every view is bounds-
//! checked against this process's copy of it, never against the header again.
#![allow(unsafe_code, reason = "published bytes become references here")]

use crate::error::Corrupt;
use crate::format::{
    DATA_LEN_PER_SLOT, LINE_LEN, PAGE_LEN, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader,
    SEGMENT_HEADER_LEN, SEGMENT_LEN_MAX, SEGMENT_LEN_MIN, SegmentHeader, WITHDRAWN,
};
use crate::region::Region;
use crate::slot::{Extent, Slot};
use crate::sync::{AtomicU64, Label, Ordering};
use std::mem::offset_of;

/// Where index and data area of a segment lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of the whole object.
    pub segment_len: usize,
    /// Entries the index has room for.
    pub slot_capacity: usize,
    /// Where the data area starts.
    pub data_offset: usize,
    /// Bytes of the data area.
    pub data_len: usize,
}

impl Geometry {
    /// The geometry of a segment of at least `segment_len` bytes: whole pages,
    /// and one slot for every [`DATA_LEN_PER_SLOT`] bytes of data.
    pub fn of_len(segment_len: usize) -> Geometry {
        let segment_len = segment_len
            .clamp(SEGMENT_LEN_MIN, SEGMENT_LEN_MAX)
            .next_multiple_of(PAGE_LEN);
        let slot_capacity =
            (segment_len - SEGMENT_HEADER_LEN) / (DATA_LEN_PER_SLOT + size_of::<u64>());
        Geometry::with_slots(segment_len, slot_capacity)
    }

    /// The smallest geometry whose data area takes one record of `record_len`.
    pub fn for_record(record_len: usize) -> Geometry {
        let slots = record_len.div_ceil(DATA_LEN_PER_SLOT) + 1;
        Geometry::of_len(SEGMENT_HEADER_LEN + record_len + slots * size_of::<u64>() + 2 * LINE_LEN)
    }

    fn with_slots(segment_len: usize, slot_capacity: usize) -> Geometry {
        let index_len = (slot_capacity + 1) * size_of::<u64>();
        let data_offset = (SEGMENT_HEADER_LEN + index_len).next_multiple_of(LINE_LEN);
        Geometry {
            segment_len,
            slot_capacity,
            data_offset,
            data_len: segment_len - data_offset,
        }
    }

    fn validate(self, object_len: usize) -> Result<Geometry, Corrupt> {
        Corrupt::check("segment length", self.segment_len as u64, object_len as u64)?;
        let slots_max = (object_len - SEGMENT_HEADER_LEN) / size_of::<u64>();
        if self.slot_capacity == 0 || self.slot_capacity >= slots_max {
            return Err(Corrupt::new(
                "slot capacity",
                self.slot_capacity as u64,
                slots_max as u64,
            ));
        }
        let index_end = SEGMENT_HEADER_LEN + (self.slot_capacity + 1) * size_of::<u64>();
        if !self.data_offset.is_multiple_of(LINE_LEN) || self.data_offset < index_end {
            return Err(Corrupt::new(
                "data offset",
                self.data_offset as u64,
                index_end as u64,
            ));
        }
        if self.data_offset.checked_add(self.data_len) != Some(object_len) {
            let expected = object_len.saturating_sub(self.data_offset);
            return Err(Corrupt::new(
                "data length",
                self.data_len as u64,
                expected as u64,
            ));
        }
        Ok(self)
    }

    /// Whether an empty segment of this geometry takes a record of this length.
    pub fn fits(&self, record_len: usize) -> bool {
        record_len <= self.data_len
    }
}

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

impl Segment {
    /// The context this segment is a part of.
    pub fn epoch(&self) -> [u8; 16] {
        self.epoch
    }

    /// Its number within the context.
    pub fn part(&self) -> u64 {
        self.part
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

    /// Whether the mapping exists in this process: false in a fork's child.
    #[inline]
    pub fn is_mapped_here(&self) -> bool {
        self.region.is_mapped_here()
    }

    /// # Panics
    ///
    /// If `index` is beyond the seal's slot.
    #[inline]
    pub(crate) fn slot(&self, index: usize) -> &AtomicU64 {
        assert!(
            index <= self.geometry.slot_capacity,
            "slot {index} of {}",
            self.geometry.slot_capacity
        );
        self.region
            .word(SEGMENT_HEADER_LEN + index * size_of::<u64>())
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

mod mapped {
    use super::*;
    use crate::error::Corrupt;
    use crate::format::{ARCHIVE_FORMAT, FORMAT_VERSION, SEGMENT_MAGIC};
    use crate::object::{MapError, Object};

    impl Segment {
        /// Maps a segment and validates its header.
        ///
        /// # Errors
        ///
        /// The kernel's, or what is wrong with the header.
        pub fn map(object: &Object, writable: bool) -> Result<Segment, MapError> {
            let region = object.map(writable)?;
            if region.len() < SEGMENT_LEN_MIN {
                return Err(Corrupt::new(
                    "segment length",
                    region.len() as u64,
                    SEGMENT_LEN_MIN as u64,
                )
                .into());
            }
            Segment::read(region, object.is_own())
        }

        pub(super) fn read(region: Region, is_trusted: bool) -> Result<Segment, MapError> {
            let magic = region
                .word(offset_of!(SegmentHeader, magic_word))
                .load(Ordering::Relaxed);
            // ORDER(create): the magic is written last.
            Label::Create.fence(Ordering::Acquire);
            if magic == 0 {
                return Err(MapError::Unfinished);
            }
            Corrupt::check("segment magic", magic, SEGMENT_MAGIC)?;
            let word = |at| region.word(at).load(Ordering::Relaxed);
            MapError::check_formats(word(offset_of!(SegmentHeader, version)))?;
            Corrupt::check(
                "segment index offset",
                word(offset_of!(SegmentHeader, index_offset)),
                SEGMENT_HEADER_LEN as u64,
            )?;
            let geometry = Geometry {
                segment_len: word(offset_of!(SegmentHeader, segment_len)) as usize,
                slot_capacity: word(offset_of!(SegmentHeader, slot_capacity)) as usize,
                data_offset: word(offset_of!(SegmentHeader, data_offset)) as usize,
                data_len: word(offset_of!(SegmentHeader, data_len)) as usize,
            }
            .validate(region.len())?;
            let mut epoch = [0; 16];
            region.copy_to(offset_of!(SegmentHeader, epoch), &mut epoch);
            let part = word(offset_of!(SegmentHeader, part));
            Ok(Segment {
                epoch,
                part,
                geometry,
                is_trusted,
                region,
            })
        }

        /// Writes the header of a fresh object, magic last, and maps it.
        ///
        /// `base_seq` is 0 for a spare; for a part that begins or continues a
        /// log without a seal naming it, its first seq.
        ///
        /// # Errors
        ///
        /// The kernel's.
        pub fn format(
            object: &Object,
            epoch: [u8; 16],
            part: u64,
            geometry: Geometry,
            base_seq: u64,
            base_lamport: u64,
        ) -> Result<Segment, MapError> {
            let region = object.map(true)?;
            assert_eq!(
                region.len(),
                geometry.segment_len,
                "an object made for this geometry"
            );
            let is_trusted = object.is_own();
            Ok(Segment::write(
                region,
                is_trusted,
                epoch,
                part,
                geometry,
                base_seq,
                base_lamport,
            ))
        }

        pub(super) fn write(
            region: Region,
            is_trusted: bool,
            epoch: [u8; 16],
            part: u64,
            geometry: Geometry,
            base_seq: u64,
            base_lamport: u64,
        ) -> Segment {
            let set = |at, value: u64| region.word(at).store(value, Ordering::Relaxed);
            set(
                offset_of!(SegmentHeader, version),
                u64::from(FORMAT_VERSION) | u64::from(ARCHIVE_FORMAT) << 32,
            );
            for (index, half) in epoch.as_chunks::<8>().0.iter().enumerate() {
                set(
                    offset_of!(SegmentHeader, epoch) + index * 8,
                    u64::from_le_bytes(*half),
                );
            }
            set(offset_of!(SegmentHeader, part), part);
            set(
                offset_of!(SegmentHeader, segment_len),
                geometry.segment_len as u64,
            );
            set(
                offset_of!(SegmentHeader, index_offset),
                SEGMENT_HEADER_LEN as u64,
            );
            set(
                offset_of!(SegmentHeader, slot_capacity),
                geometry.slot_capacity as u64,
            );
            set(
                offset_of!(SegmentHeader, data_offset),
                geometry.data_offset as u64,
            );
            set(
                offset_of!(SegmentHeader, data_len),
                geometry.data_len as u64,
            );
            set(BASE_LAMPORT_AT, base_lamport);
            set(BASE_SEQ_AT, base_seq);
            // ORDER(create): whoever sees the magic sees the whole header.
            region
                .word(offset_of!(SegmentHeader, magic_word))
                .store(SEGMENT_MAGIC, Label::Create.at(Ordering::Release));
            Segment {
                epoch,
                part,
                geometry,
                is_trusted,
                region,
            }
        }
    }
}

/// The memory of one segment in a model.
#[cfg(loom)]
#[derive(Clone, Debug)]
pub struct Memory {
    region: Region,
    geometry: Geometry,
}

#[cfg(loom)]
impl Memory {
    /// Zeroed memory for this many slots and lines of data.
    pub fn zeroed(slot_capacity: usize, lines: usize) -> Memory {
        let index_end = SEGMENT_HEADER_LEN + (slot_capacity + 1) * size_of::<u64>();
        let segment_len = index_end.next_multiple_of(LINE_LEN) + lines * LINE_LEN;
        let geometry = Geometry::with_slots(segment_len, slot_capacity);
        let words: Vec<usize> = (0..index_end).step_by(size_of::<u64>()).collect();
        Memory {
            region: Region::new(segment_len, &words, &[]),
            geometry,
        }
    }

    /// As [`Segment::format`].
    pub fn format(&self, part: u64, base_seq: u64) -> Segment {
        let region = self.region.clone();
        Segment::write(region, true, [0; 16], part, self.geometry, base_seq, 0)
    }

    /// As [`Segment::map`].
    ///
    /// # Errors
    ///
    /// What is wrong with the header.
    pub fn map(&self) -> Result<Segment, crate::object::MapError> {
        Segment::read(self.region.clone(), true)
    }
}
