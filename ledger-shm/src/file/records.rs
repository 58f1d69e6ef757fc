//! The records of a file, one after the other: what each has to be, and what is said
//! about them behind the last one.

use std::io::{self, Write};

use crate::entry::Entry;
use crate::error::Corrupt;
use crate::format::{FILE_COUNT_MAX, RECORD_ALIGN, SEGMENT_LEN_MAX};
use crate::merkle::{Frontier, Hash};
use crate::slot::{Extent, Slot};

use super::hashing::{Beside, Grown, Hashing};
use super::{Head, Trailer};

/// The records of a file, as far as it was written or read.
#[derive(Debug)]
pub(super) struct Records {
    first_seq: u64,
    /// Bytes of them, each filled up.
    pub(super) data_len: usize,
    pub(super) last_lamport: u64,
    index: Vec<u8>,
    /// The tree over all entries up to the last one, but for those of a chunk that is
    /// not whole.
    hashing: Hashing,
}

impl Records {
    /// None yet, behind this head.
    pub(super) fn behind(head: &Head) -> Records {
        Records::of(head, Hashing::Here(Grown::behind(head.before.clone())))
    }

    /// The same, many of them: they are hashed beside.
    pub(super) fn many_behind(head: &Head) -> Records {
        Records::of(head, Hashing::Beside(Beside::behind(head.before.clone())))
    }

    fn of(head: &Head, hashing: Hashing) -> Records {
        Records {
            first_seq: head.first_seq(),
            data_len: 0,
            last_lamport: head.base_lamport,
            index: Vec::new(),
            hashing,
        }
    }

    /// So many of nothing.
    #[cfg(test)]
    pub(super) fn after(head: &Head, count: u64) -> Records {
        Records {
            index: vec![0; count as usize * size_of::<u64>()],
            ..Records::behind(head)
        }
    }

    pub(super) fn count(&self) -> u64 {
        (self.index.len() / size_of::<u64>()) as u64
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.first_seq + self.count()
    }

    /// Whether this is the next entry.
    pub(super) fn check(&self, entry: &Entry<'_>) -> Result<(), Corrupt> {
        Corrupt::check("record seq", entry.seq(), self.next_seq())?;
        if entry.lamport() <= self.last_lamport {
            let least = self.last_lamport.saturating_add(1);
            return Err(Corrupt::new("record lamport", entry.lamport(), least));
        }
        let count = self.count() + 1;
        if count > FILE_COUNT_MAX {
            return Err(Corrupt::new("entries of a file", count, FILE_COUNT_MAX));
        }
        let padded_len = entry.record_bytes().len().next_multiple_of(RECORD_ALIGN);
        let data_len = self.data_len + padded_len;
        match data_len <= SEGMENT_LEN_MAX {
            true => Ok(()),
            false => Err(Corrupt::new(
                "bytes of a file's records",
                data_len as u64,
                SEGMENT_LEN_MAX as u64,
            )),
        }
    }

    /// The tree over all entries up to the last one, of those that are hashed here.
    pub(super) fn tree(&self) -> Option<&Frontier> {
        match &self.hashing {
            Hashing::Here(grown) => Some(&grown.tree),
            Hashing::Beside(_) => None,
        }
    }

    /// Adds the next entry. Returns the zeros behind its record.
    pub(super) fn add(&mut self, entry: &Entry<'_>) -> usize {
        self.hashing.add(entry);
        self.place(entry)
    }

    /// Adds the next entry, for which its chunk is added with the last one of that.
    pub(super) fn place(&mut self, entry: &Entry<'_>) -> usize {
        let len = entry.record_bytes().len();
        let extent = Extent {
            offset: self.data_len,
            len,
        };
        let slot = Slot::Entry(extent).encode();
        self.index.extend_from_slice(&slot.to_le_bytes());
        self.last_lamport = entry.lamport();
        let padded_len = len.next_multiple_of(RECORD_ALIGN);
        self.data_len += padded_len;
        padded_len - len
    }

    pub(super) fn add_chunk(&mut self, root: Hash) {
        self.hashing.add_chunk(root);
    }

    /// Writes what is said behind the last one, up to the trailer, and that. Returns it,
    /// and the tree over all entries up to the last one.
    pub(super) fn end(
        mut self,
        data_offset: usize,
        is_complete: bool,
        target: &mut impl Write,
    ) -> io::Result<(Trailer, Frontier)> {
        let count = self.count();
        let Grown { tree, mut nodes } = self.hashing.finish();
        let closed = Slot::Closed.encode().to_le_bytes();
        self.index.extend_from_slice(&closed);
        let mut tables = self.index;
        tables.resize(tables.len().next_multiple_of(RECORD_ALIGN), 0);
        tables.append(&mut nodes);
        tables.extend_from_slice(tree.peaks().as_flattened());
        let index_offset = (data_offset + self.data_len) as u64;
        let trailer = Trailer::new(
            self.first_seq,
            count,
            index_offset,
            self.last_lamport,
            is_complete,
            &tables,
            tree.root(),
        );
        target.write_all(&tables)?;
        target.write_all(&trailer.encode())?;
        Ok((trailer, tree))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::{head, record};

    #[test]
    fn only_the_next_entry_follows_and_what_another_is_has_a_name() {
        let mut records = Records::behind(&head(5));
        let bytes = [4, 5, 6].map(|seq| record(seq, 11));
        let [earlier, next, later] = bytes
            .each_ref()
            .map(|bytes| Entry::from_bytes(bytes).expect("just made"));
        let refused = |what, found, expected| Err(Corrupt::new(what, found, expected));
        assert_eq!(records.check(&earlier), refused("record seq", 4, 5));
        assert_eq!(records.check(&later), refused("record seq", 6, 5));
        assert_eq!(records.check(&next), Ok(()));
        records.last_lamport = 5;
        assert_eq!(records.check(&next), refused("record lamport", 5, 6));
        records.last_lamport = u64::MAX;
        assert_eq!(records.check(&next), refused("record lamport", 5, u64::MAX));
        records.last_lamport = 4;

        let (most, padded_len) = (SEGMENT_LEN_MAX, bytes[1].len().next_multiple_of(16));
        assert_ne!(bytes[1].len(), padded_len);
        records.data_len = most - padded_len;
        assert_eq!(records.check(&next), Ok(()));
        records.data_len += 16;
        let (found, most) = (most as u64 + 16, most as u64);
        let too_long = refused("bytes of a file's records", found, most);
        assert_eq!(records.check(&next), too_long);
    }

    #[test]
    fn a_file_has_at_most_so_many_entries() {
        let most = FILE_COUNT_MAX;
        let mut records = Records::after(&head(5), most - 1);
        let bytes = [4 + most, 5 + most].map(|seq| record(seq, 1));
        let [last, another] = bytes
            .each_ref()
            .map(|bytes| Entry::from_bytes(bytes).expect("just made"));
        assert_eq!(records.check(&last), Ok(()));
        records.place(&last);
        let too_many = Corrupt::new("entries of a file", most + 1, most);
        assert_eq!(records.check(&another), Err(too_many));
    }
}
