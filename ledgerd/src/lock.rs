//! One daemon per instance: an advisory lock on a memory object.
//!
//! The lock is the kernel's and ends with its holder, however that ends. The
//! object is only unlinked by `purge`, which holds the lock then; whoever has
//! got a lock checks that the name still means what it locked. It holds the
//! process id of who locked it last, for people to read: nothing follows from it; and
//! where the archive is, for those who read without the daemon.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use ledger_client::place;
use ledger_shm::control::State;
use ledger_shm::fork::Generation;
use ledger_shm::object::{self, Instance, Name};
use ledger_shm::{Control, Tail, uninterrupted};
use nix::fcntl::OFlag;
use nix::unistd::geteuid;

use crate::daemon::StartError;
use crate::log;

/// Bytes of what is said there: the longest path, and more.
const SAID_LEN_MAX: usize = 8192;

/// A file that is locked until dropped (flock(2)).
#[derive(Debug)]
pub(crate) struct Locked(File);

impl Locked {
    /// Locks it, or gives it back and says why not.
    pub(crate) fn lock(file: File) -> Result<Locked, (File, TryLockError)> {
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Locked(file)),
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err((file, error)),
            }
        }
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // Closing does that too, but not while a child of another thread has the file that
        // has not become its program yet.
        let _ = self.0.unlock();
    }
}

/// The lock of an instance, held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: Locked,
}

impl Lock {
    pub(crate) fn take(instance: &Instance) -> Result<Lock, StartError> {
        let memory = |error: nix::Error| StartError::Memory {
            source: error.into(),
        };
        let path = Name::Lock.path_in(instance);
        loop {
            // As shm_open(3), and again when a signal has interrupted it.
            let mut options = File::options();
            options.create(true).truncate(false).read(true).write(true);
            options.mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
            let file = options.open(&path);
            let file = file.map_err(|source| StartError::Memory { source })?;
            let file = Locked::lock(file).map_err(|(file, error)| match error {
                TryLockError::WouldBlock => StartError::AlreadyRunning {
                    instance: instance.name().to_owned(),
                    pid: holder(&file),
                },
                TryLockError::Error(source) => StartError::Memory { source },
            })?;
            let locked = nix::sys::stat::fstat(&file.0).map_err(memory)?;
            if locked.st_uid != geteuid().as_raw() {
                let message = format!("{} belongs to uid {}", path.display(), locked.st_uid);
                return Err(StartError::Memory {
                    source: io::Error::new(io::ErrorKind::PermissionDenied, message),
                });
            }
            // A purge may have removed the name between opening and locking.
            let named = nix::sys::stat::stat(&path);
            if named.is_ok_and(|named| named.st_ino == locked.st_ino) {
                let lock = Lock { file };
                // Who reads files meanwhile finds them where they were, though this daemon
                // should end before it knows better. Where memory is full it stays unsaid.
                let mut said = [0; SAID_LEN_MAX];
                let len = uninterrupted(|| lock.file.0.read_at(&mut said, 0)).unwrap_or(0);
                let mut lines = said[..len].split(|byte| *byte == b'\n').skip(1);
                // What does not end was not read whole.
                let archive_dir = lines.next().filter(|_| lines.next().is_some());
                let archive_dir = OsStr::from_bytes(archive_dir.unwrap_or_default());
                let _ = lock.tell_archive(Path::new(archive_dir));
                return Ok(lock);
            }
        }
    }
}

impl Lock {
    /// Says where the instance's files are, to who may open this.
    pub(crate) fn tell_archive(&self, archive_dir: &Path) -> io::Result<()> {
        let mut said = format!("{}\n", std::process::id()).into_bytes();
        said.extend(archive_dir.as_os_str().as_bytes());
        said.push(b'\n');
        self.file.0.write_all_at(&said, 0)?;
        self.file.0.set_len(said.len() as u64)
    }
}

/// Who says that it holds the lock.
fn holder(lock: &File) -> Option<u32> {
    let mut digits = [0; 10];
    let len = lock.read_at(&mut digits, 0).ok()?;
    let line = digits[..len].split(|byte| *byte == b'\n').next()?;
    std::str::from_utf8(line).ok()?.parse().ok()
}

/// Has clients that are still attached find out: they would append to memory
/// that nobody can ever read again. What cannot be opened has no clients.
fn give_up(instance: &Instance, name: Name) {
    match name {
        Name::Lock => {}
        Name::Control(epoch) => {
            if let Ok(control) = Control::open(instance, epoch, true) {
                control.set_state(State::Dropped);
            }
        }
        Name::Part(epoch, part) => {
            let Ok(segment) = log::map(instance, epoch, part) else {
                return;
            };
            let Ok(made_in) = Generation::current() else {
                return;
            };
            // A spare is withdrawn; in the part at the end of the log CLOSED
            // wins; a sealed one is not appended to anyway.
            if segment.withdraw().is_err()
                && let Ok(mut tail) = Tail::new(segment, made_in)
            {
                let _ = tail.close();
            }
        }
    }
}

