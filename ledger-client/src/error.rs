//! What can go wrong, per verb. Every message says what happened, with which
//! value, and what to do.

use std::io;
use std::path::{Path, PathBuf};

use ledger_shm::control::{InvalidName, InvalidSizes};
use ledger_shm::object::{Instance, InvalidInstance, MapError};
use ledger_shm::{Corrupt, Full, Refused};
use nix::errno::Errno;

use crate::wire::{Hello, Refusal};

/// Why no daemon answers.
///
/// ```
/// let nobody = ledger_client::Ledger::builder().runtime_dir("/nonexistent");
/// match nobody.connect() {
///     Ok(_) => unreachable!("nobody listens there"),
///     Err(error) if error.is_unreachable() => eprintln!("{error}"),
///     Err(error) => panic!("not a matter of waiting: {error}"),
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The instance's name is none.
    #[error(transparent)]
    InvalidInstance(#[from] InvalidInstance),
    /// Nobody listens.
    #[error("no ledger daemon at {}: {source}; {}", socket.display(), what_to_do(source))]
    DaemonDown {
        /// Where one was expected.
        socket: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Somebody listens, and does not answer.
    #[error("the ledger daemon at {} does not answer; see whether it is stopped or starved", socket.display())]
    Unanswered {
        /// Where it listens.
        socket: PathBuf,
    },
    /// The daemon was built from another version.
    #[error("the daemon speaks {theirs}, this program {ours}; use the same release, and the same features of rkyv, on both sides", ours = Hello::OURS)]
    Version {
        /// What the daemon says it speaks.
        theirs: Hello,
    },
    /// The daemon said something that is no message.
    #[error("the daemon at {} sent {what}", socket.display())]
    Protocol {
        /// Which daemon.
        socket: PathBuf,
        /// What it sent.
        what: &'static str,
    },
    /// Somebody else listens where the daemon should.
    #[error("uid {found} listens at {}, and not the daemon of uid {expected}; say that uid {found}'s instance is meant (`--uid`, `Builder::uid`), or name another runtime directory", socket.display())]
    Impostor {
        /// Where.
        socket: PathBuf,
        /// Who listens.
        found: u32,
        /// Whose instance it is.
        expected: u32,
    },
    /// This process is a fork of the one that connected.
    #[error("this process is a fork of the one that connected; connect again")]
    Forked,
    /// This process could not be set up.
    #[error("cannot set up the connection: {0}")]
    Setup(#[source] io::Error),
}

/// Whether what could not be had is there: the error is not about that, but about who asked.
fn is_there(error: &io::Error) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionRefused, ConnectionReset, NotConnected, NotFound, PermissionDenied,
    };
    let elsewhere = [
        BrokenPipe,
        ConnectionRefused,
        ConnectionReset,
        NotConnected,
        NotFound,
        PermissionDenied,
    ];
    !elsewhere.contains(&error.kind())
}

/// Whether it is about how much this process may have.
fn is_short(error: &io::Error) -> bool {
    let error = error.raw_os_error().map(Errno::from_raw);
    matches!(
        error,
        Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS)
    )
}

/// What can be done about a socket that cannot be connected to.
fn what_to_do(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "there may be one: its owner lets other uids in by `[[rights]]` in the configuration"
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => {
            "name a shorter runtime directory (`--runtime-dir`, LEDGER_RUNTIME_DIR)"
        }
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "it has just ended, or takes no more clients, or none of this uid: see `clients_max` \
             and `clients_max_per_uid` in its configuration"
        }
        _ if is_short(error) => {
            "it is this process that is refused something: see what it may have (`ulimit -a`)"
        }
        _ => "start one with `ledgerd run`",
    }
}

