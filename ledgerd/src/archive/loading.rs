//! The files of a snapshot that is being loaded, in a directory that is no context's
//! until it is given one's place.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ledger_shm::control::Facts;
use ledger_shm::file::{FileName, Head, LogNodes};
use ledger_shm::merkle::{self, Frontier};
use ledger_shm::object::{Epoch, Instance, MapError, Object};
use ledger_shm::read::Link;
use ledger_shm::{Corrupt, Segment, uninterrupted};

use super::disk::{Disk, DiskFile, open_to_read};
use super::home::Home;

/// What the name of such a directory ends with.
const LOADING: &str = "loading";

/// The files of a snapshot that is being loaded.
#[derive(Debug)]
pub(crate) struct Loading {
    dir: PathBuf,
    /// Where it is if it becomes a context of its own.
    own: Home,
}

impl Loading {
    pub(crate) fn new(archive_dir: &Path, epoch: Epoch, disk: Disk) -> Loading {
        let own = archive_dir.join(epoch.to_string());
        Loading {
            dir: own.with_extension(LOADING),
            own: Home::new(own, disk),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn make(&self) -> io::Result<()> {
        self.disk().make_home(&self.dir)
    }

    /// Begins the file with this first seq.
    pub(crate) fn create(&self, first_seq: u64) -> io::Result<DiskFile> {
        let name = FileName::Finished(first_seq);
        self.disk().create(&self.dir, name)
    }

    /// Has the names of its files on stable storage.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.disk().sync_dir(&self.dir)
    }

    /// Removes what is there.
    pub(crate) fn remove(&self) {
        remove(&self.dir, self.disk());
    }

    /// The same beside, for it takes the kernel a while where it is much.
    pub(crate) fn remove_beside(&self) {
        let (dir, disk) = (self.dir.clone(), self.disk().clone());
        let thread = std::thread::Builder::new().name("ledgerd-removal".into());
        // What is left the next start removes.
        let _ = thread.spawn(move || remove(&dir, &disk));
    }

    /// Removes what daemons left behind that died.
    pub(crate) fn remove_all(archive_dir: &Path, disk: &Disk) -> io::Result<()> {
        for entry in uninterrupted(|| std::fs::read_dir(archive_dir))? {
            let path = entry?.path();
            if path.extension().is_some_and(|of| of == LOADING) {
                // A load of an earlier daemon in this process may be writing to it yet.
                if let Err(error) = disk.remove_dir(&path) {
                    let dir = path.display();
                    tracing::warn!(%dir, %error, "cannot remove what is not loaded");
                }
            }
        }
        Ok(())
    }

    /// Makes it the directory of a new context, in one step.
    pub(crate) fn place(&self) -> io::Result<()> {
        self.disk().move_dir(&self.dir, &self.own.dir)
    }

    /// Takes the place of the directory of a context, in one step. What was there is
    /// where this was then, for [`remove`](Self::remove).
    pub(crate) fn replace(&self, home: &Home) -> io::Result<()> {
        let outcome = self.disk().exchange(&self.dir, &home.dir);
        outcome.map_err(
            |error| match error.raw_os_error().map(nix::Error::from_raw) {
                Some(nix::Error::EINVAL | nix::Error::ENOSYS) => io::Error::other(
                    "the file system cannot exchange two directories in one step (renameat2, \
                 RENAME_EXCHANGE); keep the archive on another one, or load it under another name",
                ),
                _ => error,
            },
        )
    }

    fn disk(&self) -> &Disk {
        &self.own.disk
    }

    fn first_seqs(&self) -> io::Result<Vec<u64>> {
        Home::new(self.dir.clone(), self.disk().clone()).finished()
    }

    /// Says in every file that it is of the context that these are the facts of, whose
    /// name is the one that they say already.
    pub(crate) fn adopt(&self, facts: &Facts) -> Result<(), MapError> {
        for first_seq in self.first_seqs()? {
            let name = FileName::Finished(first_seq);
            let file = self.disk().change(&self.dir, name)?;
            let mut head = Head::read(file.file())?;
            head.facts = facts.clone();
            file.write_at(&head.encode(), 0)?;
            file.sync()?;
        }
        Ok(())
    }

    /// The tree over its first so many entries, those before its first one included.
    pub(crate) fn tree_of(&self, instance: &Instance, count: u64) -> Result<Frontier, MapError> {
        let first_seqs = self.first_seqs()?;
        let open = |first_seq| open_to_read(&self.dir, FileName::Finished(first_seq));
        let first = first_seqs.first().ok_or(MapError::Unfinished)?;
        let before = Head::read(&open(*first)?)?.before;
        let locate = |seq| {
            let after = first_seqs.partition_point(|first| *first <= seq);
            let base_seq = after.checked_sub(1).map(|index| first_seqs[index]);
            let base_seq = base_seq.ok_or(Corrupt::new("first seq of a snapshot", *first, seq))?;
            let object = Object::received(instance, open(base_seq)?.into())?;
            let (segment, _, _) = Segment::map_file(&object)?;
            let segment = Arc::new(segment);
            Ok::<_, MapError>(Link { segment, base_seq })
        };
        merkle::tree_of(&mut LogNodes::new(before, locate), count)
    }
}

fn remove(dir: &Path, disk: &Disk) {
    if let Err(error) = disk.remove_dir(dir) {
        let dir = dir.display();
        tracing::warn!(%dir, %error, "cannot remove what is not loaded; the next start does");
    }
}

#[cfg(test)]
mod tests;
