//! One connection to the daemon: greet, then ask and be answered, in turn.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ledger_shm::socket::{PACKET_LEN_MAX, Packets};

use crate::error::ConnectError;
use crate::wire::{Hello, Reply, Request};

/// Longer than it takes a daemon that runs to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Connection {
    packets: Packets,
    socket: PathBuf,
    buffer: Box<[u8; PACKET_LEN_MAX]>,
    /// Whether what was said last can have reached the daemon.
    is_sent: bool,
}

impl Connection {
    /// Connects to the daemon of this uid, which has `greeting_timeout` to greet.
    pub(crate) fn open(
        socket: &Path,
        owner_uid: u32,
        greeting_timeout: Duration,
    ) -> Result<Connection, ConnectError> {
        let packets = Packets::connect(socket, greeting_timeout)
            .map_err(|source| ConnectError::unreached(socket, source))?;
        let connection = Connection {
            packets,
            socket: socket.to_owned(),
            buffer: Box::new([0; PACKET_LEN_MAX]),
            is_sent: false,
        };
        // Where everybody may make files, anybody could have made this one.
        let peer = connection.packets.peer();
        let uid = peer.map_err(|source| connection.unreached(source))?.uid;
        if uid != owner_uid {
            return Err(ConnectError::Impostor {
                socket: socket.to_owned(),
                found: uid,
                expected: owner_uid,
            });
        }
        Ok(connection)
    }

    /// Exchanges greetings: once, before anything is asked.
    pub(crate) fn greet(&mut self) -> Result<(), ConnectError> {
        let (packet, _) = self.exchange(&Hello::OURS.encode())?;
        let theirs = Hello::decode(&packet).ok_or_else(|| self.protocol("no greeting"))?;
        if theirs != Hello::OURS {
            return Err(ConnectError::Version { theirs });
        }
        self.packets
            .set_timeout(ANSWER_TIMEOUT)
            .map_err(ConnectError::Setup)
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(
        &mut self,
        request: &Request,
    ) -> Result<(Reply, Option<OwnedFd>), ConnectError> {
        let (packet, fd) = self.exchange(&request.encode())?;
        let reply = Reply::decode(&packet).ok_or_else(|| self.protocol("no message"))?;
        Ok((reply, fd))
    }

    /// Whether the daemon can have done what it was asked last, answered or not.
    pub(crate) fn is_sent(&self) -> bool {
        self.is_sent
    }

    fn exchange(&mut self, packet: &[u8]) -> Result<(Vec<u8>, Option<OwnedFd>), ConnectError> {
        let unreached = |source| ConnectError::unreached(&self.socket, source);
        self.is_sent = false;
        self.packets.send(packet, None).map_err(unreached)?;
        self.is_sent = true;
        match self.packets.receive(&mut self.buffer) {
            Ok(Some(packet)) => Ok((packet.bytes.to_vec(), packet.fd)),
            Ok(None) => Err(unreached(io::ErrorKind::ConnectionReset.into())),
            Err(source) => Err(unreached(source)),
        }
    }

    fn unreached(&self, source: io::Error) -> ConnectError {
        ConnectError::unreached(&self.socket, source)
    }

    fn protocol(&self, what: &'static str) -> ConnectError {
        ConnectError::Protocol {
            socket: self.socket.clone(),
            what,
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.packets.as_fd()
    }
}
