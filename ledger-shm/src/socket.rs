//! Packets, some with a descriptor, over a Unix socket.
//!
//! `SOCK_SEQPACKET` keeps the boundaries of messages and tells at once when the
//! other side is gone. A packet that was cut, or that carries more than it may,
//! is an error of whoever sent it.
#![allow(unsafe_code, reason = "descriptors that the kernel makes become owned")]

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, Shutdown, SockFlag, SockType, UnixAddr,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

/// Longest packet, in bytes.
pub const PACKET_LEN_MAX: usize = 64 << 10;

/// Whether descriptors can be passed to a socket: the same number on all architectures but
/// SPARC and PA-RISC; not in `libc` yet.
const SO_PASSRIGHTS: libc::c_int = 83;

/// One end of a connection.
#[derive(Debug)]
pub struct Packets {
    fd: OwnedFd,
}

/// Who is at the other end of a connection, as it was when it connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
    /// Its process.
    pub pid: u32,
}

/// A packet that arrived.
#[derive(Debug)]
pub struct Packet<'a> {
    /// What it says.
    pub bytes: &'a [u8],
    /// The descriptor that came with it.
    pub fd: Option<OwnedFd>,
}

fn new_socket(flags: SockFlag) -> io::Result<OwnedFd> {
    let flags = flags | SockFlag::SOCK_CLOEXEC;
    Ok(nix::sys::socket::socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        flags,
        None,
    )?)
}

/// Listens on a fresh path. Who may connect is up to the folder's permissions.
///
/// # Errors
///
/// The kernel's.
pub fn listen(path: &Path) -> io::Result<OwnedFd> {
    let fd = new_socket(SockFlag::SOCK_NONBLOCK)?;
    refuse_descriptors(&fd);
    nix::sys::socket::bind(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    nix::sys::socket::listen(&fd, Backlog::MAXCONN)?;
    Ok(fd)
}

/// Has nobody who connects here pass descriptors on to us: with the last reference to one
/// goes what its closing takes, for a socket that lingers as long as its sender likes, and
/// the kernel has whoever receives it wait for that. Kernels before 6.16 cannot refuse
/// them (SO_PASSRIGHTS); there each is closed as it comes.
fn refuse_descriptors(listener: &OwnedFd) {
    let no: libc::c_int = 0;
    // SAFETY: it reads one integer, and there is one.
    unsafe {
        libc::setsockopt(
            listener.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw const no).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        );
    }
}

/// A socket that somebody else listens at and has passed on, as a descriptor of
/// this number: a copy that is closed on exec and does not block.
///
/// # Errors
///
/// The kernel's; `InvalidInput` if it is not a Unix socket for packets that
/// listens.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number == -1 {
        return Err(nix::Error::EBADF.into());
    }
    // SAFETY: it is not -1, and only borrowed to be copied, which the kernel
    // refuses if it is not open.
    let passed = unsafe { BorrowedFd::borrow_raw(number) };
    let fd = passed.try_clone_to_owned()?;
    let is_listening = nix::sys::socket::getsockopt(&fd, sockopt::AcceptConn)?;
    let kind = nix::sys::socket::getsockopt(&fd, sockopt::SockType)?;
    let address = nix::sys::socket::getsockname::<UnixAddr>(fd.as_raw_fd());
    if !is_listening || kind != SockType::SeqPacket || address.is_err() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the socket that was passed is no listening Unix socket of type SOCK_SEQPACKET",
        ));
    }
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?) | OFlag::O_NONBLOCK;
    fcntl(&fd, FcntlArg::F_SETFL(flags))?;
    refuse_descriptors(&fd);
    Ok(fd)
}

/// Where a socket listens, if that has a path.
///
/// # Errors
///
/// The kernel's.
pub fn path(listener: &impl AsFd) -> io::Result<Option<PathBuf>> {
    let address = nix::sys::socket::getsockname::<UnixAddr>(listener.as_fd().as_raw_fd())?;
    Ok(address.path().map(Path::to_owned))
}

