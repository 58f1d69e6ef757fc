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
