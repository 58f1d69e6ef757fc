//! Descriptors for a daemon that has no use for any.

use std::error::Error;
use std::io::{IoSlice, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};

use ledger_client::wire::Request;
use ledger_shm::socket::Packets;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};

use crate::PATIENCE;

/// Sends some of one whose closing takes long; the other end of that, if it could.
pub(super) fn send(
    connection: &Packets,
    rng: &mut fastrand::Rng,
) -> Result<Option<TcpListener>, Box<dyn Error>> {
    const MAX: usize = 253;
    let (other_end, lingering) = lingering()?;
    let count = if rng.bool() { 1 } else { rng.usize(1..=MAX) };
    let fds = vec![lingering.as_raw_fd(); count];
    let request = Request::Status.encode();
    let sent = sendmsg::<()>(
        connection.as_fd().as_raw_fd(),
        &[IoSlice::new(&request)],
        &[ControlMessage::ScmRights(&fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    );
    // It is for whoever closes it last to wait; for nobody, if that would be us.
    let other_end = sent.is_ok().then_some(other_end);
    drop(lingering);
    Ok(other_end)
}

/// Both ends of a connection: the other one, and one that has something left to send and
/// whose closing waits for that as long as the kernel lets it.
fn lingering() -> Result<(TcpListener, TcpStream), Box<dyn Error>> {
    let other_end = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut stream = TcpStream::connect(other_end.local_addr()?)?;
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: PATIENCE.as_secs() as i32,
    };
    setsockopt(&stream, sockopt::Linger, &linger)?;
    // Nobody reads, so some of it stays here.
    stream.set_nonblocking(true)?;
    while stream.write(&[0; 1 << 16]).is_ok() {}
    Ok((other_end, stream))
}