impl ConnectError {
    /// What it means that the daemon at `socket` could not be spoken to.
    pub(crate) fn unreached(socket: &Path, source: io::Error) -> ConnectError {
        let socket = socket.to_owned();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                ConnectError::Unanswered { socket }
            }
            _ => ConnectError::DaemonDown { socket, source },
        }
    }

    /// Whether it may be otherwise as soon as a daemon runs.
    ///
    /// ```
    /// let nobody = ledger_client::Ledger::builder().runtime_dir("/nonexistent");
    /// assert!(nobody.connect().unwrap_err().is_unreachable());
    /// ```
    pub fn is_unreachable(&self) -> bool {
        matches!(
            self,
            ConnectError::DaemonDown { .. } | ConnectError::Unanswered { .. }
        )
    }

    /// Whether the daemon is of a release that this program cannot talk to.
    ///
    /// ```
    /// let nobody = ledger_client::Ledger::builder().runtime_dir("/nonexistent");
    /// assert!(!nobody.connect().unwrap_err().is_version());
    /// ```
    pub fn is_version(&self) -> bool {
        matches!(self, ConnectError::Version { .. })
    }
}

/// Why a context could not be opened.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// let error = ledger.context("nobody-made-it").open().unwrap_err();
/// assert!(error.is_unknown());
/// assert!(error.to_string().contains("append to it to create it"));
/// # Ok(()) });
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The name is none.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// The sizes are none.
    #[error(transparent)]
    InvalidSizes(#[from] InvalidSizes),
    /// No context has this name.
    #[error("there is no context {name:?} in instance {instance:?}; append to it to create it")]
    Unknown {
        /// What was asked for.
        name: String,
        /// Where it was looked for.
        instance: String,
    },
    /// This uid has no right to it.
    #[error(
        "uid {uid} may not {right} this context; its owner gives rights in the daemon's configuration, `[[rights]]`"
    )]
    NotAllowed {
        /// Who asked.
        uid: u32,
        /// What for: `read`, `append to` or `drop`.
        right: String,
    },
    /// Somebody has it open.
    #[error("{count} have the context open; `ledgerd watchers` knows who watches it")]
    InUse {
        /// How many.
        count: u64,
    },
    /// This uid's processes hold too much already.
    #[error(transparent)]
    Held(#[from] Held),
    /// It was made when no other uid could append to it.
    #[error(
        "the context was made when no other uid had the right to append to it, and is read in place; begin a new context"
    )]
    ReadInPlace,
    /// There are as many as there may be.
    #[error(
        "the instance has {max} already, as many as `{what}` in the daemon's configuration allows; raise it there"
    )]
    Limit {
        /// What of, as the configuration calls it.
        what: String,
        /// How many.
        max: u64,
    },
    /// The context is damaged and readable only.
    #[error("the context is quarantined: {reason}; it can be read with `open_read_only`")]
    Quarantined {
        /// What the daemon found.
        reason: String,
    },
    /// There is no memory for it.
    #[error("no room for the context: {0}")]
    Full(Full),
    /// The daemon does not answer.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The daemon failed.
    #[error("the daemon failed: {0}")]
    Daemon(String),
    /// Its memory could not be mapped.
    #[error("cannot map the context's memory: {0}")]
    Map(#[from] MapError),
}

impl OpenError {
    pub(crate) fn unknown(name: &str, instance: &Instance) -> OpenError {
        OpenError::Unknown {
            name: name.to_owned(),
            instance: instance.name().to_owned(),
        }
    }

    pub(crate) fn refused(name: &str, instance: &Instance, refusal: Refusal) -> OpenError {
        match refusal {
            Refusal::UnknownContext => OpenError::unknown(name, instance),
            Refusal::NotAllowed { uid, right } => OpenError::NotAllowed { uid, right },
            Refusal::InUse { count } => OpenError::InUse { count },
            Refusal::Held { len, max } => OpenError::Held(Held { len, max }),
            Refusal::UnknownPart => OpenError::Map(not_found()),
            Refusal::Quarantined(reason) => OpenError::Quarantined { reason },
            Refusal::ReadInPlace => OpenError::ReadInPlace,
            Refusal::Limit { what, max } => OpenError::Limit { what, max },
            Refusal::Budget | Refusal::Unwritten | Refusal::NoMemory => {
                OpenError::Full(refusal.as_full())
            }
            Refusal::InvalidName(reason)
            | Refusal::Internal(reason)
            | Refusal::NotLoaded(reason) => OpenError::Daemon(reason),
        }
    }

