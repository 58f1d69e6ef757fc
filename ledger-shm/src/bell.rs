//! The bell: how a parked watcher learns that an entry was appended.
//!
//! ```text
//! watcher                                appender, after its CAS
//!   v = bell.count                         if bell.parked != 0 and swap(parked, 0) != 0:
//!   bell.parked = 1                            bell.count += 1
//!   if my slot still EMPTY:                    futex_wake(bell.count, 1)
//!       futex_wait(bell.count, v)
//!   c = bell.count
//!   if c != v and swap(relayed, c) != c:
//!       futex_wake(bell.count, all)
//! ```
//!
//! **No wake is lost.** The watcher stores `parked`, fences, then looks at its
//! slot; the appender CASes the slot, then looks at `parked`. Both orders are
//! total (SeqCst), so at least one of the two sees the other: either the
//! watcher finds the entry and does not sleep, or the appender finds the flag
//! and rings. A ring changes `count`, so a watcher that read `count` before and
//! goes to sleep after is turned away by the futex itself. Reading `count` with
//! acquire *before* storing the flag means that a watcher which already sees a
//! ring stores its flag after that ring cleared it, and so is not cleared by it.
//!
//! One common word, not the slot: with two appenders, the one that publishes
//! slot 6 must also wake who sleeps for slot 5, whose appender may have stopped
//! before it rang. The ringer wakes one sleeper, because a wake costs it time
//! per sleeper; the first that notices wakes the rest, once per count. Relaying
//! on every wake-up would never end; relaying only when woken loses wakes.
//!
//! What is left to a clock: a ringer or relay that dies or stops within these
//! few instructions. The daemon rings when a client goes, and every sleep ends
//! after [`SLEEP_MAX`].

#[cfg(not(loom))]
pub mod many;
#[cfg(not(loom))]
pub mod roster;

use std::mem::offset_of;
use std::time::Duration;

use crate::format::BellHeader;
use crate::region::Region;
use crate::sync::{AtomicU32, Label, Ordering};

/// No watcher sleeps longer, whatever happens to those who should wake it.
pub const SLEEP_MAX: Duration = Duration::from_millis(40);

/// The mapped bell of one context. Anybody who watches may write it, so it is
/// only ever a hint to look again.
#[derive(Debug)]
pub struct Bell {
    region: Region,
    #[cfg(loom)]
    sleepers: (loom::sync::Mutex<()>, loom::sync::Condvar),
}

impl Bell {
    #[inline]
    fn parked(&self) -> &AtomicU32 {
        self.region.word32(offset_of!(BellHeader, parked_word))
    }

    fn count_word(&self) -> &AtomicU32 {
        self.region.word32(offset_of!(BellHeader, count_word))
    }

    fn relayed(&self) -> &AtomicU32 {
        self.region.word32(offset_of!(BellHeader, relayed_word))
    }

    /// Wakes somebody if somebody may be asleep: what an appender does after
    /// publishing. One load when nobody is.
    #[inline]
    pub fn ring_if_parked(&self) {
        // ORDER(park): after the CAS of the slot, in the one order of SeqCst.
        // Loom takes SeqCst accesses for acquire and release only.
        #[cfg(loom)]
        Label::Park.fence(Ordering::SeqCst);
        if self.parked().load(Label::Park.at(Ordering::SeqCst)) != 0 {
            self.ring_parked();
        }
    }

    #[cold]
    fn ring_parked(&self) {
        // Relaxed: `advance` is what carries it.
        if self.parked().swap(0, Ordering::Relaxed) != 0 {
            self.advance();
            self.wake(1);
        }
    }

    /// Wakes everybody whatever the flag says: for the daemon, when a client
    /// is gone that may have died before it rang or relayed.
    pub fn ring_all(&self) {
        self.advance();
        self.wake(i32::MAX);
    }

    fn advance(&self) {
        // ORDER(ring): whoever sees the new count stores its flag after the
        // swap that cleared it.
        self.count_word()
            .fetch_add(1, Label::Ring.at(Ordering::Release));
    }

    /// Announces that the caller may sleep. The caller looks at what it waits
    /// for once more before it [`sleep`](Parked::sleep)s.
    pub fn park(&self) -> Parked<'_> {
        let count = self.count();
        self.announce();
        Parked { bell: self, count }
    }

    /// How often it rang.
    pub fn count(&self) -> u32 {
        // ORDER(ring): before the flag is stored.
        self.count_word().load(Label::Ring.at(Ordering::Acquire))
    }

    /// Announces that somebody may be asleep, who looks at what it waits for
    /// once more afterwards. Nothing has to be taken back: a ring too many is
    /// all that may come of it.
    pub fn announce(&self) {
        self.parked().store(1, Ordering::Relaxed);
        // ORDER(park): the flag before the look at the slot.
        Label::Park.fence(Ordering::SeqCst);
    }

    /// Passes a ring on to everybody else who sleeps here, once per ring.
    pub fn relay(&self, count: u32) {
        if self.relayed().swap(count, Ordering::Relaxed) != count {
            self.wake(i32::MAX);
        }
    }
}

