//! Another process, stopped at an instruction of our choice.
//!
//! Only its main thread is traced: the others, which fetch memory for it, go
//! on as they would if the scheduler had not given it the processor for a while.
//! A peer marks where something begins and ends by asking for its parent's pid,
//! which nothing else in it does.

use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::call::Call;
use crate::eventually;
use crate::process::{thread_named, wait_for_state};

/// The machine's instruction for a system call, as it lies in memory.
const SYSCALL: u16 = 0x050f;

/// What a peer asks for that marks something.
const MARK: u64 = libc::SYS_getppid as u64;

/// How it answers.
const WRITE: u64 = libc::SYS_write as u64;

/// How long an instruction is that repeats itself until its counter is zero: REP, which
/// other prefixes may follow, before MOVS or STOS (Intel SDM 2B).
fn repeated_len(code: [u8; 8]) -> Option<u64> {
    let wide = usize::from(code[1] & 0xf0 == 0x40);
    let is_string = matches!(code[1 + wide], 0xa4 | 0xa5 | 0xaa | 0xab);
    (code[0] == 0xf3 && is_string).then_some(2 + wide as u64)
}

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
                WaitStatus::PtraceSyscall(_) => match self.entered_nr() {
                    Some(MARK) => {
                        ptrace::syscall(self.pid, None).expect("stopped");
                        self.wait();
                        return Way::Marker(calls);
                    }
                    Some(WRITE) => return Way::Past(calls),
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

    /// Runs until it is about to wait for another thread of its process, not longer than a
    /// while: for a lock it would wait for ever.
    ///
    /// # Panics
    ///
    /// If it comes to its next marker without.
    pub fn run_to_wait(&self) {
        const WAIT: libc::c_int = libc::FUTEX_WAIT_BITSET | libc::FUTEX_PRIVATE_FLAG;
        let is_wait = |call: &Call| {
            let [_, operation, _, timeout, ..] = call.args;
            call.nr == libc::SYS_futex as u64 && operation == WAIT as u64 && timeout != 0
        };
        loop {
            let call = self.run_to_call();
            assert_ne!(call.nr, MARK, "it waits for nobody");
            if is_wait(&call) {
                return;
            }
        }
    }

    /// Runs to the next marker, or past it, and says whether a sleep on a futex came to its end on the
    /// way without anybody having woken it.
    pub fn run_to_marker_oversleeping(&self) -> bool {
        let mut has_overslept = false;
        let mut is_sleeping = false;
        loop {
            self.run_to_stop();
            if let Some(said) = self.answered() {
                has_overslept |= is_sleeping && said == -i64::from(libc::ETIMEDOUT);
            } else if matches!(self.entered_nr(), Some(MARK | WRITE)) {
                return has_overslept;
            }
            is_sleeping = self.is_about_to_sleep();
        }
    }

    /// Whether its next instruction is the system call that has it sleep on a futex.
    pub fn is_about_to_doze(&self) -> bool {
        let registers = ptrace::getregs(self.pid).expect("stopped");
        let is_wait = registers.rsi == libc::FUTEX_WAIT as u64;
        registers.rax == libc::SYS_futex as u64 && is_wait && self.is_about_to_call()
    }

    /// Has it sleep, as the next instruction does, until it is woken by what is done
    /// meanwhile.
    pub fn doze(&self, meanwhile: impl FnOnce()) {
        ptrace::step(self.pid, None).expect("stopped");
        wait_for_state(self.pid, &['S']);
        meanwhile();
        self.wait();
    }

    /// How long the sleep lasts at most that it is about to begin; none if for ever.
    pub fn sleep_len(&self) -> Option<Duration> {
        let call = self.entered().filter(|_| self.is_about_to_sleep());
        let timeout_at = call.expect("about to sleep").args[3];
        let word = |at: u64| ptrace::read(self.pid, at as ptrace::AddressType).expect("its own");
        // A timespec is two words: seconds, and what is left of one.
        (timeout_at != 0).then(|| {
            let (seconds, rest) = (word(timeout_at), word(timeout_at + 8));
            Duration::new(seconds as u64, rest as u32)
        })
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
        self.answered().expect("behind a system call")
    }

    /// Runs to its next system call, and stops before it.
    pub fn run_to_call(&self) -> Call {
        loop {
            self.run_to_stop();
            if let Some(call) = self.entered() {
                return call;
            }
        }
    }

    /// Makes the system call before which it is stopped, and returns what the kernel says.
    fn call(&self) -> i64 {
        self.run_to_stop();
        self.answered().expect("behind a system call")
    }

    /// Runs to the next stop at a system call.
    fn run_to_stop(&self) {
        let mut signal = None;
        loop {
            ptrace::syscall(self.pid, signal.take()).expect("stopped");
            match self.wait() {
                WaitStatus::PtraceSyscall(_) => return,
                WaitStatus::Stopped(_, Signal::SIGTRAP) | WaitStatus::PtraceEvent(..) => {}
                WaitStatus::Stopped(_, other) => signal = Some(other),
                other => panic!("a tracee that is {other:?}"),
            }
        }
    }

    /// The system call it is about to make, if it is about to make one.
    fn entered(&self) -> Option<Call> {
        Call::entered(self.pid).expect("in a system call")
    }

    fn entered_nr(&self) -> Option<u64> {
        self.entered().map(|call| call.nr)
    }

    fn answered(&self) -> Option<i64> {
        Call::answered(self.pid).expect("in a system call")
    }

    fn is_about_to_sleep(&self) -> bool {
        self.entered().is_some_and(|call| {
            call.nr == libc::SYS_futex as u64 && call.args[1] == libc::FUTEX_WAIT as u64
        })
    }

    /// Whether its next instruction is a system call.
    pub fn is_about_to_call(&self) -> bool {
        let at = ptrace::getregs(self.pid).expect("stopped").rip;
        let word = ptrace::read(self.pid, at as ptrace::AddressType).expect("code");
        word as u16 == SYSCALL
    }

    /// Where its next instruction lies.
    pub fn at(&self) -> u64 {
        ptrace::getregs(self.pid).expect("stopped").rip
    }

    /// Whether its next instruction is the system call that marks an end.
    pub fn is_about_to_mark(&self) -> bool {
        let registers = ptrace::getregs(self.pid).expect("stopped");
        registers.rax == MARK && self.is_about_to_call()
    }

    /// Runs this many instructions and stops.
    pub fn step(&self, instructions: usize) {
        for _ in 0..instructions {
            ptrace::step(self.pid, None).expect("stopped");
            self.wait();
        }
    }

    /// If its next instruction is one that repeats itself, runs all of it, and says how
    /// many steps that is otherwise: in its counter.
    pub fn step_over_repeated(&self) -> Option<u64> {
        let registers = ptrace::getregs(self.pid).expect("stopped");
        let at = registers.rip;
        let code = ptrace::read(self.pid, at as ptrace::AddressType).expect("code");
        let len = repeated_len(code.to_le_bytes())?;
        self.run_to(at + len, 1);
        Some(registers.rcx)
    }

    /// Runs until it has come to this instruction so many times; false if it came to the
    /// next marker before, where it stops.
    pub fn run_to(&self, at: u64, times: usize) -> bool {
        self.set_breakpoint(Some(at));
        let has_come = (0..times).all(|_| self.run_to_breakpoint(at));
        self.set_breakpoint(None);
        has_come
    }

    fn run_to_breakpoint(&self, at: u64) -> bool {
        let mut signal = None;
        loop {
            ptrace::syscall(self.pid, signal.take()).expect("stopped");
            match self.wait() {
                WaitStatus::Stopped(_, Signal::SIGTRAP) if self.at() == at => return true,
                WaitStatus::PtraceSyscall(_) if self.entered_nr() == Some(MARK) => return false,
                WaitStatus::PtraceSyscall(_)
                | WaitStatus::Stopped(_, Signal::SIGTRAP)
                | WaitStatus::PtraceEvent(..) => {}
                WaitStatus::Stopped(_, other) => signal = Some(other),
                other => panic!("a tracee on its way to an instruction that is {other:?}"),
            }
        }
    }

    /// A breakpoint of the processor's: it changes no code, and stops before the
    /// instruction (Intel SDM 3B, 18.2).
    fn set_breakpoint(&self, at: Option<u64>) {
        let register = |number: usize| {
            let offset = std::mem::offset_of!(libc::user, u_debugreg) + number * size_of::<u64>();
            offset as ptrace::AddressType
        };
        let write = |number, value| ptrace::write_user(self.pid, register(number), value);
        // Off while its address changes.
        write(7, 0).expect("a processor with breakpoints");
        if let Some(at) = at {
            write(0, at as libc::c_long).expect("an address of its own");
            write(7, 1).expect("a processor with breakpoints");
        }
    }

    /// Lets it go on by itself.
    pub fn release(self) {
        ptrace::detach(self.pid, None).expect("stopped");
    }
}