/// Removes the socket of an instance whose lock the caller holds: whoever left
/// it is dead.
pub(crate) fn remove_socket(socket: &Path) -> io::Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes every object of a stopped instance, and the socket that its daemon
/// left if it was killed. Returns how many objects, and the bytes that are free
/// once no process maps them any more.
///
/// # Errors
///
/// [`StartError::AlreadyRunning`] if a daemon owns the instance; the kernel's.
///
/// ```
/// # ledger_tests::daemon_example(|options| {
/// use ledger_shm::object::Instance;
/// use ledgerd::{Daemon, purge};
///
/// let instance = Instance::own(&options.instance)?;
/// let daemon = Daemon::start(options.clone())?;
/// assert!(purge(&instance, &options.runtime_dir).is_err());
/// daemon.stop()?;
/// assert_eq!(purge(&instance, &options.runtime_dir)?, (0, 0));
/// # Ok(()) });
/// ```
pub fn purge(instance: &Instance, runtime_dir: &Path) -> Result<(usize, u64), StartError> {
    let _lock = Lock::take(instance)?;
    let socket = place::socket_path(runtime_dir, instance);
    remove_socket(&socket).map_err(|source| StartError::Socket { socket, source })?;
    let memory = |source| StartError::Memory { source };
    let mut names = object::list(instance).map_err(memory)?;
    // The control objects first: without them a cut purge leaves leftovers,
    // which the next daemon removes, and never half a context.
    names.sort_by_key(|name| match name {
        Name::Control(_) => 0,
        Name::Part(..) => 1,
        Name::Lock => 2,
    });
    for name in &names {
        give_up(instance, *name);
    }
    let (mut removed, mut freed) = (0, 0);
    for name in &names {
        let found = std::fs::metadata(name.path_in(instance));
        object::unlink(instance, *name).map_err(memory)?;
        if *name != Name::Lock {
            removed += 1;
            freed += found.map_or(0, |found| found.len());
        }
    }
    Ok((removed, freed))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use ledger_shm::format::{CONTROL_LEN, WITHDRAWN};
    use ledger_shm::slot::Slot;

    use super::*;
    use crate::objects::Objects;

    #[test]
    fn a_lock_is_given_back_though_somebody_else_has_its_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("lock");
        let open = || {
            File::options()
                .create(true)
                .write(true)
                .truncate(false)
                .open(&path)
        };
        let file = open().expect("ours");
        // As a child has it.
        let inherited = file.try_clone().expect("a descriptor");
        let locked = Locked::lock(file).expect("nobody has it");
        let (_, error) = Locked::lock(open().expect("ours")).expect_err("it is locked");
        assert!(matches!(error, TryLockError::WouldBlock), "{error}");
        drop(locked);
        Locked::lock(open().expect("ours")).expect("it was given back");
        drop(inherited);
    }

    #[test]
    fn only_its_owner_can_use_a_lock_and_another_daemon_is_told_what_it_says() {
        let (memory, dir) = (Objects::new(), tempfile::tempdir().expect("a directory"));
        let lock = Lock::take(&memory.instance).expect("nobody has it");
        let found = std::fs::metadata(Name::Lock.path_in(&memory.instance)).expect("it is there");
        assert_eq!(found.permissions().mode() & 0o777, 0o600);
        let holder = || match Lock::take(&memory.instance) {
            Err(StartError::AlreadyRunning { pid, .. }) => pid,
            other => panic!("{other:?}"),
        };
        assert_eq!(holder(), Some(std::process::id()));
        lock.tell_archive(dir.path()).expect("room");
        assert_eq!(holder(), Some(std::process::id()));
        lock.file.0.write_all_at(b"17\n", 0).expect("room");
        assert_eq!(holder(), Some(17), "whoever it was");
    }

    #[test]
    fn where_the_files_are_is_said_on_while_the_next_daemon_starts() {
        let memory = Objects::new();
        let said = || std::fs::read(Name::Lock.path_in(&memory.instance)).expect("it is there");
        let pid = std::process::id();
        let lock = Lock::take(&memory.instance).expect("nobody has it");
        assert_eq!(said(), format!("{pid}\n\n").as_bytes());
        lock.tell_archive(Path::new("/some/where")).expect("room");
        let of = |pid: u32| format!("{pid}\n/some/where\n").into_bytes();
        assert_eq!(said(), of(pid));
        // Of one whose process id is longer.
        let before = of(u32::MAX);
        lock.file.0.write_all_at(&before, 0).expect("room");
        drop(lock);
        let lock = Lock::take(&memory.instance).expect("nobody has it");
        assert_eq!(said(), of(pid));
        lock.tell_archive(Path::new("/else")).expect("room");
        assert_eq!(said(), format!("{pid}\n/else\n").as_bytes());
    }

    #[test]
    fn purge_counts_what_it_removes_and_tells_whoever_has_it_open() {
        let (memory, dir) = (Objects::new(), tempfile::tempdir().expect("a directory"));
        let control = memory.context(1, None, State::Open);
        let (part, spare) = (memory.part(1, 1, 1), memory.part(1, 2, 0));
        let lens = [&part, &spare].map(|part| part.geometry().segment_len);
        let socket = place::socket_path(dir.path(), &memory.instance);
        std::fs::write(&socket, "").expect("ours");
        let purged = purge(&memory.instance, dir.path()).expect("nobody has it");
        let freed = lens.iter().sum::<usize>() + CONTROL_LEN;
        assert_eq!(purged, (3, freed as u64));
        assert_eq!((memory.count(), socket.exists()), (0, false));
        assert_eq!(control.state(), Ok(State::Dropped));
        assert_eq!(part.look(0), Ok(Slot::Closed));
        assert_eq!(spare.base_seq(), WITHDRAWN);
        let purged = purge(&memory.instance, dir.path()).expect("nothing is there");
        assert_eq!(purged, (0, 0));
    }

    #[test]
    fn what_is_in_the_place_of_a_socket_is_not_taken_for_none() {
        let (memory, dir) = (Objects::new(), tempfile::tempdir().expect("a directory"));
        let socket = place::socket_path(dir.path(), &memory.instance);
        std::fs::create_dir(&socket).expect("ours");
        let error = purge(&memory.instance, dir.path()).expect_err("it is in the way");
        assert!(matches!(error, StartError::Socket { .. }), "{error}");
    }
}
