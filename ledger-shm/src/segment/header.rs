//! A segment's header: written once, magic last, and validated when mapped.

use std::mem::offset_of;

use super::{BASE_LAMPORT_AT, BASE_SEQ_AT, Geometry, Segment};
use crate::error::Corrupt;
#[cfg(loom)]
use crate::format::LINE_LEN;
use crate::format::{
    ARCHIVE_FORMAT, FORMAT_VERSION, SEGMENT_HEADER_LEN, SEGMENT_LEN_MIN, SEGMENT_MAGIC,
    SegmentHeader,
};
use crate::object::{MapError, Object};
use crate::region::Region;
use crate::sync::{Label, Ordering};

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
        let len = region.len();
        Segment::read(region, len, object.is_trusted())
    }

    pub(super) fn read(region: Region, len: usize, is_trusted: bool) -> Result<Segment, MapError> {
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
            index_offset: SEGMENT_HEADER_LEN,
            slot_capacity: word(offset_of!(SegmentHeader, slot_capacity)) as usize,
            data_offset: word(offset_of!(SegmentHeader, data_offset)) as usize,
            data_len: word(offset_of!(SegmentHeader, data_len)) as usize,
        }
        .validate(len)?;
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
        let is_trusted = object.is_trusted();
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

    fn write(
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
    pub fn map(&self) -> Result<Segment, MapError> {
        Segment::read(self.region.clone(), self.region.len(), true)
    }
}
