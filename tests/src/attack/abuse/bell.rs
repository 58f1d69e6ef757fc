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

/// One operation on the bell as a futex, whichever there is: of the one call that has all of
/// them (futex(2)), or of those that came later.
pub(super) fn play_with_futexes(words: &[AtomicU32], rng: &mut fastrand::Rng) -> Result<(), Errno> {
    // Those that others sleep at lie on the first lines.
    let range = if rng.bool() { ..64 } else { ..words.len() };
    let [word, other] = [range, range].map(|range| &words[rng.usize(range)]);
    let other = if rng.bool() { &ASIDE } else { other };
    match rng.u8(..4) {
        0 => play_anew(word, other, rng),
        _ => play(word, other, rng),
    }
}

/// Where a requeue moves sleepers that nobody wakes.
static ASIDE: AtomicU32 = AtomicU32::new(0);

/// An absolute time.
fn soon(clock: ClockId) -> Result<libc::timespec, Errno> {
    Ok(timespec(Duration::from(clock_gettime(clock)?) + NAP))
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: time.subsec_nanos().into(),
    }
}

/// What the later calls take of each word (linux/futex.h, `struct futex_waitv`).
#[repr(C)]
struct Waiter {
    value: u64,
    at: u64,
    flags: u32,
    reserved: u32,
}

/// One of the calls of Linux 5.16 and 6.7, as linux/futex.h has them.
fn play_anew(word: &AtomicU32, other: &AtomicU32, rng: &mut fastrand::Rng) -> Result<(), Errno> {
    // The same on all architectures but Alpha; not in `libc` yet.
    const SYS_FUTEX_WAKE: libc::c_long = 454;
    const SYS_FUTEX_WAIT: libc::c_long = 455;
    const SYS_FUTEX_REQUEUE: libc::c_long = 456;
    const OF_32_BITS: u32 = 2;
    let until = soon(ClockId::CLOCK_MONOTONIC)?;
    let waiters = [word, other].map(|word| Waiter {
        value: word.load(Ordering::Relaxed).into(),
        at: word.as_ptr() as u64,
        flags: OF_32_BITS,
        reserved: 0,
    });
    let (value, at, mask) = (waiters[0].value, word.as_ptr(), u64::from(rng.u32(1..)));
    let (waiters, until) = (waiters.as_ptr(), &raw const until);
    let clock = libc::CLOCK_MONOTONIC;
    // SAFETY: both words live as long as the process, the rest as long as the call, and the
    // kernel writes to none of them.
    unsafe {
        match rng.u8(..4) {
            0 => libc::syscall(SYS_FUTEX_WAKE, at, mask, i32::MAX, OF_32_BITS),
            1 => libc::syscall(SYS_FUTEX_WAIT, at, value, mask, OF_32_BITS, until, clock),
            2 => libc::syscall(SYS_FUTEX_REQUEUE, waiters, 0, 1, i32::MAX),
            _ => libc::syscall(libc::SYS_futex_waitv, waiters, 2, 0, until, clock),
        };
    }
    Ok(())
}

fn play(word: &AtomicU32, other: &AtomicU32, rng: &mut fastrand::Rng) -> Result<(), Errno> {
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
    let operation = OPERATIONS[rng.usize(..OPERATIONS.len())];
    let has_clock = matches!(
        operation,
        libc::FUTEX_WAIT_BITSET | libc::FUTEX_WAIT_REQUEUE_PI | libc::FUTEX_LOCK_PI2
    );
    let (flags, clock) = match rng.u8(..4) {
        // It finds nobody of another process.
        0 => (libc::FUTEX_PRIVATE_FLAG, ClockId::CLOCK_MONOTONIC),
        1 if has_clock => (libc::FUTEX_CLOCK_REALTIME, ClockId::CLOCK_REALTIME),
        _ => (0, ClockId::CLOCK_MONOTONIC),
    };
    let timeout = match operation {
        libc::FUTEX_WAIT => timespec(NAP),
        libc::FUTEX_LOCK_PI => soon(ClockId::CLOCK_REALTIME)?,
        _ => soon(clock)?,
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
            operation | flags,
            if is_wake { 1 } else { value },
            fourth,
            other.as_ptr(),
            sixth,
        );
    }
    Ok(())
}
