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
    if let Some(span) = scan.head.snapshot {
        Corrupt::check("entries of a file", trailer.count, span.section_count)?;
    }
    // As many bytes as memory has of them already.
    let mut expected = Vec::new();
    let records = scan.records;
    records.end(data_offset, trailer.is_complete, &mut expected)?;
    let mut found = vec![0; (len - trailer.index_offset) as usize];
    source.read_exact_at(&mut found, trailer.index_offset)?;
    check_end(&found, &expected)?;
    Ok((scan.head, trailer))
}

/// Verifies what a finished file says of itself, before its records and behind them: each
/// checksum there, and that the peaks at its end have the root. No record is read.
///
/// # Errors
///
/// [`Damage::File`] names the first thing that does not hold.
pub fn verify_ends(source: &(impl Source + ?Sized)) -> Result<(Head, Trailer), Damage> {
    let head = Head::read(source)?;
    let trailer = Trailer::read(source)?;
    trailer.check_behind(&head)?;
    let tables_len = trailer.file_len - trailer.index_offset - FILE_TRAILER_LEN as u64;
    let mut tables = vec![0; tables_len as usize];
    source.read_exact_at(&mut tables, trailer.index_offset)?;
    let (found, expected) = (crc32c(&tables), trailer.tables_crc);
    Corrupt::check("checksum of index and nodes", found.into(), expected.into())?;
    trailer.read_tree(source)?;
    Ok((head, trailer))
}

/// Whether what is behind the records is what these make it.
pub(super) fn check_end(found: &[u8], expected: &[u8]) -> Result<(), Corrupt> {
    Corrupt::check(
        "length of what is behind the records",
        found.len() as u64,
        expected.len() as u64,
    )?;
    let differs = found
        .iter()
        .zip(expected)
        .find(|(found, expected)| found != expected);
    match differs {
        None => Ok(()),
        Some((found, expected)) => Err(Corrupt::new(
            "index, tree or trailer",
            (*found).into(),
            (*expected).into(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::file;

    #[test]
    fn an_index_of_other_records_is_damage_though_its_checksum_is_right() {
        let mut bytes = file(5, 20);
        let mut trailer = Trailer::read(&bytes[..]).expect("whole");
        let tables = trailer.index_offset as usize..bytes.len() - FILE_TRAILER_LEN;
        bytes[tables.start] ^= 1;
        let (found, expected) = (bytes[tables.start], bytes[tables.start] ^ 1);
        trailer.tables_crc = crc32c(&bytes[tables.clone()]);
        bytes[tables.end..].copy_from_slice(&trailer.encode());
        verify_ends(&bytes[..]).expect("no record is read");
        match verify(&bytes[..]) {
            Err(Damage::File(MapError::Corrupt(corrupt))) => {
                let named = Corrupt::new("index, tree or trailer", found.into(), expected.into());
                assert_eq!(corrupt, named);
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_file_says_of_itself_is_verified_without_its_records() {
        let mut bytes = file(5, 20);
        let (head, trailer) = verify(&bytes[..]).expect("whole");
        let records = head.data_offset()..trailer.index_offset as usize;
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            match verify_ends(&bytes[..]) {
                Ok(ends) => {
                    assert!(records.contains(&at), "byte {at}");
                    assert_eq!(ends, (head.clone(), trailer));
                }
                Err(_) => assert!(!records.contains(&at), "byte {at}"),
            }
            bytes[at] ^= 1;
        }
    }
}
