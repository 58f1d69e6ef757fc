//! A snapshot: all entries of a context from the first to the last asked for, in a row
//! of finished files of which each says what the whole is.
//!
//! Where one file ends and the next begins follows from the entries alone, so that two
//! snapshots of the same entries have the same bytes.

mod plan;
mod reader;
mod writer;

use crate::error::Corrupt;
use crate::format::{FILE_COUNT_MAX, SEQ_MAX};

pub use self::plan::SectionPlan;
pub use self::reader::{SnapshotError, SnapshotReader};
pub use self::writer::SnapshotWriter;

/// Of what snapshot a file is a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Seq of the snapshot's first entry, also if there is none.
    pub first_seq: u64,
    /// Seq of its last entry; that before the first if there is none.
    pub last_seq: u64,
    /// Entries in this file.
    pub section_count: u64,
}

impl Span {
    /// What a file says that is none.
    pub(super) const NONE: Span = Span {
        first_seq: 0,
        last_seq: 0,
        section_count: 0,
    };

    /// What the header of a file says that begins with this seq.
    pub(super) fn of_section(self, first_seq: u64) -> Result<Option<Span>, Corrupt> {
        if self == Span::NONE {
            return Ok(None);
        }
        let last_seq = first_seq - 1 + self.section_count.min(FILE_COUNT_MAX);
        let is_inside = (1..=first_seq).contains(&self.first_seq)
            && (last_seq..SEQ_MAX).contains(&self.last_seq)
            && self.section_count <= FILE_COUNT_MAX;
        match is_inside {
            true => Ok(Some(self)),
            false => Err(Corrupt::new(
                "entries of a snapshot",
                self.last_seq,
                last_seq,
            )),
        }
    }
}

#[cfg(test)]
mod tests;
