//! Processes that end with whoever started them.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::report::try_pin;

/// Killed when it is dropped, or by the kernel when the thread that started it is gone.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command) -> io::Result<Running> {
        // SAFETY: runs between fork and exec, and only asks the kernel for something.
        unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
        Ok(Running(command.spawn()?))
    }

    /// On this core only, with all its threads.
    pub fn start_pinned(command: &mut Command, core: usize) -> io::Result<Running> {
        // SAFETY: as in `start`.
        unsafe { command.pre_exec(move || Ok(try_pin(core)?)) };
        Running::start(command)
    }
}

impl Deref for Running {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.0
    }
}

impl DerefMut for Running {
    fn deref_mut(&mut self) -> &mut Child {
        &mut self.0
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
