//! Processes that end with whoever started them.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::report::pin;

/// Killed when it is dropped, or by the kernel when the thread that started it is gone.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command) -> io::Result<Running> {
        // SAFETY: runs between fork and exec, and only asks the kernel for something.
        unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
        Ok(Running(command.spawn()?))
    }

    /// On this core only: for who does not choose by itself.
    pub fn start_pinned(command: &mut Command, core: usize) -> io::Result<Running> {
        // SAFETY: as above.
        unsafe {
            command.pre_exec(move || {
                pin(core);
                Ok(())
            })
        };
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
