//! Why an entry cannot be read.

use std::io;

use ledger_shm::Corrupt;
use ledger_shm::object::MapError;

use super::{ConnectError, Held};

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
