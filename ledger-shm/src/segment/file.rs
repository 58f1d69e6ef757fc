//! A finished file, read as a segment.

use super::{Geometry, Segment};
use crate::error::Corrupt;
use crate::file::HEAD_LEN_MAX;
use crate::file::{Head, Trailer};
use crate::format::FILE_TRAILER_LEN;
use crate::object::{MapError, Object};
use crate::region::Region;

impl Segment {
    /// Maps a finished file. It is part 0, and says CLOSED behind its last entry:
    /// where the log goes on is known by who knows the files.
    ///
    /// # Errors
    ///
    /// The kernel's, [`MapError::Unfinished`], or what is wrong with its head or
    /// trailer; records and index are checked when they are read.
    pub fn map_file(file: &Object) -> Result<(Segment, Head, Trailer), MapError> {
        let len = file.len();
        // No memory is of no length.
        if file.is_empty() {
            return Err(MapError::Unfinished);
        }
        let region = Region::map(file, len, false)?;
        let mut head = vec![0; len.min(HEAD_LEN_MAX)];
        region.copy_to(0, &mut head);
        let head = Head::decode(&head)?;
        let mut trailer = [0; FILE_TRAILER_LEN];
        // The trailer is a whole number of words from the start, or is none.
        if !len.is_multiple_of(8) {
            return Err(MapError::Unfinished);
        }
        region.copy_to(len - FILE_TRAILER_LEN, &mut trailer);
        let data_offset = head.data_offset();
        let trailer = Trailer::decode(&trailer, len as u64)?;
        trailer.check_behind(&head)?;
        let within = |what, number: u64| {
            usize::try_from(number).map_err(|_| Corrupt::new(what, number, len as u64))
        };
        let index_offset = within("index offset", trailer.index_offset)?;
        let geometry = Geometry {
            segment_len: len,
            index_offset,
            slot_capacity: within("entries of a file", trailer.count)?,
            data_offset,
            data_len: index_offset - data_offset,
        };
        let segment = Segment {
            region,
            epoch: head.facts.epoch.0,
            part: 0,
            geometry,
            is_trusted: file.is_trusted(),
        };
        Ok((segment, head, trailer))
    }
}
