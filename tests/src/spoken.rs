//! What clients and the daemon say to each other, said without the client.

use std::error::Error;
use std::os::fd::OwnedFd;
use std::path::Path;

use ledger_client::wire::{Hello, Reply, Request};
use ledger_shm::socket::{PACKET_LEN_MAX, Packets};

use crate::PATIENCE;

/// A connection to the daemon at this socket, greeted and ready for questions.
///
/// # Errors
///
/// As [`greet`]'s.
pub fn greeted(socket: &Path) -> Result<Packets, Box<dyn Error>> {
    let connection = Packets::connect(socket, PATIENCE)?;
    greet(&connection)?;
    Ok(connection)
}

/// Says hello, which is answered in kind.
///
/// # Errors
///
/// The kernel's, or that it is not.
pub fn greet(connection: &Packets) -> Result<(), Box<dyn Error>> {
    connection.send(&Hello::OURS.encode(), None)?;
    let mut buffer = [0; PACKET_LEN_MAX];
    let greeting = connection.receive(&mut buffer)?.ok_or("no greeting")?;
    match Hello::decode(greeting.bytes) {
        Some(Hello::OURS) => Ok(()),
        other => Err(format!("it greets with {other:?}").into()),
    }
}

/// What the daemon answers, and what it sends with that.
///
/// # Errors
///
/// The kernel's, or that it does not answer.
pub fn ask(
    connection: &Packets,
    request: &Request,
) -> Result<(Reply, Option<OwnedFd>), Box<dyn Error>> {
    connection.send(&request.encode(), None)?;
    reply(connection)
}

/// The same, of what was asked before.
///
/// # Errors
///
/// The kernel's, or that it does not answer.
pub fn reply(connection: &Packets) -> Result<(Reply, Option<OwnedFd>), Box<dyn Error>> {
    let mut buffer = [0; PACKET_LEN_MAX];
    let packet = connection.receive(&mut buffer)?.ok_or("no answer")?;
    let reply = Reply::decode(packet.bytes).ok_or("no reply")?;
    Ok((reply, packet.fd))
}

/// That a context be opened.
pub fn open(name: &str, append: bool) -> Request {
    Request::Open {
        name: name.to_owned(),
        epoch: None,
        create: None,
        append,
    }
}

/// For a part of a context, or for its control object.
pub fn object(epoch: [u8; 16], part: Option<u64>, append: bool) -> Request {
    Request::Object {
        epoch,
        part,
        append,
    }
}
