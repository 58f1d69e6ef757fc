//! Loading snapshots.
//!
//! A thread of its own reads each into a directory beside those of the contexts, which
//! nobody is served from, and verifies it to its last byte. Then the server gives the
//! directory its place, in one step: until then nothing has changed.

mod install;
mod spool;
mod stream;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use ledger_client::wire::{LoadOutcome, Refusal};
use ledger_shm::control::Facts;
use ledger_shm::merkle::Frontier;
use ledger_shm::object::Epoch;
use nix::sys::eventfd::EventFd;

use crate::archive::{Disk, Loading};

use self::stream::Stream;

/// Loads that are under way at once.
const LOADS_MAX: usize = 8;

/// What is to be loaded.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) name: String,
    /// Not if there is a context of that name.
    pub(crate) is_only_new: bool,
    /// What the context is called in memory and on disk if it is a new one.
    pub(crate) epoch: Epoch,
    pub(crate) has_foreign_writers: bool,
    pub(crate) created_at_ns: u64,
}

/// A snapshot that was read and verified, and waits for its place.
#[derive(Debug)]
pub(crate) struct Spooled {
    /// Where its files are, removed unless it gets its place.
    files: Loading,
    facts: Facts,
    is_only_new: bool,
    first_seq: u64,
    tree: Frontier,
    last_lamport: u64,
    stream: Stream,
}

impl Spooled {
    /// Says why nothing has changed.
    fn refuse(self, why: Refusal) {
        tracing::warn!(context = self.facts.name, ?why, "a snapshot is not loaded");
        self.files.remove_beside();
        self.stream.say(&LoadOutcome::Refused(why));
    }

    /// Says that all of it is there.
    fn accept(self, epoch: Epoch, new_count: u64) {
        tracing::info!(
            context = self.facts.name,
            %epoch,
            last_seq = self.tree.count(),
            new_count,
            "a snapshot is loaded"
        );
        self.stream.say(&LoadOutcome::Loaded {
            epoch: epoch.0,
            first_seq: self.first_seq,
            last_seq: self.tree.count(),
            new_count,
            root: self.tree.root(),
        });
    }
}

/// The loads of an instance.
#[derive(Debug)]
pub(crate) struct Loads {
    archive_dir: PathBuf,
    disk: Disk,
    /// Written when one is ready.
    wake: Arc<EventFd>,
    sender: Sender<Spooled>,
    ready: Receiver<Spooled>,
    /// One clone for each that is under way.
    running: Arc<()>,
}

impl Loads {
    pub(crate) fn new(archive_dir: PathBuf, disk: Disk, wake: Arc<EventFd>) -> Loads {
        let (sender, ready) = mpsc::channel();
        Loads {
            archive_dir,
            disk,
            wake,
            sender,
            ready,
            running: Arc::new(()),
        }
    }

    /// Begins one, and returns where the client writes it.
    pub(crate) fn begin(&self, order: Order) -> Result<OwnedFd, Refusal> {
        if Arc::strong_count(&self.running) > LOADS_MAX {
            let why = format!("{LOADS_MAX} snapshots are being loaded already; try again later");
            return Err(Refusal::NotLoaded(why));
        }
        let start = || -> io::Result<OwnedFd> {
            let (ours, theirs) = UnixStream::pair()?;
            let stream = Stream::new(ours)?;
            let files = Loading::new(&self.archive_dir, order.epoch, self.disk.clone());
            let (sender, wake) = (self.sender.clone(), Arc::clone(&self.wake));
            let running = Arc::clone(&self.running);
            std::thread::Builder::new()
                .name("ledgerd-load".into())
                .spawn(move || {
                    if let Some(spooled) = spool::run(files, order, stream) {
                        // The server has ended if nobody listens; what is left is
                        // removed by the next one.
                        if let Err(left) = sender.send(spooled) {
                            left.0.files.remove();
                        }
                        let _ = wake.write(1);
                    }
                    drop(running);
                })?;
            Ok(theirs.into())
        };
        start().map_err(|error| Refusal::NotLoaded(format!("cannot begin to load it: {error}")))
    }

    pub(crate) fn take_ready(&self) -> Option<Spooled> {
        self.ready.try_recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::KernelFileSystem;

    fn order(number: u8) -> Order {
        Order {
            name: number.to_string(),
            is_only_new: true,
            epoch: Epoch([number; 16]),
            has_foreign_writers: false,
            created_at_ns: 0,
        }
    }

    #[test]
    fn so_many_are_loaded_at_once_and_no_more() {
        let dir = tempfile::tempdir().expect("a directory");
        let disk = Disk::new(Arc::new(KernelFileSystem));
        let wake = Arc::new(EventFd::new().expect("descriptors"));
        let loads = Loads::new(dir.path().into(), disk, wake);
        let most: Vec<_> = (1..=LOADS_MAX as u8)
            .map(|number| loads.begin(order(number)).expect("there is a place"))
            .collect();
        let one_more = loads.begin(order(100)).map(drop);
        let told = "8 snapshots are being loaded already; try again later";
        assert_eq!(one_more, Err(Refusal::NotLoaded(told.into())));
        drop(most);
    }
}
