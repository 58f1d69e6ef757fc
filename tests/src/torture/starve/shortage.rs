//! Which calls can fail, how, and how long.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use nix::Error;

use crate::call::Call;
use crate::supervised::Order;
use crate::torture::Verdicts;
use crate::torture::aftermath::Until;
use crate::torture::promises::TRIED;

const SHORT: Order = Order::Shorten;
const FULL: Order = Order::Fail(Error::ENOSPC);
const NO_MEMORY: Order = Order::Fail(Error::ENOMEM);
const NO_DESCRIPTOR: Order = Order::Fail(Error::EMFILE);
const BROKEN: Order = Order::Fail(Error::EIO);
const INTERRUPTED: Order = Order::Fail(Error::EINTR);
const AGAIN: Order = Order::Fail(Error::EAGAIN);
/// What is interrupted each time comes to no end.
const INTERRUPTED_MAX: usize = 100;

/// What may become of calls of each kind.
pub(super) const FAULTS: &[(libc::c_long, &[Order])] = &[
    (
        libc::SYS_openat,
        &[NO_DESCRIPTOR, NO_MEMORY, FULL, BROKEN, INTERRUPTED],
    ),
    (libc::SYS_mmap, &[NO_MEMORY]),
    (libc::SYS_madvise, &[NO_MEMORY]),
    (libc::SYS_fallocate, &[FULL, INTERRUPTED]),
    (libc::SYS_ftruncate, &[FULL, BROKEN, INTERRUPTED]),
    (libc::SYS_memfd_create, &[NO_DESCRIPTOR, NO_MEMORY]),
    (libc::SYS_write, &[FULL, BROKEN, INTERRUPTED, SHORT]),
    (libc::SYS_pwrite64, &[FULL, BROKEN, INTERRUPTED, SHORT]),
    (libc::SYS_read, &[BROKEN, INTERRUPTED, SHORT]),
    (libc::SYS_pread64, &[BROKEN, INTERRUPTED, SHORT]),
    (libc::SYS_fsync, &[BROKEN, FULL, INTERRUPTED]),
    (libc::SYS_fdatasync, &[BROKEN, FULL, INTERRUPTED]),
    (libc::SYS_rename, &[BROKEN, FULL, NO_MEMORY]),
    (libc::SYS_renameat, &[BROKEN, FULL, NO_MEMORY]),
    (libc::SYS_renameat2, &[BROKEN, FULL, NO_MEMORY]),
    (libc::SYS_mkdir, &[BROKEN, FULL, NO_MEMORY]),
    (libc::SYS_unlink, &[BROKEN, NO_MEMORY]),
    (libc::SYS_unlinkat, &[BROKEN, NO_MEMORY]),
    (libc::SYS_getdents64, &[BROKEN, NO_MEMORY]),
    (libc::SYS_statx, &[BROKEN, NO_MEMORY]),
    (libc::SYS_newfstatat, &[BROKEN, NO_MEMORY]),
    (libc::SYS_statfs, &[BROKEN]),
    (libc::SYS_flock, &[Order::Fail(Error::ENOLCK), INTERRUPTED]),
    (libc::SYS_clone3, &[AGAIN]),
    (libc::SYS_fcntl, &[NO_DESCRIPTOR]),
    (libc::SYS_signalfd4, &[NO_DESCRIPTOR, NO_MEMORY]),
    (libc::SYS_eventfd2, &[NO_DESCRIPTOR, NO_MEMORY]),
    (libc::SYS_socket, &[NO_DESCRIPTOR]),
    (libc::SYS_socketpair, &[NO_DESCRIPTOR]),
    (libc::SYS_bind, &[FULL]),
    (libc::SYS_connect, &[NO_MEMORY, INTERRUPTED]),
    (libc::SYS_accept4, &[NO_DESCRIPTOR, NO_MEMORY, INTERRUPTED]),
    // As a kernel that does not know the option.
    (libc::SYS_setsockopt, &[Order::Fail(Error::ENOPROTOOPT)]),
    (libc::SYS_recvfrom, &[BROKEN, INTERRUPTED, SHORT]),
    (libc::SYS_sendto, &[NO_MEMORY, INTERRUPTED]),
    (libc::SYS_recvmsg, &[NO_MEMORY, INTERRUPTED]),
    (libc::SYS_sendmsg, &[NO_MEMORY, INTERRUPTED]),
    (libc::SYS_poll, &[NO_MEMORY, INTERRUPTED]),
    (libc::SYS_epoll_create1, &[NO_DESCRIPTOR, NO_MEMORY]),
    (libc::SYS_epoll_ctl, &[FULL, NO_MEMORY]),
    (libc::SYS_epoll_wait, &[INTERRUPTED]),
];

/// Calls that a kernel refuses nobody who makes them as they are made here: what is unmapped
/// is a whole mapping, what is closed is closed whatever is answered, few random bytes are
/// had without an interruption, no signal that is waited for has a handler, and who sleeps at
/// a futex looks again whatever it is told; and those for memory without a file, which are
/// the allocator's and the standard library's.
const LEFT_OUT: &[libc::c_long] = &[
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_brk,
    libc::SYS_close,
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getcwd,
    libc::SYS_geteuid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_ioctl,
    libc::SYS_listen,
    libc::SYS_munmap,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
];

/// Calls by which a daemon has connections.
const OF_CONNECTIONS: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_epoll_ctl,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
];

