//! Starting and stopping a daemon.

use std::fs::Permissions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use ledger_client::place;
use ledger_shm::control::InvalidSizes;
use ledger_shm::fork::Generation;
use ledger_shm::object::{self, Instance, InvalidInstance, MEMORY_DIR};
use ledger_shm::socket;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::archive::{Archiver, Disk, StateLock};
use crate::load::Loads;
use crate::lock::{Lock, remove_socket};
use crate::maker::Maker;
use crate::options::Options;
use crate::recover::{archived, recover};
use crate::registry::Registry;
use crate::server::Server;

/// Why a daemon could not start.
///
/// ```
/// # ledger_tests::daemon_example(|options| {
/// use ledgerd::{Daemon, StartError};
///
/// let first = Daemon::start(options.clone())?;
/// let error = Daemon::start(options).unwrap_err();
/// assert!(matches!(error, StartError::AlreadyRunning { .. }));
/// # Ok(()) });
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The instance's name is none.
    #[error(transparent)]
    InvalidInstance(#[from] InvalidInstance),
    /// A limit that the format cannot hold.
    #[error("{what} is {given}, at most {max} is possible")]
    LimitTooLarge {
        /// Which limit.
        what: &'static str,
        /// What was asked for.
        given: usize,
        /// What can be.
        max: usize,
    },
    /// Segments cannot be so large.
    #[error(transparent)]
    InvalidSizes(#[from] InvalidSizes),
    /// Files cannot be so large, or are not worth it.
    #[error("a file of {given} bytes is not possible; choose from {min} to {max}")]
    InvalidFileLen {
        /// What was asked for.
        given: usize,
        /// The least that is possible.
        min: usize,
        /// The most that is possible.
        max: usize,
    },
    /// Not even one context would fit.
    #[error("a memory budget of {given} bytes holds no context; the first takes {min}")]
    BudgetTooSmall {
        /// What was asked for.
        given: u64,
        /// What one context takes.
        min: u64,
    },
    /// There is one already.
    #[error(
        "instance {instance:?} has a daemon already{}; stop it, or choose another with --instance",
        pid.map_or_else(String::new, |pid| format!(", process {pid}"))
    )]
    AlreadyRunning {
        /// Which one.
        instance: String,
        /// Which process it said it was.
        pid: Option<u32>,
    },
    /// The socket could not be made.
    #[error("cannot listen at {}: {source}", socket.display())]
    Socket {
        /// Where.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The directory of the archive cannot be used.
    #[error("cannot keep an archive in {}: {source}; name another directory with --state-dir, or keep contexts in memory only with --durability memory", dir.display())]
    Archive {
        /// Where.
        dir: PathBuf,
        /// What the kernel said, or what is wrong with the directory.
        source: io::Error,
    },
    /// Another daemon keeps its archive there.
    #[error("another daemon keeps its archive in {}; stop it, or choose another directory with --state-dir", dir.display())]
    ArchiveInUse {
        /// Where.
        dir: PathBuf,
    },
    /// The memory file system does not do what is needed.
    #[error("cannot use shared memory: {source}")]
    Memory {
        /// What the kernel said.
        source: io::Error,
    },
}

/// A running daemon. Dropping it stops it; its contexts stay in memory, and
/// attached clients go on.
///
/// ```
/// # ledger_tests::daemon_example(|mut options| {
/// use ledger_client::Ledger;
/// use ledgerd::Daemon;
///
/// options.memory_budget = Some(16 << 20);
/// let daemon = Daemon::start(options.clone())?;
/// let ledger = Ledger::builder()
///     .instance(daemon.instance())
///     .runtime_dir(&options.runtime_dir)
///     .connect()?;
/// ledger.context("loan-7").open_or_create()?;
/// daemon.stop()?;
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct Daemon {
    socket: PathBuf,
    /// Whoever made the socket removes it.
    is_passed: bool,
    context_count: usize,
    leftover_count: usize,
    budget: u64,
    wake: Arc<EventFd>,
    ended: Arc<EventFd>,
    is_stopped: Arc<AtomicBool>,
    turns: Arc<AtomicU64>,
    /// What it was started with.
    options: Options,
    next: Arc<Mutex<Option<Options>>>,
    thread: Option<JoinHandle<io::Result<()>>>,
    archive_dir: Option<PathBuf>,
    state_lock: Option<StateLock>,
    /// Released last.
    _lock: Lock,
}

