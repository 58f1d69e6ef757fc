//! The thread that does what a `try_append` must not: talk to the daemon, map
//! and fault in memory, unmap what is over, connect again. An `append` that has
//! to wait anyway maps what is in memory by itself, see [`follow`].

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ledger_shm::control::State;
use ledger_shm::{Full, Segment};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::chain::{RETRIES_MAX, map_part};
use crate::error::OpenError;
use crate::ledger::Core;
use crate::line::Answer;
use crate::shared::Shared;
use crate::wire::{RECONNECT_PAUSE_MAX, Refusal, Reply, Request};

/// Memory is faulted in this many bytes at a time: one large step would hold
/// the process's mmap lock for tens of milliseconds.
const POPULATE_STEP: usize = 256 << 10;
/// How soon the daemon is tried again after it was found gone.
const RECONNECT_PAUSE_MIN: Duration = Duration::from_millis(20);
/// How soon an unmet wish is tried again.
const RETRY: Duration = Duration::from_millis(50);

pub(crate) struct Provisioner {
    core: Arc<Core>,
    reconnect_in: Duration,
}

impl Provisioner {
    pub(crate) fn start(core: Arc<Core>) -> io::Result<JoinHandle<()>> {
        let provisioner = Provisioner {
            core,
            reconnect_in: RECONNECT_PAUSE_MIN,
        };
        std::thread::Builder::new()
            .name("ledger-provision".into())
            .spawn(move || provisioner.run())
    }

    fn run(mut self) {
        while !self.core.is_stopped() {
            let contexts = self.core.contexts();
            // First what needs nobody's help.
            for shared in &contexts {
                if shared.is_wanted() {
                    follow(shared);
                }
                if let Some(segment) = shared.take_unpopulated() {
                    // It is mapped already: whoever comes first pays for it.
                    let _ = populate(&segment);
                }
            }
            let (is_connected, mut is_settled) = self.stay_attached(&contexts);
            for shared in &contexts {
                if shared.take_sync_wanted() {
                    let epoch = shared.control.epoch().0;
                    // It comes to it by itself, only later.
                    let _ = self.core.ask(&Request::Sync { epoch });
                }
                is_settled &= provide(shared);
            }
            drop(contexts);
            self.release();
            self.wait(is_connected, is_settled);
        }
    }

    /// Sleeps until there is something to do: a wish, the daemon's end, or, if
    /// something could not be had, a while.
    fn wait(&mut self, is_connected: bool, is_settled: bool) {
        let timeout = match (is_connected, is_settled) {
            (true, true) => None,
            (true, false) => Some(RETRY),
            (false, _) => {
                let pause = self.reconnect_in;
                self.reconnect_in = (pause * 2).min(RECONNECT_PAUSE_MAX);
                Some(pause)
            }
        };
        let timeout = timeout.map_or(PollTimeout::NONE, |pause| {
            PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX)
        });
        // The end of the daemon is reported whatever is asked for (poll(2),
        // POLLHUP).
        let (connection, socket) = self.core.line.socket();
        let mut fds = vec![PollFd::new(self.core.wake.as_fd(), PollFlags::POLLIN)];
        if let Some(socket) = &socket {
            fds.push(PollFd::new(socket.as_fd(), PollFlags::empty()));
        }
        // An interrupted poll is a look around too many, no more.
        let _ = poll(&mut fds, timeout);
        let is_hung_up = fds
            .get(1)
            .and_then(PollFd::revents)
            .is_some_and(|events| !events.is_empty());
        let _ = self.core.wake.read();
        if is_hung_up {
            self.core.line.hang_up(connection);
        }
    }

    /// Tells the daemon what nobody here uses any more. What was opened over an
    /// earlier connection ended with that.
    fn release(&self) {
        for released in self.core.take_released() {
            if self.core.line.connection() == Some(released.connection) {
                drop(self.core.ask(&Request::Release {
                    epoch: released.epoch.0,
                    append: released.append,
                }));
            }
        }
    }

    /// Has every context attached to the connection that there is, making one
    /// if there is none. Returns whether there is one, and whether nothing is
    /// left to try again.
    fn stay_attached(&mut self, contexts: &[Arc<Shared>]) -> (bool, bool) {
        let mut is_settled = true;
        for shared in contexts {
            if self.core.line.connection() == Some(shared.attached_to()) {
                continue;
            }
            match attach_again(shared) {
                Ok(()) => shared.arrived(None),
                Err(error @ OpenError::Connect(_)) => {
                    shared.arrived(Some(error.as_full()));
                    return (false, false);
                }
                Err(_) => is_settled = false,
            }
        }
        let mut is_connected = self.core.line.connection().is_some();
        if !is_connected {
            // Also where nobody has asked the daemon anything: said by `is_connected`, and
            // there for who opens a context. What is open is attached to it at the next look.
            is_connected = self.core.line.connect(None).is_ok();
            is_settled &= contexts.is_empty();
        }
        if is_connected {
            self.reconnect_in = RECONNECT_PAUSE_MIN;
        }
        (is_connected, is_settled)
    }
}

