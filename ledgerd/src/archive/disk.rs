//! In which order what the archive does to its file system is safe.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use ledger_client::place;
use ledger_shm::file::FileName;
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};

use super::file_system::FileSystem;
use crate::lock::Locked;

/// The lock of an instance's archive, held until dropped: two daemons that do not
/// share memory may share a disk.
#[derive(Debug)]
pub(crate) struct StateLock {
    _file: Locked,
}

impl StateLock {
    /// Makes the directory if it is missing, and locks it; none if another daemon has.
    pub(crate) fn take(dir: &Path, uid: u32, disk: &Disk) -> io::Result<Option<StateLock>> {
        place::prepare_archive_dir(dir, uid)?;
        // It may have been made just now, with some of those above it.
        for made in dir.ancestors().filter(|made| !made.as_os_str().is_empty()) {
            match disk.sync_dir(made) {
                // Then it is not this process's to make.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                outcome => outcome?,
            }
        }
        let mut options = OpenOptions::new();
        options.mode(0o600).create(true).write(true);
        let file = options.open(dir.join("lock"))?;
        match Locked::lock(file) {
            Ok(file) => Ok(Some(StateLock { _file: file })),
            Err((_, TryLockError::WouldBlock)) => Ok(None),
            Err((_, TryLockError::Error(error))) => Err(error),
        }
    }
}

/// The file system that an archive is on.
#[derive(Clone, Debug)]
pub(crate) struct Disk(Arc<dyn FileSystem>);

/// A file of an archive that is written to.
#[derive(Clone, Debug)]
pub(crate) struct DiskFile {
    disk: Disk,
    file: Arc<File>,
}

impl Disk {
    pub(crate) fn new(file_system: Arc<dyn FileSystem>) -> Disk {
        Disk(file_system)
    }

    /// Makes the directory of a context, so that it is there after a loss of power.
    pub(super) fn make_home(&self, home: &Path) -> io::Result<()> {
        match self.0.make_dir(home) {
            // An earlier try may have ended before its name was synced.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => self.sync_above(home),
        }
    }

    /// Has the names in the directory of a context on stable storage, if there is one.
    pub(super) fn sync_home(&self, home: &Path) -> io::Result<()> {
        match self.sync_dir(home) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Has the names in a directory on stable storage.
    pub(super) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.sync_dir(&File::open(dir)?)
    }

    /// Has the name of a directory on stable storage.
    pub(super) fn sync_above(&self, dir: &Path) -> io::Result<()> {
        self.sync_dir(dir.parent().unwrap_or(Path::new("/")))
    }

    /// Begins a file that nobody has. Its name is there after a loss of power once the
    /// directory is synced.
    pub(super) fn create(&self, home: &Path, name: FileName) -> io::Result<DiskFile> {
        self.create_named(home, &name.to_string())
    }

    fn create_named(&self, home: &Path, name: &str) -> io::Result<DiskFile> {
        Ok(self.of(self.0.create(&home.join(name))?))
    }

    pub(super) fn of(&self, file: File) -> DiskFile {
        DiskFile {
            disk: self.clone(),
            file: Arc::new(file),
        }
    }

    /// Puts a file that begins with this in the place of what has its name, if anything
    /// has, in one step and on stable storage.
    pub(super) fn replace(&self, home: &Path, name: FileName, bytes: &[u8]) -> io::Result<()> {
        let beside = format!("{name}.new");
        match self.remove_named(home, &beside) {
            // Usually no earlier try was cut short.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
        let mut file = self.create_named(home, &beside)?;
        file.write_all(bytes)?;
        file.sync()?;
        self.rename_named(home, &beside, &name.to_string())
    }

    /// Opens a file to go on at its end.
    pub(super) fn append(&self, home: &Path, name: FileName) -> io::Result<DiskFile> {
        let path = home.join(name.to_string());
        Ok(self.of(OpenOptions::new().append(true).open(path)?))
    }

    /// Opens a file to read it, and to write somewhere in it.
    pub(super) fn change(&self, home: &Path, name: FileName) -> io::Result<DiskFile> {
        let path = home.join(name.to_string());
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(self.of(file))
    }

    /// Gives a file another name, and has that on stable storage.
    pub(super) fn rename(&self, home: &Path, from: FileName, to: FileName) -> io::Result<()> {
        self.rename_named(home, &from.to_string(), &to.to_string())
    }

    fn rename_named(&self, home: &Path, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(&home.join(from), &home.join(to))?;
        self.sync_dir(home)
    }

    /// Gives a directory another name, and has that on stable storage; or it has not
    /// happened.
    pub(super) fn move_dir(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)?;
        self.sync_above(to).inspect_err(|_| {
            let _ = self.0.rename(to, from);
        })
    }

