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

    pub(super) fn count(&self) -> u64 {
        (self.index.len() / size_of::<u64>()) as u64
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.first_seq + self.count()
    }

    /// Whether a record of this length can be in this file, too.
    fn has_room(&self, record_len: usize) -> bool {
        let room = SEGMENT_LEN_MAX - self.data_len;
        self.count() < FILE_COUNT_MAX && record_len.next_multiple_of(RECORD_ALIGN) <= room
    }

    /// Whether this is the next entry.
    pub(super) fn check(&self, entry: &Entry<'_>) -> Result<(), Corrupt> {
        Corrupt::check("record seq", entry.seq(), self.next_seq())?;
        if entry.lamport() <= self.last_lamport {
            let least = self.last_lamport.saturating_add(1);
            return Err(Corrupt::new("record lamport", entry.lamport(), least));
        }
        match self.has_room(entry.record_bytes().len()) {
            true => Ok(()),
            false => Err(Corrupt::new(
                "entries of a file",
                self.count() + 1,
                FILE_COUNT_MAX,
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
