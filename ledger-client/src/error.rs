//! What can go wrong, per verb. Every message says what happened, with which
//! value, and what to do.

mod connect;
mod object;
mod open;
mod read;

use std::io;

use ledger_shm::Refused;

pub use connect::ConnectError;
pub(crate) use object::ObjectError;
pub use open::{Held, OpenError};
pub use read::ReadError;

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
    /// The context was dropped, or has left memory while the daemon did not know that it
    /// was open.
    #[error("the context was dropped, or has left memory; open it again")]
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
