//! The directory of one context: which files are there, and what the last ones hold.

use std::fs::File;
use std::io::{self, BufWriter};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use ledger_shm::control::Facts;
use ledger_shm::file::{FileName, FileWriter, Head, Scan, Trailer, finished_in};
use ledger_shm::merkle::Frontier;
use ledger_shm::object::{Epoch, MapError};
use ledger_shm::uninterrupted;

use super::disk::{Disk, open_to_read};

/// The directory of one context.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(crate) dir: PathBuf,
    pub(super) disk: Disk,
}

/// An unfinished file, and what of it is valid.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) name: FileName,
    pub(super) scan: Scan,
    /// What follows the valid bytes.
    pub(super) torn: Vec<u8>,
}

impl Home {
    pub(crate) fn new(dir: PathBuf, disk: Disk) -> Home {
        Home { dir, disk }
    }

    pub(super) fn path(&self, name: FileName) -> PathBuf {
        self.dir.join(name.to_string())
    }

    /// Every file, by the seq of its first entry; none if there is no directory.
    pub(super) fn files(&self) -> io::Result<Vec<FileName>> {
        let entries = match uninterrupted(|| std::fs::read_dir(&self.dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            files.extend(entry?.file_name().to_str().and_then(FileName::parse));
        }
        files.sort_by_key(|name| (name.first_seq(), *name));
        Ok(files)
    }

    /// First seqs of the finished files, in order; none if there is no directory.
    pub(super) fn finished(&self) -> io::Result<Vec<u64>> {
        match finished_in(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            first_seqs => first_seqs,
        }
    }

    /// The seq of the first entry in finished files; 1 if there are none.
    pub(crate) fn first_seq(&self) -> io::Result<u64> {
        Ok(self.finished()?.first().copied().unwrap_or(1))
    }

    /// The finished file that begins at or last before a seq, or the first one for 0.
    pub(crate) fn file_of(&self, seq: u64) -> io::Result<Option<(u64, File)>> {
        loop {
            let finished = self.finished()?;
            let after = finished.partition_point(|first| *first <= seq);
            let index = if seq == 0 {
                Some(0)
            } else {
                after.checked_sub(1)
            };
            let Some(first_seq) = index.and_then(|index| finished.get(index)).copied() else {
                return Ok(None);
            };
            match open_to_read(&self.dir, FileName::Finished(first_seq)) {
                // It was removed meanwhile: another one is the first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                file => return Ok(Some((first_seq, file?))),
            }
        }
    }

    /// The tree over all entries in finished files.
    pub(super) fn finished_tree(&self) -> Result<Frontier, MapError> {
        let Some(first_seq) = self.finished()?.pop() else {
            return Ok(Frontier::default());
        };
        let file = open_to_read(&self.dir, FileName::Finished(first_seq))?;
        Trailer::read(&file)?.read_tree(&file)
    }

    /// An unfinished file, if it is there and has a head.
    pub(super) fn unfinished(&self, name: FileName) -> Result<Option<Unfinished>, MapError> {
        let file = match open_to_read(&self.dir, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let scan = match Scan::of(&file) {
            Ok(scan) => scan,
            // Without a head nothing in it is valid.
            Err(MapError::Unfinished | MapError::Corrupt(_)) => return Ok(None),
            // Whoever wrote it can read it.
            Err(error) => return Err(error),
        };
        let len = file.metadata()?.len() as usize;
        let mut torn = vec![0; len.saturating_sub(scan.valid_len())];
        file.read_exact_at(&mut torn, scan.valid_len() as u64)?;
        Ok(Some(Unfinished { name, scan, torn }))
    }
}

/// What the name of a dropped context's directory ends with.
const DROPPED: &str = "dropped";

/// What of a context its files still hold.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// As the last file has them.
    pub(crate) facts: Facts,
    /// The tree over all of them.
    pub(crate) tree: Frontier,
    pub(crate) last_lamport: u64,
    /// Nothing was ever appended behind that.
    pub(crate) is_complete: bool,
}

impl Home {
    /// What the directory is called once its context is dropped.
    fn aside(&self) -> PathBuf {
        self.dir.with_extension(DROPPED)
    }

