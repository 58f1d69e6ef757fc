//! A daemon whose system calls fail, once or until it is left alone, while it has
//! everything to do that a daemon does.
//!
//! What fails is what a kernel may refuse of each: room, memory, descriptors, the disk; an
//! interruption; fewer bytes than were asked for. Memory that has no file is left out: Rust
//! ends a program that gets none of it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::Error;

use super::promises::TRIED;
use super::service::{lived, outlast};
use super::{Effort, Verdicts};
use crate::supervised::{Call, Order};
use crate::{Instance, PATIENCE, Programs};

const SHORT: Order = Order::Shorten;
const FULL: Order = Order::Fail(Error::ENOSPC);
const NO_MEMORY: Order = Order::Fail(Error::ENOMEM);
const NO_DESCRIPTOR: Order = Order::Fail(Error::EMFILE);
const BROKEN: Order = Order::Fail(Error::EIO);
const INTERRUPTED: Order = Order::Fail(Error::EINTR);
const AGAIN: Order = Order::Fail(Error::EAGAIN);

/// What may become of calls of each kind.
const FAULTS: &[(libc::c_long, &[Order])] = &[
    (libc::SYS_openat, &[NO_DESCRIPTOR, FULL, BROKEN]),
    (libc::SYS_mmap, &[NO_MEMORY]),
    (libc::SYS_fallocate, &[FULL, INTERRUPTED]),
    (libc::SYS_ftruncate, &[FULL, BROKEN]),
    (libc::SYS_memfd_create, &[NO_DESCRIPTOR, NO_MEMORY]),
    (libc::SYS_write, &[FULL, BROKEN, INTERRUPTED, SHORT]),
    (libc::SYS_pwrite64, &[FULL, BROKEN, INTERRUPTED, SHORT]),
    (libc::SYS_read, &[BROKEN, INTERRUPTED, SHORT]),
    (libc::SYS_pread64, &[BROKEN, INTERRUPTED, SHORT]),
    (libc::SYS_fsync, &[BROKEN, FULL]),
    (libc::SYS_fdatasync, &[BROKEN, FULL]),
    (libc::SYS_rename, &[BROKEN, FULL]),
    (libc::SYS_renameat2, &[BROKEN, FULL]),
    (libc::SYS_mkdir, &[BROKEN, FULL]),
    (libc::SYS_unlink, &[BROKEN]),
    (libc::SYS_unlinkat, &[BROKEN]),
    (libc::SYS_getdents64, &[BROKEN, NO_MEMORY]),
    (libc::SYS_statx, &[BROKEN, NO_MEMORY]),
    (libc::SYS_fstat, &[BROKEN]),
    (libc::SYS_fstatfs, &[BROKEN]),
    (libc::SYS_statfs, &[BROKEN]),
    (libc::SYS_flock, &[Order::Fail(Error::ENOLCK), INTERRUPTED]),
    (libc::SYS_clone3, &[AGAIN]),
    (libc::SYS_eventfd2, &[NO_DESCRIPTOR, NO_MEMORY]),
    (libc::SYS_socket, &[NO_DESCRIPTOR]),
    (libc::SYS_socketpair, &[NO_DESCRIPTOR]),
    (libc::SYS_bind, &[FULL]),
    (libc::SYS_accept4, &[NO_DESCRIPTOR, NO_MEMORY, INTERRUPTED]),
    (libc::SYS_recvmsg, &[NO_MEMORY, INTERRUPTED]),
    (libc::SYS_sendmsg, &[NO_MEMORY, INTERRUPTED]),
    (libc::SYS_poll, &[NO_MEMORY, INTERRUPTED]),
    (libc::SYS_ppoll, &[NO_MEMORY, INTERRUPTED]),
    (libc::SYS_epoll_wait, &[INTERRUPTED]),
];

/// Which call fails.
#[derive(Clone, Copy, Debug)]
struct Shortage {
    /// Of this kind,
    nr: u64,
    /// so many are made before.
    after: usize,
    fault: Order,
    /// All that follow fail, too.
    is_lasting: bool,
}

impl Shortage {
    fn all(counts: &BTreeMap<u64, usize>) -> Vec<Shortage> {
        let mut all = Vec::new();
        for (nr, faults) in FAULTS {
            let nr = *nr as u64;
            for after in 0..counts.get(&nr).copied().unwrap_or(0) {
                for fault in *faults {
                    // Who is always interrupted, or gets less and less, comes to no end.
                    let lasting = [false, true];
                    let count = if [INTERRUPTED, SHORT].contains(fault) {
                        1
                    } else {
                        2
                    };
                    all.extend(lasting.into_iter().take(count).map(|is_lasting| Shortage {
                        nr,
                        after,
                        fault: *fault,
                        is_lasting,
                    }));
                }
            }
        }
        all
    }

    /// What becomes of a call, of which so many of its kind were made before.
    fn order(&self, before: usize) -> Order {
        let is_it = before == self.after || (self.is_lasting && before > self.after);
        if is_it { self.fault } else { Order::Go }
    }
}

/// Whether it is to fail: memory without a file is the allocator's, and a counter takes 8
/// bytes or none.
fn may_fail(call: &Call) -> bool {
    let is_of = |nr: libc::c_long| call.nr == nr as u64;
    if is_of(libc::SYS_mmap) {
        return call.args[4] as i32 >= 0;
    }
    // Whoever starts it hears of that by what it reports.
    if is_of(libc::SYS_write) && call.args[0] == libc::STDERR_FILENO as u64 {
        return false;
    }
    let is_counter = call.args[2] == 8;
    !((is_of(libc::SYS_write) || is_of(libc::SYS_read)) && is_counter)
}

/// Starves daemons.
///
/// # Panics
///
/// If a daemon that lacks nothing does not do everything.
pub fn starve(programs: Programs, effort: &Effort) -> Verdicts {
    let began = Instant::now();
    let mut verdicts = Verdicts::new("starve", effort);
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    let count = |call: &Call, _| {
        if may_fail(call) {
            *counts.entry(call.nr).or_default() += 1;
        }
        Order::Go
    };
    let told = lived(&Instance::new(programs), PATIENCE, |_| {}, count, |_, _| {});
    assert!(told.is_through, "{told:?}");
    let shortages = Shortage::all(&counts);
    let cases = effort.cases(shortages.len(), "shortages");
    let has_time = |_: &&usize| effort.has_time();
    for case in cases.iter().take_while(has_time) {
        let shortage = &shortages[*case];
        let name = format!("{shortage:?}");
        if !name.contains(&effort.only) {
            continue;
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            one(programs, shortage, &mut verdicts, &name);
        }));
        verdicts.count("starved", 1);
        verdicts.check(TRIED, outcome.is_ok(), || name);
    }
    eprintln!(
        "starve: {} of {} shortages in {:.1} s",
        verdicts.counted("starved"),
        shortages.len(),
        began.elapsed().as_secs_f64()
    );
    verdicts
}

fn one(programs: Programs, shortage: &Shortage, verdicts: &mut Verdicts, case: &str) {
    let mut before = 0;
    let is_over = AtomicBool::new(false);
    let decide = |call: &Call, _| {
        if call.nr != shortage.nr || !may_fail(call) || is_over.load(Ordering::Relaxed) {
            return Order::Go;
        }
        before += 1;
        shortage.order(before - 1)
    };
    let end = |_| is_over.store(true, Ordering::Relaxed);
    let mut instance = Instance::new(programs);
    outlast(&mut instance, |_| {}, decide, end, verdicts, case);
}
