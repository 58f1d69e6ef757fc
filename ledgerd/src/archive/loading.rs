//! The files of a snapshot that is being loaded, in a directory that is no context's
//! until it is given one's place.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ledger_shm::control::Facts;
use ledger_shm::file::{FileName, Head, LogNodes};
use ledger_shm::merkle::{self, Frontier};
use ledger_shm::object::{Epoch, Instance, MapError, Object};
use ledger_shm::read::Link;
use ledger_shm::{Corrupt, Segment};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::disk;
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
    pub(crate) fn new(archive_dir: &Path, epoch: Epoch) -> Loading {
        let own = archive_dir.join(epoch.to_string());
        Loading {
            dir: own.with_extension(LOADING),
            own: Home::new(own),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn make(&self) -> io::Result<()> {
        disk::make_home(&self.dir)
    }

    /// Begins the file with this first seq.
    pub(crate) fn create(&self, first_seq: u64) -> io::Result<File> {
        disk::create(&self.dir, FileName::Finished(first_seq))
    }

    /// Has the names of its files on stable storage.
    pub(crate) fn sync(&self) -> io::Result<()> {
        disk::sync_dir(&self.dir)
    }

    /// Removes what is there.
    pub(crate) fn remove(&self) {
        remove(&self.dir);
    }

    /// The same beside, for it takes the kernel a while where it is much.
    pub(crate) fn remove_beside(&self) {
        let dir = self.dir.clone();
        let thread = std::thread::Builder::new().name("ledgerd-removal".into());
        // What is left the next start removes.
        let _ = thread.spawn(move || remove(&dir));
    }

    /// Removes what daemons left behind that died.
    pub(crate) fn remove_all(archive_dir: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(archive_dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|of| of == LOADING) {
                // A load of an earlier daemon in this process may be writing to it yet.
                if let Err(error) = std::fs::remove_dir_all(&path) {
                    let dir = path.display();
                    tracing::warn!(%dir, %error, "cannot remove what is not loaded");
                }
            }
        }
        Ok(())
    }

    /// Makes it the directory of a new context, in one step.
    pub(crate) fn place(&self) -> io::Result<()> {
        std::fs::rename(&self.dir, &self.own.dir)?;
        sync_above(&self.own.dir).inspect_err(|_| {
            // It has not happened.
            let _ = std::fs::rename(&self.own.dir, &self.dir);
        })
    }

    /// Takes the place of the directory of a context, in one step. What was there is
    /// where this was then, for [`remove`](Self::remove).
    pub(crate) fn replace(&self, home: &Home) -> io::Result<()> {
        self.exchange(home)?;
        sync_above(&home.dir).inspect_err(|_| {
            // It has not happened.
            let _ = self.exchange(home);
        })
    }

    fn exchange(&self, home: &Home) -> io::Result<()> {
        let flags = RenameFlags::RENAME_EXCHANGE;
        match renameat2(AT_FDCWD, &self.dir, AT_FDCWD, &home.dir, flags) {
            Err(nix::Error::EINVAL | nix::Error::ENOSYS) => Err(io::Error::other(
                "the file system cannot exchange two directories in one step (renameat2, \
                 RENAME_EXCHANGE); keep the archive on another one, or load it under another name",
            )),
            outcome => Ok(outcome?),
        }
    }

    fn first_seqs(&self) -> io::Result<Vec<u64>> {
        Home::new(self.dir.clone()).finished()
    }

    /// Says in every file that it is of the context that these are the facts of, whose
    /// name is the one that they say already.
    pub(crate) fn adopt(&self, facts: &Facts) -> Result<(), MapError> {
        for first_seq in self.first_seqs()? {
            let path = self.dir.join(FileName::Finished(first_seq).to_string());
            let file = File::options().read(true).write(true).open(path)?;
            let mut head = Head::read(&file)?;
            head.facts = facts.clone();
            file.write_all_at(&head.encode(), 0)?;
            disk::sync(&file)?;
        }
        Ok(())
    }

    /// The tree over its first so many entries, those before its first one included.
    pub(crate) fn tree_of(&self, instance: &Instance, count: u64) -> Result<Frontier, MapError> {
        let first_seqs = self.first_seqs()?;
        let open = |first_seq| disk::open_to_read(&self.dir, FileName::Finished(first_seq));
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

fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir)
        && error.kind() != io::ErrorKind::NotFound
    {
        let dir = dir.display();
        tracing::warn!(%dir, %error, "cannot remove what is not loaded; the next start does");
    }
}

/// Has the name of a directory on stable storage.
fn sync_above(dir: &Path) -> io::Result<()> {
    disk::sync_dir(dir.parent().unwrap_or(Path::new("/")))
}
