//! What a file says before its records.

use std::mem::offset_of;

use crate::control::{Facts, Words, check_name_len};
use crate::error::Corrupt;
use crate::format::{
    ARCHIVE_FORMAT, FILE_HEADER_LEN, FILE_MAGIC, FORMAT_VERSION, FileHeader, NAME_LEN_MAX,
    RECORD_ALIGN, SEQ_MAX,
};
use crate::merkle::{Frontier, HASH_LEN, peak_count};
use crate::object::{Epoch, MapError};
use crate::record::crc32c;

use super::{Source, Span};

/// What a file says before its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Which context, and what was fixed when that was created.
    pub facts: Facts,
    /// The tree over all entries before the first one here.
    pub before: Frontier,
    /// Lamport time of the entry before that one.
    pub base_lamport: u64,
    /// Wall clock when this file was begun, nanoseconds since 1970.
    pub begun_at_ns: u64,
    /// Of what snapshot this is a file; none in an archive.
    pub snapshot: Option<Span>,
}

const CRC_AT: usize = offset_of!(FileHeader, header_crc);

impl Head {
    /// Reads that of a file.
    ///
    /// # Errors
    ///
    /// The source's, or as [`decode`](Self::decode).
    pub fn read(source: &(impl Source + ?Sized)) -> Result<Head, MapError> {
        let len = source.total_len()?.min(HEAD_LEN_MAX as u64);
        let mut bytes = vec![0; len as usize];
        source.read_exact_at(&mut bytes, 0)?;
        Head::decode(&bytes)
    }

    /// Seq of the first entry here, also if there is none yet.
    pub fn first_seq(&self) -> u64 {
        self.before.count() + 1
    }

    /// Bytes of a file before its records.
    pub fn data_offset(&self) -> usize {
        data_offset(self.facts.name.len(), self.before.count())
    }

    /// The bytes of a file before its records.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.data_offset()];
        let Words {
            created_at_ns,
            payload_len_max,
            metadata_len_max,
            sizes,
            foreign_writers,
        } = self.facts.words();
        let name = self.facts.name.as_bytes();
        let span = self.snapshot.unwrap_or(Span::NONE);
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        for (at, word) in [
            (offset_of!(FileHeader, magic), FILE_MAGIC),
            (
                offset_of!(FileHeader, version),
                pair(FORMAT_VERSION, ARCHIVE_FORMAT),
            ),
            (offset_of!(FileHeader, created_at_ns), created_at_ns),
            (offset_of!(FileHeader, payload_len_max), payload_len_max),
            (offset_of!(FileHeader, metadata_len_max), metadata_len_max),
            (
                offset_of!(FileHeader, name_len),
                pair(name.len() as u32, foreign_writers),
            ),
            (offset_of!(FileHeader, begun_at_ns), self.begun_at_ns),
            (offset_of!(FileHeader, snapshot_first_seq), span.first_seq),
            (offset_of!(FileHeader, snapshot_last_seq), span.last_seq),
            (offset_of!(FileHeader, section_count), span.section_count),
            (offset_of!(FileHeader, base_lamport), self.base_lamport),
            (offset_of!(FileHeader, first_seq), self.first_seq()),
        ] {
            put(&mut bytes, at, &word.to_le_bytes());
        }
        for (at, len) in SIZES_AT.into_iter().zip(sizes) {
            put(&mut bytes, at, &len.to_le_bytes());
        }
        put(
            &mut bytes,
            offset_of!(FileHeader, epoch),
            &self.facts.epoch.0,
        );
        put(&mut bytes, FILE_HEADER_LEN, name);
        let peaks = self.before.peaks().as_flattened();
        let peaks_at = bytes.len() - peaks.len();
        put(&mut bytes, peaks_at, peaks);
        let crc = crc(&bytes);
        put(&mut bytes, CRC_AT, &crc.to_le_bytes());
        bytes
    }

    /// The head at the beginning of these bytes, which hold all of it or the file
    /// ends before.
    ///
    /// # Errors
    ///
    /// [`MapError::Unfinished`] if the file ends before; what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Head, MapError> {
        let header = bytes.get(..FILE_HEADER_LEN).ok_or(MapError::Unfinished)?;
        let word = |at: usize| word(header, at);
        Corrupt::check(
            "file magic",
            word(offset_of!(FileHeader, magic)),
            FILE_MAGIC,
        )?;
        MapError::check_formats(word(offset_of!(FileHeader, version)))?;
        let name_len = word(offset_of!(FileHeader, name_len));
        let (name_len, foreign_writers) = (name_len as u32, (name_len >> 32) as u32);
        let name_len = check_name_len(name_len)?;
        let first_seq = word(offset_of!(FileHeader, first_seq));
        if !(1..=SEQ_MAX).contains(&first_seq) {
            return Err(Corrupt::new("first seq of a file", first_seq, 1).into());
        }
        let before = first_seq - 1;
        let bytes = bytes.get(..data_offset(name_len, before));
        let bytes = bytes.ok_or(MapError::Unfinished)?;
        let found = word(CRC_AT);
        Corrupt::check("file header checksum", found, crc(bytes).into())?;
        let epoch = offset_of!(FileHeader, epoch);
        let epoch = header[epoch..].first_chunk().expect("inside the header");
        let words = Words {
            created_at_ns: word(offset_of!(FileHeader, created_at_ns)),
            payload_len_max: word(offset_of!(FileHeader, payload_len_max)),
            metadata_len_max: word(offset_of!(FileHeader, metadata_len_max)),
            sizes: SIZES_AT.map(word),
            foreign_writers,
        };
        let name = &bytes[FILE_HEADER_LEN..FILE_HEADER_LEN + name_len];
        let span = Span {
            first_seq: word(offset_of!(FileHeader, snapshot_first_seq)),
            last_seq: word(offset_of!(FileHeader, snapshot_last_seq)),
            section_count: word(offset_of!(FileHeader, section_count)),
        };
        let (peaks, _) = bytes[data_offset(name_len, 0)..].as_chunks();
        Ok(Head {
            facts: words.facts(Epoch(*epoch), name)?,
            before: Frontier::new(before, peaks.to_vec()).expect("as many as its count takes"),
            base_lamport: word(offset_of!(FileHeader, base_lamport)),
            begun_at_ns: word(offset_of!(FileHeader, begun_at_ns)),
            snapshot: span.of_section(first_seq)?,
        })
    }
}

