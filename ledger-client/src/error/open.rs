//! Why a context cannot be had.

use std::io;

use ledger_shm::Full;
use ledger_shm::control::{InvalidName, InvalidSizes};
use ledger_shm::object::{Instance, MapError};

use super::ConnectError;
use super::connect::is_there;
use super::object::not_found;
use crate::wire::Refusal;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_is_gone_is_no_fault_of_who_asks_for_it() {
        let gone = OpenError::Map(not_found());
        assert_eq!(gone.as_full(), Full::NoSpare);
    }
}