    /// The reason an appender gives when this keeps it from getting a spare.
    pub(crate) fn as_full(&self) -> Full {
        let by_kernel = match self {
            OpenError::Connect(ConnectError::DaemonDown { source, .. }) if is_there(source) => {
                source.raw_os_error()
            }
            OpenError::Connect(ConnectError::Setup(source)) => source.raw_os_error(),
            OpenError::Map(MapError::Io(source)) if is_there(source) => source.raw_os_error(),
            _ => None,
        };
        match (by_kernel, self) {
            (Some(os_error), _) => Full::Kernel { os_error },
            (None, OpenError::Connect(_)) => Full::DaemonDown,
            (None, _) => Full::NoSpare,
        }
    }

    /// Whether no context has the name that was asked for.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// assert!(ledger.context("nobody-made-it").open().unwrap_err().is_unknown());
    /// # Ok(()) });
    /// ```
    pub fn is_unknown(&self) -> bool {
        matches!(self, OpenError::Unknown { .. })
    }

    /// Whether this uid may not do that: its owner would have to change the rights,
    /// or to begin a new context under those there are.
    ///
    /// ```
    /// use ledger_client::OpenError;
    ///
    /// let right = "append to".to_owned();
    /// let error = OpenError::NotAllowed { uid: 1001, right };
    /// assert!(error.is_not_allowed());
    /// assert!(error.to_string().starts_with("uid 1001 may not append to this context"));
    /// ```
    pub fn is_not_allowed(&self) -> bool {
        matches!(self, OpenError::NotAllowed { .. } | OpenError::ReadInPlace)
    }

    /// Whether there is no room, or no more of something, and it may be otherwise
    /// when others have let go.
    ///
    /// ```
    /// use ledger_client::{Full, OpenError};
    ///
    /// assert!(OpenError::Full(Full::Budget).is_exhausted());
    /// ```
    pub fn is_exhausted(&self) -> bool {
        matches!(
            self,
            OpenError::Full(_) | OpenError::Held(_) | OpenError::Limit { .. }
        )
    }

    /// Whether the context is damaged, and can be opened for reading only.
    ///
    /// ```
    /// # fn open(ledger: &ledger_client::Ledger) -> Result<(), ledger_client::OpenError> {
    /// let context = match ledger.context("loan-7").open() {
    ///     Err(error) if error.is_quarantined() => ledger.context("loan-7").open_read_only()?,
    ///     outcome => outcome?,
    /// };
    /// # Ok(())
    /// # }
    /// ```
    pub fn is_quarantined(&self) -> bool {
        matches!(self, OpenError::Quarantined { .. })
    }

    /// Whether it may be otherwise as soon as a daemon runs.
    ///
    /// ```
    /// let nobody = ledger_client::Ledger::builder().runtime_dir("/nonexistent");
    /// let ledger = nobody.daemon_optional(true).connect()?;
    /// let error = ledger.context("loan-7").open_or_create().unwrap_err();
    /// assert!(error.is_unreachable());
    /// # Ok::<(), ledger_client::ConnectError>(())
    /// ```
    pub fn is_unreachable(&self) -> bool {
        matches!(self, OpenError::Connect(error) if error.is_unreachable())
    }
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> OpenError {
        OpenError::Map(error.into())
    }
}

/// Processes of this uid still map too much that has left the window.
///
/// ```
/// # let held = |error: ledger_client::ReadError| {
/// if let ledger_client::ReadError::Held(held) = error {
///     eprintln!("{} of {} bytes", held.len, held.max);
/// }
/// # };
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "processes of this uid hold {len} bytes that have left the window, {max} are allowed; let go of entries that are kept and of watchers that do not move"
)]
#[non_exhaustive]
pub struct Held {
    /// Bytes that they hold.
    pub len: u64,
    /// Bytes that they may.
    pub max: u64,
}

