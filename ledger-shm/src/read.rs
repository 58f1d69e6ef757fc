//! Reading one segment: find its frontier, look at a slot, name what is there.
//!
//! The slots of a segment are a run of ENTRY, then at most one SEAL or CLOSED,
//! then EMPTY for ever. That is why a binary search finds the frontier, and why
//! a reader that stops at the first slot that is not ENTRY has missed nothing.

#![allow(
    unsafe_code,
    reason = "a cursor vouches that what it found is in its segment"
)]

use std::sync::Arc;

use rkyv::util::AlignedVec;

use crate::entry::{Candidate, Entry};
use crate::error::Corrupt;
use crate::format::RECORD_ALIGN;
use crate::record::crc32c;
use crate::segment::Segment;
use crate::slot::{Extent, Slot};

/// A segment and where it stands in its log.
#[derive(Clone, Debug)]
pub struct Link {
    /// The mapped segment.
    pub segment: Arc<Segment>,
    /// Seq of its first entry.
    pub base_seq: u64,
}

/// What lies at a seq.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// An entry.
    Entry,
    /// Nothing yet.
    Nothing,
    /// The log goes on in this part, beginning with the seq that was asked for.
    Seal(u64),
    /// The log is closed here.
    Closed,
    /// The seq is in no slot of this segment.
    Elsewhere,
}

impl Segment {
    /// The first slot that is not ENTRY, found by bisection.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] on a slot word that nobody writes.
    pub fn frontier(&self) -> Result<usize, Corrupt> {
        let mut entries = 0;
        let mut limit = self.geometry().slot_capacity;
        while entries < limit {
            let middle = entries + (limit - entries) / 2;
            match self.look(middle)? {
                Slot::Entry(_) => entries = middle + 1,
                Slot::Empty | Slot::Seal(_) | Slot::Closed => limit = middle,
            }
        }
        Ok(entries)
    }

    /// The extent of the entry at a slot, if there is one.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] on a slot word that nobody writes.
    pub fn extent(&self, index: usize) -> Result<Option<Extent>, Corrupt> {
        match self.look(index)? {
            Slot::Entry(extent) => Ok(Some(extent)),
            Slot::Empty | Slot::Seal(_) | Slot::Closed => Ok(None),
        }
    }
}

impl Segment {
    /// Whether the entry of this seq is in this segment, which begins with `base_seq`.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] on a slot word that nobody writes.
    pub fn holds(&self, base_seq: u64, seq: u64) -> Result<bool, Corrupt> {
        let index = seq.checked_sub(base_seq).map(usize::try_from);
        let capacity = self.geometry().slot_capacity;
        match index {
            Some(Ok(index)) if index < capacity => Ok(self.extent(index)?.is_some()),
            _ => Ok(false),
        }
    }
}

/// What is behind the last entry of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing yet.
    Open,
    /// The log is closed here.
    Closed,
    /// The log goes on in another part.
    Continued {
        /// Which one.
        part: u64,
        /// The seq of its first entry.
        base_seq: u64,
    },
}

fn entry_for_a_seal(extent: Extent, capacity: usize) -> Corrupt {
    Corrupt::new("seal slot", extent.offset as u64, capacity as u64)
}

impl Link {
    /// What is behind the last entry, as of now.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] on a slot word that nobody writes there.
    pub fn end(&self) -> Result<End, Corrupt> {
        let frontier = self.segment.frontier()?;
        let part = match self.segment.look(frontier)? {
            Slot::Entry(extent) if frontier == self.segment.geometry().slot_capacity => {
                return Err(entry_for_a_seal(extent, frontier));
            }
            // Or it has just been appended.
            Slot::Empty | Slot::Entry(_) => return Ok(End::Open),
            Slot::Seal(part) => part,
            Slot::Closed => match self.segment.successor() {
                Some(part) => part,
                None => return Ok(End::Closed),
            },
        };
        Ok(End::Continued {
            part,
            base_seq: self.base_seq + frontier as u64,
        })
    }

    #[inline(always)]
    fn find(&self, seq: u64) -> Result<(Found, Option<Candidate>), Corrupt> {
        let capacity = self.segment.geometry().slot_capacity;
        let index = seq.wrapping_sub(self.base_seq);
        // A seq before the first one wraps, far beyond every capacity.
        if index >= capacity as u64 {
            return Ok((self.find_behind(index)?, None));
        }
        match self.segment.look(index as usize)? {
            Slot::Entry(extent) => Ok((
                Found::Entry,
                Some(Candidate::at(&self.segment, extent, seq)?),
            )),
            Slot::Empty => Ok((Found::Nothing, None)),
            Slot::Seal(part) => Ok((Found::Seal(part), None)),
            Slot::Closed => Ok((Found::Closed, None)),
        }
    }