/// Which call fails.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shortage {
    /// Of this kind,
    nr: u64,
    /// so many are made before.
    after: usize,
    fault: Order,
    /// All that follow fail, too,
    is_lasting: bool,
    /// so long.
    pub(super) until: Until,
}

/// How many calls of each kind somebody makes, and how many of them before it is to end.
pub(super) type Counts = BTreeMap<u64, [usize; 2]>;

impl Shortage {
    pub(super) fn all(counts: &Counts) -> Vec<Shortage> {
        let mut all = Vec::new();
        for (nr, faults) in FAULTS {
            let nr = *nr as u64;
            let [count, asked] = counts.get(&nr).copied().unwrap_or_default();
            for after in 0..count {
                for fault in *faults {
                    let shortage = |is_lasting, until| Shortage {
                        nr,
                        after,
                        fault: *fault,
                        is_lasting,
                        until,
                    };
                    if after < asked {
                        let until = Until::Asked;
                        all.extend([false, true].map(|is_lasting| shortage(is_lasting, until)));
                    } else {
                        all.push(shortage(false, Until::Ended));
                    }
                    all.push(shortage(true, Until::Ended));
                }
            }
        }
        all
    }

    /// Whether a daemon may let go of its clients for it, because it does not hear them or
    /// cannot answer.
    pub(super) fn may_cost_connection(&self) -> bool {
        OF_CONNECTIONS.iter().any(|nr| *nr as u64 == self.nr)
    }

    /// Whether somebody may end with this error for it: one that says what was refused, in
    /// the kernel's words, where that is no matter of trying again. What loads libraries before
    /// a program begins has its own words.
    pub(super) fn may_end_with(&self, said: &str) -> bool {
        let error = match self.fault {
            Order::Fail(error) if self.fault != INTERRUPTED || self.is_lasting => Some(error),
            _ => None,
        };
        let is_named = |error| {
            let words = std::io::Error::from_raw_os_error(error as i32).to_string();
            said.contains(words.split(" (os error").next().unwrap_or_default())
        };
        error.is_some_and(is_named) || said.contains("error while loading shared libraries")
    }
}

/// A shortage that takes its course.
#[derive(Debug)]
pub(super) struct Course<'a> {
    shortage: &'a Shortage,
    /// Calls of its kind that were made.
    before: usize,
    /// It was met.
    pub(super) is_met: bool,
}

impl Course<'_> {
    pub(super) fn of(shortage: &Shortage) -> Course<'_> {
        Course {
            shortage,
            before: 0,
            is_met: false,
        }
    }

    /// What becomes of the next call.
    pub(super) fn order(&mut self, call: &Call) -> Order {
        let Shortage {
            nr,
            after,
            fault,
            is_lasting,
            ..
        } = *self.shortage;
        if call.nr != nr || !may_fail(call) {
            return Order::Go;
        }
        let count = match (is_lasting, fault) {
            (false, _) => 1,
            (true, INTERRUPTED) => INTERRUPTED_MAX,
            (true, _) => usize::MAX,
        };
        let is_it = (after..after.saturating_add(count)).contains(&self.before);
        self.before += 1;
        self.is_met |= is_it;
        if is_it { fault } else { Order::Go }
    }
}

/// Counts the calls of somebody who lacks nothing.
#[derive(Debug, Default)]
pub(super) struct Tally(Mutex<Counts>);

impl Tally {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().expect("nobody panics with it")
    }

    pub(super) fn see(&self, call: &Call) {
        if may_fail(call) {
            self.counts().entry(call.nr).or_default()[0] += 1;
        }
    }

    /// Everything was asked of it.
    pub(super) fn ask(&self) {
        for [count, asked] in self.counts().values_mut() {
            *asked = *count;
        }
    }

    /// What was counted. Of each call it has to be said whether it can fail.
    pub(super) fn end(self, verdicts: &mut Verdicts) -> Counts {
        let counts = self.0.into_inner().expect("nobody panics with it");
        for nr in counts.keys() {
            let is_of = |of: &libc::c_long| *of as u64 == *nr;
            let is_listed = FAULTS.iter().any(|(of, _)| is_of(of)) || LEFT_OUT.iter().any(is_of);
            verdicts.check(TRIED, is_listed, || {
                format!("nobody says whether system call {nr} can fail")
            });
        }
        counts
    }
}

/// Whether its first argument is a descriptor of counted things or of signals, which are
/// had whole or not at all.
fn is_of_counter(call: &Call) -> bool {
    let described = call.described(call.args[0]);
    described.is_some_and(|what| what.to_string_lossy().starts_with("anon_inode:"))
}

/// Whether it is to fail: memory without a file is the allocator's.
fn may_fail(call: &Call) -> bool {
    let is_of = |nr: libc::c_long| call.nr == nr as u64;
    if is_of(libc::SYS_mmap) {
        return call.args[4] as i32 >= 0;
    }
    // Nothing else that is asked of a descriptor takes anything.
    if is_of(libc::SYS_fcntl) {
        return call.args[1] == libc::F_DUPFD_CLOEXEC as u64;
    }
    // What it is told and says is how whoever starts it hears of what comes of it.
    let is_told = call.args[0] <= libc::STDERR_FILENO as u64;
    !((is_of(libc::SYS_write) || is_of(libc::SYS_read)) && (is_told || is_of_counter(call)))
}