impl Daemon {
    /// Starts a daemon in threads of this process: takes the instance's lock,
    /// finds what is in memory, and listens.
    ///
    /// # Errors
    ///
    /// [`StartError`] says what is in the way.
    ///
    /// ```
    /// # ledger_tests::daemon_example(|options| {
    /// use ledgerd::{Daemon, Options};
    ///
    /// let daemon = Daemon::start(options)?;
    /// println!("listens at {}", daemon.socket().display());
    /// # Ok(()) });
    /// ```
    pub fn start(options: Options) -> Result<Daemon, StartError> {
        Daemon::begin(None, options)
    }

    /// As [`start`](Self::start), on a socket that somebody else made and removes,
    /// a service manager for example: one that [`socket::inherited`] has checked.
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// ```no_run
    /// use ledger_shm::socket;
    /// use ledgerd::{Daemon, Options};
    ///
    /// // The first descriptor that systemd passes.
    /// let listener = socket::inherited(3)?;
    /// let daemon = Daemon::start_on(listener, Options::new("default"))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start_on(listener: OwnedFd, options: Options) -> Result<Daemon, StartError> {
        Daemon::begin(Some(listener), options)
    }

    fn begin(passed: Option<OwnedFd>, options: Options) -> Result<Daemon, StartError> {
        let instance = Instance::own(&options.instance)?;
        let memory = |source| StartError::Memory { source };
        options.check()?;
        let lock = Lock::take(&instance)?;
        let mut generation = [0; 8];
        getrandom::fill(&mut generation).map_err(|error| memory(io::Error::other(error)))?;
        let generation = u64::from_le_bytes(generation);
        let made_in = Generation::current().map_err(memory)?;

        let mut found = recover(&instance, &options, generation).map_err(memory)?;
        for (epoch, error) in &found.unreadable {
            tracing::error!(%epoch, %error, "a context cannot be served");
        }
        let committed: u64 = found.logs.iter().map(crate::log::Log::committed_len).sum();
        let available = object::free_len().map_err(memory)? + committed;
        let budget = options.memory_budget.unwrap_or(available / 2);
        if budget > available {
            tracing::warn!(
                "{MEMORY_DIR} has room for {available} bytes, less than the memory budget of {budget}"
            );
        }

        // Clients in other directories look there, too.
        let state_dir = std::path::absolute(&options.state_dir).map_err(memory)?;
        let archive_dir = place::archive_dir(&state_dir, &instance);
        let disk = Disk::new(Arc::clone(&options.file_system));
        let has_files = options.may_archive() || archive_dir.exists();
        let state_lock = has_files
            .then(|| lock_archive(&archive_dir, &instance, &disk))
            .transpose()?;
        lock.tell_archive(&archive_dir).map_err(memory)?;
        let archived = match &state_lock {
            Some(_) => archived(&archive_dir, &options, &instance, &mut found),
            None => Ok(Vec::new()),
        };
        let archived = archived.map_err(|source| StartError::Archive {
            dir: archive_dir.clone(),
            source,
        })?;

        let is_passed = passed.is_some();
        let (socket, listener) = match passed {
            Some(listener) => {
                let path = socket::path(&listener).map_err(memory)?;
                (path.unwrap_or_default(), listener)
            }
            None => listen(&instance, &options)?,
        };

        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_flags(flags).map_err(|error| memory(error.into()))?);
        let ended = Arc::new(EventFd::from_flags(flags).map_err(|error| memory(error.into()))?);
        let is_stopped = Arc::new(AtomicBool::new(false));
        let turns = Arc::new(AtomicU64::new(0));
        let maker = Maker::start(instance.clone(), Arc::clone(&wake)).map_err(memory)?;
        let own_dir = state_lock.as_ref().map(|_| archive_dir.clone());
        let archiver = state_lock.is_some().then(|| {
            let loads = Loads::new(archive_dir.clone(), disk, Arc::clone(&wake));
            let (dir, done) = (archive_dir.clone(), Arc::clone(&wake));
            Archiver::start(instance.clone(), options.clone(), dir, done)
                .map(|archiver| (archive_dir, archiver, loads))
        });
        let archive = archiver.transpose().map_err(memory)?;
        let owner_uid = instance.uid();
        let leftover_count = found.leftovers;
        let next = Arc::default();
        let mut registry = Registry::new(
            instance,
            options.clone(),
            budget,
            generation,
            made_in,
            maker,
            archive,
        );
        for log in archived {
            registry.adopt(log);
        }
        // Of two of one name that in memory is served.
        for log in found.logs {
            registry.adopt(log);
        }
        let context_count = registry.context_count();
        let server = Server::new(
            registry,
            listener,
            Arc::clone(&wake),
            Arc::clone(&is_stopped),
            owner_uid,
            Arc::clone(&turns),
            Arc::clone(&next),
        )
        .map_err(memory)?;
        let thread = std::thread::Builder::new()
            .name("ledgerd-server".into())
            .spawn({
                let ended = Arc::clone(&ended);
                move || {
                    // Also when it panics.
                    let _announce = Announce(ended);
                    server.run()
                }
            })
            .map_err(memory)?;
        Ok(Daemon {
            socket,
            is_passed,
            context_count,
            leftover_count,
            budget,
            wake,
            ended,
            is_stopped,
            turns,
            options,
            next,
            thread: Some(thread),
            archive_dir: own_dir,
            state_lock,
            _lock: lock,
        })
    }

    /// The instance's name.
    ///
    /// ```
    /// # ledger_tests::daemon_example(|options| {
    /// # use ledgerd::Daemon;
    /// let daemon = Daemon::start(options.clone())?;
    /// assert_eq!(daemon.instance(), options.instance);
    /// # Ok(()) });
    /// ```
    pub fn instance(&self) -> &str {
        &self.options.instance
    }

    /// Where clients connect.
    ///
    /// ```
    /// # ledger_tests::daemon_example(|options| {
    /// # use ledgerd::Daemon;
    /// let daemon = Daemon::start(options.clone())?;
    /// assert!(daemon.socket().starts_with(&options.runtime_dir));
    /// # Ok(()) });
    /// ```
    pub fn socket(&self) -> &std::path::Path {
        &self.socket
    }

    /// Contexts that were found in memory at the start.
    ///
    /// ```
    /// # ledger_tests::daemon_example(|options| {
    /// # use ledgerd::Daemon;
    /// assert_eq!(Daemon::start(options)?.context_count(), 0);
    /// # Ok(()) });
    /// ```
    pub fn context_count(&self) -> usize {
        self.context_count
    }

    /// Objects that belonged to nothing and were removed at the start.
    ///
    /// ```
    /// # ledger_tests::daemon_example(|options| {
    /// # use ledgerd::Daemon;
    /// assert_eq!(Daemon::start(options)?.leftover_count(), 0);
    /// # Ok(()) });
    /// ```
    pub fn leftover_count(&self) -> usize {
        self.leftover_count
    }

    /// Bytes of memory this instance may commit.
    ///
    /// ```
    /// # ledger_tests::daemon_example(|mut options| {
    /// # use ledgerd::Daemon;
    /// options.memory_budget = Some(16 << 20);
    /// assert_eq!(Daemon::start(options)?.budget(), 16 << 20);
    /// # Ok(()) });
    /// ```
    pub fn budget(&self) -> u64 {
        self.budget
    }

    /// How often its loop has turned: for those who watch over it.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Goes on with other options, as far as that can be done; says what takes
    /// a new start.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start); nothing has changed then.
    ///
    /// ```
    /// # ledger_tests::daemon_example(|mut options| {
    /// # use ledgerd::Daemon;
    /// let daemon = Daemon::start(options.clone())?;
    /// options.clients_max = 50;
    /// assert!(daemon.reload(options.clone())?.is_empty());
    /// options.instance = "another".into();
    /// assert_eq!(daemon.reload(options)?, ["instance"]);
    /// # Ok(()) });
    /// ```
    pub fn reload(&self, options: Options) -> Result<Vec<&'static str>, StartError> {
        options.check()?;
        let mut unchanged = Vec::new();
        if options.instance != self.options.instance {
            unchanged.push("instance");
        }
        if options.runtime_dir != self.options.runtime_dir {
            unchanged.push("runtime_dir");
        }
        if options.state_dir != self.options.state_dir {
            unchanged.push("state_dir");
        }
        if options.may_archive() && self.state_lock.is_none() {
            unchanged.push("durability");
        }
        if options.memory_budget.is_none() && self.options.memory_budget.is_some() {
            unchanged.push("memory_budget, to be as if it were not set");
        }
        if options.has_other_uids() && !self.is_passed {
            admit_others(&self.socket).map_err(|source| StartError::Socket {
                socket: self.socket.clone(),
                source,
            })?;
        }
        // What was written with one is not gone on with by another.
        let options = Options {
            file_system: Arc::clone(&self.options.file_system),
            ..options
        };
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Some(options);
        drop(next);
        self.turn();
        Ok(unchanged)
    }

    /// Has its loop turn once more, if it does at all.
    pub(crate) fn turn(&self) {
        // Fails only when the counter is at its maximum, and then it is awake.
        let _ = self.wake.write(1);
    }

    /// Where it keeps its archive, if it does.
    pub(crate) fn archive_dir(&self) -> Option<&Path> {
        self.archive_dir.as_deref()
    }

    /// Becomes readable when the daemon has ended by itself, which it only does
    /// after an error that [`stop`](Self::stop) then returns.
    ///
    /// ```
    /// # ledger_tests::daemon_example(|options| {
    /// # use ledgerd::Daemon;
    /// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    ///
    /// let daemon = Daemon::start(options)?;
    /// let mut events = [PollFd::new(daemon.ended(), PollFlags::POLLIN)];
    /// assert_eq!(poll(&mut events, PollTimeout::ZERO)?, 0);
    /// # Ok(()) });
    /// ```
    pub fn ended(&self) -> BorrowedFd<'_> {
        self.ended.as_fd()
    }

    /// Stops. Contexts stay in memory.
    ///
    /// # Errors
    ///
    /// What ended the daemon's loop, if it was not this.
    ///
    /// ```
    /// # ledger_tests::daemon_example(|options| {
    /// # use ledgerd::Daemon;
    /// let daemon = Daemon::start(options)?;
    /// let socket = daemon.socket().to_owned();
    /// daemon.stop()?;
    /// assert!(!socket.exists());
    /// # Ok(()) });
    /// ```
    pub fn stop(mut self) -> io::Result<()> {
        self.end()
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.is_stopped.store(true, Ordering::Release);
        self.wake.write(1)?;
        let outcome = thread
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the daemon's loop panicked")));
        if self.is_passed {
            return outcome;
        }
        outcome.and(remove_socket(&self.socket))
    }
}

