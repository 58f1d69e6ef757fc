//! The longest valid prefix of a file.

use rkyv::util::AlignedVec;

use crate::entry::{Entry, LIMIT_MAX};
use crate::error::Corrupt;
use crate::format::{KEY_LEN_MAX, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader};
use crate::merkle::Frontier;
use crate::object::MapError;

use super::records::Records;
use super::{Head, Source};

/// Bytes read at once.
const READ_LEN: usize = 1 << 20;
/// More than the record of any entry has.
const RECORD_LEN_MAX: usize = 2 * (LIMIT_MAX + KEY_LEN_MAX);

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
        let mut damage = None;
        let mut at = head.data_offset() as u64;
        // Records begin on a multiple of their alignment in a file, and so in here.
        let mut buffer = AlignedVec::<RECORD_ALIGN>::new();
        let mut rest = 0..0;
        while at < end || !rest.is_empty() {
            match next(&records, &buffer[rest.clone()]) {
                Ok((entry, padded_len)) => {
                    records.add(&entry);
                    rest.start += padded_len;
                }
                Err(Stop::Short { needed }) if at < end => {
                    buffer.copy_within(rest.clone(), 0);
                    rest = 0..rest.len();
                    let wanted = READ_LEN.max(needed - rest.len());
                    let wanted = usize::try_from(end - at).map_or(wanted, |left| wanted.min(left));
                    let filled = rest.end + wanted;
                    buffer.resize(buffer.len().max(filled), 0);
                    source.read_exact_at(&mut buffer[rest.end..filled], at)?;
                    rest.end = filled;
                    at += wanted as u64;
                }
                Err(Stop::Short { .. }) => {
                    damage = Some(Corrupt::short_record(rest.len()));
                    break;
                }
                Err(Stop::Wrong(corrupt)) => {
                    damage = Some(corrupt);
                    break;
                }
            }
        }
        Ok(Scan {
            head,
            damage,
            records,
        })
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
        &self.records.frontier
    }

    /// Lamport time of the last entry that is valid; without one, of the one before.
    pub fn last_lamport(&self) -> u64 {
        self.records.last_lamport
    }
}

enum Stop {
    /// That many bytes are needed to tell.
    Short {
        needed: usize,
    },
    Wrong(Corrupt),
}

impl From<Corrupt> for Stop {
    fn from(corrupt: Corrupt) -> Stop {
        Stop::Wrong(corrupt)
    }
}

/// The next entry, and how long its record is with the zeros behind it.
fn next<'a>(records: &Records, bytes: &'a [u8]) -> Result<(Entry<'a>, usize), Stop> {
    let Some(header) = bytes.first_chunk::<RECORD_HEADER_LEN>() else {
        let needed = RECORD_HEADER_LEN;
        return Err(Stop::Short { needed });
    };
    let len = RECORD_HEADER_LEN + RecordHeader::decode(header).body_len as usize;
    if len > RECORD_LEN_MAX {
        return Err(Corrupt::new("record length", len as u64, RECORD_LEN_MAX as u64).into());
    }
    let padded_len = len.next_multiple_of(RECORD_ALIGN);
    let Some(padded) = bytes.get(..padded_len) else {
        return Err(Stop::Short { needed: padded_len });
    };
    let (record, padding) = padded.split_at(len);
    let entry = Entry::from_bytes(record)?;
    records.check(&entry)?;
    let padding = padding.iter().fold(0, |any, byte| any | byte);
    Corrupt::check("padding of a record", padding.into(), 0)?;
    Ok((entry, padded_len))
}
