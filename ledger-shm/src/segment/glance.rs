//! A segment for who looks once, at many: copied, not mapped.

use super::Segment;
use crate::format::{PAGE_LEN, SEGMENT_HEADER_LEN, SEQ_MAX};
use crate::object::{MapError, Object};
use crate::slot::Slot;

/// A segment as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// The context it is a part of.
    pub epoch: [u8; 16],
    /// Its number within the context.
    pub part: u64,
    /// Its length, in bytes.
    pub segment_len: usize,
    /// As [`Segment::base_seq`].
    pub base_seq: u64,
    /// How many entries it had.
    pub entries: u64,
    /// What followed them.
    pub end: Slot,
    /// As [`Segment::successor`], before what followed was looked at.
    pub successor: Option<u64>,
}

impl Glance {
    /// Whether it was this part of this context, and the last one.
    pub fn was_last(&self, epoch: [u8; 16], part: u64) -> bool {
        let is_it = self.epoch == epoch && self.part == part;
        let goes_on = match self.end {
            Slot::Empty => false,
            Slot::Closed => self.successor.is_some(),
            Slot::Entry(_) | Slot::Seal(_) => true,
        };
        is_it && !goes_on && (1..=SEQ_MAX).contains(&self.base_seq)
    }
}

impl Segment {
    /// Where a segment begins and ends, for who looks once; none if its index is
    /// too long to be copied for that. Somebody may append while it is copied:
    /// then it ends somewhere between where it ended before and after.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map), and what is wrong with the slots.
    pub fn glance(object: &Object) -> Result<Option<Glance>, MapError> {
        let region = object.copy(PAGE_LEN)?;
        let copied = region.len();
        // No record is read here, so that nothing has to be trusted.
        let segment = Segment::read(region, object.len(), false)?;
        let slots = segment.geometry.slot_capacity + 1;
        if SEGMENT_HEADER_LEN + slots * size_of::<u64>() > copied {
            return Ok(None);
        }
        let frontier = segment.frontier()?;
        Ok(Some(Glance {
            epoch: segment.epoch,
            part: segment.part,
            segment_len: segment.geometry.segment_len,
            base_seq: segment.base_seq(),
            entries: frontier as u64,
            end: segment.look(frontier)?,
            successor: segment.successor(),
        }))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::segment::Geometry;
    use crate::slot::Extent;

    #[test]
    fn an_index_is_looked_at_that_ends_with_the_first_page() {
        let first_page = (PAGE_LEN - SEGMENT_HEADER_LEN) / size_of::<u64>();
        for (slots, is_looked_at) in [(first_page, true), (first_page + 1, false)] {
            let geometry = Geometry::with_slots(16 * PAGE_LEN, slots - 1);
            let memory = Object::unnamed().expect("memory");
            memory.set_len(geometry.segment_len as u64).expect("memory");
            let object = Object::own(memory).expect("memory");
            Segment::format(&object, [7; 16], 3, geometry, 1, 0).expect("memory");
            let glance = Segment::glance(&object).expect("a part");
            assert_eq!(glance.is_some(), is_looked_at, "{slots} slots");
        }
    }

    #[test]
    fn the_last_part_is_open_or_closed_without_a_successor() {
        let seen = Glance {
            epoch: [7; 16],
            part: 3,
            segment_len: 16 << 10,
            base_seq: 1,
            entries: 5,
            end: Slot::Empty,
            successor: None,
        };
        let extent = Extent {
            offset: 128,
            len: 64,
        };
        for (end, successor, was_last) in [
            (Slot::Empty, None, true),
            (Slot::Closed, None, true),
            (Slot::Closed, Some(4), false),
            (Slot::Seal(4), None, false),
            (Slot::Entry(extent), None, false),
        ] {
            let seen = Glance {
                end,
                successor,
                ..seen
            };
            assert_eq!(seen.was_last([7; 16], 3), was_last, "{end:?} {successor:?}");
            assert!(!seen.was_last([8; 16], 3) && !seen.was_last([7; 16], 2));
            for base_seq in [0, SEQ_MAX + 1] {
                assert!(!Glance { base_seq, ..seen }.was_last([7; 16], 3));
            }
        }
    }
}
