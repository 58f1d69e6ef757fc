//! Another process, stopped at an instruction of our choice.
//!
//! Only its main thread is traced: the others, which fetch memory for it, go
//! on as they would if the scheduler had not given it the processor for a while.
//! A peer marks where something begins and ends by asking for its parent's pid,
//! which nothing else in it does.

#![allow(unsafe_code, reason = "the kernel's answer is a union")]

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::eventually;

/// The machine's instruction for a system call, as it lies in memory.
const SYSCALL: u16 = 0x050f;

/// More stops at system calls than anything here makes before it sleeps.
const STOPS_BEFORE_SLEEP: usize = 1000;

/// A traced process. Belongs to the thread that made it (ptrace(2)).
#[derive(Debug)]
pub struct Traced {
    pid: Pid,
}

/// What a process did on the way to a marker.
#[derive(Debug)]
pub enum Way {
    /// It reached the marker, after these system calls.
    Marker(Vec<u64>),
    /// It is past it: it answered, or ended, after these.
    Past(Vec<u64>),
}

impl Traced {
    /// Begins to trace a process that waits for a command.
    pub fn attach(pid: Pid) -> Traced {
        // A tracee must not outlive a test that failed.
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options).expect("a child that may be traced");
        ptrace::interrupt(pid).expect("seized");
        let traced = Traced { pid };
        traced.wait();
        traced
    }

    fn wait(&self) -> WaitStatus {
        waitpid(self.pid, Some(WaitPidFlag::__WALL)).expect("our child")
    }

    /// Runs to the next marker.
    pub fn run_to_marker(&self) -> Way {
        let mut calls = Vec::new();
        let mut signal = None;
        loop {
            ptrace::syscall(self.pid, signal.take()).expect("stopped");
            match self.wait() {
                WaitStatus::PtraceSyscall(_) => match self.entered() {
                    Some(nr) if nr == libc::SYS_getppid as u64 => {
                        ptrace::syscall(self.pid, None).expect("stopped");
                        self.wait();
                        return Way::Marker(calls);
                    }
                    Some(nr) if nr == libc::SYS_write as u64 => return Way::Past(calls),
                    Some(nr) => calls.push(nr),
                    None => {}
                },
                WaitStatus::Stopped(_, Signal::SIGTRAP) | WaitStatus::PtraceEvent(..) => {}
                WaitStatus::Stopped(_, other) => signal = Some(other),
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => return Way::Past(calls),
                other => panic!("a tracee that is {other:?}"),
            }
        }
    }

    /// Runs until it is about to sleep on a futex.
    pub fn run_to_sleep(&self) {
        for _ in 0..STOPS_BEFORE_SLEEP {
            ptrace::syscall(self.pid, None).expect("stopped");
            match self.wait() {
                WaitStatus::PtraceSyscall(_) if self.is_about_to_sleep() => return,
                WaitStatus::PtraceSyscall(_) => {}
                other => panic!("a tracee on its way to sleep that is {other:?}"),
            }
        }
        panic!("a tracee that does not go to sleep");
    }

    /// Lets one that is about to sleep do so.
    pub fn sleep(&self) {
        ptrace::syscall(self.pid, None).expect("stopped");
    }

    /// Waits until one that sleeps does no more, stops it there, and returns
    /// what the kernel tells it: 0 if somebody woke it.
    pub fn woken(&self) -> i64 {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::WNOHANG;
        let status = eventually("it is woken", || {
            match waitpid(self.pid, Some(flags)).expect("our child") {
                WaitStatus::StillAlive => None,
                status => Some(status),
            }
        });
        assert!(matches!(status, WaitStatus::PtraceSyscall(_)), "{status:?}");
        let info = ptrace::syscall_info(self.pid).expect("in a system call");
        assert_eq!(info.op, libc::PTRACE_SYSCALL_INFO_EXIT);
        // SAFETY: of the union's members the kernel has filled in this one.
        unsafe { info.u.exit.sval }
    }

    /// The system call it is about to make, if it is about to make one.
    fn entered(&self) -> Option<u64> {
        self.entry().map(|(nr, _)| nr)
    }

    fn is_about_to_sleep(&self) -> bool {
        self.entry().is_some_and(|(nr, args)| {
            nr == libc::SYS_futex as u64 && args[1] == libc::FUTEX_WAIT as u64
        })
    }

    fn entry(&self) -> Option<(u64, [u64; 6])> {
        let info = ptrace::syscall_info(self.pid).expect("in a system call");
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return None;
        }
        // SAFETY: of the union's members the kernel has filled in this one.
        let entry = unsafe { info.u.entry };
        Some((entry.nr, entry.args))
    }

    /// Whether its next instruction is a system call.
    pub fn is_about_to_call(&self) -> bool {
        let at = ptrace::getregs(self.pid).expect("stopped").rip;
        let word = ptrace::read(self.pid, at as ptrace::AddressType).expect("code");
        word as u16 == SYSCALL
    }

    /// Runs this many instructions and stops.
    pub fn step(&self, instructions: usize) {
        for _ in 0..instructions {
            ptrace::step(self.pid, None).expect("stopped");
            self.wait();
        }
    }

    /// Lets it go on by itself.
    pub fn release(self) {
        ptrace::detach(self.pid, None).expect("stopped");
    }
}
