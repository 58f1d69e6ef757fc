//! A file in which entries outlive their memory: an archive's, or a snapshot.
//!
//! ```text
//!  0        256           data_offset      index_offset                        file_len
//!  +--------+------+-------+----------------+------------------+-------+-------+---------+
//!  | header | name | peaks | records in seq | index: slots,    | nodes | peaks | trailer |
//!  |        |      |       | order          | the last: CLOSED |       |       |         |
//!  +--------+------+-------+----------------+------------------+-------+-------+---------+
//! ```
//!
//! It is written front to back and never changed. Until its trailer is there it
//! is unfinished: whoever finds it so [scans](Scan) it for the longest valid
//! prefix. A finished one is [mapped](crate::Segment::map_file) and read as a
//! segment, in place. The peaks are those of the [tree](crate::merkle) over all entries
//! before the first one, and up to the last one; the nodes what became complete between.

mod hashing;
mod head;
mod name;
mod reader;
mod records;
mod scan;
mod snapshot;
mod source;
mod trailer;
mod tree;
mod verify;
mod writer;

pub use self::head::HEAD_LEN_MAX;
pub use self::head::Head;
pub use self::name::{FileName, finished_in};
pub use self::scan::Scan;
pub use self::snapshot::{SectionPlan, SnapshotError, SnapshotReader, SnapshotWriter, Span};
pub use self::source::Source;
pub use self::trailer::Trailer;
pub use self::tree::LogNodes;
pub use self::verify::{Damage, verify, verify_ends};
pub use self::writer::{FileWriter, Finished};

#[cfg(test)]
mod tests;
