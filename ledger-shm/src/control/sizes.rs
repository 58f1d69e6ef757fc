//! What a context can say about its segments.

use rkyv::{Archive, Deserialize, Serialize};

use crate::format::{SEGMENT_LEN_MAX, SEGMENT_LEN_MIN};

/// How large the segments of one context are, in bytes. What is `None`, or 0, is
/// up to the daemon. It rounds to whole pages, and makes spares smaller where
/// memory is short: at most 1/16 of its budget each, and a quarter of the share
/// of a context when all that are in use divide half of the budget.
///
/// ```
/// use ledger_shm::control::Sizes;
///
/// let sizes = Sizes {
///     first_len: Some(256 << 10),
///     window_len: Some(64 << 20),
///     ..Sizes::default()
/// };
/// assert!(sizes.check().is_ok());
/// ```
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Sizes {
    /// Its first segment, and the one in which it goes on after it was closed:
    /// 8 KiB to 64 MiB. Creating the context is refused if the budget has no room
    /// for it; one that comes back from its files has a smaller one then.
    pub first_len: Option<u64>,
    /// Its first spare, from 8 KiB; later ones double.
    pub spare_len_min: Option<u64>,
    /// No spare exceeds this, unless one entry needs more.
    pub spare_len_max: Option<u64>,
    /// Sealed segments that it keeps in memory; older entries are evicted. Within
    /// it nothing is evicted when others need memory.
    pub window_len: Option<u64>,
}

/// A first segment is committed while the client waits, and all others with it:
/// this many bytes take some ten milliseconds.
///
/// ```
/// use ledger_shm::control::{FIRST_LEN_MAX, Sizes};
///
/// let sizes = Sizes { first_len: Some(FIRST_LEN_MAX as u64 + 1), ..Sizes::default() };
/// assert!(sizes.check().is_err());
/// ```
pub const FIRST_LEN_MAX: usize = 64 << 20;

/// A segment cannot be that large, or that small.
///
/// ```
/// use ledger_shm::control::Sizes;
///
/// let sizes = Sizes { first_len: Some(100), ..Sizes::default() };
/// let invalid = sizes.check().unwrap_err();
/// assert_eq!((invalid.given, invalid.min), (100, 8192));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} of {given} bytes is not possible; choose from {min} to {max}")]
#[non_exhaustive]
pub struct InvalidSizes {
    /// Which one.
    pub what: &'static str,
    /// What was given, in bytes.
    pub given: u64,
    /// The least that is possible.
    pub min: u64,
    /// The most that is possible.
    pub max: u64,
}

impl Sizes {
    /// Whether segments can be so large, and, where both are given, the first
    /// spare is not larger than the largest.
    ///
    /// # Errors
    ///
    /// The first one that is not possible.
    ///
    /// ```
    /// # use ledger_shm::control::Sizes;
    /// assert!(Sizes::default().check().is_ok());
    /// ```
    pub fn check(&self) -> Result<(), InvalidSizes> {
        let largest = self.spare_len_max.filter(|len| *len != 0);
        let longest = SEGMENT_LEN_MAX as u64;
        for (what, len, max) in [
            ("a first segment", self.first_len, FIRST_LEN_MAX as u64),
            ("a largest spare", self.spare_len_max, longest),
            (
                "a first spare",
                self.spare_len_min,
                largest.unwrap_or(longest),
            ),
        ] {
            let min = SEGMENT_LEN_MIN as u64;
            match len {
                Some(given) if given != 0 && !(min..=max).contains(&given) => {
                    return Err(InvalidSizes {
                        what,
                        given,
                        min,
                        max,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// These sizes, and `others` where they say nothing.
    ///
    /// ```
    /// # use ledger_shm::control::Sizes;
    /// let all = Sizes { first_len: Some(16 << 10), window_len: Some(1 << 20), ..Sizes::default() };
    /// let own = Sizes { first_len: Some(64 << 10), ..Sizes::default() };
    /// assert_eq!(own.or(all), Sizes { first_len: Some(64 << 10), ..all });
    /// ```
    pub fn or(self, others: Sizes) -> Sizes {
        let or = |own: Option<u64>, other: Option<u64>| {
            let is_said = |len: &u64| *len != 0;
            own.filter(is_said).or(other.filter(is_said))
        };
        Sizes {
            first_len: or(self.first_len, others.first_len),
            spare_len_min: or(self.spare_len_min, others.spare_len_min),
            spare_len_max: or(self.spare_len_max, others.spare_len_max),
            window_len: or(self.window_len, others.window_len),
        }
    }
}