/// What could not be had by name is not there.
fn not_found() -> MapError {
    MapError::Io(io::ErrorKind::NotFound.into())
}

/// Why an object of a context could not be had.
#[derive(Debug)]
pub(crate) enum ObjectError {
    Map(MapError),
    Connect(ConnectError),
    Refused(Refusal),
}

impl From<MapError> for ObjectError {
    fn from(error: MapError) -> ObjectError {
        ObjectError::Map(error)
    }
}

impl From<io::Error> for ObjectError {
    fn from(error: io::Error) -> ObjectError {
        ObjectError::Map(error.into())
    }
}

impl From<Corrupt> for ObjectError {
    fn from(corrupt: Corrupt) -> ObjectError {
        ObjectError::Map(corrupt.into())
    }
}

impl From<ObjectError> for ReadError {
    fn from(error: ObjectError) -> ReadError {
        match error {
            ObjectError::Map(error) => ReadError::Map(error),
            ObjectError::Connect(error) => ReadError::Connect(error),
            ObjectError::Refused(Refusal::UnknownContext) => ReadError::Closed,
            ObjectError::Refused(Refusal::UnknownPart) => ReadError::Map(not_found()),
            ObjectError::Refused(Refusal::Held { len, max }) => ReadError::Held(Held { len, max }),
            ObjectError::Refused(refusal) => {
                ReadError::Map(MapError::Io(io::Error::other(format!("{refusal:?}"))))
            }
        }
    }
}

impl From<ObjectError> for OpenError {
    fn from(error: ObjectError) -> OpenError {
        match error {
            ObjectError::Map(error) => OpenError::Map(error),
            ObjectError::Connect(error) => OpenError::Connect(error),
            ObjectError::Refused(refusal) => OpenError::Daemon(format!("{refusal:?}")),
        }
    }
}

/// Why an entry was not appended. Nothing was written.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::{AppendError, NewEntry};
///
/// let mut appender = ledger.context("loan-7").open_or_create()?.appender()?;
/// let error = appender.append(&NewEntry::new("", "without a key")).unwrap_err();
/// assert!(error.is_invalid() && !error.is_full());
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AppendError {
    /// The log refused it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The context was opened for reading.
    #[error("the context was opened for reading only; open it with `open` or `open_or_create`")]
    ReadOnly,
}

impl AppendError {
    /// Whether there was no room, and trying again later can help.
    ///
    /// ```
    /// use ledger_client::{AppendError, Full, Refused};
    ///
    /// let error = AppendError::from(Refused::Full(Full::Budget));
    /// assert!(error.is_full());
    /// ```
    pub fn is_full(&self) -> bool {
        matches!(self, AppendError::Refused(Refused::Full(_)))
    }

    /// Whether the context was dropped.
    ///
    /// ```
    /// use ledger_client::{AppendError, Refused};
    ///
    /// assert!(AppendError::from(Refused::Closed).is_closed());
    /// ```
    pub fn is_closed(&self) -> bool {
        matches!(self, AppendError::Refused(Refused::Closed))
    }

    /// Whether the entry itself is at fault: it can never be appended where these limits hold.
    ///
    /// ```
    /// use ledger_client::{AppendError, Refused};
    ///
    /// assert!(AppendError::from(Refused::EmptyKey).is_invalid());
    /// ```
    pub fn is_invalid(&self) -> bool {
        matches!(self, AppendError::Refused(refused) if refused.is_invalid())
    }
}

