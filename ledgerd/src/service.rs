//! What a service manager is told (sd_notify(3)), and asked for. Without one
//! nothing of it happens.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use ledger_shm::socket;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;

use crate::Daemon;

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = notify(state) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}

/// The crate knows sockets by path only; sd_notify(3) has abstract ones, too.
fn notify(state: &[NotifyState<'_>]) -> io::Result<()> {
    let socket = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let Some(name) = socket.as_bytes().strip_prefix(b"@") else {
        return sd_notify::notify(state);
    };
    let lines: String = state.iter().map(|state| format!("{state}\n")).collect();
    let address = SocketAddr::from_abstract_name(name)?;
    let sender = UnixDatagram::unbound()?;
    sender.send_to_addr(lines.as_bytes(), &address).map(drop)
}

/// Clients and contexts take a descriptor each: as many as are allowed. Programs
/// that use select(2) are why the usual limit is lower, and this is none.
pub(crate) fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit on descriptors");
    }
}

/// The socket that the service manager listens at for us, if it does
/// (sd_listen_fds(3)).
pub(crate) fn listener() -> io::Result<Option<OwnedFd>> {
    let mut passed = sd_notify::listen_fds()?;
    match (passed.next(), passed.next()) {
        (None, _) => Ok(None),
        (Some(number), None) => socket::inherited(number).map(Some),
        (Some(_), Some(_)) => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "more than one socket was passed; a daemon listens at one",
        )),
    }
}

/// The daemon listens.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// It is about to end.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Reports, as often as it is asked for, that the daemon's loop turns.
#[derive(Debug)]
pub(crate) struct Watchdog {
    /// How often, if at all.
    pub(crate) interval: Option<Duration>,
    turns: u64,
}

impl Watchdog {
    pub(crate) fn new() -> Watchdog {
        Watchdog {
            // Four times in the time after which it would be missed.
            interval: sd_notify::watchdog_enabled().map(|missed_after| {
                let often = missed_after / 4;
                often.clamp(Duration::from_millis(1), Duration::from_secs(3600))
            }),
            turns: 0,
        }
    }

    /// Reports if the loop has turned since the last time, and has it turn.
    pub(crate) fn look(&mut self, daemon: &Daemon) {
        let turns = daemon.turns();
        if turns != self.turns {
            self.turns = turns;
            tell(&[NotifyState::Watchdog]);
        }
        daemon.turn();
    }
}
