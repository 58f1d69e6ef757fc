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

mod place;
mod roll;

use std::ops::Range;
use std::sync::Arc;

use crate::entry::{Limits, NewEntry};
use crate::error::{Corrupt, Full, Refused};
use crate::fork::Generation;
use crate::format::{RECORD_HEADER_LEN, RecordHeader, SEQ_MAX};
use crate::record::{Payload, Scratch};
use crate::segment::Segment;
use crate::slot::{Extent, Slot};
use crate::sync::{Label, Ordering};

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
    fn now_ns(&mut self) -> u64;
}

/// What the ledger gave an entry.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// let mut appender = ledger.context("loan-7").open_or_create()?.appender()?;
/// let appended = appender.append(&ledger_shm::NewEntry::new("facts", "income: 4200"))?;
/// assert_eq!((appended.seq, appended.lamport), (1, 1));
/// # Ok(()) });
/// ```
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
    scratch: Scratch,
    made_in: Generation,
    /// Of the last [`Stop`].
    why: Option<Why>,
}

/// A record that lies complete in this appender's block, except for its number.
struct Placed {
    extent: Extent,
    appended_at_ns: u64,
}

/// Says that an append has to go on elsewhere; its tail knows why. Nothing
/// else, so that what is returned of an append that succeeds stays in registers:
/// what is put together in memory and then read as a whole waits until the
/// pieces have left the store buffer.
#[derive(Debug)]
pub struct Stop(());

/// Why an append did not end where it began.
#[derive(Debug)]
enum Why {
    /// The part ended, before a record of this length.
    End(End, usize),
    Refused(Refused),
}

impl<E: Into<Refused>> From<E> for Why {
    fn from(error: E) -> Why {
        Why::Refused(error.into())
    }
}

/// How a part came to its end.
#[derive(Debug)]
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
            scratch: Scratch::default(),
            made_in,
            why: None,
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

    /// Appends one entry: one CAS, no system call, no lock; no allocation for
    /// plain bytes. A typed payload allocates what serialising it takes, which is
    /// kept up to 1 MiB, and an error that is dropped each time it does not fit the
    /// rest of a block.
    ///
    /// Lock-free: a CAS fails only because another append, seal or roll
    /// succeeded. A crash anywhere leaves either nothing or the whole entry.
    ///
    /// # Errors
    ///
    /// [`Refused`], and nothing was written.
    pub fn try_append<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
        limits: &Limits,
        parts: &impl Parts,
        clock: &mut impl Clock,
    ) -> Result<Appended, Refused> {
        match self.try_here(entry, limits, clock) {
            Ok(appended) => Ok(appended),
            Err(stop) => self.try_elsewhere(stop, entry, limits, parts, clock),
        }
    }

    /// The part of [`try_append`](Self::try_append) that is all of it as long as
    /// this part of the log goes on.
    ///
    /// # Errors
    ///
    /// What [`try_elsewhere`](Self::try_elsewhere) takes.
    // What it consists of is inlined whatever else a program is made of: a call in
    // between returns through memory, which costs as much as the rest, see
    // `docs/decisions/append-path.md`.
    #[inline(always)]
    pub fn try_here<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
        limits: &Limits,
        clock: &mut impl Clock,
    ) -> Result<Appended, Stop> {
        if !self.made_in.is_current() {
            return Err(self.stop(Refused::Forked));
        }
        if let Err(refused) = entry.validate(limits) {
            return Err(self.stop(refused));
        }
        let placed = self.place(entry, limits, clock)?;
        self.publish(&placed, entry.received())
    }

    #[cold]
    fn stop(&mut self, why: impl Into<Why>) -> Stop {
        self.why = Some(why.into());
        Stop(())
    }

    /// Goes on where [`try_here`](Self::try_here) of this tail and this entry just
    /// stopped, in other parts for as long as there are any.
    ///
    /// # Errors
    ///
    /// As [`try_append`](Self::try_append).
    ///
    /// # Panics
    ///
    /// If it was another tail that stopped.
    #[cold]
    pub fn try_elsewhere<P: Payload>(
        &mut self,
        mut stop: Stop,
        entry: &NewEntry<'_, P>,
        limits: &Limits,
        parts: &impl Parts,
        clock: &mut impl Clock,
    ) -> Result<Appended, Refused> {
        loop {
            let Stop(()) = stop;
            match self.why.take().expect("it says so when it stops") {
                Why::End(end, record_len) => self.go_on(end, record_len, parts)?,
                Why::Refused(refused) => return Err(refused),
            }
            match self.try_here(entry, limits, clock) {
                Ok(appended) => return Ok(appended),
                Err(again) => stop = again,
            }
        }
    }

    /// Numbers and publishes a placed record, or says how this part ended.
    #[inline(always)]
    fn publish(&mut self, placed: &Placed, received: u64) -> Result<Appended, Stop> {
        loop {
            if self.next == self.segment.geometry().slot_capacity {
                return Err(self.stop(Why::End(End::Full, placed.extent.len)));
            }
            let seq = self.next_seq();
            let lamport = self.lamport.max(received).saturating_add(1);
            let offset = placed.extent.offset;
            // SAFETY: as in `place`: ours, and still unpublished.
            let target = unsafe { self.segment.block_mut(offset, RECORD_HEADER_LEN) };
            let header = target.first_chunk_mut().expect("room for a header");
            RecordHeader::number(header, seq, lamport);
            let found = match self.claim(Slot::Entry(placed.extent)) {
                Ok(found) => found,
                Err(corrupt) => return Err(self.stop(corrupt)),
            };
            let end = match found {
                Slot::Empty => {
                    self.next += 1;
                    self.lamport = lamport;
                    return Ok(Appended {
                        seq,
                        lamport,
                        appended_at_ns: placed.appended_at_ns,
                    });
                }
                Slot::Entry(_) => match self.step_over_entries() {
                    Ok(()) => continue,
                    Err(corrupt) => return Err(self.stop(corrupt)),
                },
                Slot::Seal(part) => End::Sealed(part),
                Slot::Closed => End::Closed,
            };
            return Err(self.stop(Why::End(end, placed.extent.len)));
        }
    }

    /// The one CAS: puts `slot` at the frontier. Returns what was found there,
    /// `Empty` if it was won.
    #[inline(always)]
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
}
