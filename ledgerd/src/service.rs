//! What a service manager is told (sd_notify(3)), and asked for. Without one
//! nothing of it happens.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sd_notify::NotifyState;

use crate::Daemon;

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        eprintln!("ledgerd: cannot tell the service manager: {error}");
    }
}

/// Clients and contexts take a descriptor each: as many as are allowed. Programs
/// that use select(2) are why the usual limit is lower, and this is none.
pub(crate) fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        eprintln!("ledgerd: cannot raise the limit on descriptors: {error}");
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
