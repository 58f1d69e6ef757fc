//! Another process, each thread of which is stopped before every system call, which may be
//! made, or fail.

#![allow(
    unsafe_code,
    reason = "what a child does before it becomes the program"
)]

mod daemon;

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, Command};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::call::Call;
use crate::process::{Lines, Process};

pub use daemon::{Served, serve};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It is made.
    Go,
    /// Its process is killed.
    Kill,
    /// It is not made, and fails with this.
    Fail(nix::Error),
    /// It is made with half as many bytes, at least one: its third argument.
    Shorten,
}

/// A process that is supervised by the thread that started it (ptrace(2)).
#[derive(Debug)]
pub struct Supervised {
    process: Process,
    /// How it has ended.
    ended: Option<WaitStatus>,
    /// Calls that are not made, by thread.
    failing: HashMap<Pid, nix::Error>,
}

impl Supervised {
    /// Starts a command.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start(command: &mut Command) -> Supervised {
        let ask = || Ok(ptrace::traceme()?);
        // SAFETY: between fork and exec the child makes one system call, and takes
        // neither memory nor locks.
        unsafe { command.pre_exec(ask) };
        // A group of its own, whose threads are waited for and nobody else's.
        let process = Process::start(command.process_group(0));
        let pid = process.pid();
        let status = waitpid(pid, Some(WaitPidFlag::__WALL)).expect("our child");
        assert_eq!(
            status,
            WaitStatus::Stopped(pid, Signal::SIGTRAP),
            "it has become the program"
        );
        let options = ptrace::Options::PTRACE_O_TRACESYSGOOD
            | ptrace::Options::PTRACE_O_TRACECLONE
            | ptrace::Options::PTRACE_O_EXITKILL;
        ptrace::setoptions(pid, options).expect("stopped");
        ptrace::syscall(pid, None).expect("stopped");
        Supervised {
            process,
            ended: None,
            failing: HashMap::new(),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// What it says on standard error, if it was told to write that into a pipe.
    pub fn stderr(&mut self) -> Lines<ChildStderr> {
        Lines::of(self.process.stderr.take().expect("piped"))
    }

    /// How it has ended, if it has.
    pub fn ended(&self) -> Option<WaitStatus> {
        self.ended
    }

    /// Lets it run to its end, with what is decided about each call.
    pub fn run(&mut self, mut decide: impl FnMut(&Call) -> Order) {
        let group = Pid::from_raw(-self.pid().as_raw());
        while self.ended.is_none() {
            let status = waitpid(group, Some(WaitPidFlag::__WALL)).expect("until it has ended");
            let thread = status.pid().expect("somebody's");
            let mut signal = None;
            match status {
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                    self.ended = (thread == self.pid()).then_some(status);
                    continue;
                }
                WaitStatus::PtraceSyscall(_) => {
                    // One that was killed between two looks can no longer be asked.
                    let _ = self.look(thread, &mut decide);
                }
                // A thread that is new, or one that has started another.
                WaitStatus::Stopped(_, Signal::SIGSTOP | Signal::SIGTRAP)
                | WaitStatus::PtraceEvent(..) => {}
                WaitStatus::Stopped(_, other) => signal = Some(other),
                other => panic!("a tracee that is {other:?}"),
            }
            // It may have been killed meanwhile: its end is told by the next wait.
            let _ = ptrace::syscall(thread, signal);
        }
    }

    /// Looks at a thread that is before a call, or behind one.
    fn look(&mut self, thread: Pid, decide: &mut impl FnMut(&Call) -> Order) -> nix::Result<()> {
        let Some(call) = Call::entered(thread)? else {
            if let Some(error) = self.failing.remove(&thread) {
                let mut registers = ptrace::getregs(thread)?;
                registers.rax = -i64::from(error as i32) as u64;
                ptrace::setregs(thread, registers)?;
            }
            return Ok(());
        };
        match decide(&call) {
            Order::Go => {}
            Order::Kill => self.process.signal(Signal::SIGKILL),
            Order::Fail(error) => {
                let mut registers = ptrace::getregs(thread)?;
                // No call has this number.
                registers.orig_rax = u64::MAX;
                ptrace::setregs(thread, registers)?;
                self.failing.insert(thread, error);
            }
            Order::Shorten => {
                let mut registers = ptrace::getregs(thread)?;
                registers.rdx = (registers.rdx / 2).max(1);
                ptrace::setregs(thread, registers)?;
            }
        }
        Ok(())
    }
}

impl Drop for Supervised {
    /// Its threads have to be waited for by whoever traces them, or it never ends.
    fn drop(&mut self) {
        if self.ended.is_none() {
            self.process.signal(Signal::SIGKILL);
            self.run(|_| Order::Go);
        }
        self.process.has_ended();
    }
}
