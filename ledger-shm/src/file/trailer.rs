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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Entry;
    use crate::file::tests::{head, record};
    use crate::file::{FileWriter, Finished};

    fn finished(head: &Head, count: u64) -> Finished<Vec<u8>> {
        let mut writer = FileWriter::begin(Vec::new(), head).expect("memory");
        for seq in head.first_seq()..head.first_seq() + count {
            let record = record(seq, seq as usize);
            let entry = Entry::from_bytes(&record).expect("just made");
            writer.push(&entry).expect("memory");
        }
        writer.finish(true).expect("memory")
    }

    #[test]
    fn a_trailer_is_these_bytes() {
        let trailer = Trailer {
            first_seq: 5,
            count: 13,
            index_offset: 1600,
            // 14 slots, one node, two peaks, and these 128.
            file_len: 1600 + 14 * 8 + 32 + 2 * 32 + 128,
            last_lamport: 77,
            is_complete: true,
            root: [9; 32],
            tables_crc: 0x0102_0304,
        };
        let mut bytes = Vec::new();
        for word in [13, 1600, trailer.file_len, 77, 1 | 0x0102_0304 << 32, 5] {
            bytes.extend(u64::to_le_bytes(word));
        }
        bytes.extend([9; 32]);
        bytes.extend([0; 32]);
        bytes.extend(u64::from(crc32c(&bytes)).to_le_bytes());
        bytes.extend(FINISHED_MAGIC.to_le_bytes());
        assert_eq!(trailer.encode()[..], bytes);
        let bytes = trailer.encode();
        assert_eq!(
            Trailer::decode_any(&bytes).expect("as it was written"),
            trailer
        );
        assert_eq!(trailer.last_seq(), 17);
        assert_eq!(trailer.nodes(), (1600 + 14 * 8, 1));
        let longer = trailer.file_len + 1;
        assert!(Trailer::decode(&bytes, trailer.file_len).is_ok());
        assert!(Trailer::decode(&bytes, longer).is_err());
        let open = Trailer {
            is_complete: false,
            ..trailer
        };
        assert_eq!(Trailer::decode_any(&open.encode()).expect("the same"), open);
    }

    /// The same behind more records.
    fn shifted(mut trailer: Trailer, by: u64) -> Trailer {
        trailer.index_offset += by;
        trailer.file_len += by;
        trailer
    }

    #[test]
    fn a_trailer_that_nobody_writes_is_named() {
        let sound = finished(&head(5), 9).trailer;
        let most = i64::MAX as u64;
        for (unsound, what) in [
            (
                Trailer {
                    first_seq: 0,
                    ..sound
                },
                "first seq of a file",
            ),
            (
                Trailer {
                    first_seq: SEQ_MAX + 1,
                    ..sound
                },
                "first seq of a file",
            ),
            (
                Trailer {
                    count: FILE_COUNT_MAX,
                    ..sound
                },
                "file length",
            ),
            (
                Trailer {
                    count: FILE_COUNT_MAX + 1,
                    ..sound
                },
                "entries of a file",
            ),
            (Trailer { count: 11, ..sound }, "file length"),
            (
                Trailer {
                    index_offset: sound.file_len + 16,
                    ..sound
                },
                "index offset",
            ),
            (
                Trailer {
                    index_offset: sound.file_len,
                    ..sound
                },
                "file length",
            ),
            (
                Trailer {
                    file_len: most + 1,
                    ..sound
                },
                "index offset",
            ),
            (
                Trailer {
                    file_len: most,
                    ..sound
                },
                "file length",
            ),
            (
                Trailer {
                    file_len: sound.file_len + 16,
                    ..sound
                },
                "file length",
            ),
            (shifted(sound, 8), "index offset"),
        ] {
            match Trailer::decode_any(&unsound.encode()) {
                Err(MapError::Corrupt(corrupt)) => assert_eq!(corrupt.what, what, "{unsound:?}"),
                other => panic!("{other:?}"),
            }
        }
        let possible = shifted(sound, 16);
        let decoded = Trailer::decode_any(&possible.encode());
        assert_eq!(decoded.expect("possible"), possible);
    }

    #[test]
    fn a_trailer_belongs_behind_one_head() {
        let (head, other) = (head(5), head(6));
        let sound = finished(&head, 9).trailer;
        assert_eq!(sound.check_behind(&head), Ok(()));
        let damage = sound.check_behind(&other).expect_err("another head");
        assert_eq!(damage, Corrupt::new("first seq of a file", 5, 6));
        let index_offset = head.data_offset() as u64;
        let empty = Trailer {
            index_offset,
            ..sound
        };
        assert_eq!(empty.check_behind(&head), Ok(()));
        let index_offset = index_offset - 16;
        let inside = Trailer {
            index_offset,
            ..sound
        };
        let damage = inside.check_behind(&head).expect_err("inside the head");
        assert_eq!(
            damage,
            Corrupt::new("index offset", index_offset, index_offset + 16)
        );
    }

    #[test]
    fn the_same_records_behind_another_head_have_the_same_end() {
        let mut longer = head(5);
        longer.facts.name = "a name that takes more room".to_owned();
        let (one, other) = (finished(&head(5), 9), finished(&longer, 9));
        let (from, to) = (head(5).data_offset(), longer.data_offset());
        assert!(from < to);
        assert_eq!(one.trailer.moved(from, to), other.trailer);
        assert_eq!(other.trailer.moved(to, from), one.trailer);
    }

    #[test]
    fn the_peaks_at_the_end_are_those_of_the_root() {
        // Also where a file begins with the last entry of a chunk, or behind it.
        for (first_seq, count) in [(5, 0), (5, 1), (5, 12), (5, 30), (16, 1), (17, 16)] {
            let Finished {
                target: mut bytes,
                trailer,
                tree,
            } = finished(&head(first_seq), count);
            assert_eq!(Trailer::read(&bytes[..]).expect("whole"), trailer);
            assert_eq!(trailer.read_tree(&bytes[..]).expect("whole"), tree);
            assert_eq!(tree.count(), trailer.last_seq());
            let peaks_end = bytes.len() - FILE_TRAILER_LEN;
            let peaks_at = peaks_end - 32 * tree.peaks().len();
            assert_eq!(bytes[peaks_at..peaks_end], *tree.peaks().as_flattened());
            bytes[peaks_at] ^= 1;
            assert!(trailer.read_tree(&bytes[..]).is_err());
        }
    }
}
