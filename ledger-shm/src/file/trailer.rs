//! What a finished file says behind its records.

use std::mem::offset_of;

use crate::error::Corrupt;
use crate::format::{
    FILE_COUNT_MAX, FILE_TRAILER_LEN, FINISHED_MAGIC, FileTrailer, RECORD_ALIGN, SEQ_MAX,
};
use crate::merkle::{Frontier, HASH_LEN, Hash, peak_count, stored_count};
use crate::object::MapError;
use crate::record::crc32c;

use super::head::{put, word};
use super::{Head, Source};

/// What a finished file says at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
    /// Seq of the first entry, also if there is none.
    pub first_seq: u64,
    /// Entries in the file.
    pub count: u64,
    /// Where the records end and the index starts.
    pub index_offset: u64,
    /// Bytes of the whole file.
    pub file_len: u64,
    /// Lamport time of the last entry; without one, of the one before.
    pub last_lamport: u64,
    /// Whether the log was closed behind the last entry.
    pub is_complete: bool,
    /// Root of the tree over all entries up to the last one here.
    pub root: Hash,
    /// CRC32C over index, nodes and peaks.
    pub tables_crc: u32,
}

const CRC_AT: usize = offset_of!(FileTrailer, trailer_crc);

impl Trailer {
    pub(super) fn new(
        first_seq: u64,
        count: u64,
        index_offset: u64,
        last_lamport: u64,
        is_complete: bool,
        tables: &[u8],
        root: Hash,
    ) -> Trailer {
        Trailer {
            first_seq,
            count,
            index_offset,
            file_len: index_offset + (tables.len() + FILE_TRAILER_LEN) as u64,
            last_lamport,
            is_complete,
            root,
            tables_crc: crc32c(tables),
        }
    }

    /// The last seq; that before the first if there is none.
    pub fn last_seq(&self) -> u64 {
        self.first_seq + self.count - 1
    }

    /// Reads that of a file; where its records begin is not checked.
    ///
    /// # Errors
    ///
    /// The source's, or as [`decode`](Self::decode).
    pub fn read(source: &(impl Source + ?Sized)) -> Result<Trailer, MapError> {
        let trailer = Trailer::read_last(source)?;
        Corrupt::check("file length", trailer.file_len, source.total_len()?)?;
        Ok(trailer)
    }

    /// Reads that of the last of several files, one behind the other.
    ///
    /// # Errors
    ///
    /// The source's, or as [`decode`](Self::decode) but for the length.
    pub fn read_last(source: &(impl Source + ?Sized)) -> Result<Trailer, MapError> {
        let at = source.total_len()?.checked_sub(FILE_TRAILER_LEN as u64);
        let mut bytes = [0; FILE_TRAILER_LEN];
        source.read_exact_at(&mut bytes, at.ok_or(MapError::Unfinished)?)?;
        Trailer::decode_any(&bytes)
    }

    /// The tree over all entries up to the last one, of the file that this was read from.
    ///
    /// # Errors
    ///
    /// The source's, or that it is not the tree of this root.
    pub fn read_tree(&self, source: &(impl Source + ?Sized)) -> Result<Frontier, MapError> {
        let count = self.last_seq();
        let mut peaks = vec![[0; HASH_LEN]; peak_count(count)];
        let bytes = peaks.as_flattened_mut();
        let at = self.file_len - (FILE_TRAILER_LEN + bytes.len()) as u64;
        source.read_exact_at(bytes, at)?;
        let frontier = Frontier::new(count, peaks).expect("as many as its count takes");
        let first = |hash: &Hash| word(hash, 0);
        match frontier.root() {
            root if root == self.root => Ok(frontier),
            root => Err(Corrupt::new("peaks of a file", first(&root), first(&self.root)).into()),
        }
    }

    /// Where the nodes lie that became complete by these entries, and how many they are.
    pub fn nodes(&self) -> (u64, u64) {
        let nodes_offset = self.index_offset + index_len(self.count);
        let node_count = stored_count(self.last_seq()) - stored_count(self.first_seq - 1);
        (nodes_offset, node_count)
    }

