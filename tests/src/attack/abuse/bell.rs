//! The words that watchers sleep at, which everybody may write.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};

use super::NAP;

/// Any value into any of its words.
pub(super) fn scribble(words: &[AtomicU32], rng: &mut fastrand::Rng) {
    let value = match rng.u8(..4) {
        0 => u32::from(rng.bool()),
        1 => u32::MAX - u32::from(rng.bool()),
        _ => rng.u32(..),
    };
    // The first ones more often: there are what all look at.
    let range = if rng.bool() { ..64 } else { ..words.len() };
    words[rng.usize(range)].store(value, Ordering::Relaxed);
}

/// One operation of futex(2) that takes effect on the bell, whichever it is.
pub(super) fn play_with_futexes(words: &[AtomicU32], rng: &mut fastrand::Rng) -> Result<(), Errno> {
    const OPERATIONS: [libc::c_int; 13] = [
        libc::FUTEX_WAIT,
        libc::FUTEX_WAKE,
        libc::FUTEX_REQUEUE,
        libc::FUTEX_CMP_REQUEUE,
        libc::FUTEX_WAKE_OP,
        libc::FUTEX_LOCK_PI,
        libc::FUTEX_UNLOCK_PI,
        libc::FUTEX_TRYLOCK_PI,
        libc::FUTEX_WAIT_BITSET,
        libc::FUTEX_WAKE_BITSET,
        libc::FUTEX_WAIT_REQUEUE_PI,
        libc::FUTEX_CMP_REQUEUE_PI,
        libc::FUTEX_LOCK_PI2,
    ];
    /// Where a requeue moves sleepers that nobody wakes.
    static ASIDE: AtomicU32 = AtomicU32::new(0);
    // The words that others sleep at lie on the first lines.
    let word = &words[rng.usize(..64)];
    let operation = OPERATIONS[rng.usize(..OPERATIONS.len())];
    let clock = match operation {
        libc::FUTEX_LOCK_PI => ClockId::CLOCK_REALTIME,
        _ => ClockId::CLOCK_MONOTONIC,
    };
    let until = Duration::from(clock_gettime(clock)?) + NAP;
    let until = if operation == libc::FUTEX_WAIT {
        NAP
    } else {
        until
    };
    let timeout = libc::timespec {
        tv_sec: until.as_secs() as libc::time_t,
        tv_nsec: until.subsec_nanos().into(),
    };
    let is_wake = matches!(
        operation,
        libc::FUTEX_WAKE_OP
            | libc::FUTEX_REQUEUE
            | libc::FUTEX_CMP_REQUEUE
            | libc::FUTEX_CMP_REQUEUE_PI
    );
    // These take a number of sleepers where the others take a time.
    let fourth = if is_wake {
        i32::MAX as usize as *const libc::timespec
    } else {
        &raw const timeout
    };
    let other = if rng.bool() {
        &ASIDE
    } else {
        &words[rng.usize(..64)]
    };
    let value = word.load(Ordering::Relaxed);
    let is_of_bits = matches!(operation, libc::FUTEX_WAIT_BITSET | libc::FUTEX_WAKE_BITSET);
    // Which bits there, what the word has to be elsewhere; no bits at all are refused.
    let sixth = if is_of_bits { value | 1 } else { value };
    // SAFETY: both words live as long as the process, the time as long as the call,
    // and the kernel writes nothing but these words.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation,
            if is_wake { 1 } else { value },
            fourth,
            other.as_ptr(),
            sixth,
        );
    }
    Ok(())
}
