//! Processes that end with whoever started them.

use std::io;
use std::process::{Child, Command};

/// Killed when it is dropped.
pub struct Running(Child);

impl Running {
    pub fn start(command: &mut Command) -> io::Result<Running> {
        Ok(Running(command.spawn()?))
    }

    pub fn child(&mut self) -> &mut Child {
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