    /// Whether it can be that of a file that begins with this head.
    pub(crate) fn check_behind(&self, head: &Head) -> Result<(), Corrupt> {
        Corrupt::check("first seq of a file", self.first_seq, head.first_seq())?;
        let data_offset = head.data_offset() as u64;
        match self.index_offset >= data_offset {
            true => Ok(()),
            false => Err(Corrupt::new("index offset", self.index_offset, data_offset)),
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; FILE_TRAILER_LEN] {
        let mut bytes = [0; FILE_TRAILER_LEN];
        let flags = u64::from(self.is_complete) | u64::from(self.tables_crc) << 32;
        for (at, word) in [
            (offset_of!(FileTrailer, count), self.count),
            (offset_of!(FileTrailer, index_offset), self.index_offset),
            (offset_of!(FileTrailer, file_len), self.file_len),
            (offset_of!(FileTrailer, last_lamport), self.last_lamport),
            (offset_of!(FileTrailer, is_complete), flags),
            (offset_of!(FileTrailer, first_seq), self.first_seq),
            (offset_of!(FileTrailer, magic), FINISHED_MAGIC),
        ] {
            put(&mut bytes, at, &word.to_le_bytes());
        }
        put(&mut bytes, offset_of!(FileTrailer, root), &self.root);
        let crc = crc32c(&bytes[..CRC_AT]);
        put(&mut bytes, CRC_AT, &crc.to_le_bytes());
        bytes
    }

    /// The same of a file whose records begin elsewhere.
    pub fn moved(mut self, from: usize, to: usize) -> Trailer {
        let records_len = self.index_offset - from as u64;
        self.file_len = self.file_len - self.index_offset + to as u64 + records_len;
        self.index_offset = to as u64 + records_len;
        self
    }

    /// The trailer in the last bytes of a file of this length.
    ///
    /// # Errors
    ///
    /// [`MapError::Unfinished`] if the file does not end with one; what is wrong
    /// with it.
    pub fn decode(bytes: &[u8; FILE_TRAILER_LEN], file_len: u64) -> Result<Trailer, MapError> {
        let trailer = Trailer::decode_any(bytes)?;
        Corrupt::check("file length", trailer.file_len, file_len)?;
        Ok(trailer)
    }

    /// The trailer in these bytes, of a file that is as long as it says.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    pub fn decode_any(bytes: &[u8; FILE_TRAILER_LEN]) -> Result<Trailer, MapError> {
        let word = |at: usize| word(bytes, at);
        if word(offset_of!(FileTrailer, magic)) != FINISHED_MAGIC {
            return Err(MapError::Unfinished);
        }
        // What follows the checksum has to be zero.
        let crc = crc32c(&bytes[..CRC_AT]);
        Corrupt::check("file trailer checksum", word(CRC_AT), crc.into())?;
        let flags = word(offset_of!(FileTrailer, is_complete));
        let root = bytes[offset_of!(FileTrailer, root)..].first_chunk();
        let trailer = Trailer {
            first_seq: word(offset_of!(FileTrailer, first_seq)),
            count: word(offset_of!(FileTrailer, count)),
            index_offset: word(offset_of!(FileTrailer, index_offset)),
            file_len: word(offset_of!(FileTrailer, file_len)),
            last_lamport: word(offset_of!(FileTrailer, last_lamport)),
            is_complete: flags as u32 != 0,
            root: *root.expect("inside the trailer"),
            tables_crc: (flags >> 32) as u32,
        };
        if !(1..=SEQ_MAX).contains(&trailer.first_seq) {
            return Err(Corrupt::new("first seq of a file", trailer.first_seq, 1).into());
        }
        if trailer.count > FILE_COUNT_MAX {
            return Err(Corrupt::new("entries of a file", trailer.count, FILE_COUNT_MAX).into());
        }
        let (index_offset, file_len) = (trailer.index_offset, trailer.file_len);
        if index_offset > file_len || file_len > i64::MAX as u64 {
            return Err(Corrupt::new("index offset", index_offset, file_len).into());
        }
        let tables_len = tables_len(trailer.first_seq, trailer.count);
        let expected = index_offset + tables_len + FILE_TRAILER_LEN as u64;
        Corrupt::check("file length", file_len, expected)?;
        match index_offset.is_multiple_of(RECORD_ALIGN as u64) {
            true => Ok(trailer),
            false => Err(Corrupt::new("index offset", index_offset, 0).into()),
        }
    }
}

/// Bytes of what is between the records of a file and its trailer.
pub(super) fn tables_len(first_seq: u64, count: u64) -> u64 {
    let last_seq = first_seq - 1 + count;
    let node_count = stored_count(last_seq) - stored_count(first_seq - 1);
    let hash_count = node_count + peak_count(last_seq) as u64;
    index_len(count) + hash_count * HASH_LEN as u64
}

/// Bytes of an index of so many entries, filled up.
pub(super) fn index_len(count: u64) -> u64 {
    ((count + 1) * size_of::<u64>() as u64).next_multiple_of(RECORD_ALIGN as u64)
}
