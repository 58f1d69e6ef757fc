//! What this machine can do, without any ledger.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use nix::sys::wait::waitpid;

use crate::report::{histogram, mean, percentiles, pin};
use crate::watch::{spawn, SharedPage};

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

/// One cache line there and back between two spinning processes.
pub fn cache_line(scale: u64) {
    let page = SharedPage::create("line");
    let [there, back] = [page.word64(0), page.word64(128)];
    let child = spawn("echo-line", &[page.name()]);
    pin(0);
    let mut latencies = histogram();
    for n in 1..=1_000_000 / scale {
        let start = Instant::now();
        there.store(n, Ordering::Release);
        while back.load(Ordering::Acquire) != n {
            std::hint::spin_loop();
        }
        latencies.saturating_record(start.elapsed().as_nanos() as u64);
    }
    there.store(u64::MAX, Ordering::Release);
    waitpid(child, None).expect("our child");
    percentiles("limit/cache-line there and back", &latencies);
}

pub fn echo_line(there: &AtomicU64, back: &AtomicU64) {
    let mut seen = 0;
    while seen != u64::MAX {
        let now = there.load(Ordering::Acquire);
        if now != seen {
            back.store(now, Ordering::Release);
            seen = now;
        }
        std::hint::spin_loop();
    }
}

/// Park and wake, there and back, with nothing but a futex.
pub fn futex(scale: u64) {
    let page = SharedPage::create("futex");
    let [there, back] = [page.word32(0), page.word32(128)];
    let child = spawn("echo-futex", &[page.name()]);
    pin(0);
    let mut latencies = histogram();
    for n in 1..=(20_000 / scale) as u32 {
        let start = Instant::now();
        wake(there, n);
        wait(back, n);
        latencies.saturating_record(start.elapsed().as_nanos() as u64);
    }
    wake(there, u32::MAX);
    waitpid(child, None).expect("our child");
    percentiles("limit/futex there and back", &latencies);
}

pub fn echo_futex(there: &AtomicU32, back: &AtomicU32) {
    let mut next = 1;
    loop {
        wait(there, next);
        if there.load(Ordering::Acquire) == u32::MAX {
            return;
        }
        wake(back, next);
        next += 1;
    }
}

fn wake(word: &AtomicU32, value: u32) {
    word.store(value, Ordering::Release);
    // SAFETY: FUTEX_WAKE reads no memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, 1) };
}

fn wait(word: &AtomicU32, value: u32) {
    loop {
        let now = word.load(Ordering::Acquire);
        if now == value || now == u32::MAX {
            return;
        }
        // SAFETY: the word outlives the call; no timeout is given.
        unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, now, 0) };
    }
}

/// The kernel's own rate of committing and zeroing memory.
pub fn commit(scale: u64) {
    let mut latencies = histogram();
    const LEN: u64 = 64 << 20;
    for n in 0..30 / scale.min(6) {
        let name = format!("/ledger-bench-commit-{}-{n}", std::process::id());
        let flags = nix::fcntl::OFlag::O_CREAT | nix::fcntl::OFlag::O_RDWR;
        let fd = nix::sys::mman::shm_open(name.as_str(), flags, nix::sys::stat::Mode::S_IRWXU)
            .expect("shared memory");
        let start = Instant::now();
        let mode = nix::fcntl::FallocateFlags::empty();
        nix::fcntl::fallocate(&fd, mode, 0, LEN as i64).expect("room");
        latencies.saturating_record(start.elapsed().as_nanos() as u64);
        nix::sys::mman::shm_unlink(name.as_str()).expect("ours");
    }
    percentiles("limit/commit 64 MiB", &latencies);
    println!("limit/commit rate: {:.2} GB/s", LEN as f64 / latencies.mean());
}