    /// Takes the directory away from its context, at once and for good; what is in it is
    /// to be removed then.
    pub(crate) fn set_aside(&self) -> io::Result<()> {
        match self.disk.move_dir(&self.dir, &self.aside()) {
            // Nothing was ever written.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Removes what was set aside.
    pub(super) fn remove_aside(&self) -> io::Result<()> {
        self.disk.remove_dir(&self.aside())
    }

    /// The directories that were set aside and are still there.
    pub(crate) fn dropped(archive_dir: &Path) -> io::Result<Vec<(Epoch, PathBuf)>> {
        let mut dropped = Vec::new();
        for entry in uninterrupted(|| std::fs::read_dir(archive_dir))? {
            let path = entry?.path();
            let is_aside = path.extension().is_some_and(|of| of == DROPPED);
            let name = path.file_stem().and_then(|name| name.to_str());
            if let Some(Ok(epoch)) = name.filter(|_| is_aside).map(str::parse) {
                dropped.push((epoch, path));
            }
        }
        Ok(dropped)
    }

    /// Takes a file that could not be written out of the way. Its valid entries are there
    /// if memory is lost before they are elsewhere. Where one failed before, that one
    /// holds what was durable, and this one did not come so far.
    pub(super) fn give_up(&self, first_seq: u64) -> io::Result<()> {
        let (open, failed) = (FileName::Open(first_seq), FileName::Failed(first_seq));
        let files = self.files()?;
        match (files.contains(&open), files.contains(&failed)) {
            (false, _) => Ok(()),
            (true, true) => self.disk.remove(&self.dir, open),
            (true, false) => self.disk.rename(&self.dir, open, failed),
        }
    }

    /// The directories of all contexts of an instance, by name.
    pub(crate) fn all(archive_dir: &Path, disk: &Disk) -> io::Result<Vec<(Epoch, Home)>> {
        let mut homes = Vec::new();
        for entry in uninterrupted(|| std::fs::read_dir(archive_dir))? {
            let name = entry?.file_name();
            let epoch = name.to_str().filter(|name| name.len() == 32);
            if let Some(epoch) = epoch.and_then(|name| name.parse().ok()) {
                homes.push((epoch, Home::new(archive_dir.join(name), disk.clone())));
            }
        }
        Ok(homes)
    }

    /// What is said about the context in the last of its files that says anything;
    /// none if there is no such file.
    pub(crate) fn facts(&self) -> Result<Option<Facts>, MapError> {
        let mut damage = None;
        for name in self.files()?.into_iter().rev() {
            let file = open_to_read(&self.dir, name).map_err(MapError::from);
            match file.and_then(|file| Head::read(&file)) {
                Ok(head) => return Ok(Some(head.facts)),
                Err(MapError::Unfinished) => {}
                Err(error) => damage = Some(error),
            }
        }
        damage.map_or(Ok(None), Err)
    }

    /// Of a context whose memory is lost: finishes what is unfinished, as far as it is
    /// valid, and says what there is. What was cut short before can be done again.
    pub(crate) fn recover(&self) -> Result<Recovered, MapError> {
        let finished = self.finished()?.pop();
        let last = finished.map(|first_seq| {
            let file = open_to_read(&self.dir, FileName::Finished(first_seq))?;
            let trailer = Trailer::read(&file)?;
            Ok::<_, MapError>((Head::read(&file)?, trailer, trailer.read_tree(&file)?))
        });
        let last = last.transpose()?;
        let finished_seq = last.as_ref().map_or(0, |(_, _, tree)| tree.count());
        let open = FileName::Open(finished_seq + 1);
        let failed = self.unfinished(FileName::Failed(finished_seq + 1))?;
        let reaches = |unfinished: &Unfinished| unfinished.scan.last_seq();
        let best = match (self.unfinished(open)?, failed) {
            (Some(open), Some(failed)) if reaches(&failed) > reaches(&open) => Some(failed),
            (None, failed) => failed,
            (open, _) => open,
        };
        match (best, last) {
            (Some(unfinished), _) => self.end(unfinished),
            (None, Some((head, trailer, tree))) => Ok(Recovered {
                facts: head.facts,
                tree,
                last_lamport: trailer.last_lamport,
                // A file that was to follow has not even its head.
                is_complete: trailer.is_complete && !self.files()?.contains(&open),
            }),
            (None, None) => Err(MapError::Unfinished),
        }
    }

    /// Finishes the valid part of a file.
    fn end(&self, unfinished: Unfinished) -> Result<Recovered, MapError> {
        let Unfinished { name, scan, torn } = unfinished;
        let first_seq = scan.head.first_seq();
        let recovered = Recovered {
            facts: scan.head.facts.clone(),
            tree: scan.tree().clone(),
            last_lamport: scan.last_lamport(),
            is_complete: false,
        };
        if scan.count() == 0 {
            return Ok(recovered);
        }
        if name != FileName::Open(first_seq) && self.files()?.contains(&FileName::Open(first_seq)) {
            // It holds less, all of which is here as well.
            self.disk.set_aside(&self.dir, FileName::Open(first_seq))?;
        }
        if !torn.is_empty() {
            let valid_len = scan.valid_len();
            self.disk.cut(&self.dir, name, valid_len, &torn)?;
            super::say_torn(&recovered.facts.name, name, torn.len());
        }
        let file = self.disk.append(&self.dir, name)?;
        let finished = FileWriter::resume(BufWriter::new(file), scan).finish(false)?;
        let file = finished
            .target
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.sync()?;
        let finished = FileName::Finished(first_seq);
        self.disk.rename(&self.dir, name, finished)?;
        Ok(recovered)
    }

    /// Begins the file that follows: from now on something may be appended that is in
    /// none.
    pub(crate) fn reopen(&self, head: &Head) -> io::Result<()> {
        let name = FileName::Open(head.first_seq());
        if self.files()?.contains(&name) {
            let file = open_to_read(&self.dir, name)?;
            let len = file.metadata()?.len();
            let is_empty = Scan::of(&file)
                .is_ok_and(|scan| scan.count() == 0 && scan.valid_len() as u64 == len);
            if !is_empty {
                // Whatever it is, it is not ours to throw away.
                let mut bytes = vec![0; len as usize];
                file.read_exact_at(&mut bytes, 0)?;
                self.disk.keep(&self.dir, name, &bytes)?;
            }
        }
        // What was there says that something may be lost, until this one says so.
        self.disk.replace(&self.dir, name, &head.encode())
    }

    /// As that, of a log that is in memory yet, if its files say that they have all of it.
    pub(crate) fn go_on(&self, now_ns: u64) -> Result<(), MapError> {
        let Some(first_seq) = self.finished()?.pop() else {
            return Ok(());
        };
        let file = open_to_read(&self.dir, FileName::Finished(first_seq))?;
        let trailer = Trailer::read(&file)?;
        if !trailer.is_complete {
            return Ok(());
        }
        let before = trailer.read_tree(&file)?;
        if self.files()?.contains(&FileName::Open(before.count() + 1)) {
            // Whoever made it may not have come to that.
            return Ok(self.disk.sync_dir(&self.dir)?);
        }
        Ok(self.reopen(&Head {
            facts: Head::read(&file)?.facts,
            before,
            base_lamport: trailer.last_lamport,
            begun_at_ns: now_ns,
            snapshot: None,
        })?)
    }

    /// Nothing could be appended after all.
    pub(crate) fn close_again(&self, first_seq: u64) -> io::Result<()> {
        self.disk.remove(&self.dir, FileName::Open(first_seq))?;
        self.disk.sync_dir(&self.dir)
    }
}

#[cfg(test)]
mod tests;