/// One thread of a process, every system call of which is seen before and after it is
/// made. The thread goes on by itself once this is dropped.
#[derive(Debug)]
pub struct TracedThread {
    traced: Traced,
}

impl TracedThread {
    /// Begins to trace the thread of this name, as far as the kernel keeps names. A thread
    /// takes its name itself, some time after whoever made it has gone on.
    ///
    /// # Panics
    ///
    /// If the process gets no such thread.
    pub fn attach(process: u32, name: &str) -> TracedThread {
        let process = Pid::from_raw(process.cast_signed());
        let task = eventually("a thread of this name", || thread_named(process, name));
        let id = task.file_name().and_then(|id| id.to_str()?.parse().ok());
        let traced = Traced::attach(Pid::from_raw(id.expect("a thread id")));
        TracedThread { traced }
    }

    /// Runs to its next system call, and stops before it.
    pub fn run_to_call(&self) -> Call {
        self.traced.run_to_call()
    }

    /// Runs until it is about to wait for something to do, and stops there: with no lock
    /// that others of its process might need.
    pub fn run_to_rest(&self) {
        // What it was interrupted in is gone on with by a call of its own.
        const RESTS: [i64; 3] = [libc::SYS_poll, libc::SYS_ppoll, libc::SYS_restart_syscall];
        while !RESTS.contains(&(self.run_to_call().nr as i64)) {}
    }

    /// Makes that call, and stops behind it. Returns what the kernel says.
    pub fn call(&self) -> i64 {
        self.traced.call()
    }

    /// What a descriptor of it is, as the kernel names it.
    pub fn described(&self, fd: u64) -> Option<std::path::PathBuf> {
        std::fs::read_link(format!("/proc/{}/fd/{fd}", self.traced.pid)).ok()
    }
}

impl Drop for TracedThread {
    /// Also when a test fails: nobody else would wait for the thread's end, and nobody
    /// could wait for that of its process.
    fn drop(&mut self) {
        let _ = ptrace::detach(self.traced.pid, None);
    }
}
