//! Whether a finished file is as it was written, to the last bit.

use crate::error::Corrupt;
use crate::format::FILE_TRAILER_LEN;
use crate::object::MapError;
use crate::record::crc32c;

use super::{Head, Scan, Source, Trailer};

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The file itself: its head, or what is behind its records.
    #[error(transparent)]
    File(#[from] MapError),
    /// An entry, and no earlier one.
    #[error("entry {seq}: {damage}")]
    Entry {
        /// Which one.
        seq: u64,
        /// What is wrong with it.
        damage: Corrupt,
    },
}

impl From<Corrupt> for Damage {
    fn from(corrupt: Corrupt) -> Damage {
        Damage::File(corrupt.into())
    }
}

impl From<std::io::Error> for Damage {
    fn from(error: std::io::Error) -> Damage {
        Damage::File(error.into())
    }
}

/// Verifies a whole file: every checksum, every entry against its place, index and
/// tree against the entries, and that nothing else is in it.
///
/// # Errors
///
/// [`Damage`] names the first thing that does not hold.
pub fn verify(source: &(impl Source + ?Sized)) -> Result<(Head, Trailer), Damage> {
    let len = source.total_len()?;
    let head = Head::read(source)?;
    let trailer = Trailer::read(source)?;
    trailer.check_behind(&head)?;
    let scan = Scan::up_to(source, head, trailer.index_offset)?;
    if let Some(damage) = scan.damage {
        return Err(Damage::Entry {
            seq: scan.last_seq() + 1,
            damage,
        });
    }
    let data_offset = scan.head.data_offset();
    Corrupt::check("entries of a file", trailer.count, scan.count())?;
    // As many as memory has of them already.
    let mut tables = vec![0; (len - trailer.index_offset) as usize - FILE_TRAILER_LEN];
    source.read_exact_at(&mut tables, trailer.index_offset)?;
    let found = u64::from(crc32c(&tables));
    Corrupt::check(
        "checksum of index and nodes",
        found,
        trailer.tables_crc.into(),
    )?;
    let (expected, end) = scan.records.end(data_offset, trailer.is_complete);
    if tables != expected {
        return Err(Corrupt::new("index and nodes", found, crc32c(&expected).into()).into());
    }
    // Root and Lamport time are those of the entries.
    if end != trailer {
        let found = u64::from(crc32c(&trailer.encode()));
        return Err(Corrupt::new("file trailer", found, crc32c(&end.encode()).into()).into());
    }
    Ok((scan.head, trailer))
}
