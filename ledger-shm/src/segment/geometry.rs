//! How a segment is divided: header, index, data area.

use crate::error::Corrupt;
use crate::format::{
    DATA_LEN_PER_SLOT, LINE_LEN, PAGE_LEN, SEGMENT_HEADER_LEN, SEGMENT_LEN_MAX, SEGMENT_LEN_MIN,
};

/// Where index and data area of a segment lie.
///
/// ```
/// use ledger_shm::segment::Geometry;
///
/// let geometry = Geometry::for_record(100_000);
/// assert!(geometry.fits(100_000));
/// assert_eq!(Geometry::of_len(geometry.segment_len), geometry);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes of the whole object.
    pub segment_len: usize,
    /// Where the index starts.
    pub index_offset: usize,
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
        // The slots of so much data take more than this, by less than a page.
        let index_len = record_len / DATA_LEN_PER_SLOT * size_of::<u64>();
        let geometry = Geometry::of_len(SEGMENT_HEADER_LEN + index_len + record_len);
        match geometry.fits(record_len) {
            true => geometry,
            false => Geometry::of_len(geometry.segment_len + PAGE_LEN),
        }
    }

    pub(super) fn with_slots(segment_len: usize, slot_capacity: usize) -> Geometry {
        let index_len = (slot_capacity + 1) * size_of::<u64>();
        let data_offset = (SEGMENT_HEADER_LEN + index_len).next_multiple_of(LINE_LEN);
        Geometry {
            segment_len,
            index_offset: SEGMENT_HEADER_LEN,
            slot_capacity,
            data_offset,
            data_len: segment_len - data_offset,
        }
    }

    pub(super) fn validate(self, object_len: usize) -> Result<Geometry, Corrupt> {
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
