//! What can go wrong with bytes and room. Policies live further up.

use std::fmt;

use crate::entry::LIMIT_MAX;

/// Bytes that another process wrote and that cannot be right. Never a panic:
/// the context they belong to is damaged, the reader is not.
///
/// ```
/// let corrupt = ledger_shm::Entry::from_bytes(&[0; 8]).unwrap_err();
/// assert_eq!((corrupt.what, corrupt.found), ("record length", 8));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is damaged: found {found:#x}, expected {expected:#x}")]
#[non_exhaustive]
pub struct Corrupt {
    /// What was looked at.
    pub what: &'static str,
    /// The value that lies there.
    pub found: u64,
    /// The value, or the limit, that should hold.
    pub expected: u64,
}

impl Corrupt {
    /// Something that holds `found` where `expected` (or at most that) belongs.
    ///
    /// ```
    /// use ledger_shm::Corrupt;
    ///
    /// let corrupt = Corrupt::new("seal", 9, 2);
    /// assert_eq!(corrupt.to_string(), "seal is damaged: found 0x9, expected 0x2");
    /// ```
    #[cold]
    pub fn new(what: &'static str, found: u64, expected: u64) -> Corrupt {
        Corrupt {
            what,
            found,
            expected,
        }
    }

    #[cold]
    pub(crate) fn short_record(len: usize) -> Corrupt {
        Corrupt::new(
            "record length",
            len as u64,
            crate::format::RECORD_HEADER_LEN as u64,
        )
    }

    /// Whether `found` is what belongs there.
    ///
    /// # Errors
    ///
    /// That it is not.
    ///
    /// ```
    /// use ledger_shm::Corrupt;
    ///
    /// assert!(Corrupt::check("seal", 2, 2).is_ok());
    /// assert_eq!(Corrupt::check("seal", 9, 2), Err(Corrupt::new("seal", 9, 2)));
    /// ```
    #[inline]
    pub fn check(what: &'static str, found: u64, expected: u64) -> Result<(), Corrupt> {
        if found == expected {
            Ok(())
        } else {
            Err(Corrupt::new(what, found, expected))
        }
    }
}

/// Why there is no room for an entry right now. Trying again later can help;
/// nothing was written.
///
/// ```
/// use ledger_shm::{Full, Refused};
///
/// let advice = |refused: &Refused| match refused {
///     Refused::Full(Full::Budget | Full::NoMemory) => "an operator has to act",
///     Refused::Full(_) => "try again",
///     _ => "give up",
/// };
/// assert_eq!(advice(&Refused::Full(Full::Rolling)), "try again");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Full {
    /// No spare that fits has arrived yet.
    NoSpare,
    /// The log has moved to a part that this process has not mapped yet.
    Rolling,
    /// The context was closed for idleness and is being reopened.
    Reopening,
    /// The instance's memory budget is spent.
    Budget,
    /// The instance's memory budget is spent, by what cannot be written to the archive.
    Unwritten,
    /// The memory file system is full.
    NoMemory,
    /// The daemon that would bring a spare cannot be reached.
    DaemonDown,
    /// The kernel refuses this process what it takes to have a spare: a descriptor, say.
    Kernel {
        /// Why, as errno(3) numbers it.
        os_error: i32,
    },
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Full::Kernel { os_error } => {
                let error = std::io::Error::from_raw_os_error(*os_error);
                return write!(
                    f,
                    "the kernel lets this process have no more memory: {error}; see what it \
                     may have (`ulimit -a`)"
                );
            }
            Full::NoSpare => "no spare segment that fits has arrived yet; try again",
            Full::Rolling => "the log rolled to a segment that is not mapped yet; try again",
            Full::Reopening => "the context was closed for idleness and is being reopened; try again",
            Full::Budget => {
                "the instance's memory budget is spent; raise `--memory-budget` or let entries retire"
            }
            Full::Unwritten => {
                "the instance's memory budget is spent, by what cannot be written to the archive; \
                 `ledgerd doctor` says why"
            }
            Full::NoMemory => "the memory file system is full; free or enlarge /dev/shm",
            Full::DaemonDown => {
                "the daemon that provides memory cannot be reached; see that `ledgerd run` runs"
            }
        })
    }
}

/// Why an append was refused. Nothing was written, and no sequence was used.
///
/// ```
/// use ledger_shm::{NewEntry, Refused};
///
/// let key = "k".repeat(2000);
/// let refused = NewEntry::new(&key, "").validate(&Default::default()).unwrap_err();
/// assert!(matches!(refused, Refused::TooLarge { what: "key", len: 2000, max: 1024 }));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// No room at the moment.
    #[error("no room: {0}")]
    Full(Full),
    /// A part of the entry is larger than its limit.
    #[error("{what} has {len} bytes, the limit is {max}; {remedy}", remedy = remedy(what, *max))]
    TooLarge {
        /// Key, payload or metadata.
        what: &'static str,
        /// What was given, in bytes.
        len: usize,
        /// What is allowed, in bytes.
        max: usize,
    },
    /// A key has at least one byte.
    #[error("the key is empty; it needs 1 to 1024 bytes of UTF-8")]
    EmptyKey,
    /// A received Lamport time so large that no clock could ever pass it.
    #[error("received Lamport time {received} is not below 2^63: the sender's clock is wrong")]
    LamportTooLarge {
        /// What was given.
        received: u64,
    },
    /// The payload could not be serialised.
    #[error("the typed payload cannot be serialised: {reason}")]
    Unserializable {
        /// What its `Serialize` said.
        reason: String,
    },
    /// The context was dropped, or has left memory while the daemon did not know that it
    /// was open.
    #[error("the context was dropped, or has left memory; open it again")]
    Closed,
    /// This process is a fork's child and must not use its parent's appender.
    #[error("this process is a fork of the one that made the appender; make a new one")]
    Forked,
    /// The log itself is damaged.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

impl Refused {
    #[cold]
    pub(crate) fn unserializable(error: rkyv::rancor::Error) -> Refused {
        Refused::Unserializable {
            reason: error.to_string(),
        }
    }

    /// Whether the entry itself is at fault: it can never be appended where these limits hold.
    ///
    /// ```
    /// use ledger_shm::{Full, Refused};
    ///
    /// assert!(Refused::EmptyKey.is_invalid());
    /// assert!(!Refused::Full(Full::NoSpare).is_invalid());
    /// ```
    pub fn is_invalid(&self) -> bool {
        matches!(
            self,
            Refused::TooLarge { .. }
                | Refused::EmptyKey
                | Refused::LamportTooLarge { .. }
                | Refused::Unserializable { .. }
        )
    }
}

/// What to do about something that is too large.
fn remedy(what: &str, max: usize) -> &'static str {
    match what {
        "payload" if max < LIMIT_MAX => {
            "split it, or use a context made under a larger `--payload-max`"
        }
        "metadata" if max < LIMIT_MAX => {
            "move it into the payload, or use a context made under a larger `--metadata-max`"
        }
        "key" => "use a shorter one",
        _ => "split it: no context takes more",
    }
}
