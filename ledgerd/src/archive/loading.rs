//! The files of a snapshot that is being loaded, in a directory that is no context's
//! until it is given one's place.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ledger_shm::control::Facts;
use ledger_shm::file::{FileName, Head};
use ledger_shm::merkle::{self, Frontier, Hash, Nodes};
use ledger_shm::object::{Epoch, Instance, MapError, Object};
use ledger_shm::read::Link;
use ledger_shm::segment::StoredNodes;
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

    pub(crate) fn remove(&self) {
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            let dir = self.dir.display();
            tracing::warn!(%dir, %error, "cannot remove what is not loaded; the next start does");
        }
    }

    /// Removes what daemons left behind that died.
    pub(crate) fn remove_all(archive_dir: &Path) -> io::Result<()> {
        for entry in std::fs::read_dir(archive_dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|of| of == LOADING) {
                std::fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    /// Makes it the directory of a new context, in one step.
    pub(crate) fn place(&self) -> io::Result<()> {
        std::fs::rename(&self.dir, &self.own.dir)?;
        disk::sync_dir(self.own.dir.parent().unwrap_or(Path::new("/")))
    }

    /// Takes the place of the directory of a context, in one step; what was there is
    /// removed then.
    pub(crate) fn replace(&self, home: &Home) -> io::Result<()> {
        let is_there = home.dir.try_exists()?;
        if is_there {
            let flags = RenameFlags::RENAME_EXCHANGE;
            renameat2(AT_FDCWD, &self.dir, AT_FDCWD, &home.dir, flags)?;
        } else {
            std::fs::rename(&self.dir, &home.dir)?;
        }
        disk::sync_dir(home.dir.parent().unwrap_or(Path::new("/")))?;
        if is_there {
            self.remove();
        }
        Ok(())
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

    /// The tree over its first so many entries, that is over those before its first one
    /// and some of its own.
    pub(crate) fn tree_of(&self, instance: &Instance, count: u64) -> Result<Frontier, MapError> {
        let mut files = Files {
            instance,
            dir: &self.dir,
            first_seqs: self.first_seqs()?,
            mapped: None,
        };
        merkle::tree_of(&mut files, count)
    }
}

/// The nodes of files, one of which is mapped.
struct Files<'a> {
    instance: &'a Instance,
    dir: &'a Path,
    first_seqs: Vec<u64>,
    mapped: Option<(Link, StoredNodes)>,
}

impl Files<'_> {
    /// The file that holds this entry.
    fn file(&mut self, seq: u64) -> Result<&(Link, StoredNodes), MapError> {
        let after = self.first_seqs.partition_point(|first| *first <= seq);
        let base_seq = after.checked_sub(1).map(|index| self.first_seqs[index]);
        let base_seq = base_seq.ok_or(Corrupt::new("first seq of a snapshot", seq, 1))?;
        let is_it = |(link, _): &(Link, StoredNodes)| link.base_seq == base_seq;
        if !self.mapped.as_ref().is_some_and(is_it) {
            let file = disk::open_to_read(self.dir, FileName::Finished(base_seq))?;
            let object = Object::received(self.instance, file.into())?;
            let (segment, _, _) = Segment::map_file(&object)?;
            let segment = Arc::new(segment);
            let nodes = StoredNodes::of(&segment)?.ok_or(MapError::Unfinished)?;
            self.mapped = Some((Link { segment, base_seq }, nodes));
        }
        Ok(self.mapped.as_ref().expect("mapped above"))
    }
}

impl Nodes for Files<'_> {
    type Error = MapError;

    fn stored(&mut self, level: u32, index: u64) -> Result<Option<Hash>, MapError> {
        // It became complete with its last leaf.
        let last_seq = (index + 1) << level;
        let (_, nodes) = self.file(last_seq)?;
        Ok(nodes.node(level, index))
    }

    fn leaf(&mut self, index: u64) -> Result<Hash, MapError> {
        let seq = index + 1;
        let (link, _) = self.file(seq)?;
        match link.clone().get(seq)? {
            Ok(entry) => Ok(merkle::leaf_hash(&entry)),
            Err(_) => Err(Corrupt::new("entry of a snapshot", seq, seq).into()),
        }
    }
}
