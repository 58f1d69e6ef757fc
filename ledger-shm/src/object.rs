//! Named memory objects: create, open, list, unlink.
//!
//! | name in the memory file system | what |
//! |---|---|
//! | `ledger-<uid>-<instance>-lock` | one daemon per instance |
//! | `ledger-<uid>-<instance>-<epoch>-control` | control object of a context |
//! | `ledger-<uid>-<instance>-<epoch>-<part>` | one segment |

mod error;
mod halves;
mod instance;

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use crate::format::PAGE_LEN;
use crate::region::Region;
use crate::sys;

pub use self::error::MapError;
pub use self::halves::in_halves;
pub use self::instance::{Epoch, Instance, InvalidInstance};

/// Where Linux keeps POSIX shared memory (shm_overview(7)).
///
/// ```
/// assert!(std::path::Path::new(ledger_shm::object::MEMORY_DIR).is_dir());
/// ```
pub const MEMORY_DIR: &str = "/dev/shm";

/// One object of an instance.
///
/// ```
/// use ledger_shm::object::{Instance, Name};
///
/// let instance = Instance::new(1000, "tests")?;
/// let name = Name::Lock.in_instance(&instance);
/// assert_eq!(name, "ledger-1000-tests-lock");
/// assert_eq!(Name::parse(&instance, &name), Some(Name::Lock));
/// let path = Name::Lock.path_in(&instance);
/// assert_eq!(path.to_str(), Some("/dev/shm/ledger-1000-tests-lock"));
/// # Ok::<(), ledger_shm::object::InvalidInstance>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// The daemon's lock.
    Lock,
    /// A context's control object.
    Control(Epoch),
    /// One segment of a context.
    Part(Epoch, u64),
}

impl Name {
    /// The name within the memory file system, without a slash.
    pub fn in_instance(self, instance: &Instance) -> String {
        let (uid, name) = (instance.uid(), instance.name());
        match self {
            Name::Lock => format!("ledger-{uid}-{name}-lock"),
            Name::Control(epoch) => format!("ledger-{uid}-{name}-{epoch}-control"),
            Name::Part(epoch, part) => format!("ledger-{uid}-{name}-{epoch}-{part}"),
        }
    }

    /// Where it lies as a file.
    pub fn path_in(self, instance: &Instance) -> PathBuf {
        Path::new(MEMORY_DIR).join(self.in_instance(instance))
    }

    /// The object that a file name means, if it is one of this instance's.
    pub fn parse(instance: &Instance, file_name: &str) -> Option<Name> {
        let rest =
            file_name.strip_prefix(&format!("ledger-{}-{}-", instance.uid(), instance.name()))?;
        if rest == "lock" {
            return Some(Name::Lock);
        }
        let (epoch, kind) = rest.split_once('-')?;
        let epoch = (epoch.len() == 32).then(|| epoch.parse().ok())??;
        let name = match kind {
            "control" => Name::Control(epoch),
            part => Name::Part(epoch, part.parse().ok()?),
        };
        (name.in_instance(instance) == file_name).then_some(name)
    }
}

/// Every object of an instance, by name, in no order.
///
/// # Errors
///
/// The kernel's, when the memory file system cannot be listed.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_shm::object::{Name, list};
///
/// # ledger.context("loan-7").open_or_create()?;
/// let names = list(ledger.instance())?;
/// let contexts = names.iter().filter(|name| matches!(name, Name::Control(_)));
/// assert_eq!(contexts.count(), 1);
/// # Ok(()) });
/// ```
pub fn list(instance: &Instance) -> io::Result<Vec<Name>> {
    let mut names = Vec::new();
    for entry in sys::uninterrupted(|| std::fs::read_dir(MEMORY_DIR))? {
        names.extend(
            entry?
                .file_name()
                .to_str()
                .and_then(|name| Name::parse(instance, name)),
        );
    }
    Ok(names)
}

/// An open memory object, not yet mapped.
#[derive(Debug)]
pub struct Object {
    fd: OwnedFd,
    len: usize,
    uid: u32,
    has_foreign_writers: bool,
}

impl Object {
    /// Creates an object of `len` bytes, zeroed, its memory committed, mode
    /// 0600. On failure nothing is left behind.
    ///
    /// # Errors
    ///
    /// `StorageFull` when the memory file system is, `AlreadyExists`, others.
    pub fn create(instance: &Instance, name: Name, len: usize) -> io::Result<Object> {
        let os_id = format!("/{}", name.in_instance(instance));
        let mut memory = shared_memory::ShmemConf::new()
            .os_id(&os_id)
            .size(len)
            .create()
            .map_err(|error| create_error(error, &os_id))?;
        let object = Object::open(instance, name, true)?;
        // Without its memory a later touch would raise SIGBUS: commit it now,
        // while failing is still possible. Dropping `memory` unlinks it then.
        sys::commit(&object.fd, len)?;
        // From here on the object outlives this process.
        memory.set_owner(false);
        Ok(object)
    }

