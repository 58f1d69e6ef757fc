//! A disk that takes its time.

use std::fs::File;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use ledgerd::FileSystem;

/// While it is held, nothing gets to stable storage, and who has something brought there
/// waits.
#[derive(Debug, Default)]
pub struct HeldDisk {
    is_held: Mutex<bool>,
    is_free: Condvar,
}

impl HeldDisk {
    /// Holds it until this is dropped.
    pub fn hold(&self) -> Hold<'_> {
        *self.lock() = true;
        Hold(self)
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.is_held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl FileSystem for HeldDisk {
    fn sync(&self, file: &File) -> io::Result<()> {
        let free = self.is_free.wait_while(self.lock(), |is_held| *is_held);
        drop(free.unwrap_or_else(PoisonError::into_inner));
        file.sync_data()
    }
}

/// That a [`HeldDisk`] is held.
#[derive(Debug)]
pub struct Hold<'d>(&'d HeldDisk);

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        *self.0.lock() = false;
        self.0.is_free.notify_all();
    }
}
