//! Another process, each thread of which is stopped before every system call.

#![allow(unsafe_code, reason = "the kernel's answer is a union")]

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, Command};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::process::{Lines, Process};

/// A process that is supervised by the thread that started it (ptrace(2)).
#[derive(Debug)]
pub struct Supervised {
    process: Process,
    /// Of each thread that is in a system call, what becomes of that.
    calling: HashMap<Pid, Act>,
    /// How it ended, once it has.
    ended: Option<WaitStatus>,
}

/// A system call that is about to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its number.
    pub nr: u64,
    /// Its arguments, as far as it has any.
    pub args: [u64; 6],
}

/// What is done about a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It is made.
    Make,
    /// It is not made, and fails so.
    Fail(Errno),
    /// The whole process is killed before it is made.
    Kill,
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
            calling: HashMap::new(),
            ended: None,
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

    /// Lets it run to its end, with what `decide` says of each call.
    pub fn run(&mut self, mut decide: impl FnMut(Call) -> Act) -> WaitStatus {
        let group = Pid::from_raw(-self.pid().as_raw());
        loop {
            let status = waitpid(group, Some(WaitPidFlag::__WALL)).expect("until it has ended");
            let thread = status.pid().expect("somebody's");
            let mut signal = None;
            match status {
                WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => {
                    self.calling.remove(&pid);
                    if pid == self.pid() {
                        self.ended = Some(status);
                        return status;
                    }
                    continue;
                }
                WaitStatus::PtraceSyscall(_) => self.at_a_call(thread, &mut decide),
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

    fn at_a_call(&mut self, thread: Pid, decide: &mut impl FnMut(Call) -> Act) {
        // Killed between two looks, it can no longer be asked.
        let Ok(info) = ptrace::syscall_info(thread) else {
            return;
        };
        if info.op == libc::PTRACE_SYSCALL_INFO_ENTRY {
            // SAFETY: of the union's members the kernel has filled in this one.
            let entry = unsafe { info.u.entry };
            let act = decide(Call {
                nr: entry.nr,
                args: entry.args,
            });
            match act {
                Act::Make => {}
                Act::Fail(_) => set_registers(thread, |registers| registers.orig_rax = u64::MAX),
                Act::Kill => self.process.signal(Signal::SIGKILL),
            }
            self.calling.insert(thread, act);
        } else if let Some(Act::Fail(error)) = self.calling.remove(&thread) {
            set_registers(thread, |registers| {
                registers.rax = (-i64::from(error as i32)) as u64;
            });
        }
    }
}

fn set_registers(thread: Pid, change: impl FnOnce(&mut libc::user_regs_struct)) {
    if let Ok(mut registers) = ptrace::getregs(thread) {
        change(&mut registers);
        let _ = ptrace::setregs(thread, registers);
    }
}

impl Drop for Supervised {
    /// Its threads have to be waited for by whoever traces them, or it never ends.
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = nix::sys::signal::kill(self.pid(), Signal::SIGKILL);
            self.run(|_| Act::Make);
        }
        self.process.has_ended();
    }
}
