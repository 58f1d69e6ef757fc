//! One thread that sleeps at many bells, for all who wait without a thread of
//! their own.
//!
//! ```text
//! whoever waits                          the sleeper, again and again
//!   note what it waits for                 n = nudge
//!   bell.announce()                        for each bell:
//!   if its slot still EMPTY:                   if bell.count != seen: seen = count, relay
//!       leave the rest to the sleeper          if somebody waits here:
//!                                                  bell.announce()
//!                                                  tell those whose slot is no more EMPTY
//!                                          sleep until a count is not as seen
//! ```
//!
//! It is the protocol of [`bell`](super) with the roles of one watcher divided:
//! the one announces and looks, the other sleeps. It sleeps at every bell, whether
//! somebody waits there or not, so that a ring that follows an announcement finds
//! it; and what was announced before a ring is noted before the ring is seen.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::Bell;
use crate::{Control, sys};

/// How many bells one thread can sleep at: futex_waitv(2) takes 128 words, and
/// one is the [`Nudge`].
pub const BELLS_MAX: usize = sys::FUTEXES_MAX - 1;

/// How a thread that sleeps at many bells is called by others of its process.
///
/// It orders nothing but itself: what it is called for is behind a lock. Whoever finds
/// nothing there has read the count before it was called for that.
#[derive(Debug, Default)]
pub struct Nudge(AtomicU32);

impl Nudge {
    /// How often it was called. Read before looking for what it was called for.
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Calls it: it looks again, now or as soon as it would sleep.
    pub fn call(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
        sys::futex_wake(&self.0, 1);
    }
}

/// Sleeps until one of the bells rings, or rang after it was seen to have rung so
/// often; until more of one of the contexts is on stable storage than was seen to be;
/// until the nudge is called; or for `timeout`. May return early.
///
/// Kernels before 5.16 cannot sleep at several words, and a seccomp filter may
/// know nothing of it. There it is as if
/// somebody rang every [`SLEEP_MAX`](super::SLEEP_MAX).
pub fn sleep_at_any<'a>(
    nudge: (&Nudge, u32),
    bells: &[(Arc<Bell>, u32)],
    durable: impl Iterator<Item = (&'a Control, u64)>,
    timeout: Option<Duration>,
) {
    let bells = bells.iter().map(|(bell, seen)| (bell.count_word(), *seen));
    // The lower half: whoever misses 2^32 entries waits once more.
    let durable = durable.map(|(control, seen)| (control.durable_word(), seen as u32));
    let words: Vec<_> = std::iter::once((&nudge.0.0, nudge.1))
        .chain(bells)
        .chain(durable)
        .collect();
    debug_assert!(words.len() <= sys::FUTEXES_MAX, "{} words", words.len());
    if !sys::futex_wait_any(&words, timeout) {
        sys::futex_wait(&nudge.0.0, nudge.1, super::SLEEP_MAX);
    }
}
