//! A system call of a process that is traced, as the kernel tells it (ptrace(2),
//! `PTRACE_GET_SYSCALL_INFO`).

#![allow(unsafe_code, reason = "the kernel's answer is a union")]

use std::path::PathBuf;

use nix::sys::ptrace;
use nix::unistd::Pid;

/// A system call that is about to be made.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Whose it is.
    thread: Pid,
    /// Its number.
    pub nr: u64,
    /// Its arguments, as far as it has any.
    pub args: [u64; 6],
}

impl Call {
    /// The one before which this thread is stopped, if it is before one.
    ///
    /// # Errors
    ///
    /// If the thread is not stopped at a system call.
    pub fn entered(thread: Pid) -> nix::Result<Option<Call>> {
        let info = ptrace::syscall_info(thread)?;
        if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
            return Ok(None);
        }
        // SAFETY: of the union's members the kernel has filled in this one.
        let entry = unsafe { info.u.entry };
        Ok(Some(Call {
            thread,
            nr: entry.nr,
            args: entry.args,
        }))
    }

    /// What a descriptor of whoever makes it is, as the kernel names it.
    pub fn described(&self, fd: u64) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/fd/{fd}", self.thread)).ok()
    }

    /// What the kernel has answered, if this thread is stopped behind a call.
    ///
    /// # Errors
    ///
    /// If the thread is not stopped at a system call.
    pub fn answered(thread: Pid) -> nix::Result<Option<i64>> {
        let info = ptrace::syscall_info(thread)?;
        if info.op != libc::PTRACE_SYSCALL_INFO_EXIT {
            return Ok(None);
        }
        // SAFETY: of the union's members the kernel has filled in this one.
        Ok(Some(unsafe { info.u.exit.sval }))
    }
}
