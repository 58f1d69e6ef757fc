//! The longest valid prefix of a file that was not finished.

use crate::entry::Entry;
use crate::error::Corrupt;
use crate::format::{RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader};
use crate::object::MapError;
use crate::slot::{Extent, Slot};

use super::Head;

/// What of an unfinished file is valid: its head, and the records behind it up to
/// the first that is not whole, is not what its checksums say, or is not the next.
#[derive(Debug)]
pub struct Scan {
    /// What it says before its records.
    pub head: Head,
    /// Entries.
    pub count: u64,
    /// Bytes of the file that are valid.
    pub valid_len: usize,
    /// What is wrong with what follows; none where the file ends.
    pub damage: Option<Corrupt>,
    pub(super) data_len: usize,
    pub(super) last_lamport: u64,
    pub(super) index: Vec<u8>,
}

impl Scan {
    /// Scans a whole file.
    ///
    /// # Errors
    ///
    /// As [`Head::decode`]: without a head nothing is valid.
    pub fn of(bytes: &[u8]) -> Result<Scan, MapError> {
        let head = Head::decode(bytes)?;
        let data_offset = head.data_offset();
        let mut scan = Scan {
            count: 0,
            valid_len: data_offset,
            damage: None,
            data_len: 0,
            last_lamport: head.base_lamport,
            index: Vec::new(),
            head,
        };
        let mut rest = &bytes[data_offset..];
        while !rest.is_empty() {
            let ((len, lamport), behind) = match scan.next(rest) {
                Ok(found) => found,
                Err(damage) => {
                    scan.damage = Some(damage);
                    break;
                }
            };
            let extent = Extent {
                offset: scan.data_len,
                len,
            };
            scan.index
                .extend_from_slice(&Slot::Entry(extent).encode().to_le_bytes());
            scan.data_len += rest.len() - behind.len();
            scan.valid_len = data_offset + scan.data_len;
            scan.last_lamport = lamport;
            scan.count += 1;
            rest = behind;
        }
        Ok(scan)
    }

    /// The last seq that is valid; that before the first if there is none.
    pub fn last_seq(&self) -> u64 {
        self.head.first_seq + self.count - 1
    }

    /// Lamport time of the last entry that is valid; without one, of the one before.
    pub fn last_lamport(&self) -> u64 {
        self.last_lamport
    }

    /// Length and Lamport time of the next record, and what lies behind it.
    fn next<'a>(&self, rest: &'a [u8]) -> Result<((usize, u64), &'a [u8]), Corrupt> {
        let short = || Corrupt::short_record(rest.len());
        let header = rest.first_chunk::<RECORD_HEADER_LEN>().ok_or_else(short)?;
        let header = RecordHeader::decode(header);
        let len = RECORD_HEADER_LEN + header.body_len as usize;
        let padded_len = len.next_multiple_of(RECORD_ALIGN);
        let (padded, behind) = rest.split_at_checked(padded_len).ok_or_else(short)?;
        let (record, padding) = padded.split_at(len);
        Entry::from_bytes(record)?;
        let next_seq = self.head.first_seq + self.count;
        Corrupt::check("record seq", header.seq, next_seq)?;
        if header.lamport <= self.last_lamport {
            return Err(Corrupt::new(
                "record lamport",
                header.lamport,
                self.last_lamport + 1,
            ));
        }
        let padding = padding.iter().fold(0, |any, byte| any | byte);
        Corrupt::check("padding of a record", padding.into(), 0)?;
        Ok(((len, header.lamport), behind))
    }
}
