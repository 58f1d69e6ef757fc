//! The longest valid prefix of a file.

use std::io::{self, BufWriter};

use rkyv::util::AlignedVec;

use crate::entry::Entry;
use crate::error::Corrupt;
use crate::format::{FILE_COUNT_MAX, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader};
use crate::merkle::Frontier;
use crate::object::{MapError, Object};

use super::reader::{Next, Reader};
use super::records::Records;
use super::source::From;
use super::{FileWriter, Head, Source};

/// What of an unfinished file is valid: its head, and the records behind it up to
/// the first that is not whole, is not what its checksums say, or is not the next.
#[derive(Debug)]
pub struct Scan {
    /// What it says before its records.
    pub head: Head,
    /// What is wrong with what follows; none where the file ends.
    pub damage: Option<Corrupt>,
    pub(super) records: Records,
}

impl Scan {
    /// Scans a whole file.
    ///
    /// # Errors
    ///
    /// The source's, or as [`Head::decode`]: without a head nothing is valid.
    pub fn of(source: &(impl Source + ?Sized)) -> Result<Scan, MapError> {
        let len = source.total_len()?;
        Scan::up_to(source, Head::read(source)?, len)
    }

    /// Scans what lies before this offset, behind a head that was read.
    pub(super) fn up_to(
        source: &(impl Source + ?Sized),
        head: Head,
        end: u64,
    ) -> Result<Scan, MapError> {
        let mut records = Records::behind(&head);
        let offset = head.data_offset() as u64;
        let mut reader = Reader::new(From {
            source,
            rest: offset..end,
        });
        let damage = loop {
            match reader.next(&records)? {
                Next::Entry(entry, _) => drop(records.add(&entry)),
                Next::End { left: 0 } => break None,
                Next::End { left } => break Some(Corrupt::short_record(left)),
                Next::Wrong(corrupt) => break Some(corrupt),
            }
        };
        Ok(Scan {
            head,
            damage,
            records,
        })
    }

    /// The seq of the first whole entry behind what is wrong, if there is one. Then that is
    /// damage, or a loss of power kept later pages and not earlier ones: in both cases
    /// entries are there that nobody is served.
    ///
    /// # Errors
    ///
    /// The source's.
    pub fn goes_on_with(&self, source: &(impl Source + ?Sized)) -> io::Result<Option<u64>> {
        let from = self.valid_len() as u64;
        let mut bytes = AlignedVec::<RECORD_ALIGN>::new();
        bytes.resize(source.total_len()?.saturating_sub(from) as usize, 0);
        source.read_exact_at(&mut bytes, from)?;
        let entry_at = |at: usize| {
            let bytes = &bytes[at..];
            let body_len = RecordHeader::decode(bytes.first_chunk()?).body_len as usize;
            Entry::from_bytes(bytes.get(..RECORD_HEADER_LEN + body_len)?).ok()
        };
        let is_later = |entry: &Entry<'_>| {
            let count = entry.seq().checked_sub(self.last_seq());
            count.is_some_and(|count| (2..=FILE_COUNT_MAX).contains(&count))
        };
        let places = (0..bytes.len()).step_by(RECORD_ALIGN);
        let whole = places.filter_map(entry_at).find(is_later);
        Ok(whole.map(|entry| entry.seq()))
    }

    /// What is valid as a finished file: a copy in memory that goes with this process.
    ///
    /// # Errors
    ///
    /// The source's, or that there is no memory for it.
    pub fn image(self, source: &(impl Source + ?Sized)) -> io::Result<Object> {
        let rest = 0..self.valid_len() as u64;
        let mut image = BufWriter::new(Object::unnamed()?);
        io::copy(&mut From { source, rest }, &mut image)?;
        let image = FileWriter::resume(image, self).finish(false)?.target;
        Object::own(image.into_inner().map_err(io::IntoInnerError::into_error)?)
    }

    /// Entries.
    pub fn count(&self) -> u64 {
        self.records.count()
    }

    /// Bytes of the file that are valid.
    pub fn valid_len(&self) -> usize {
        self.head.data_offset() + self.records.data_len
    }

    /// The last seq that is valid; that before the first if there is none.
    pub fn last_seq(&self) -> u64 {
        self.records.next_seq() - 1
    }

    /// The tree over all entries up to that one.
    pub fn tree(&self) -> &Frontier {
        self.records.tree().expect("a scan hashes here")
    }

    /// Lamport time of the last entry that is valid; without one, of the one before.
    pub fn last_lamport(&self) -> u64 {
        self.records.last_lamport
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::file::tests::{head, record};
    use crate::file::verify;

    /// Padded records of these numbers behind a head of the first one.
    fn file(seqs: &[u64]) -> Vec<u8> {
        let mut bytes = head(seqs[0]).encode();
        for seq in seqs {
            bytes.extend(record(*seq, 9));
            bytes.resize(bytes.len().next_multiple_of(RECORD_ALIGN), 0);
        }
        bytes
    }

    #[test]
    fn what_is_whole_behind_damage_is_told_of() {
        let goes_on_with = |bytes: &[u8]| {
            let scan = Scan::of(bytes).expect("a head");
            (scan.last_seq(), scan.goes_on_with(bytes).expect("memory"))
        };
        let latest = 5 + FILE_COUNT_MAX;
        for (seqs, last_seq, whole) in [
            (&[5][..], 5, None),
            (&[5, 7], 5, Some(7)),
            (&[5, latest], 5, Some(latest)),
            (&[5, latest + 1], 5, None),
            (&[5, latest + 1, 9, 8], 5, Some(9)),
            // Of those before, there is nothing more to be had.
            (&[5, 6, 5, 4], 6, None),
        ] {
            assert_eq!(goes_on_with(&file(seqs)), (last_seq, whole), "{seqs:?}");
        }
        let mut bytes = file(&[5, 6, 7, 8]);
        let record_len = file(&[5, 6]).len() - file(&[5]).len();
        let [.., seventh] = [0, 1, 2].map(|before| head(5).data_offset() + before * record_len);
        bytes[seventh + 20] ^= 1;
        assert_eq!(goes_on_with(&bytes), (6, Some(8)));
        // The last one is not whole.
        bytes.truncate(bytes.len() - RECORD_ALIGN);
        assert_eq!(goes_on_with(&bytes), (6, None));
        bytes.truncate(seventh + 20);
        assert_eq!(goes_on_with(&bytes), (6, None));
    }

    #[test]
    fn what_is_valid_is_a_finished_file_by_itself() {
        let mut bytes = file(&[5, 6, 7]);
        let valid_len = file(&[5, 6]).len();
        bytes[valid_len + 20] ^= 1;
        let scan = Scan::of(&bytes[..]).expect("a head");
        assert_eq!((scan.count(), scan.last_seq()), (2, 6));
        assert_eq!((scan.valid_len(), scan.last_lamport()), (valid_len, 6));
        let tree = scan.tree().clone();
        let image = scan.image(&bytes[..]).expect("memory");
        let mut finished = vec![0; image.len()];
        let file = File::from(OwnedFd::from(image));
        file.read_exact_at(&mut finished, 0).expect("memory");
        assert_eq!(finished[..valid_len], bytes[..valid_len]);
        let (found, trailer) = verify(&finished[..]).expect("whole");
        assert_eq!(found, head(5));
        assert_eq!((trailer.count, trailer.is_complete), (2, false));
        assert_eq!((tree.count(), tree.root()), (6, trailer.root));
    }
}