    /// Opens an object by name.
    ///
    /// # Errors
    ///
    /// `NotFound`; `PermissionDenied` if it belongs to somebody else or others
    /// may use it; the kernel's.
    pub fn open(instance: &Instance, name: Name, writable: bool) -> io::Result<Object> {
        // As shm_open(3), and again when a signal has interrupted it.
        let mut options = File::options();
        options.read(true).write(writable);
        options.custom_flags(OFlag::O_NOFOLLOW.bits());
        let file = options.open(name.path_in(instance))?;
        Object::received(instance, file.into())
    }

    /// An object that the instance's daemon sent.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn received(instance: &Instance, fd: OwnedFd) -> io::Result<Object> {
        let (len, uid, mode) = sys::size_and_owner(&fd)?;
        if uid != instance.uid() || mode & 0o077 != 0 {
            let foreign = MapError::Foreign {
                uid,
                mode,
                expected: instance.uid(),
            };
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, foreign));
        }
        Ok(Object {
            fd,
            len,
            uid,
            has_foreign_writers: false,
        })
    }

    /// A file without a name in the memory file system, which nobody else can open.
    #[cfg(not(loom))]
    pub(crate) fn unnamed() -> io::Result<File> {
        File::options()
            .read(true)
            .write(true)
            .mode(0o600)
            .custom_flags(OFlag::O_TMPFILE.bits())
            .open(MEMORY_DIR)
    }

    /// What this process has written into one of those.
    #[cfg(not(loom))]
    pub(crate) fn own(file: File) -> io::Result<Object> {
        let (len, uid, _) = sys::size_and_owner(&file)?;
        Ok(Object {
            fd: file.into(),
            len,
            uid,
            has_foreign_writers: false,
        })
    }

    /// Whether nobody but this process's uid can write it.
    pub fn is_trusted(&self) -> bool {
        !self.has_foreign_writers && self.uid == sys::own_uid()
    }

    /// Takes note that other uids were given the right to write it.
    pub fn distrust(&mut self) {
        self.has_foreign_writers = true;
    }

    /// Whether anybody else has it open or mapped, in whatever process: asked by
    /// way of a lease, which the kernel gives to the only one who has a file
    /// (fcntl(2), F_SETLEASE).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn is_shared(&self) -> io::Result<bool> {
        sys::is_shared(&self.fd)
    }

    /// Bytes of the object.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the object has no bytes: a creation that was cut short.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn map(&self, writable: bool) -> Result<Region, MapError> {
        if self.len < PAGE_LEN || !self.len.is_multiple_of(PAGE_LEN) {
            return Err(MapError::Unfinished);
        }
        Ok(Region::map(&self.fd, self.len, writable)?)
    }

    /// The first `len` bytes as they are now.
    #[cfg(not(loom))]
    pub(crate) fn copy(&self, len: usize) -> Result<Region, MapError> {
        if self.len < PAGE_LEN {
            return Err(MapError::Unfinished);
        }
        Ok(Region::copy_of(&self.fd, len.min(self.len))?)
    }
}

impl From<Object> for OwnedFd {
    fn from(object: Object) -> OwnedFd {
        object.fd
    }
}

impl AsFd for Object {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn create_error(error: shared_memory::ShmemError, os_id: &str) -> io::Error {
    use shared_memory::ShmemError;
    match error {
        ShmemError::MappingIdExists => {
            io::Error::new(io::ErrorKind::AlreadyExists, format!("{os_id} exists"))
        }
        ShmemError::MapCreateFailed(errno) | ShmemError::UnknownOsError(errno) => {
            io::Error::from_raw_os_error(errno.cast_signed())
        }
        other => io::Error::other(other),
    }
}

/// Removes an object's name. Its memory lives on in whoever still maps it.
///
/// # Errors
///
/// The kernel's; an object that is gone already is fine.
pub fn unlink(instance: &Instance, name: Name) -> io::Result<()> {
    match nix::sys::mman::shm_unlink(format!("/{}", name.in_instance(instance)).as_str()) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Bytes that the memory file system could still give out.
///
/// # Errors
///
/// The kernel's.
pub fn free_len() -> io::Result<u64> {
    let stat = nix::sys::statvfs::statvfs(Path::new(MEMORY_DIR))?;
    Ok(stat.blocks_available() * stat.fragment_size())
}

#[cfg(test)]
mod tests;
