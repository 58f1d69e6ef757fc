//! One connection to the daemon: greet, then ask and be answered, in turn.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ledger_shm::socket::{PACKET_LEN_MAX, Packets};

use crate::error::ConnectError;
use crate::wire::{Hello, Reply, Request};

/// Longer than any answer takes from a daemon that is alive.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Connection {
    packets: Packets,
    socket: PathBuf,
    buffer: Box<[u8; PACKET_LEN_MAX]>,
}

impl Connection {
    pub(crate) fn open(
        socket: &Path,
        owner_uid: u32,
        timeout: Duration,
    ) -> Result<Connection, ConnectError> {
        let down = |source| ConnectError::DaemonDown {
            socket: socket.to_owned(),
            source,
        };
        let packets = Packets::connect(socket, timeout).map_err(down)?;
        // Where everybody may make files, anybody could have made this one.
        let uid = packets.peer_uid().map_err(down)?;
        if uid != owner_uid {
            return Err(ConnectError::Impostor {
                socket: socket.to_owned(),
                found: uid,
                expected: owner_uid,
            });
        }
        packets.send(&Hello::OURS.encode(), None).map_err(down)?;
        let mut connection = Connection {
            packets,
            socket: socket.to_owned(),
            buffer: Box::new([0; PACKET_LEN_MAX]),
        };
        let (packet, _) = connection.receive()?;
        let theirs = Hello::decode(&packet).ok_or_else(|| connection.protocol("no greeting"))?;
        if theirs != Hello::OURS {
            return Err(ConnectError::Version { theirs });
        }
        Ok(connection)
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(
        &mut self,
        request: &Request,
    ) -> Result<(Reply, Option<OwnedFd>), ConnectError> {
        self.packets
            .send(&request.encode(), None)
            .map_err(|source| self.down(source))?;
        let (packet, fd) = self.receive()?;
        let reply = Reply::decode(&packet).ok_or_else(|| self.protocol("no message"))?;
        Ok((reply, fd))
    }

    fn receive(&mut self) -> Result<(Vec<u8>, Option<OwnedFd>), ConnectError> {
        let down = |source| ConnectError::DaemonDown {
            socket: self.socket.clone(),
            source,
        };
        match self.packets.receive(&mut self.buffer) {
            Ok(Some(packet)) => Ok((packet.bytes.to_vec(), packet.fd)),
            Ok(None) => Err(down(io::ErrorKind::ConnectionReset.into())),
            Err(source) => Err(down(source)),
        }
    }

    fn down(&self, source: io::Error) -> ConnectError {
        ConnectError::DaemonDown {
            socket: self.socket.clone(),
            source,
        }
    }

    fn protocol(&self, what: &'static str) -> ConnectError {
        ConnectError::Protocol {
            socket: self.socket.clone(),
            what,
        }
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.packets.as_fd()
    }
}
