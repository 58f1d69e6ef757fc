//! Appending: place the record, then publish and number it in one step.
//!
//! ```text
//! try_append(entry):
//!     record = place(entry)             # in my own block; nobody else looks there
//!     loop:
//!         t = frontier, from my hint    # the index itself is the tail
//!         record.seq     = base_seq + t
//!         record.lamport = max(predecessor's, received) + 1
//!         match CAS(slot[t], EMPTY -> ENTRY(offset, len)):
//!             won             -> return seq
//!             lost to ENTRY   -> t += 1, on to the first slot that is not ENTRY
//!             found SEAL(n)   -> go to part n, place again
//!             found CLOSED    -> refuse
//! ```
//!
//! Before the CAS nothing exists; after it everything is visible. An appender
//! that stops anywhere holds nothing that another one needs: its block is its
//! own, and a slot it wanted goes to whoever comes next. One that was stopped
//! for an hour loses its CAS and tries again with a fresh number.
//!
//! A slot is only CASed after its predecessor was seen to be ENTRY. Stepping
//! over anything else would step over a seal, behind which slots are EMPTY for
//! ever and nobody reads.
#![allow(unsafe_code, reason = "blocks are written in place")]

use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::Arc;

use crate::entry::{Limits, NewEntry};
use crate::error::{Corrupt, Full, Refused};
use crate::fork::Generation;
use crate::format::{LINE_LEN, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader, SEQ_MAX};
use crate::record::{self, BodyLen, Payload, crc32c};
use crate::segment::Segment;
use crate::slot::{Extent, Slot};
use crate::sync::{Label, Ordering};

/// Blocks grow towards this, so that most appends take no room of their own.
const BLOCK_LEN_MAX: usize = 64 << 10;
/// A block is at most this fraction of a segment's data area.
const BLOCKS_PER_SEGMENT_MIN: usize = 32;

/// Where an appender gets what it has not mapped itself. Called when a segment
/// ends, never per entry; must not block.
pub trait Parts {
    /// This part of the log, if it is mapped for writing.
    fn mapped(&self, part: u64) -> Option<Arc<Segment>>;

    /// A mapped part for a record of this length that no seal has named yet,
    /// or why there is none.
    ///
    /// # Errors
    ///
    /// Why there is none right now.
    fn spare(&self, record_len: usize) -> Result<Arc<Segment>, Full>;
}

/// Where the wall-clock time of an entry comes from.
pub trait Clock {
    /// Nanoseconds since 1970.
    fn now_ns(&self) -> u64;
}

/// What the ledger gave an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its position in the context, from 1, without gaps.
    pub seq: u64,
    /// Its Lamport time.
    pub lamport: u64,
    /// Its wall-clock time, nanoseconds since 1970.
    pub appended_at_ns: u64,
}

/// The end of a log as one appender sees it. Belongs to one thread.
#[derive(Debug)]
pub struct Tail {
    segment: Arc<Segment>,
    base_seq: u64,
    /// The first slot that has not been seen as ENTRY; all before it have.
    next: usize,
    /// Lamport time of the entry before `next`.
    lamport: u64,
    /// What is left of the block, within the data area.
    block: Range<usize>,
    block_goal: usize,
    wants_spare: bool,
    /// Whether the end of this segment was announced by `wants_spare` already.
    has_seen_end: bool,
    missing_len: usize,
    scratch: Vec<MaybeUninit<u8>>,
    made_in: Generation,
}

/// A record that lies complete in this appender's block, except for its number.
struct Placed {
    extent: Extent,
    header: RecordHeader,
}

/// How a part came to its end.
enum End {
    Full,
    Sealed(u64),
    Closed,
}

impl Tail {
    /// An appender's view of the log whose current part is `segment`, or was
    /// some time ago: it finds its way from there.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] on a segment that is no part of a log yet.
    pub fn new(segment: Arc<Segment>, made_in: Generation) -> Result<Tail, Corrupt> {
        let base_seq = segment.base_seq();
        if !(1..=SEQ_MAX).contains(&base_seq) {
            return Err(Corrupt::new("base seq of a current part", base_seq, 1));
        }
        let mut tail = Tail {
            lamport: 0,
            segment,
            base_seq,
            next: 0,
            block: 0..0,
            block_goal: 0,
            wants_spare: false,
            has_seen_end: false,
            missing_len: 0,
            scratch: Vec::new(),
            made_in,
        };
        tail.next = tail.segment.frontier()?;
        // ORDER(park): these looks moved the hint, see `step_over_entries`.
        Label::Park.fence(Ordering::SeqCst);
        tail.lamport = tail.segment.lamport_before(tail.next)?;
        Ok(tail)
    }

