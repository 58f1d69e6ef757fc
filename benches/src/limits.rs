//! What this machine can do, without any ledger.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use crate::memory::SharedMemory;
use crate::report::{histogram, mean, percentiles, pin};

/// The wall clock through the vDSO.
pub fn clock(scale: u64) {
    let count = 5_000_000 / scale;
    pin(1);
    let start = Instant::now();
    for _ in 0..count {
        std::hint::black_box(SystemTime::now());
    }
    mean("limit/clock", count, start.elapsed());
}

/// One cache line there and back between two spinning processes: our half.
pub fn send_line([there, back]: [&AtomicU64; 2], n: u64) {
    there.store(n, Ordering::Release);
    while back.load(Ordering::Acquire) != n {
        std::hint::spin_loop();
    }
}

/// The other half of [`send_line`].
pub fn answer_line([there, back]: [&AtomicU64; 2], n: u64) {
    while there.load(Ordering::Acquire) != n {
        std::hint::spin_loop();
    }
    back.store(n, Ordering::Release);
}

/// Park and wake, there and back, with nothing but a futex: our half.
pub fn send_futex([there, back]: [&AtomicU32; 2], n: u32) {
    wake(there, n);
    wait(back, n);
}

/// The other half of [`send_futex`].
pub fn answer_futex([there, back]: [&AtomicU32; 2], n: u32) {
    wait(there, n);
    wake(back, n);
}

pub fn wake(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    // SAFETY: FUTEX_WAKE reads no memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

fn wait(word: &AtomicU32, value: u32) {
    let mut now = word.load(Ordering::Acquire);
    while now != value {
        now = wait_for_change(word, now);
    }
}

/// Sleeps as long as a word has this value; says what it has then.
pub fn wait_for_change(word: &AtomicU32, seen: u32) -> u32 {
    loop {
        let now = word.load(Ordering::Acquire);
        if now != seen {
            return now;
        }
        // SAFETY: the word outlives the call; no timeout is given.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, now, 0) };
    }
}

/// Two dependent reads at random places of as much shared memory as `log/get`
/// reads from: an offset out of an index, then two cache lines there.
pub fn random_reads(scale: u64) {
    for count in [20_000, 1_000_000 / scale] {
        random_reads_of(count);
    }
}

fn random_reads_of(count: u64) {
    const RECORD_LEN: u64 = 144;
    const READS: u64 = 1_000_000;
    let memory = SharedMemory::create("reads", (count * (8 + RECORD_LEN)) as usize);
    for n in 0..count {
        memory
            .word64(8 * n as usize)
            .store(8 * count + n * RECORD_LEN, Ordering::Relaxed);
        memory
            .word64((8 * count + n * RECORD_LEN) as usize)
            .store(n, Ordering::Relaxed);
    }
    let mut seq = 1_u64;
    for _ in 0..3 {
        let mut sum = 0;
        let start = Instant::now();
        for _ in 0..READS {
            seq = (seq.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)) | 1;
            let index = (seq >> 20) % count;
            let at = memory.word64(8 * index as usize).load(Ordering::Relaxed) as usize;
            let first = memory.word64(at).load(Ordering::Relaxed);
            sum += first + memory.word64(at + 128).load(Ordering::Relaxed);
            // Always zero; but now one read waits for the one before.
            seq ^= sum >> 63;
        }
        let elapsed = start.elapsed();
        std::hint::black_box(sum);
        mean(
            &format!("limit/two random reads, {count} there"),
            READS,
            elapsed,
        );
    }
}

/// What the kernel takes to commit memory, and to zero and map it: the bound of
/// every append that goes on and on.
pub fn zeroing(scale: u64) {
    const LEN: usize = 64 << 20;
    let (mut commits, mut populates) = (histogram(), histogram());
    for _ in 0..30 / scale.min(6) {
        let start = Instant::now();
        let memory = SharedMemory::create_committed("zeroing", LEN);
        commits.saturating_record(start.elapsed().as_nanos() as u64);
        let start = Instant::now();
        memory.populate();
        populates.saturating_record(start.elapsed().as_nanos() as u64);
    }
    percentiles("limit/commit 64 MiB", &commits);
    percentiles("limit/zero and map 64 MiB", &populates);
    println!(
        "{:<34} {:.2} GB/s",
        "limit/commit, zero and map",
        LEN as f64 / (commits.mean() + populates.mean())
    );
}