/// Keeps other daemons away from the instance's files.
fn lock_archive(dir: &Path, instance: &Instance, disk: &Disk) -> Result<StateLock, StartError> {
    let archive = |source| StartError::Archive {
        dir: dir.to_owned(),
        source,
    };
    let taken = StateLock::take(dir, instance.uid(), disk).map_err(archive)?;
    taken.ok_or_else(|| StartError::ArchiveInUse {
        dir: dir.to_owned(),
    })
}

/// Makes the socket where clients look for it.
fn listen(instance: &Instance, options: &Options) -> Result<(PathBuf, OwnedFd), StartError> {
    let socket = place::socket_path(&options.runtime_dir, instance);
    let is_for_others = options.has_other_uids();
    let make = || {
        place::prepare_runtime_dir(&options.runtime_dir, instance.uid(), is_for_others)?;
        remove_socket(&socket)?;
        let listener = socket::listen(&socket)?;
        if is_for_others {
            admit_others(&socket)?;
        }
        Ok(listener)
    };
    match make() {
        Ok(listener) => Ok((socket, listener)),
        Err(source) => Err(StartError::Socket { socket, source }),
    }
}

/// Has other uids reach the socket, which each of their questions is checked at.
fn admit_others(socket: &Path) -> io::Result<()> {
    std::fs::set_permissions(socket, Permissions::from_mode(0o666))?;
    let dir = socket.parent().unwrap_or(Path::new("/"));
    let mode = std::fs::metadata(dir)?.mode();
    if mode & 0o001 == 0 {
        tracing::warn!(
            "rights are given to other uids, and {} has mode {:o}, which keeps them out; `chmod o+x` it, or name another with LEDGER_RUNTIME_DIR",
            dir.display(),
            mode & 0o7777
        );
    }
    Ok(())
}

/// Says that the loop has ended, however it did.
struct Announce(Arc<EventFd>);

impl Drop for Announce {
    fn drop(&mut self) {
        // It is written once, so there is room.
        let _ = self.0.write(1);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "stopping failed");
        }
    }
}