    /// Has two directories change names, and has that on stable storage; or it has not
    /// happened.
    pub(super) fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.0.exchange(one, other)?;
        self.sync_above(other).inspect_err(|_| {
            let _ = self.0.exchange(one, other);
        })
    }

    pub(super) fn remove(&self, home: &Path, name: FileName) -> io::Result<()> {
        self.remove_named(home, &name.to_string())
    }

    fn remove_named(&self, home: &Path, name: &str) -> io::Result<()> {
        self.0.remove(&File::open(home)?, name)
    }

    /// Removes the oldest file of a context for good: it does not come back after a loss of
    /// power when a later one was removed, too.
    pub(super) fn remove_oldest(&self, home: &File, name: FileName) -> io::Result<()> {
        match self.0.remove(home, &name.to_string()) {
            // The context was dropped meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.0.sync_dir(home),
        }
    }

    /// Removes a directory and all that is in it, if it is there.
    pub(crate) fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        match self.0.remove_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome,
        }
    }

    /// Keeps what is behind the valid bytes of a file aside, and cuts it off: nobody is
    /// served an unfinished file.
    pub(super) fn cut(
        &self,
        home: &Path,
        name: FileName,
        valid_len: usize,
        torn: &[u8],
    ) -> io::Result<()> {
        self.keep(home, name, torn)?;
        let file = self.change(home, name)?;
        self.0.set_len(&file.file, valid_len as u64)?;
        file.sync()
    }

    /// Keeps what a file holds aside, on stable storage; or nothing has happened.
    pub(super) fn keep(&self, home: &Path, name: FileName, bytes: &[u8]) -> io::Result<()> {
        let free = free_name(home, name);
        let mut aside = self.create_named(home, &free)?;
        let kept = aside
            .write_all(bytes)
            .and_then(|()| aside.sync())
            .and_then(|()| self.sync_dir(home));
        kept.inspect_err(|_| {
            let _ = self.remove_named(home, &free);
        })
    }

    /// Keeps a file aside in which nothing is valid.
    pub(super) fn set_aside(&self, home: &Path, name: FileName) -> io::Result<()> {
        let path = home.join(name.to_string());
        self.0.rename(&path, &home.join(free_name(home, name)))
    }
}

impl DiskFile {
    /// Has what was written to it on stable storage.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.disk.0.sync(&self.file)
    }

    /// Writes somewhere else in it.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.disk.0.write_at(&self.file, bytes, offset)
    }

    /// To read it.
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Lets the page cache forget what of it is on stable storage (posix_fadvise(2)).
    pub(super) fn uncache(&self) {
        // Where that cannot be, it keeps it.
        let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

impl Write for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.0.write(&self.file, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Where something of a file can be kept that is not served.
fn free_name(home: &Path, name: FileName) -> String {
    let mut names = (0_u32..).map(|number| format!("{name}.torn-{number}"));
    let free = names.find(|name| !home.join(name).exists());
    free.expect("one of all numbers is free")
}

/// A descriptor that can only be read, of what has this name. Whatever else is in its
/// place is not waited for, nor followed elsewhere.
pub(crate) fn open_to_read(home: &Path, name: FileName) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.bits());
    options.open(home.join(name.to_string()))
}

#[cfg(test)]
mod tests;
