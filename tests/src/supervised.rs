//! Another process, each thread of which is stopped before every system call.

#![allow(
    unsafe_code,
    reason = "what a child does before it becomes the program"
)]

use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, Command};

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::process::{Lines, Process};

/// A process that is supervised by the thread that started it (ptrace(2)).
#[derive(Debug)]
pub struct Supervised {
    process: Process,
    has_ended: bool,
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
            has_ended: false,
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

    /// Lets it run to its end; it is killed before the first call of which `is_last` says
    /// so.
    pub fn run(&mut self, mut is_last: impl FnMut() -> bool) {
        let group = Pid::from_raw(-self.pid().as_raw());
        while !self.has_ended {
            let status = waitpid(group, Some(WaitPidFlag::__WALL)).expect("until it has ended");
            let thread = status.pid().expect("somebody's");
            let mut signal = None;
            match status {
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                    self.has_ended = thread == self.pid();
                    continue;
                }
                WaitStatus::PtraceSyscall(_) => {
                    // One that was killed between two looks can no longer be asked.
                    let info = ptrace::syscall_info(thread);
                    let is_call = info.is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
                    if is_call && is_last() {
                        self.process.signal(Signal::SIGKILL);
                    }
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
}

impl Drop for Supervised {
    /// Its threads have to be waited for by whoever traces them, or it never ends.
    fn drop(&mut self) {
        if !self.has_ended {
            self.process.signal(Signal::SIGKILL);
            self.run(|| false);
        }
        self.process.has_ended();
    }
}