    /// What lies behind the last slot that takes an entry.
    #[cold]
    fn find_behind(&self, index: u64) -> Result<Found, Corrupt> {
        let capacity = self.segment.geometry().slot_capacity;
        if index > capacity as u64 {
            return Ok(Found::Elsewhere);
        }
        // A file ends where its trailer says, whatever has become of its last slot.
        if self.segment.part() == 0 {
            return Ok(Found::Closed);
        }
        match self.segment.look(capacity)? {
            Slot::Entry(extent) => Err(entry_for_a_seal(extent, capacity)),
            Slot::Empty => Ok(Found::Nothing),
            Slot::Seal(part) => Ok(Found::Seal(part)),
            Slot::Closed => Ok(Found::Closed),
        }
    }

    /// What lies at `seq`, as far as its slot and its record's header tell.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] on a slot or record that cannot be right.
    pub fn peek(&self, seq: u64) -> Result<Found, Corrupt> {
        self.find(seq).map(|(found, _)| found)
    }

    /// The entry at `seq`, or what is there instead. O(1). The entry keeps the
    /// memory it lies in mapped.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] on a slot or record that cannot be right.
    #[inline]
    pub fn get(self, seq: u64) -> Result<Result<Entry<'static>, Found>, Corrupt> {
        match self.find(seq)? {
            // SAFETY: the candidate comes from this link's segment.
            (_, Some(candidate)) => Ok(Ok(unsafe { candidate.hold(self.segment) }?)),
            (found, None) => Ok(Err(found)),
        }
    }
}

/// Which entries a cursor stops at.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    first_seq: u64,
    key: Option<(String, u32)>,
}

impl Filter {
    /// Only entries from this seq on.
    pub fn set_first_seq(&mut self, first_seq: u64) {
        self.first_seq = first_seq;
    }

    /// Only entries with exactly this key.
    pub fn set_key(&mut self, key: impl Into<String>) {
        let key = key.into();
        let hash = crc32c(key.as_bytes());
        self.key = Some((key, hash));
    }
}

/// A place in a log, moving towards its end, one segment at a time.
#[derive(Debug)]
pub struct Cursor {
    link: Link,
    /// Where it stands.
    seq: u64,
    /// What `step` found there, in `link`'s segment, unless it cannot be read.
    found: Option<Candidate>,
    buffer: AlignedVec<RECORD_ALIGN>,
}

impl Cursor {
    /// A cursor that will look at `seq` first, which is not before the link, and
    /// not beyond its frontier: the slots there stay EMPTY when the log goes on
    /// in another segment.
    pub fn new(link: Link, seq: u64) -> Cursor {
        Cursor {
            link,
            seq,
            found: None,
            buffer: AlignedVec::new(),
        }
    }

    /// The segment it is in.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The seq it will look at next.
    #[inline(always)]
    pub fn next_seq(&self) -> u64 {
        self.seq + u64::from(self.found.is_some())
    }

    /// Goes on in another segment, at the same seq.
    pub fn follow(&mut self, link: Link) {
        self.leave();
        self.link = link;
    }

    #[inline(always)]
    fn leave(&mut self) {
        self.seq = self.next_seq();
        self.found = None;
    }

    /// Moves to the next entry that the filter lets through, or says what is
    /// there instead.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] on a slot or record that cannot be right; it does not move
    /// past that.
    #[inline(always)]
    pub fn step(&mut self, filter: &Filter) -> Result<Found, Corrupt> {
        loop {
            self.leave();
            let (found, candidate) = self.link.find(self.seq)?;
            let Some(candidate) = candidate else {
                return Ok(found);
            };
            self.found = Some(candidate);
            if self.seq < filter.first_seq {
                continue;
            }
            match &filter.key {
                None => return Ok(Found::Entry),
                Some((key, hash)) if candidate.key_hash() == *hash => {
                    if self.entry()?.is_some_and(|entry| entry.key() == key) {
                        return Ok(Found::Entry);
                    }
                }
                Some(_) => {}
            }
        }
    }

    /// As [`entry`](Self::entry), but it keeps the memory it lies in mapped.
    ///
    /// # Errors
    ///
    /// As [`entry`](Self::entry).
    pub fn held_entry(&mut self) -> Result<Option<Entry<'static>>, Corrupt> {
        let Some(candidate) = self.found else {
            return Ok(None);
        };
        let segment = Arc::clone(&self.link.segment);
        // SAFETY: `found` is only ever set from `link`, and cleared with it.
        let entry = unsafe { candidate.hold(segment) };
        if entry.is_err() {
            self.found = None;
        }
        entry.map(Some)
    }

    /// The entry that the last [`step`](Self::step) stopped at.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if its archive, or in a copy a checksum, does not hold; the
    /// next step finds it again.
    #[inline(always)]
    pub fn entry(&mut self) -> Result<Option<Entry<'_>>, Corrupt> {
        let Some(candidate) = &self.found else {
            return Ok(None);
        };
        // SAFETY: `found` is only ever set from `link`, and cleared with it.
        let entry = unsafe { candidate.borrow(&self.link.segment, &mut self.buffer) };
        if entry.is_err() {
            self.found = None;
        }
        entry.map(Some)
    }
}