/// The next connection that waits, if one does.
///
/// # Errors
///
/// The kernel's.
pub fn accept(listener: &impl AsFd) -> io::Result<Option<Packets>> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    match nix::sys::socket::accept4(listener.as_fd().as_raw_fd(), flags) {
        Ok(fd) => {
            // SAFETY: a descriptor that the kernel has just made for us.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            Ok(Some(Packets { fd }))
        }
        Err(nix::Error::EAGAIN | nix::Error::EINTR | nix::Error::ECONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Ends a connection from this side, in all processes and threads that have it:
/// whoever waits for a packet is told that there will be none.
pub fn shut_down(socket: &impl AsFd) {
    // Fails only if it has ended already.
    let _ = nix::sys::socket::shutdown(socket.as_fd().as_raw_fd(), Shutdown::Both);
}

/// The supplementary groups of who is at the other end (socket(7), SO_PEERGROUPS).
///
/// # Errors
///
/// The kernel's.
pub fn peer_groups(socket: &impl AsFd) -> io::Result<Vec<u32>> {
    // The most that a process can have (credentials(7)).
    let mut groups = vec![0_u32; 1 << 16];
    let mut len = libc::socklen_t::try_from(size_of_val(&*groups)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `len` bytes of integers into the
    // vector, which has as many, and sets `len` to how many it wrote.
    let outcome = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    nix::errno::Errno::result(outcome)?;
    groups.truncate(len as usize / size_of::<u32>());
    Ok(groups)
}

impl Packets {
    /// Connects; every later call waits at most `timeout`.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn connect(path: &Path, timeout: Duration) -> io::Result<Packets> {
        let packets = Packets {
            fd: new_socket(SockFlag::empty())?,
        };
        packets.set_timeout(timeout)?;
        let address = UnixAddr::new(path)?;
        packets.uninterrupted(|| nix::sys::socket::connect(packets.fd.as_raw_fd(), &address))?;
        Ok(packets)
    }

    /// Does something again that a signal has interrupted, which the kernel does not by
    /// itself where there is a time limit (signal(7)): for twice as long at most.
    fn uninterrupted<T>(&self, mut call: impl FnMut() -> nix::Result<T>) -> io::Result<T> {
        let began = Instant::now();
        loop {
            match call() {
                Err(nix::Error::EINTR) => {
                    let limit = nix::sys::socket::getsockopt(&self.fd, sockopt::ReceiveTimeout)?;
                    let limit = Duration::from_micros(limit.num_microseconds().cast_unsigned());
                    // None at all is for ever.
                    if !limit.is_zero() && began.elapsed() >= limit {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                }
                outcome => return Ok(outcome?),
            }
        }
    }

    /// How long every later call waits at most (socket(7), SO_RCVTIMEO).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        // None at all would mean for ever.
        let timeout = timeout.max(Duration::from_micros(1));
        let limit = TimeVal::new(
            timeout.as_secs().try_into().unwrap_or(i64::MAX),
            timeout.subsec_micros().into(),
        );
        nix::sys::socket::setsockopt(&self.fd, sockopt::ReceiveTimeout, &limit)?;
        nix::sys::socket::setsockopt(&self.fd, sockopt::SendTimeout, &limit)?;
        Ok(())
    }

    /// Who is at the other end (unix(7), SO_PEERCRED).
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn peer(&self) -> io::Result<Peer> {
        let credentials = nix::sys::socket::getsockopt(&self.fd, sockopt::PeerCredentials)?;
        Ok(Peer {
            uid: credentials.uid(),
            gid: credentials.gid(),
            pid: credentials.pid().cast_unsigned(),
        })
    }

    /// Sends one packet, with a descriptor if there is one to give.
    ///
    /// # Errors
    ///
    /// The kernel's: `WouldBlock` when the other side does not read.
    pub fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let fds: Vec<_> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &[][..] } else { &rights[..] };
        let flags = MsgFlags::MSG_NOSIGNAL;
        let (fd, bytes) = (self.fd.as_raw_fd(), [IoSlice::new(bytes)]);
        let send = || nix::sys::socket::sendmsg::<()>(fd, &bytes, control, flags, None);
        self.uninterrupted(send)?;
        Ok(())
    }

    /// Whether the other side has not read yet all that was sent to it (tty_ioctl(4),
    /// TIOCOUTQ). Yes, if the kernel cannot tell.
    pub fn has_unread(&self) -> bool {
        let mut len: libc::c_int = 0;
        // SAFETY: it writes one integer, where there is one.
        let outcome = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut len) };
        outcome != 0 || len > 0
    }

    /// Receives one packet; `None` when the other side is gone.
    ///
    /// # Errors
    ///
    /// The kernel's: `WouldBlock` on a timeout; `InvalidData` on a packet that
    /// was cut.
    pub fn receive<'b>(
        &self,
        buffer: &'b mut [u8; PACKET_LEN_MAX],
    ) -> io::Result<Option<Packet<'b>>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let (len, flags, mut fds) = self.uninterrupted(|| {
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [IoSliceMut::new(buffer)];
            // It owns the descriptors, those of a packet that was cut as well.
            let message = recvmsg(&self.fd, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)
                .map_err(|error| nix::Error::from_raw(error.raw_os_error()))?;
            let mut fds = Vec::new();
            for control in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = control {
                    fds.extend(rights);
                }
            }
            Ok((message.bytes, message.flags, fds))
        })?;
        // There is room for two, as control messages are padded.
        if flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || fds.len() > 1 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "a packet was cut on its way",
            ));
        }
        if len == 0 {
            return Ok(None);
        }
        Ok(Some(Packet {
            bytes: &buffer[..len],
            fd: fds.pop(),
        }))
    }
}

impl AsFd for Packets {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
