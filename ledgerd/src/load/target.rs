//! A file that is brought to stable storage while more is written to it, so that little
//! is left to wait for at its end.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;

const BUFFER_LEN: usize = 1 << 20;
/// Bytes after which what is there is synced.
const SYNC_LEN: usize = 16 << 20;

pub(super) struct Target {
    file: BufWriter<File>,
    unsynced_len: usize,
    wake: SyncSender<()>,
    syncer: JoinHandle<io::Result<()>>,
}

impl Target {
    pub(super) fn new(file: File) -> io::Result<Target> {
        let (wake, woken) = mpsc::sync_channel(1);
        let beside = file.try_clone()?;
        let syncer = std::thread::Builder::new()
            .name("ledgerd-sync".into())
            .spawn(move || {
                // The kernel tells of a failure once: it is not lost here.
                woken.into_iter().try_for_each(|()| beside.sync_data())
            })?;
        Ok(Target {
            file: BufWriter::with_capacity(BUFFER_LEN, file),
            unsynced_len: 0,
            wake,
            syncer,
        })
    }

    /// Waits until all of it is on stable storage.
    pub(super) fn finish(self) -> io::Result<()> {
        let file = self.file.into_inner();
        let file = file.map_err(io::IntoInnerError::into_error)?;
        drop(self.wake);
        let synced = self.syncer.join();
        synced.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        file.sync_data()
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write(bytes)?;
        self.unsynced_len += len;
        // One that is busy comes to this, too.
        if self.unsynced_len >= SYNC_LEN && self.wake.try_send(()).is_ok() {
            self.unsynced_len = 0;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