/// Takes a context to the daemon that has come back: a fresh bell.
fn attach_again(shared: &Shared) -> Result<(), OpenError> {
    // It would come back in other memory: who uses it finds out.
    if is_gone(shared) {
        if let Some(connection) = shared.core.line.connection() {
            shared.settle(connection);
        }
        return Ok(());
    }
    let request = Request::Open {
        name: shared.control.name().to_owned(),
        epoch: Some(shared.control.epoch().0),
        create: None,
        append: shared.is_appendable,
    };
    let Answer {
        reply,
        fd,
        connection,
        ..
    } = shared.core.ask(&request)?;
    match reply {
        // It left while it was asked for, and has come back in other memory.
        Reply::Opened { .. } if is_gone(shared) => {
            shared.release(connection);
            shared.settle(connection);
            Ok(())
        }
        Reply::Opened { client, .. } => shared.attached(fd, client, connection),
        // Appends and reads find out by themselves.
        Reply::Refused(Refusal::UnknownContext | Refusal::Quarantined(_)) => {
            shared.settle(connection);
            Ok(())
        }
        reply => Err(OpenError::Daemon(format!("it is not attached: {reply:?}"))),
    }
}

fn is_gone(shared: &Shared) -> bool {
    shared.control.state().is_ok_and(State::is_gone)
}

/// Fetches what appenders of a context have asked for, and lets go of what
/// nobody needs. Returns whether there is nothing left to try again.
fn provide(shared: &Shared) -> bool {
    shared.trim();
    let Some(record_len) = shared.take_wanted() else {
        return true;
    };
    if !shared.is_appendable {
        return true;
    }
    let outcome = fetch(shared, record_len);
    shared.trim();
    let why_not = match outcome {
        Ok(why_not) => why_not,
        Err(error) => Some(error.as_full()),
    };
    if why_not.is_some() && ledger_shm::Parts::spare(&shared.parts, record_len).is_err() {
        // Keep asking without being told: room may come back by itself.
        shared.want_again(record_len);
        shared.arrived(why_not);
        return false;
    }
    shared.arrived(why_not);
    true
}

/// Maps the part in which the log ends: an append that has asked for memory may
/// only have to follow others. Nothing here waits for the daemon.
pub(crate) fn follow(shared: &Shared) {
    if !shared.is_appendable {
        return;
    }
    // What fails here is tried again with the daemon's help, and told then.
    if let Ok((last, _)) = shared.chain.last(&shared.core, &shared.control)
        && matches!(map_for_appending(shared, last.segment.part()), Ok(true))
    {
        shared.announce();
    }
}

/// Maps the part in which the log ends and every spare there is.
fn fetch(shared: &Shared, record_len: usize) -> Result<Option<Full>, OpenError> {
    let request = Request::Spares {
        epoch: shared.control.epoch().0,
        record_len: record_len as u64,
    };
    match shared.core.ask(&request)?.reply {
        // They are of the memory in which it has come back, for who has opened it again.
        Reply::Spares { .. } if is_gone(shared) => Ok(None),
        Reply::Spares { current, parts } => {
            map_for_appending(shared, current)?;
            for part in parts {
                map_for_appending(shared, part)?;
            }
            Ok(None)
        }
        // It will never have any: whoever appends asks again, and nobody else.
        Reply::Refused(Refusal::UnknownContext | Refusal::Quarantined(_)) => Ok(None),
        Reply::Refused(refusal) => Ok(Some(refusal.as_full())),
        _ => Err(OpenError::Daemon("an answer to another question".into())),
    }
}

/// Maps a part for writing and faults its memory in; false if that was done.
fn map_for_appending(shared: &Shared, part: u64) -> Result<bool, OpenError> {
    shared.parts.add_if_missing(part, || {
        let segment = map_part(&shared.core, &shared.control, part, true)?;
        populate(&segment)?;
        Ok(segment)
    })
}

/// Maps the part in which a log ended when the daemon was asked, for somebody who waits
/// for it; or, if that has left memory since, one in which it ended later.
pub(crate) fn map_current(shared: &Shared, current: u64) -> Result<(), OpenError> {
    let mut part = current;
    for _ in 0..RETRIES_MAX {
        match map_waited_for(shared, part) {
            Err(OpenError::Map(error)) if error.is_not_found() => {
                let last = shared.chain.last(&shared.core, &shared.control);
                let Ok((last, _)) = last else {
                    return Err(error.into());
                };
                part = last.segment.part();
            }
            outcome => return outcome,
        }
    }
    map_waited_for(shared, part)
}

/// The memory of a large part is faulted in by the background thread.
fn map_waited_for(shared: &Shared, part: u64) -> Result<(), OpenError> {
    let map = || {
        let segment = map_part(&shared.core, &shared.control, part, true)?;
        if segment.geometry().segment_len <= POPULATE_STEP {
            populate(&segment)?;
        } else {
            shared.populate_later(Arc::clone(&segment));
        }
        Ok(segment)
    };
    shared.parts.add_if_missing(part, map).map(drop)
}

fn populate(segment: &Segment) -> io::Result<()> {
    for offset in (0..segment.geometry().segment_len).step_by(POPULATE_STEP) {
        segment.populate(offset, POPULATE_STEP)?;
    }
    Ok(())
}
