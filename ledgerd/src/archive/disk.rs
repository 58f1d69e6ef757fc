//! What the archive asks of the file system, and in which order it is safe.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ledger_client::place;
use ledger_shm::file::FileName;
use nix::fcntl::{Flock, FlockArg, OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// The lock of an instance's archive, held until dropped: two daemons that do not
/// share memory may share a disk.
#[derive(Debug)]
pub(crate) struct StateLock {
    _flock: Flock<File>,
}

impl StateLock {
    /// Makes the directory if it is missing, and locks it; none if another daemon has.
    pub(crate) fn take(dir: &Path, uid: u32) -> io::Result<Option<StateLock>> {
        place::prepare_archive_dir(dir, uid)?;
        // It may have been made just now, with some of those above it.
        for made in dir.ancestors().filter(|made| !made.as_os_str().is_empty()) {
            match sync_dir(made) {
                // Then it is not this process's to make.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                outcome => outcome?,
            }
        }
        let file = options().create(true).write(true).open(dir.join("lock"))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(flock) => Ok(Some(StateLock { _flock: flock })),
            Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
            Err((_, error)) => Err(error.into()),
        }
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}

/// Makes the directory of a context, so that it is there after a loss of power.
pub(super) fn make_home(home: &Path) -> io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(home) {
        // An earlier try may have ended before its name was synced.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_dir(home.parent().unwrap_or(Path::new("/"))),
    }
}

/// Has the names in the directory of a context on stable storage, if there is one.
pub(super) fn sync_home(home: &Path) -> io::Result<()> {
    match sync_dir(home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

/// Begins a file that nobody has. Its name is there after a loss of power once the
/// directory is synced.
pub(super) fn create(home: &Path, name: FileName) -> io::Result<File> {
    let path = home.join(name.to_string());
    options().create_new(true).write(true).open(path)
}

/// Opens a file to go on at its end.
pub(super) fn append(home: &Path, name: FileName) -> io::Result<File> {
    let path = home.join(name.to_string());
    options().append(true).open(path)
}

/// Has what was written to a file on stable storage (fdatasync(2)).
pub(super) fn sync(file: &File) -> io::Result<()> {
    file.sync_data()
}

/// Lets the page cache forget what of a file is on stable storage (posix_fadvise(2)).
pub(super) fn uncache(file: &File) {
    // Where that cannot be, it keeps it.
    let _ = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
}

/// Has the names in a directory on stable storage (fsync(2)).
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Gives a file another name, and has that on stable storage.
pub(super) fn rename(home: &Path, from: FileName, to: FileName) -> io::Result<()> {
    std::fs::rename(home.join(from.to_string()), home.join(to.to_string()))?;
    sync_dir(home)
}

pub(super) fn remove(home: &Path, name: FileName) -> io::Result<()> {
    std::fs::remove_file(home.join(name.to_string()))
}

/// A directory itself, whatever its path is a name of later.
pub(super) fn open_dir(dir: &Path) -> io::Result<File> {
    File::open(dir)
}

/// Removes the oldest file of a context for good: it does not come back after a loss of
/// power when a later one was removed, too.
pub(super) fn remove_oldest(home: &File, name: FileName) -> io::Result<()> {
    match unlinkat(home, name.to_string().as_str(), UnlinkatFlags::NoRemoveDir) {
        // The context was dropped meanwhile.
        Err(nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(()) => home.sync_all(),
    }
}

/// Keeps what is behind the valid bytes of a file aside, and cuts it off: nobody is
/// served an unfinished file.
pub(super) fn cut(home: &Path, name: FileName, valid_len: usize, torn: &[u8]) -> io::Result<()> {
    let path = free_name(home, name);
    let keep = || {
        let mut aside = options().create_new(true).write(true).open(&path)?;
        aside.write_all(torn)?;
        sync(&aside)?;
        sync_dir(home)
    };
    keep().inspect_err(|_| {
        let _ = std::fs::remove_file(&path);
    })?;
    let file = options().write(true).open(home.join(name.to_string()))?;
    file.set_len(valid_len as u64)?;
    sync(&file)
}

/// Keeps a file aside in which nothing is valid.
pub(super) fn set_aside(home: &Path, name: FileName) -> io::Result<()> {
    std::fs::rename(home.join(name.to_string()), free_name(home, name))
}

/// Where something of a file can be kept that is not served.
fn free_name(home: &Path, name: FileName) -> PathBuf {
    let mut names = (0_u32..).map(|number| home.join(format!("{name}.torn-{number}")));
    let free = names.find(|path| !path.exists());
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
