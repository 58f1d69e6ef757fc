//! A sleeper that nothing but a ring wakes.
//!
//! Watchers look again after some milliseconds whether the bell rang or not, so
//! what they see proves no ring. This one is the same watcher without that: it
//! asks the daemon for the bell over a connection of its own, and a ring that
//! is missing leaves it asleep for ever.

use std::error::Error;
use std::path::Path;

use ledger_client::wire::Reply;
use ledger_shm::bell::Bell;
use ledger_shm::socket::Packets;

use crate::PATIENCE;
use crate::spoken::{ask, greeted, open};

/// A context's bell, and the connection over which it was asked for.
#[derive(Debug)]
pub struct Sleeper {
    bell: Bell,
    _connection: Packets,
}

impl Sleeper {
    /// Asks the daemon at this socket for the bell of a context.
    ///
    /// # Errors
    ///
    /// The daemon's and the kernel's.
    pub fn of(socket: &Path, context: &str) -> Result<Sleeper, Box<dyn Error>> {
        let connection = greeted(socket)?;
        match ask(&connection, &open(context, false))? {
            (Reply::Opened { .. }, Some(fd)) => Ok(Sleeper {
                bell: Bell::map(fd)?,
                _connection: connection,
            }),
            (reply, _) => Err(format!("not opened: {reply:?}").into()),
        }
    }

    /// Announces itself, says so, and sleeps until the bell rings.
    ///
    /// # Errors
    ///
    /// Those of saying so.
    pub fn sleep(&self, announced: impl FnOnce() -> std::io::Result<()>) -> std::io::Result<()> {
        let parked = self.bell.park();
        announced()?;
        parked.sleep(PATIENCE * 10);
        Ok(())
    }

    /// How often the bell rang.
    pub fn ring_count(&self) -> u32 {
        let [_, count, _] = self.bell.words();
        count
    }

    /// Whether somebody has undertaken to pass the last ring on.
    pub fn is_relayed(&self) -> bool {
        let [_, count, relayed] = self.bell.words();
        count == relayed
    }
}