/// Why it is not known that an entry is on stable storage.
///
/// ```
/// use ledger_client::DurableError;
///
/// let error = DurableError::TimedOut { seq: 9, durable_seq: 4 };
/// assert!(error.to_string().contains("up to entry 4"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DurableError {
    /// The context is kept in memory only.
    #[error(
        "the context is kept in memory only; its daemon was told so, `durability`, when it was made"
    )]
    MemoryOnly,
    /// It was not in time.
    #[error(
        "entry {seq} is not on stable storage yet, everything up to entry {durable_seq} is; see `ledgerd info` and the daemon's reports"
    )]
    TimedOut {
        /// What was waited for.
        seq: u64,
        /// What is on stable storage.
        durable_seq: u64,
    },
    /// The context was dropped.
    #[error("the context was dropped; who opens its name again begins a new one")]
    Closed,
    /// It could not be waited for.
    #[error("cannot wait for stable storage: {0}")]
    Wait(String),
}

/// Why a snapshot could not be written.
///
/// ```
/// use ledger_client::SnapshotError;
///
/// let error = SnapshotError::NotThere { last_seq: 9, latest: 4 };
/// assert!(error.to_string().contains("the latest one is 4"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There are not as many entries.
    #[error("there is no entry {last_seq} yet, the latest one is {latest}; ask for at most that")]
    NotThere {
        /// What was asked for.
        last_seq: u64,
        /// What there is.
        latest: u64,
    },
    /// The first entries have left memory, and no file holds their part of the tree.
    #[error(
        "entries before {first_seq} are gone, and without them a snapshot has no root; \
         `ledgerd export` writes what is there"
    )]
    Beginning {
        /// The oldest entry there is.
        first_seq: u64,
    },
    /// An entry cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What it is written to fails.
    #[error("cannot write the snapshot: {0}")]
    Write(#[source] io::Error),
}

/// Why a snapshot was not loaded. Nothing has changed then, unless the daemon ended
/// before it could say so.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::LoadError;
///
/// let error = ledger.load_from(&b"something else"[..]).run().unwrap_err();
/// assert!(matches!(error, LoadError::Snapshot(_)));
/// # Ok(()) });
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// These bytes are no snapshot, or none that can be read.
    #[error(transparent)]
    Snapshot(#[from] ledger_shm::file::SnapshotError),
    /// The daemon does not let it be loaded, or does not answer.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It does not fit to what there is, or is damaged.
    #[error("{0}")]
    NotLoaded(String),
    /// It could not be passed on to the daemon, which has loaded nothing.
    #[error("cannot pass the snapshot on to the daemon, nothing is loaded: {0}")]
    NotPassedOn(#[source] io::Error),
    /// The daemon ended before it had said what came of it.
    #[error(
        "the daemon ended before it had said what came of it: {0}; see with `ledgerd info` whether \
         the context is there, it is so wholly or not at all"
    )]
    Unanswered(#[source] io::Error),
}

impl From<ConnectError> for LoadError {
    fn from(error: ConnectError) -> LoadError {
        LoadError::Open(error.into())
    }
}

/// Why something about a log could not be proved.
///
/// ```
/// use ledger_client::ProveError;
///
/// let error = ProveError::NotThere { last_seq: 9, latest: 4 };
/// assert!(error.to_string().contains("the latest one is 4"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// The log has not as many entries.
    #[error("there is no entry {last_seq} yet, the latest one is {latest}; ask for at most that")]
    NotThere {
        /// What was asked for.
        last_seq: u64,
        /// What there is.
        latest: u64,
    },
    /// It is none of the log that is meant.
    #[error(
        "entry {seq} is not in a log that ends with entry {last_seq}; ask for one from 1 up to \
         that, or of a longer log"
    )]
    NotWithin {
        /// What was asked for.
        seq: u64,
        /// Where the log ends.
        last_seq: u64,
    },
    /// The first entries have left memory, and no file holds their part of the tree.
    #[error("entries before {first_seq} are gone, and with them the root of all; keep an archive")]
    Beginning {
        /// The oldest entry there is.
        first_seq: u64,
    },
    /// What it takes cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Why an entry could not be read.
