//! What an archive does to the file system that it is on.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// All that an archive changes below its directory, one operation each; that directory and
/// its lock are made before. What it reads it reads by itself, for it maps its files.
///
/// Every operation is the kernel's unless it is said otherwise, which is for tests: of what
/// is there after a loss of power, of disks that are full or fail.
///
/// ```
/// # ledger_tests::daemon_example(|mut options| {
/// use std::fs::File;
/// use std::io;
/// use std::sync::Arc;
/// use ledger_client::{Ledger, NewEntry};
/// use ledgerd::{Daemon, FileSystem};
///
/// /// Has nothing on stable storage.
/// #[derive(Debug)]
/// struct Failing;
///
/// impl FileSystem for Failing {
///     fn sync(&self, _: &File) -> io::Result<()> {
///         Err(io::Error::other("no disk answers"))
///     }
/// }
///
/// options.file_system = Arc::new(Failing);
/// let builder = Ledger::builder().instance(&options.instance).runtime_dir(&options.runtime_dir);
/// let daemon = Daemon::start(options)?;
/// let context = builder.connect()?.context("loan-7").open_or_create()?;
/// context.appender()?.append(&NewEntry::new("facts", "income: 4200"))?;
/// assert!(context.wait_durable(1, std::time::Duration::from_millis(1)).is_err());
/// # Ok(()) });
/// ```
pub trait FileSystem: fmt::Debug + Send + Sync {
    /// Makes a directory that only its owner can use (mkdir(2)).
    ///
    /// # Errors
    ///
    /// The kernel's, as of all of these.
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(dir)
    }

    /// Begins a file that nobody has, and that only its owner can use (open(2) with
    /// `O_CREAT` and `O_EXCL`).
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.mode(0o600).create_new(true).write(true).open(path)
    }

    /// Writes where a file stands, or at its end if it was opened so (write(2)). How much
    /// of it.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<usize> {
        file.write(bytes)
    }

    /// Writes somewhere else in a file, all of it (pwrite(2)).
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    /// Cuts a file off (ftruncate(2)).
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    /// Has what was written to a file before on stable storage (fdatasync(2)).
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    /// Has the names that are in a directory by now on stable storage (fsync(2)).
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn sync_dir(&self, dir: &File) -> io::Result<()> {
        dir.sync_all()
    }

    /// Gives a file or directory another name in the same directory (rename(2)).
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    /// Has two directories beside each other change names, in one step (renameat2(2) with
    /// `RENAME_EXCHANGE`).
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        let flags = RenameFlags::RENAME_EXCHANGE;
        Ok(renameat2(AT_FDCWD, one, AT_FDCWD, other, flags)?)
    }

    /// Removes a file from a directory (unlinkat(2)).
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn remove(&self, dir: &File, name: &str) -> io::Result<()> {
        Ok(unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Removes a directory and the files in it, in any order (unlinkat(2), rmdir(2)).
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(dir)
    }
}

/// The kernel's file systems.
#[derive(Debug)]
pub(crate) struct KernelFileSystem;

impl FileSystem for KernelFileSystem {}
