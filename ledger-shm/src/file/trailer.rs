//! What a finished file says behind its records.

use std::fs::File;
use std::mem::offset_of;
use std::os::unix::fs::FileExt;

use crate::error::Corrupt;
use crate::format::{FILE_TRAILER_LEN, FINISHED_MAGIC, FileTrailer};
use crate::object::MapError;
use crate::record::crc32c;

use super::head::{put, word};

/// What a finished file says at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trailer {
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
    /// CRC32C over the index.
    pub index_crc: u32,
}

const CRC_AT: usize = offset_of!(FileTrailer, trailer_crc);

impl Trailer {
    /// Bytes of an index of this many entries.
    pub(crate) fn index_len(count: u64) -> Option<u64> {
        count.checked_add(1)?.checked_mul(size_of::<u64>() as u64)
    }

    /// Reads that of a file; where its records begin is not checked.
    ///
    /// # Errors
    ///
    /// The kernel's, or as [`decode`](Self::decode).
    pub fn read(file: &File) -> Result<Trailer, MapError> {
        let len = file.metadata()?.len();
        let at = len.checked_sub(FILE_TRAILER_LEN as u64);
        let mut bytes = [0; FILE_TRAILER_LEN];
        file.read_exact_at(&mut bytes, at.ok_or(MapError::Unfinished)?)?;
        Trailer::decode(&bytes, len, 0)
    }

    /// Its bytes.
    pub fn encode(&self) -> [u8; FILE_TRAILER_LEN] {
        let mut bytes = [0; FILE_TRAILER_LEN];
        let flags = u64::from(self.is_complete) | u64::from(self.index_crc) << 32;
        for (at, word) in [
            (offset_of!(FileTrailer, count), self.count),
            (offset_of!(FileTrailer, index_offset), self.index_offset),
            (offset_of!(FileTrailer, file_len), self.file_len),
            (offset_of!(FileTrailer, last_lamport), self.last_lamport),
            (offset_of!(FileTrailer, is_complete), flags),
            (offset_of!(FileTrailer, magic), FINISHED_MAGIC),
        ] {
            put(&mut bytes, at, &word.to_le_bytes());
        }
        let crc = crc32c(&bytes[..CRC_AT]);
        put(&mut bytes, CRC_AT, &crc.to_le_bytes());
        bytes
    }

    /// The trailer in the last bytes of a file of this length, whose records begin
    /// at `data_offset`.
    ///
    /// # Errors
    ///
    /// [`MapError::Unfinished`] if the file does not end with one; what is wrong
    /// with it.
    pub fn decode(
        bytes: &[u8; FILE_TRAILER_LEN],
        file_len: u64,
        data_offset: u64,
    ) -> Result<Trailer, MapError> {
        let word = |at: usize| word(bytes, at);
        if word(offset_of!(FileTrailer, magic)) != FINISHED_MAGIC {
            return Err(MapError::Unfinished);
        }
        // What follows the checksum has to be zero.
        let crc = crc32c(&bytes[..CRC_AT]);
        Corrupt::check("file trailer checksum", word(CRC_AT), crc.into())?;
        let flags = word(offset_of!(FileTrailer, is_complete));
        let trailer = Trailer {
            count: word(offset_of!(FileTrailer, count)),
            index_offset: word(offset_of!(FileTrailer, index_offset)),
            file_len: word(offset_of!(FileTrailer, file_len)),
            last_lamport: word(offset_of!(FileTrailer, last_lamport)),
            is_complete: flags as u32 != 0,
            index_crc: (flags >> 32) as u32,
        };
        Corrupt::check("file length", trailer.file_len, file_len)?;
        let index_end = Trailer::index_len(trailer.count)
            .and_then(|len| len.checked_add(trailer.index_offset))
            .and_then(|end| end.checked_add(FILE_TRAILER_LEN as u64));
        if index_end != Some(file_len)
            || trailer.index_offset < data_offset
            || !trailer.index_offset.is_multiple_of(8)
        {
            return Err(Corrupt::new("index offset", trailer.index_offset, data_offset).into());
        }
        Ok(trailer)
    }
}
