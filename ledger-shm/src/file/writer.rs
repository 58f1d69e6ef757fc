//! Writing a file front to back.

use std::io::{self, Write};

use crate::format::{FILE_TRAILER_LEN, RECORD_ALIGN, RecordHeader};
use crate::record::crc32c;
use crate::slot::{Extent, Slot};

use super::{Head, Scan, Trailer};

/// A file that is being written, from its head to its trailer.
///
/// Its target gets every byte once, in order, in pieces that may be small.
#[derive(Debug)]
pub struct FileWriter<W> {
    target: W,
    first_seq: u64,
    data_offset: usize,
    data_len: usize,
    last_lamport: u64,
    index: Vec<u8>,
}

impl<W: Write> FileWriter<W> {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// The target's.
    pub fn begin(mut target: W, head: &Head) -> io::Result<FileWriter<W>> {
        target.write_all(&head.encode())?;
        Ok(FileWriter {
            target,
            first_seq: head.first_seq,
            data_offset: head.data_offset(),
            data_len: 0,
            last_lamport: head.base_lamport,
            index: Vec::new(),
        })
    }

    /// Goes on behind the valid prefix of an unfinished file, where the target
    /// stands.
    pub fn resume(target: W, scan: Scan) -> FileWriter<W> {
        FileWriter {
            target,
            first_seq: scan.head.first_seq,
            data_offset: scan.head.data_offset(),
            data_len: scan.data_len,
            last_lamport: scan.last_lamport,
            index: scan.index,
        }
    }

    /// The seq of the next entry.
    pub fn next_seq(&self) -> u64 {
        self.first_seq + self.count()
    }

    /// Entries so far.
    pub fn count(&self) -> u64 {
        (self.index.len() / size_of::<u64>()) as u64
    }

    /// Lamport time of the last entry; without one, of the one before.
    pub fn last_lamport(&self) -> u64 {
        self.last_lamport
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.data_offset + self.data_len
    }

    /// Whether there is no entry yet.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Adds the next entry's record, which the caller has verified.
    ///
    /// # Errors
    ///
    /// The target's; the file is worth nothing behind the last whole record then.
    ///
    /// # Panics
    ///
    /// If it is not the next entry's.
    pub fn push(&mut self, record: &[u8]) -> io::Result<()> {
        let header = record.first_chunk().map(RecordHeader::decode);
        let header = header.expect("a whole record");
        assert_eq!(header.seq, self.next_seq(), "the next entry");
        const ZEROS: [u8; RECORD_ALIGN] = [0; RECORD_ALIGN];
        let padded_len = record.len().next_multiple_of(RECORD_ALIGN);
        self.target.write_all(record)?;
        self.target.write_all(&ZEROS[..padded_len - record.len()])?;
        let extent = Extent {
            offset: self.data_len,
            len: record.len(),
        };
        self.index
            .extend_from_slice(&Slot::Entry(extent).encode().to_le_bytes());
        self.data_len += padded_len;
        self.last_lamport = header.lamport;
        Ok(())
    }

    /// Ends the file: nothing can be added any more. `is_complete` if the log was
    /// closed behind the last entry.
    ///
    /// # Errors
    ///
    /// The target's.
    pub fn finish(mut self, is_complete: bool) -> io::Result<W> {
        let count = self.count();
        self.index
            .extend_from_slice(&Slot::Closed.encode().to_le_bytes());
        let index_offset = self.len();
        let trailer = Trailer {
            count,
            index_offset: index_offset as u64,
            file_len: (index_offset + self.index.len() + FILE_TRAILER_LEN) as u64,
            last_lamport: self.last_lamport,
            is_complete,
            index_crc: crc32c(&self.index),
        };
        self.target.write_all(&self.index)?;
        self.target.write_all(&trailer.encode())?;
        Ok(self.target)
    }

    /// What it writes to, unfinished as it is.
    pub fn into_target(self) -> W {
        self.target
    }

    /// What it writes to.
    pub fn target(&mut self) -> &mut W {
        &mut self.target
    }
}