const SIZES_AT: [usize; 4] = [
    offset_of!(FileHeader, first_len),
    offset_of!(FileHeader, spare_len_min),
    offset_of!(FileHeader, spare_len_max),
    offset_of!(FileHeader, window_len),
];

/// Bytes before the records of a file, at most.
pub const HEAD_LEN_MAX: usize = data_offset(NAME_LEN_MAX, SEQ_MAX - 1);

/// Where the records begin behind a name and the peaks of so many entries.
pub(super) const fn data_offset(name_len: usize, before: u64) -> usize {
    let peaks_at = (FILE_HEADER_LEN + name_len).next_multiple_of(RECORD_ALIGN);
    peaks_at + peak_count(before) * HASH_LEN
}

/// Over everything before the records but the checksum and what follows it in the
/// header, which has to be zero and is counted as if.
fn crc(bytes: &[u8]) -> u32 {
    let mut covered = bytes.to_vec();
    covered[CRC_AT..CRC_AT + 4].fill(0);
    crc32c(&covered)
}

pub(super) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

pub(super) fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("inside a header"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests;

    #[test]
    fn a_head_is_these_bytes() {
        let mut head = tests::head(6);
        head.facts.has_foreign_writers = true;
        head.facts.sizes.first_len = Some(0x21);
        head.facts.sizes.spare_len_max = Some(0x22);
        head.facts.sizes.window_len = Some(0x23);
        head.snapshot = Some(Span {
            first_seq: 3,
            last_seq: 20,
            section_count: 4,
        });
        let mut bytes = Vec::new();
        bytes.extend(FILE_MAGIC.to_le_bytes());
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend(ARCHIVE_FORMAT.to_le_bytes());
        bytes.extend([7; 16]);
        for word in [
            17,
            4 << 20,
            64 << 10,
            6 | 1 << 32,
            0x21,
            1 << 20,
            0x22,
            0x23,
        ] {
            bytes.extend(u64::to_le_bytes(word));
        }
        for word in [18, 3, 20, 4, 5, 6] {
            bytes.extend(u64::to_le_bytes(word));
        }
        let crc_at = 248;
        bytes.resize(256, 0);
        bytes.extend(b"loan-7");
        bytes.resize(272, 0);
        // Of five entries there are two peaks: over four, and the fifth.
        bytes.extend([0; HASH_LEN]);
        bytes.extend([1; HASH_LEN]);
        let crc = crc32c(&bytes).to_le_bytes();
        bytes[crc_at..][..4].copy_from_slice(&crc);
        assert_eq!(head.encode(), bytes);
        assert_eq!(Head::decode(&bytes).expect("as it was written"), head);
    }

    #[test]
    fn the_longest_head_is_read_whole() {
        let mut head = tests::head(SEQ_MAX);
        head.facts.name = "n".repeat(NAME_LEN_MAX);
        let mut bytes = head.encode();
        assert_eq!(bytes.len(), HEAD_LEN_MAX);
        bytes.extend([7; 100]);
        assert_eq!(Head::read(&bytes[..]).expect("as it was written"), head);
    }
}
