//! The nodes that a finished file stores, for those who go on with its tree.

use std::sync::Arc;

use crate::file::{HEAD_LEN_MAX, Head, Trailer};
use crate::format::FILE_TRAILER_LEN;
use crate::merkle::{CHUNK_COUNT, CHUNK_LEVEL, HASH_LEN, Hash, stored_count, stored_number};
use crate::object::MapError;
use crate::record::crc32c;

use super::Segment;

/// The nodes of a finished file.
#[derive(Clone, Debug)]
pub struct StoredNodes {
    segment: Arc<Segment>,
    trailer: Trailer,
}

impl StoredNodes {
    /// Those of a file that is mapped; none if it is memory, or if their checksum does not
    /// hold: entries can be hashed again, and none is lost because of a node.
    ///
    /// # Errors
    ///
    /// What is wrong with its trailer.
    pub fn of(segment: &Arc<Segment>) -> Result<Option<StoredNodes>, MapError> {
        if segment.part() != 0 {
            return Ok(None);
        }
        let len = segment.region.len();
        let mut trailer = [0; FILE_TRAILER_LEN];
        segment.region.copy_to(len - FILE_TRAILER_LEN, &mut trailer);
        let trailer = Trailer::decode(&trailer, len as u64)?;
        let from = trailer.index_offset as usize;
        let mut tables = vec![0; len - FILE_TRAILER_LEN - from];
        segment.region.copy_to(from, &mut tables);
        let is_sound = crc32c(&tables) == trailer.tables_crc;
        Ok(is_sound.then(|| StoredNodes {
            segment: Arc::clone(segment),
            trailer,
        }))
    }

    /// What the file says before its records.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn head(&self) -> Result<Head, MapError> {
        let len = self.segment.region.len().min(HEAD_LEN_MAX);
        let mut head = vec![0; len];
        self.segment.region.copy_to(0, &mut head);
        Head::decode(&head)
    }

    /// What the file says at its end.
    pub fn trailer(&self) -> &Trailer {
        &self.trailer
    }

    /// The root above the [`CHUNK_COUNT`] entries of which this seq is the first, if
    /// they are a chunk that lies in this file.
    pub fn chunk(&self, first_seq: u64) -> Option<Hash> {
        let before = first_seq - 1;
        let is_first = before.is_multiple_of(CHUNK_COUNT) && first_seq >= self.trailer.first_seq;
        is_first
            .then(|| self.node(CHUNK_LEVEL, before / CHUNK_COUNT))
            .flatten()
    }

    /// The root of the subtree of `2^level` leaves that has `index` of its size before
    /// it, if it became complete in this file.
    pub fn node(&self, level: u32, index: u64) -> Option<Hash> {
        let before = stored_count(self.trailer.first_seq - 1);
        let number = stored_number(level, index)?.checked_sub(before)?;
        let (nodes_offset, node_count) = self.trailer.nodes();
        if number >= node_count {
            return None;
        }
        let mut hash = [0; HASH_LEN];
        let at = nodes_offset as usize + number as usize * HASH_LEN;
        self.segment.region.copy_to(at, &mut hash);
        Some(hash)
    }
}
