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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::{head, record};

    /// Input that comes byte by byte, and is interrupted before each.
    struct Slow<'a> {
        bytes: &'a [u8],
        is_interrupted: bool,
    }

    impl Read for Slow<'_> {
        fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
            self.is_interrupted = !self.is_interrupted;
            match self.is_interrupted {
                true => Err(ErrorKind::Interrupted.into()),
                false => self.bytes.read(&mut target[..1]),
            }
        }
    }

    /// Input that nobody may read further than to here.
    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(ErrorKind::ConnectionReset.into())
        }
    }

    fn padded(mut record: Vec<u8>) -> Vec<u8> {
        record.resize(record.len().next_multiple_of(RECORD_ALIGN), 0);
        record
    }

    #[test]
    fn records_are_read_however_they_come_and_nothing_behind_them() {
        let all = [1, 2, 3].map(|seq| padded(record(seq, 7)));
        let bytes = all.concat();
        let slow = Slow {
            bytes: &bytes,
            is_interrupted: false,
        };
        let mut reader = Reader::new(slow.chain(Broken));
        let mut records = Records::behind(&head(1));
        for expected in &all {
            match reader.next(&records).expect("readable") {
                Next::Entry(entry, padded) => {
                    assert_eq!(padded, expected);
                    records.add(&entry);
                }
                Next::End { .. } | Next::Wrong(_) => panic!("entry {}", records.next_seq()),
            }
        }
        let error = reader.next(&records).err().expect("no more of it");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn what_ends_within_a_record_says_how_much_of_it_there_is() {
        let bytes = padded(record(1, 7));
        let records = Records::behind(&head(1));
        for len in 0..bytes.len() {
            match Reader::new(&bytes[..len]).next(&records) {
                Ok(Next::End { left }) => assert_eq!(left, len),
                _ => panic!("{len} bytes"),
            }
        }
    }

    fn wrong(bytes: &[u8]) -> Option<Corrupt> {
        match Reader::new(bytes).next(&Records::behind(&head(1))) {
            Ok(Next::Wrong(wrong)) => Some(wrong),
            Ok(Next::Entry(..) | Next::End { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn padding_is_zeros() {
        let record = record(1, 5);
        let mut bytes = padded(record.clone());
        assert!(bytes.len() >= record.len() + 2, "room for two");
        for (first, second) in [(1, 0), (0, 1), (1, 1)] {
            bytes[record.len()] = first;
            bytes[record.len() + 1] = second;
            let wrong = wrong(&bytes).expect("no padding");
            assert_eq!((wrong.what, wrong.found), ("padding of a record", 1));
        }
    }

    #[test]
    fn no_record_is_longer_than_any_entry_has() {
        let at = std::mem::offset_of!(RecordHeader, body_len);
        let mut bytes = record(1, 5);
        let most = 2 * ((512 << 20) + 1024) - RECORD_HEADER_LEN as u32;
        bytes[at..][..4].copy_from_slice(&most.to_le_bytes());
        assert_eq!(wrong(&bytes), None, "it ends before");
        bytes[at..][..4].copy_from_slice(&(most + 1).to_le_bytes());
        let wrong = wrong(&bytes).expect("too long");
        assert_eq!(
            (wrong.what, wrong.found),
            ("record length", wrong.expected + 1)
        );
    }
}