/// A watcher that has announced itself and not yet gone to sleep.
#[derive(Debug)]
pub struct Parked<'a> {
    bell: &'a Bell,
    count: u32,
}

impl Parked<'_> {
    /// Sleeps until the bell rings, at most `timeout`, and passes a ring on. May
    /// return early; the caller looks again, and has a timeout of at most
    /// [`SLEEP_MAX`] so that it does.
    pub fn sleep(self, timeout: Duration) {
        self.bell.wait(self.count, timeout);
        self.relay();
    }

    /// Ends the announcement of a watcher that found what it waited for. It
    /// may have been the one that a ringer woke, so it passes a ring on too.
    pub fn found(self) {
        self.relay();
    }

    fn relay(&self) {
        let now = self.bell.count_word().load(Ordering::Relaxed);
        if now != self.count {
            self.bell.relay(now);
        }
    }
}

#[cfg(not(loom))]
mod mapped {
    use super::*;
    use crate::error::Corrupt;
    use crate::format::BELL_LEN;
    use crate::object::MapError;
    use crate::sys;
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};

    impl Bell {
        pub(super) fn wait(&self, count: u32, timeout: Duration) {
            sys::futex_wait(self.count_word(), count, timeout);
        }

        pub(super) fn wake(&self, sleepers: i32) {
            sys::futex_wake(self.count_word(), sleepers);
        }

        /// Makes a bell: a sealed anonymous object, given out by descriptor.
        ///
        /// # Errors
        ///
        /// The kernel's.
        pub fn create() -> io::Result<(OwnedFd, Bell)> {
            let fd = sys::create_sealed("ledger-bell", BELL_LEN)?;
            let region = Region::map(&fd, BELL_LEN, true)?;
            Ok((fd, Bell { region }))
        }

        /// Maps a bell that the daemon sent. Which context's it is follows from
        /// what it was the answer to: what it holds may have been written by
        /// anybody who watches.
        ///
        /// # Errors
        ///
        /// The kernel's; [`Corrupt`] if others could change its size.
        pub fn map(fd: impl AsFd) -> Result<Bell, MapError> {
            let (len, _, _) = sys::size_and_owner(&fd)?;
            Corrupt::check("bell length", len as u64, BELL_LEN as u64)?;
            // Without seals a watcher could shrink it and raise SIGBUS here.
            Corrupt::check("bell seals", sys::is_sealed(&fd).into(), 1)?;
            let region = Region::map(&fd, BELL_LEN, true)?;
            Ok(Bell { region })
        }

        /// The words as they are: parked, count, relayed.
        pub fn words(&self) -> [u32; 3] {
            [self.parked(), self.count_word(), self.relayed()]
                .map(|word| word.load(Ordering::Relaxed))
        }
    }
}

#[cfg(loom)]
impl Bell {
    /// A bell in a model.
    pub fn model() -> Bell {
        let words = [
            offset_of!(BellHeader, parked_word),
            offset_of!(BellHeader, count_word),
            offset_of!(BellHeader, relayed_word),
        ];
        let region = Region::new(size_of::<BellHeader>(), &[], &words);
        let sleepers = (loom::sync::Mutex::new(()), loom::sync::Condvar::new());
        Bell { region, sleepers }
    }

    /// As `many::sleep_at_any`, at this bell alone and without an end.
    pub fn sleep_at(&self, seen: u32) {
        self.wait(seen, SLEEP_MAX);
    }

    /// The kernel compares and goes to sleep in one step, in one order with all
    /// wakes of the word (futex(2)): as if under a lock that a waker takes too.
    fn wait(&self, count: u32, _: Duration) {
        let asleep = self.sleepers.0.lock().expect("models do not poison");
        if self.count_word().load(Ordering::Relaxed) == count {
            drop(self.sleepers.1.wait(asleep).expect("models do not poison"));
        }
    }

    fn wake(&self, sleepers: i32) {
        let _asleep = self.sleepers.0.lock().expect("models do not poison");
        if sleepers == 1 {
            self.sleepers.1.notify_one()
        } else {
            self.sleepers.1.notify_all()
        }
    }
}
