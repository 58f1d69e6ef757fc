//! Whether a finished file is as it was written, to the last bit.

use crate::error::Corrupt;
use crate::format::FILE_TRAILER_LEN;
use crate::object::MapError;
use crate::record::crc32c;
use crate::slot::Slot;

use super::{Head, Scan, Trailer};

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// The file itself: its head, its index or its trailer.
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

/// Verifies a whole file: every checksum, every entry against its place, the index
/// against the entries, and that nothing else is in it.
///
/// # Errors
///
/// [`Damage`] names the first thing that does not hold.
pub fn verify(bytes: &[u8]) -> Result<(Head, Trailer), Damage> {
    let head = Head::decode(bytes)?;
    let data_offset = head.data_offset();
    let (rest, trailer) = bytes
        .split_last_chunk::<FILE_TRAILER_LEN>()
        .ok_or(MapError::Unfinished)?;
    let trailer = Trailer::decode(trailer, bytes.len() as u64, data_offset as u64)?;
    // Decoded: it lies behind the head and before the trailer.
    let (records, index) = rest.split_at(trailer.index_offset as usize);
    let scan = Scan::of(records)?;
    if let Some(damage) = scan.damage {
        return Err(Damage::Entry {
            seq: scan.last_seq() + 1,
            damage,
        });
    }
    Corrupt::check("entries of a file", trailer.count, scan.count)?;
    Corrupt::check("last lamport", trailer.last_lamport, scan.last_lamport)?;
    let crc = u64::from(crc32c(index));
    Corrupt::check("file index checksum", trailer.index_crc.into(), crc)?;
    let end = Slot::Closed.encode().to_le_bytes();
    if index.strip_suffix(&end) != Some(&scan.index) {
        return Err(Corrupt::new("file index", crc, crc32c(&scan.index).into()).into());
    }
    Ok((head, trailer))
}
