//! Why what was asked of a ledger elsewhere was not done.

use std::io;

use ledger_shm::control::InvalidName;
use ledger_shm::file::SnapshotError;
use ledger_shm::{Corrupt, Refused};
use tonic::{Code, Status};

/// Why something was not done. The questions have the names of those that the errors of
/// [`Ledger`](crate::Ledger) answer.
///
/// ```
/// use ledger_client::remote::{RemoteError, RemoteLedger};
///
/// let error = RemoteLedger::connect("ledger.example").unwrap_err();
/// assert!(matches!(error, RemoteError::InvalidUri { .. }));
/// assert!(error.to_string().contains("https://ledger.example:50051"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The address is none.
    #[error(
        "{uri:?} is no address such as https://ledger.example:50051, http://127.0.0.1:50051 or \
         unix:/run/ledger.sock: {why}"
    )]
    InvalidUri {
        /// What was given.
        uri: String,
        /// What is wrong with it.
        why: String,
    },
    /// A token that is no text of visible ASCII.
    #[error("the token is no ASCII text, and so none that anybody was given")]
    InvalidToken,
    /// A key of an append that may be asked for again is no text of visible ASCII.
    #[error("an idempotency key is 1 to 256 characters of visible ASCII")]
    InvalidKey,
    /// Nobody answers there.
    #[error("cannot reach the ledger at {uri}: {why}")]
    Unreachable {
        /// Where.
        uri: String,
        /// Why not.
        why: String,
    },
    /// There is no context of this name.
    #[error("there is no context {name:?}")]
    Unknown {
        /// Its name.
        name: String,
    },
    /// No context can have this name.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// What the ledger said.
    #[error("{message}")]
    Status {
        /// Of which kind it is.
        code: Code,
        /// In words.
        message: String,
    },
    /// It was not asked: no context takes such an entry.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// What it answered cannot be.
    #[error("what the ledger has answered cannot be: {0}")]
    Invalid(String),
    /// A snapshot that was to be written could not be.
    #[error("cannot write the snapshot: {0}")]
    Write(io::Error),
    /// A snapshot that was to be loaded is none, or could not be read.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// This process could not set up how to ask.
    #[error(
        "cannot set up what asks: {0}; see the limits of this process on descriptors and threads"
    )]
    SetUp(io::Error),
}

impl RemoteError {
    pub(super) fn of(status: &Status) -> RemoteError {
        RemoteError::Status {
            code: status.code(),
            message: status.message().to_owned(),
        }
    }

    pub(super) fn corrupt(error: &Corrupt) -> RemoteError {
        RemoteError::Invalid(error.to_string())
    }

    fn has_code(&self, wanted: Code) -> bool {
        matches!(self, RemoteError::Status { code, .. } if *code == wanted)
    }

    /// Whether nobody answers, or the ledger is about to stop: asked again later it may do it.
    /// An append may have been done, see [`Appender::append_once`](super::Appender::append_once).
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// if let Err(error) = ledger.context("loan-7").open() {
    ///     println!("{}", if error.is_unreachable() { "later" } else { "never" });
    /// }
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn is_unreachable(&self) -> bool {
        matches!(self, RemoteError::Unreachable { .. })
            || self.has_code(Code::Unavailable)
            || self.has_code(Code::DeadlineExceeded)
    }

    /// Whether there is no context of that name.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// assert!(ledger.context("nobody's").open().is_err_and(|error| error.is_unknown()));
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn is_unknown(&self) -> bool {
        matches!(self, RemoteError::Unknown { .. }) || self.has_code(Code::NotFound)
    }

    /// Whether whoever asks has no right to it, or has not shown who it is.
    ///
    /// ```no_run
    /// # use ledger_client::remote::RemoteLedger;
    /// let ledger = RemoteLedger::connect("http://127.0.0.1:50051")?;
    /// assert!(ledger.contexts().is_err_and(|error| error.is_not_allowed())); // it has no token
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn is_not_allowed(&self) -> bool {
        self.has_code(Code::PermissionDenied) || self.has_code(Code::Unauthenticated)
    }

    /// Whether there is no room for it, or it is too large.
    ///
    /// ```no_run
    /// # use ledger_client::NewEntry;
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let mut appender = ledger.context("loan-7").open_or_create()?.appender()?;
    /// if let Err(error) = appender.append(&NewEntry::new("facts", "income: 4200")) {
    ///     println!("{}", if error.is_full() { "no room" } else { "something else" });
    /// }
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn is_full(&self) -> bool {
        self.has_code(Code::ResourceExhausted)
    }

    /// Whether retention has removed what was asked for, or it has left memory and was never
    /// in a file.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let context = ledger.context("loan-7").open()?;
    /// if context.get(1).is_err_and(|error| error.is_evicted()) {
    ///     println!("it begins with {}", context.first_available()?);
    /// }
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn is_evicted(&self) -> bool {
        self.has_code(Code::OutOfRange)
    }

    /// Whether the ledger has found damage.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let outcome = ledger.context("loan-7").open()?.get(1);
    /// if outcome.is_err_and(|error| error.is_corrupt()) {
    ///     println!("see `ledgerd verify`, on its host");
    /// }
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn is_corrupt(&self) -> bool {
        self.has_code(Code::DataLoss)
    }
}
