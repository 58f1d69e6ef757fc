//! A thread that waits for stable storage while the next entries are copied: an archiver
//! that waited itself would not keep up with a disk that is only just fast enough.
//!
//! Who writes so much has it in memory for now. The page cache does not keep it as well,
//! so it takes nothing from others, and the same few pages are written to again, which
//! is faster than pages that nobody has touched (docs/decisions/archive-files.md).

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};

use super::disk;

/// Gives files to the thread, which ends when all of these are gone.
#[derive(Clone, Debug)]
pub(super) struct Syncer {
    jobs: Sender<Job>,
}

#[derive(Debug)]
struct Job {
    file: Arc<File>,
    outcome: Sender<io::Result<()>>,
}

/// What was written to a file up to a seq, on its way to stable storage.
#[derive(Debug)]
pub(super) struct Syncing {
    pub(super) seq: u64,
    outcome: Receiver<io::Result<()>>,
}

impl Syncer {
    pub(super) fn start() -> io::Result<Syncer> {
        let (jobs, todo) = mpsc::channel::<Job>();
        std::thread::Builder::new()
            .name("ledgerd-syncer".into())
            .spawn(move || {
                for Job { file, outcome } in todo {
                    let synced = disk::sync(&file);
                    disk::uncache(&file);
                    // Nobody waits for a file that was given up.
                    let _ = outcome.send(synced);
                }
            })?;
        Ok(Syncer { jobs })
    }

    /// Begins to bring a file to stable storage, which has everything up to this seq.
    pub(super) fn begin(&self, file: Arc<File>, seq: u64) -> Syncing {
        let (sender, outcome) = mpsc::channel();
        // If the thread is gone, so is the other end of the outcome.
        let _ = self.jobs.send(Job {
            file,
            outcome: sender,
        });
        Syncing { seq, outcome }
    }
}

impl Syncing {
    /// What came of it, once, if that is known.
    pub(super) fn poll(&self) -> Option<io::Result<()>> {
        match self.outcome.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(gone())),
        }
    }

    /// Waits for what comes of it.
    pub(super) fn wait(&self) -> io::Result<()> {
        self.outcome.recv().unwrap_or_else(|_| Err(gone()))
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread that waits for stable storage has ended")
}
