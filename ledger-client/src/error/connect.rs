//! Why there is no daemon to ask.

use std::io;
use std::path::{Path, PathBuf};

use ledger_shm::object::InvalidInstance;
use nix::errno::Errno;

use crate::wire::Hello;

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
pub(super) fn is_there(error: &io::Error) -> bool {
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

#[cfg(test)]
mod tests {
    use ledger_shm::Full;

    use super::*;
    use crate::error::OpenError;

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
    }
}
