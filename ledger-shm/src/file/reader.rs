//! Reading records one after the other, from whatever can be read.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;

use rkyv::util::AlignedVec;

use crate::entry::{Entry, LIMIT_MAX};
use crate::error::Corrupt;
use crate::format::{KEY_LEN_MAX, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader};

use super::records::Records;

/// Bytes read at once.
const READ_LEN: usize = 1 << 20;
/// More than the record of any entry has.
const RECORD_LEN_MAX: usize = 2 * (LIMIT_MAX + KEY_LEN_MAX);

/// Reads what lies one behind the other in a file, each on a multiple of
/// [`RECORD_ALIGN`] and so it is in here.
#[derive(Debug)]
pub(super) struct Reader<R> {
    input: R,
    buffer: AlignedVec<RECORD_ALIGN>,
    /// What of it was read and not taken yet.
    rest: Range<usize>,
}

/// What lies where a record is expected.
pub(super) enum Next<'a> {
    /// One, and with the zeros behind it.
    Entry(Entry<'a>, &'a [u8]),
    /// No whole one: the input ends.
    End {
        left: usize,
    },
    Wrong(Corrupt),
}

impl<R: Read> Reader<R> {
    pub(super) fn new(input: R) -> Reader<R> {
        Reader {
            input,
            buffer: AlignedVec::new(),
            rest: 0..0,
        }
    }

    /// Has so many bytes at hand, or as many as the input has.
    pub(super) fn peek(&mut self, len: usize) -> io::Result<&[u8]> {
        if self.rest.len() < len {
            self.fill(len)?;
        }
        let end = self.rest.end.min(self.rest.start + len);
        Ok(&self.buffer[self.rest.start..end])
    }

    /// Takes what was looked at.
    pub(super) fn skip(&mut self, len: usize) {
        self.rest.start += len;
    }

    #[cold]
    fn fill(&mut self, len: usize) -> io::Result<()> {
        self.buffer.copy_within(self.rest.clone(), 0);
        self.rest = 0..self.rest.len();
        while self.rest.end < len {
            // No more than there is: what says how long it is may lie.
            let wanted = self.rest.end + READ_LEN;
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            match self.input.read(&mut self.buffer[self.rest.end..wanted]) {
                Ok(0) => break,
                Ok(count) => self.rest.end += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The entry that is next after these.
    pub(super) fn next(&mut self, records: &Records) -> io::Result<Next<'_>> {
        let Some(header) = self.peek(RECORD_HEADER_LEN)?.first_chunk() else {
            let left = self.rest.len();
            return Ok(Next::End { left });
        };
        let len = RECORD_HEADER_LEN + RecordHeader::decode(header).body_len as usize;
        if len > RECORD_LEN_MAX {
            let wrong = Corrupt::new("record length", len as u64, RECORD_LEN_MAX as u64);
            return Ok(Next::Wrong(wrong));
        }
        let padded_len = len.next_multiple_of(RECORD_ALIGN);
        let left = self.peek(padded_len)?.len();
        if left < padded_len {
            return Ok(Next::End { left });
        }
        let start = self.rest.start;
        self.skip(padded_len);
        let padded = &self.buffer[start..start + padded_len];
        let (record, padding) = padded.split_at(len);
        let checked = Entry::from_bytes(record).and_then(|entry| {
            records.check(&entry)?;
            let padding = padding.iter().fold(0, |any, byte| any | byte);
            Corrupt::check("padding of a record", padding.into(), 0)?;
            Ok(entry)
        });
        Ok(match checked {
            Ok(entry) => Next::Entry(entry, padded),
            Err(wrong) => Next::Wrong(wrong),
        })
    }
}