    /// The part this appender writes to.
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// The seq that the next append gets if nobody else appends before.
    pub fn next_seq(&self) -> u64 {
        self.base_seq + self.next as u64
    }

    /// Whether the end of this part has come into sight since the last time
    /// this was asked, so that it is time for another spare.
    #[inline]
    pub fn take_wants_spare(&mut self) -> bool {
        std::mem::take(&mut self.wants_spare)
    }

    /// Bytes of the record that last found no room.
    pub fn missing_len(&self) -> usize {
        self.missing_len
    }

    /// Appends one entry: one CAS, no system call, no lock, no allocation
    /// (a typed payload that does not fit the rest of a block is measured
    /// first, once per block, and allocates then).
    ///
    /// Lock-free: a CAS fails only because another append, seal or roll
    /// succeeded. A crash anywhere leaves either nothing or the whole entry.
    ///
    /// # Errors
    ///
    /// [`Refused`], and nothing was written.
    #[inline]
    pub fn try_append<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
        limits: &Limits,
        parts: &impl Parts,
        clock: &impl Clock,
    ) -> Result<Appended, Refused> {
        if !self.made_in.is_current() {
            return Err(Refused::Forked);
        }
        entry.validate(limits)?;
        loop {
            let (end, record_len) = match self.place(entry, limits, clock)? {
                Ok(placed) => match self.publish(&placed, entry.received())? {
                    Ok(appended) => return Ok(appended),
                    Err(end) => (end, placed.extent.len),
                },
                Err(record_len) => (End::Full, record_len),
            };
            self.go_on(end, record_len, parts)?;
        }
    }

    /// Writes a record, all but its number, into memory that is ours alone.
    /// `Err` is the length of a record that this segment has no room for.
    #[inline]
    fn place<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
        limits: &Limits,
        clock: &impl Clock,
    ) -> Result<Result<Placed, usize>, Refused> {
        let pairs = entry.pairs();
        if self.scratch.len() < record::scratch_len(pairs.len()) {
            self.scratch
                .resize(record::scratch_len(pairs.len()), MaybeUninit::uninit());
        }
        let known = entry.payload().known_len();
        let (run, len) = if let Some(payload_len) = known {
            let body = record::body_len(payload_len, entry.key(), pairs);
            let Some(run) = self.take(RECORD_HEADER_LEN + body) else {
                return Ok(Err(RECORD_HEADER_LEN + body));
            };
            (run.clone(), self.write(run, entry).map_err(unserializable)?)
        } else {
            match self.place_unmeasured(entry, limits)? {
                Ok(placed) => placed,
                Err(record_len) => return Ok(Err(record_len)),
            }
        };
        // SAFETY: `run` came from `take` and has not been published.
        let bytes = unsafe {
            self.segment
                .block_mut(run.start, RECORD_HEADER_LEN + len.body)
        };
        let header = RecordHeader {
            body_len: u32::try_from(len.body).expect("a record fits its segment"),
            body_crc: crc32c(&bytes[RECORD_HEADER_LEN..]),
            seq: 0,
            appended_at_ns: clock.now_ns(),
            lamport: 0,
            key_hash: crc32c(entry.key().as_bytes()),
            reserved: 0,
            header_crc: 0,
            reserved_end: 0,
        };
        let extent = Extent {
            offset: run.start,
            len: RECORD_HEADER_LEN + len.body,
        };
        Ok(Ok(Placed { extent, header }))
    }

    /// Places a payload whose length only its serialisation tells: into what
    /// is left of the block if it fits, else measured first.
    fn place_unmeasured<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
        limits: &Limits,
    ) -> Result<Result<(Range<usize>, BodyLen), usize>, Refused> {
        let rest = self.block.clone();
        if rest.len() > RECORD_HEADER_LEN
            && let Ok(len) = self.write(rest.clone(), entry)
        {
            limits.check_payload(len.payload)?;
            self.block.start += (RECORD_HEADER_LEN + len.body).next_multiple_of(RECORD_ALIGN);
            return Ok(Ok((rest, len)));
        }
        let len = record::write_body(
            None,
            entry.payload(),
            entry.key(),
            entry.pairs(),
            &mut self.scratch,
        )
        .map_err(unserializable)?;
        limits.check_payload(len.payload)?;
        match self.take(RECORD_HEADER_LEN + len.body) {
            Some(run) => Ok(Ok((
                run.clone(),
                self.write(run, entry).map_err(unserializable)?,
            ))),
            None => Ok(Err(RECORD_HEADER_LEN + len.body)),
        }
    }

    #[inline]
    fn write<P: Payload>(
        &mut self,
        run: Range<usize>,
        entry: &NewEntry<'_, P>,
    ) -> Result<BodyLen, rkyv::rancor::Error> {
        // SAFETY: the run is ours and unpublished, see `take`.
        let bytes = unsafe { self.segment.block_mut(run.start, run.len()) };
        record::write_body(
            Some(&mut bytes[RECORD_HEADER_LEN..]),
            entry.payload(),
            entry.key(),
            entry.pairs(),
            &mut self.scratch,
        )
    }

    /// Takes a run of the data area for one record: from the block if it fits.
    #[inline]
    fn take(&mut self, record_len: usize) -> Option<Range<usize>> {
        let need = record_len.next_multiple_of(RECORD_ALIGN);
        if need > self.block.len() {
            return self.take_contended(need);
        }
        let start = self.block.start;
        self.block.start += need;
        Some(start..start + need)
    }

    /// Takes a new block, or, for a large record, a run of its own.
    #[cold]
    fn take_contended(&mut self, need: usize) -> Option<Range<usize>> {
        let data_len = self.segment.geometry().data_len;
        let tail = self.segment.data_tail();
        // Relaxed throughout: the tail only divides room; what lies there is
        // published by slots.
        let left = data_len.saturating_sub(tail.load(Ordering::Relaxed) as usize);
        if need > left {
            // Asking anyway would burn what a smaller record could still use.
            return None;
        }
        let goal_max = BLOCK_LEN_MAX.min(data_len / BLOCKS_PER_SEGMENT_MIN);
        let want = self
            .block_goal
            .clamp(need, goal_max.max(need))
            .next_multiple_of(LINE_LEN)
            .min(left);
        self.block_goal = (want * 2).min(goal_max);
        let start = tail.fetch_add(want as u64, Ordering::Relaxed) as usize;
        let geometry = self.segment.geometry();
        if !self.has_seen_end && (start >= data_len / 2 || self.next >= geometry.slot_capacity / 2)
        {
            self.has_seen_end = true;
            self.wants_spare = true;
        }
        let end = start.saturating_add(want).min(data_len);
        if start >= end || !start.is_multiple_of(LINE_LEN) {
            return None;
        }
        // Right behind the last block, it goes on with what is left of that.
        let is_continued = start == self.block.end;
        let start = if is_continued {
            self.block.start
        } else {
            start
        };
        // Somebody may have been faster: keep what is left for smaller records.
        let fits = end - start >= need;
        let (run, rest) = if fits {
            (Some(start..start + need), start + need..end)
        } else {
            (None, start..end)
        };
        if is_continued || rest.len() > self.block.len() {
            self.block = rest;
        }
        run
    }

    /// Numbers and publishes a placed record, or says how this part ended.
    #[inline]
    fn publish(
        &mut self,
        placed: &Placed,
        received: u64,
    ) -> Result<Result<Appended, End>, Refused> {
        loop {
            if self.next == self.segment.geometry().slot_capacity {
                return Ok(Err(End::Full));
            }
            let header = RecordHeader {
                seq: self.base_seq + self.next as u64,
                lamport: self.lamport.max(received).saturating_add(1),
                ..placed.header
            };
            // SAFETY: as in `place`: ours, and still unpublished.
            let target = unsafe {
                self.segment
                    .block_mut(placed.extent.offset, RECORD_HEADER_LEN)
            };
            header.write_to(target.first_chunk_mut().expect("room for a header"));
            match self.claim(Slot::Entry(placed.extent))? {
                Slot::Empty => {
                    self.next += 1;
                    self.lamport = header.lamport;
                    return Ok(Ok(Appended {
                        seq: header.seq,
                        lamport: header.lamport,
                        appended_at_ns: header.appended_at_ns,
                    }));
                }
                Slot::Entry(_) => self.step_over_entries()?,
                Slot::Seal(part) => return Ok(Err(End::Sealed(part))),
                Slot::Closed => return Ok(Err(End::Closed)),
            }
        }
    }

    /// The one CAS: puts `slot` at the frontier. Returns what was found there,
    /// `Empty` if it was won.
    #[inline]
    fn claim(&self, slot: Slot) -> Result<Slot, Corrupt> {
        // ORDER(publish): releases the record to whoever looks at the slot.
        // ORDER(park): SeqCst against the sleeper's fence, see `bell`.
        let outcome = self.segment.slot(self.next).compare_exchange(
            Slot::EMPTY,
            slot.encode(),
            Label::Publish.at(Ordering::SeqCst),
            Label::Publish.at(Ordering::SeqCst),
        );
        match outcome {
            Ok(_) => Ok(Slot::Empty),
            Err(word) => Slot::decode(word).map_err(|invalid| Corrupt::new("slot", invalid.0, 0)),
        }
    }

    /// Moves to the first slot that is not ENTRY, having seen every one before.
    #[cold]
    fn step_over_entries(&mut self) -> Result<(), Corrupt> {
        let capacity = self.segment.geometry().slot_capacity;
        // ORDER(publish): acquires the record whose Lamport time comes next.
        // ORDER(park): SeqCst, because who steps over an entry and publishes
        // the next must wake whoever sleeps for the one stepped over.
        while self.next < capacity
            && Slot::is_entry(
                self.segment
                    .slot(self.next)
                    .load(Label::Publish.at(Ordering::SeqCst)),
            )
        {
            self.next += 1;
        }
        self.lamport = self.segment.lamport_before(self.next)?;
        Ok(())
    }

    /// Leaves a part that has no room, is sealed or is closed.
    #[cold]
    fn go_on(&mut self, end: End, record_len: usize, parts: &impl Parts) -> Result<(), Refused> {
        self.missing_len = record_len;
        match end {
            End::Sealed(part) => self.roll(part, parts),
            End::Closed => Err(Refused::Full(Full::Reopening)),
            End::Full => self.seal(record_len, parts),
        }
    }

    /// Ends this part by naming a successor, or follows whoever did.
    fn seal(&mut self, record_len: usize, parts: &impl Parts) -> Result<(), Refused> {
        loop {
            self.step_over_entries()?;
            match self.segment.look(self.next)? {
                Slot::Seal(part) => return self.roll(part, parts),
                Slot::Closed => return Err(Refused::Full(Full::Reopening)),
                Slot::Empty | Slot::Entry(_) => {}
            }
            // Without a spare that fits the part stays open: smaller records
            // of others may still find room in it.
            let spare = match (parts.spare(record_len), self.segment.look(self.next)?) {
                (Ok(spare), _) => spare,
                (Err(full), Slot::Empty) => return Err(Refused::Full(full)),
                (Err(_), Slot::Entry(_)) if self.next == self.segment.geometry().slot_capacity => {
                    return Err(Corrupt::new("seal slot", self.next as u64, 0).into());
                }
                // Gone because somebody has just sealed with it, or closed.
                (Err(_), _) => continue,
            };
            match self.claim(Slot::Seal(spare.part()))? {
                Slot::Empty => return self.roll(spare.part(), parts),
                Slot::Entry(_) if self.next == self.segment.geometry().slot_capacity => {
                    return Err(Corrupt::new("seal slot", self.next as u64, 0).into());
                }
                Slot::Entry(_) => {}
                Slot::Seal(part) => return self.roll(part, parts),
                Slot::Closed => return Err(Refused::Full(Full::Reopening)),
            }
        }
    }

    /// Goes to the part that the seal at `next` names.
    fn roll(&mut self, part: u64, parts: &impl Parts) -> Result<(), Refused> {
        let successor = parts.mapped(part).ok_or(Refused::Full(Full::Rolling))?;
        successor.complete(self.next_seq(), self.lamport)?;
        // ORDER(park): the entry that follows is in other memory than the slot
        // a sleeper looked at; the fence orders both for everybody.
        Label::Park.fence(Ordering::SeqCst);
        self.base_seq = self.next_seq();
        self.segment = successor;
        self.next = 0;
        self.block = 0..0;
        self.block_goal = 0;
        self.has_seen_end = false;
        self.wants_spare = true;
        Ok(())
    }

    /// Ends the log here until the daemon continues it. Returns the seq that
    /// an entry in this place would have had, and the Lamport time before it;
    /// `Err` is the part in which the log goes on instead.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] on a slot that cannot be right.
    pub fn close(&mut self) -> Result<Result<(u64, u64), u64>, Corrupt> {
        loop {
            self.step_over_entries()?;
            match self.claim(Slot::Closed)? {
                Slot::Empty | Slot::Closed => return Ok(Ok((self.next_seq(), self.lamport))),
                Slot::Seal(part) => return Ok(Err(part)),
                Slot::Entry(_) if self.next == self.segment.geometry().slot_capacity => {
                    return Err(Corrupt::new("seal slot", self.next as u64, 0));
                }
                Slot::Entry(_) => {}
            }
        }
    }
}

#[cold]
fn unserializable(error: rkyv::rancor::Error) -> Refused {
    Refused::Unserializable {
        reason: error.to_string(),
    }
}
