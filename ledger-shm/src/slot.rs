//! The slot word: what one CAS into a segment's index says.
//!
//! | bits 63..62 | bits 61..32 | bits 31..0 | meaning |
//! |---|---|---|---|
//! | 0 | 0 | 0 | EMPTY |
//! | 1 | offset / 16 | record length | ENTRY |
//! | 2 | part, 62 bits | | SEAL |
//! | 3 | 0 | 0 | CLOSED |
//!
//! A word leaves EMPTY exactly once. This file holds plain values; the atomics
//! around them are in `append` and `read`.

use crate::format::RECORD_ALIGN;

const TAG_SHIFT: u32 = 62;
const TAG_ENTRY: u64 = 1;
const TAG_SEAL: u64 = 2;
const TAG_CLOSED: u64 = 3;
const VALUE_MASK: u64 = (1 << TAG_SHIFT) - 1;
const LEN_BITS: u32 = 32;
const OFFSET_UNITS_MAX: u64 = (1 << (TAG_SHIFT - LEN_BITS)) - 1;

/// Highest part number a seal can name.
pub const PART_MAX: u64 = VALUE_MASK;

/// Where a record can begin at most, in bytes from the start of a data area.
pub const OFFSET_MAX: usize = OFFSET_UNITS_MAX as usize * RECORD_ALIGN;

/// Where a record lies in the data area of its segment, in bytes.
///
/// ```
/// use ledger_shm::slot::{Extent, Slot};
///
/// let extent = Extent { offset: 128, len: 64 };
/// let word = Slot::Entry(extent).encode();
/// assert_eq!(Slot::decode(word), Ok(Slot::Entry(extent)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// From the start of the data area; a multiple of [`RECORD_ALIGN`].
    pub offset: usize,
    /// Header and body; never zero.
    pub len: usize,
}

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nothing yet: the frontier is here or before.
    Empty,
    /// An entry whose record lies at this extent.
    Entry(Extent),
    /// The log goes on in this part.
    Seal(u64),
    /// The log ends here until the daemon continues it.
    Closed,
}

/// A word that no version of this program writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidSlot(pub u64);

impl Slot {
    /// The word of [`Slot::Empty`], what a fresh index is full of.
    pub const EMPTY: u64 = 0;

    /// The word that says this.
    ///
    /// # Panics
    ///
    /// On an extent or a part that does not fit the word. Segments are never
    /// large enough and parts never numerous enough for that to happen.
    #[inline]
    pub const fn encode(self) -> u64 {
        match self {
            Slot::Empty => Slot::EMPTY,
            Slot::Entry(Extent { offset, len }) => {
                let units = (offset / RECORD_ALIGN) as u64;
                assert!(offset.is_multiple_of(RECORD_ALIGN) && units <= OFFSET_UNITS_MAX);
                assert!(len > 0 && len <= u32::MAX as usize);
                TAG_ENTRY << TAG_SHIFT | units << LEN_BITS | len as u64
            }
            Slot::Seal(part) => {
                assert!(part > 0 && part <= PART_MAX);
                TAG_SEAL << TAG_SHIFT | part
            }
            Slot::Closed => TAG_CLOSED << TAG_SHIFT,
        }
    }

    /// What a word says, or that it says nothing.
    #[inline]
    pub const fn decode(word: u64) -> Result<Slot, InvalidSlot> {
        let value = word & VALUE_MASK;
        match word >> TAG_SHIFT {
            0 if value == 0 => Ok(Slot::Empty),
            TAG_ENTRY if value & u32::MAX as u64 != 0 => Ok(Slot::Entry(Extent {
                offset: (value >> LEN_BITS) as usize * RECORD_ALIGN,
                len: (value & u32::MAX as u64) as usize,
            })),
            TAG_SEAL if value != 0 => Ok(Slot::Seal(value)),
            TAG_CLOSED if value == 0 => Ok(Slot::Closed),
            _ => Err(InvalidSlot(word)),
        }
    }

    /// Whether a word says ENTRY, without looking at where: what a search for
    /// the frontier asks of every slot it visits.
    #[inline]
    pub const fn is_entry(word: u64) -> bool {
        word >> TAG_SHIFT == TAG_ENTRY
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_four_kinds_are_four_words() {
        let extent = Extent { offset: 32, len: 7 };
        assert_eq!(Slot::Empty.encode(), 0);
        assert_eq!(Slot::Entry(extent).encode(), 0x4000_0002_0000_0007);
        assert_eq!(Slot::Seal(5).encode(), 0x8000_0000_0000_0005);
        assert_eq!(Slot::Closed.encode(), 0xc000_0000_0000_0000);
    }

    #[test]
    fn the_last_extent_of_the_largest_segment_fits() {
        let offset = OFFSET_MAX;
        let slot = Slot::Entry(Extent { offset, len: 16 });
        assert_eq!(Slot::decode(slot.encode()), Ok(slot));
        assert_eq!(offset + RECORD_ALIGN, crate::format::SEGMENT_LEN_MAX);
    }

    #[test]
    fn words_nobody_writes_are_refused() {
        for word in [
            1,
            0x4000_0001_0000_0000,
            0x8000_0000_0000_0000,
            0xc000_0000_0000_0001,
        ] {
            assert_eq!(Slot::decode(word), Err(InvalidSlot(word)));
        }
    }

    proptest! {
        #[test]
        fn every_word_is_refused_or_says_exactly_itself(word: u64) {
            match Slot::decode(word) {
                Ok(slot) => prop_assert_eq!(slot.encode(), word),
                Err(InvalidSlot(found)) => prop_assert_eq!(found, word),
            }
            prop_assert_eq!(
                Slot::is_entry(word),
                word >> 62 == 1,
            );
        }
    }
}
