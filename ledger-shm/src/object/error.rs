//! What can be wrong with an object.

use std::io;

use crate::error::Corrupt;
use crate::format::{ARCHIVE_FORMAT, FORMAT_VERSION};

/// Why an object could not be mapped.
///
/// ```
/// use ledger_shm::control::Control;
/// use ledger_shm::object::{Epoch, Instance};
///
/// let instance = Instance::own("nobody_made_it")?;
/// let error = Control::open(&instance, Epoch([0; 16]), false).unwrap_err();
/// assert!(error.is_not_found());
/// # Ok::<(), ledger_shm::object::InvalidInstance>(())
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// The kernel refused.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Its creation was cut short; the daemon removes it.
    #[error("the object has no magic: its creation was cut short")]
    Unfinished,
    /// It was made by another version of this program.
    #[error(
        "the object has format version {found}, this program speaks {expected}; use the release that made it, or `ledgerd purge`"
    )]
    Version {
        /// What it says.
        found: u32,
        /// What we can read.
        expected: u32,
    },
    /// It was made by a program whose rkyv lays values out otherwise.
    #[error(
        "the object's entries have rkyv layout {found:#x}, this program's {expected:#x}; build both with the same features of rkyv"
    )]
    Layout {
        /// What it says.
        found: u32,
        /// What we can read.
        expected: u32,
    },
    /// It does not belong to whom it should, or others could write it.
    #[error(
        "the object belongs to uid {uid} with mode {mode:o}, expected uid {expected} with mode 600; nobody but that uid may make or change it, remove it"
    )]
    Foreign {
        /// Its owner.
        uid: u32,
        /// Its permissions.
        mode: u32,
        /// The instance's owner.
        expected: u32,
    },
    /// Its header cannot be right.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

impl MapError {
    /// Checks the word of a header that says how the object is to be read: our
    /// version in the lower half, rkyv's layout in the upper one.
    pub(crate) fn check_formats(word: u64) -> Result<(), MapError> {
        let (version, layout) = (word as u32, (word >> 32) as u32);
        if version != FORMAT_VERSION {
            return Err(MapError::Version {
                found: version,
                expected: FORMAT_VERSION,
            });
        }
        if layout != ARCHIVE_FORMAT {
            return Err(MapError::Layout {
                found: layout,
                expected: ARCHIVE_FORMAT,
            });
        }
        Ok(())
    }

    /// Whether there is no object of that name.
    ///
    /// ```
    /// use ledger_shm::object::MapError;
    ///
    /// let error = MapError::Io(std::io::ErrorKind::NotFound.into());
    /// assert!(error.is_not_found());
    /// ```
    pub fn is_not_found(&self) -> bool {
        matches!(self, MapError::Io(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_found_is_no_other_error() {
        let io = |kind: io::ErrorKind| MapError::Io(kind.into());
        assert!(io(io::ErrorKind::NotFound).is_not_found());
        assert!(!io(io::ErrorKind::PermissionDenied).is_not_found());
        assert!(!MapError::Unfinished.is_not_found());
    }
}