///
/// ```
/// use ledger_client::ReadError;
///
/// let error = ReadError::Evicted { seq: 1, first_available: 501 };
/// assert!(error.is_evicted());
/// assert!(error.to_string().contains("the oldest one there is 501"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It has left memory, and is in no file: it was kept in memory only, or for no longer.
    #[error(
        "entry {seq} has left memory; the oldest one there is {first_available}, read on from it"
    )]
    Evicted {
        /// What was asked for.
        seq: u64,
        /// The oldest entry that can be read.
        first_available: u64,
    },
    /// No file holds it that should: one is missing between others.
    #[error(
        "entry {seq} is in no file of the archive, and others before and behind it are: one is \
         missing"
    )]
    Missing {
        /// What was asked for.
        seq: u64,
    },
    /// The context was dropped, or has left memory while the daemon did not know that it
    /// is open here.
    #[error("the context was dropped, or has left memory; open it again")]
    Closed,
    /// Its bytes cannot be right.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
    /// Its memory could not be mapped.
    #[error("cannot map the context's memory: {0}")]
    Map(#[from] MapError),
    /// It is in a file, or in another uid's memory, and the daemon that could give it does
    /// not answer. Once there is one again, asking again is enough.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// This uid's processes hold too much already.
    #[error(transparent)]
    Held(#[from] Held),
    /// This process could not set up how to wait for it.
    #[error(
        "cannot set up waiting: {0}; see the limits of this process on descriptors and threads"
    )]
    Wait(#[source] io::Error),
}

impl ReadError {
    /// Whether what was asked for has left memory.
    ///
    /// ```
    /// # use ledger_client::ReadError;
    /// assert!(ReadError::Evicted { seq: 1, first_available: 501 }.is_evicted());
    /// ```
    pub fn is_evicted(&self) -> bool {
        matches!(self, ReadError::Evicted { .. })
    }

    /// Whether the context was dropped.
    ///
    /// ```
    /// assert!(ledger_client::ReadError::Closed.is_closed());
    /// ```
    pub fn is_closed(&self) -> bool {
        matches!(self, ReadError::Closed)
    }

    /// Whether its bytes cannot be right, or are missing between others.
    ///
    /// ```
    /// use ledger_client::{Entry, ReadError};
    ///
    /// let error = ReadError::from(Entry::from_bytes(b"not a record").unwrap_err());
    /// assert!(error.is_corrupt());
    /// ```
    pub fn is_corrupt(&self) -> bool {
        matches!(
            self,
            ReadError::Corrupt(_)
                | ReadError::Missing { .. }
                | ReadError::Map(MapError::Corrupt(_))
        )
    }

    /// Whether it may be otherwise as soon as a daemon runs.
    ///
    /// ```
    /// assert!(!ledger_client::ReadError::Closed.is_unreachable());
    /// ```
    pub fn is_unreachable(&self) -> bool {
        matches!(self, ReadError::Connect(error) if error.is_unreachable())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_let_go_at_once_is_told_what_that_may_mean() {
        let reset = io::ErrorKind::ConnectionReset.into();
        let said = ConnectError::unreached(Path::new("a.sock"), reset).to_string();
        assert!(said.contains("`clients_max_per_uid`"), "{said}");
    }

    #[test]
    fn who_lacks_a_descriptor_is_told_so_and_not_that_there_is_no_daemon() {
        let none_left = io::Error::from_raw_os_error(Errno::EMFILE as i32);
        let error = ConnectError::unreached(Path::new("a.sock"), none_left);
        assert!(error.to_string().contains("`ulimit -a`"), "{error}");
        let os_error = Errno::EMFILE as i32;
        assert_eq!(OpenError::from(error).as_full(), Full::Kernel { os_error });
        let nobody = io::ErrorKind::ConnectionRefused.into();
        let error = ConnectError::unreached(Path::new("a.sock"), nobody);
        assert_eq!(OpenError::from(error).as_full(), Full::DaemonDown);
        let gone = OpenError::Map(not_found());
        assert_eq!(gone.as_full(), Full::NoSpare);
    }
}
