//! What somebody does over and over who may read a context, and wishes nobody well.

use std::error::Error;
use std::io::{IoSlice, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ledger_client::wire::{Hello, Reply, Request};
use ledger_shm::format::BELL_LEN;
use ledger_shm::object::Instance;
use ledger_shm::socket::{PACKET_LEN_MAX, Packets};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};
use nix::time::{ClockId, clock_gettime};

use super::{Attacker, ask, object, open};
use crate::{PATIENCE, mapped};

/// Each thing that is done over and over, and what it is.
pub const ABUSES: [&str; 8] = [
    // Any value into any word of the bell and of its roster.
    "bell",
    // Every futex operation that there is, on any word of it.
    "futex",
    // Descriptors to the daemon, which has no use for any.
    "descriptors",
    // Questions whose answers nobody reads.
    "unread",
    // Halves of messages, nothing at all, and far too much.
    "halves",
    // As many connections as there can be.
    "crowd",
    // The same, as fast as they can be made and dropped.
    "knocks",
    // Everything that can be mapped, and never let go of.
    "pins",
];

/// As many as the daemon is told to bear in all, by default.
const CROWD: usize = 10_000;
/// What it has done by then is felt; it is said.
const WELL_BEGUN: u64 = 100;
/// Longer than any packet may be.
const FAR_TOO_LONG: usize = 2 * PACKET_LEN_MAX;
/// How long a sleep of an abuser lasts, so that it does something else again.
const NAP: Duration = Duration::from_millis(20);

/// Does one of [`ABUSES`] to a context, until it is killed.
///
/// # Errors
///
/// If it could not begin.
pub fn abuse(
    socket: &Path,
    instance: Instance,
    what: &str,
    context: &str,
) -> Result<(), Box<dyn Error>> {
    let (_, descriptors_max) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, descriptors_max, descriptors_max)?;
    // The others need none, and may find no place for it.
    let has_context = matches!(what, "bell" | "futex" | "unread" | "pins");
    let attacker = has_context.then(|| Attacker::new(socket, instance, context));
    let attacker = attacker.transpose()?;
    let bell = attacker.as_ref().map(|attacker| &attacker.bell);
    let bell = bell
        .map(|bell| mapped::words32(bell, BELL_LEN))
        .transpose()?;
    let mut rng = fastrand::Rng::new();
    let (mut kept, mut others) = (Vec::new(), Vec::new());
    for done in 0_u64.. {
        if done == WELL_BEGUN {
            println!("{done} 0");
        }
        match (what, &attacker, bell) {
            ("bell", _, Some(bell)) => scribble(bell, &mut rng),
            ("futex", _, Some(bell)) => play_with_futexes(bell, &mut rng)?,
            ("pins", Some(attacker), _) => attacker.pin(&mut rng),
            ("descriptors", ..) => {
                // It may be let go for the first that it sends.
                let Some(connection) = greeted(socket) else {
                    continue;
                };
                while let Some(open) = send_descriptors(&connection, &mut rng)? {
                    others.push(open);
                }
            }
            ("unread", Some(attacker), _) => {
                let Some(connection) = greeted(socket) else {
                    continue;
                };
                let request = match rng.u8(..3) {
                    0 => open(context, false),
                    1 => object(attacker.epoch, None, false),
                    _ => Request::Status,
                };
                // Until it is let go, or would have to wait.
                connection.set_timeout(NAP)?;
                if connection
                    .send(&open(context, false).encode(), None)
                    .is_ok()
                {
                    while connection.send(&request.encode(), None).is_ok() {}
                }
                kept.push(connection);
            }
            ("halves", ..) => {
                let Ok(connection) = Packets::connect(socket, NAP) else {
                    continue;
                };
                let packet = half(context, &mut rng);
                // It is let go for all of them, sooner or later.
                while connection.send(&packet, None).is_ok() && !packet.is_empty() {}
            }
            ("crowd", ..) => match Packets::connect(socket, NAP) {
                Ok(connection) if kept.len() < CROWD => {
                    if rng.bool() {
                        let _ = connection.send(&Hello::OURS.encode(), None);
                    }
                    kept.push(connection);
                }
                // As many as it can have.
                _ => std::thread::sleep(NAP),
            },
            ("knocks", ..) => drop(Packets::connect(socket, NAP)),
            (other, ..) => return Err(format!("unknown abuse {other:?}").into()),
        }
    }
    Ok(())
}

/// A connection of its own; none while there is no place for it.
fn greeted(socket: &Path) -> Option<Packets> {
    let greet = || {
        let connection = Packets::connect(socket, PATIENCE)?;
        connection.send(&Hello::OURS.encode(), None)?;
        let mut buffer = [0; PACKET_LEN_MAX];
        let is_greeted = connection.receive(&mut buffer)?.is_some();
        Ok::<_, std::io::Error>(is_greeted.then_some(connection))
    };
    let greeted = greet().ok().flatten();
    if greeted.is_none() {
        std::thread::sleep(NAP);
    }
    greeted
}

/// Something that is no message, or only its beginning.
fn half(context: &str, rng: &mut fastrand::Rng) -> Vec<u8> {
    let mut packet = match rng.u8(..4) {
        0 => Hello::OURS.encode().to_vec(),
        1 => open(context, false).encode().to_vec(),
        2 => vec![rng.u8(..); FAR_TOO_LONG],
        _ => std::iter::repeat_with(|| rng.u8(..)).take(100).collect(),
    };
    packet.truncate(rng.usize(..=packet.len()));
    packet
}

/// Sends some of one whose closing takes long; the other end of that, if it could.
fn send_descriptors(
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

fn scribble(words: &[AtomicU32], rng: &mut fastrand::Rng) {
    let value = match rng.u8(..4) {
        0 => u32::from(rng.bool()),
        1 => u32::MAX - u32::from(rng.bool()),
        _ => rng.u32(..),
    };
    // The first ones more often: there are what all look at.
    let range = if rng.bool() { ..64 } else { ..words.len() };
    words[rng.usize(range)].store(value, Ordering::Relaxed);
}

/// One operation of futex(2) that takes effect on the bell, whichever it is.
fn play_with_futexes(words: &[AtomicU32], rng: &mut fastrand::Rng) -> Result<(), Errno> {
    const OPERATIONS: [libc::c_int; 13] = [
        libc::FUTEX_WAIT,
        libc::FUTEX_WAKE,
        libc::FUTEX_REQUEUE,
        libc::FUTEX_CMP_REQUEUE,
        libc::FUTEX_WAKE_OP,
        libc::FUTEX_LOCK_PI,
        libc::FUTEX_UNLOCK_PI,
        libc::FUTEX_TRYLOCK_PI,
        libc::FUTEX_WAIT_BITSET,
        libc::FUTEX_WAKE_BITSET,
        libc::FUTEX_WAIT_REQUEUE_PI,
        libc::FUTEX_CMP_REQUEUE_PI,
        libc::FUTEX_LOCK_PI2,
    ];
    /// Where a requeue moves sleepers that nobody wakes.
    static ASIDE: AtomicU32 = AtomicU32::new(0);
    // The words that others sleep at lie on the first lines.
    let word = &words[rng.usize(..64)];
    let operation = OPERATIONS[rng.usize(..OPERATIONS.len())];
    let clock = match operation {
        libc::FUTEX_LOCK_PI => ClockId::CLOCK_REALTIME,
        _ => ClockId::CLOCK_MONOTONIC,
    };
    let until = Duration::from(clock_gettime(clock)?) + NAP;
    let until = if operation == libc::FUTEX_WAIT {
        NAP
    } else {
        until
    };
    let timeout = libc::timespec {
        tv_sec: until.as_secs() as libc::time_t,
        tv_nsec: until.subsec_nanos().into(),
    };
    let is_wake = matches!(
        operation,
        libc::FUTEX_WAKE_OP
            | libc::FUTEX_REQUEUE
            | libc::FUTEX_CMP_REQUEUE
            | libc::FUTEX_CMP_REQUEUE_PI
    );
    // These take a number of sleepers where the others take a time.
    let fourth = if is_wake {
        i32::MAX as usize as *const libc::timespec
    } else {
        &raw const timeout
    };
    let other = if rng.bool() {
        &ASIDE
    } else {
        &words[rng.usize(..64)]
    };
    let value = word.load(Ordering::Relaxed);
    let is_of_bits = matches!(operation, libc::FUTEX_WAIT_BITSET | libc::FUTEX_WAKE_BITSET);
    // Which bits there, what the word has to be elsewhere; no bits at all are refused.
    let sixth = if is_of_bits { value | 1 } else { value };
    // SAFETY: both words live as long as the process, the time as long as the call,
    // and the kernel writes nothing but these words.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            operation,
            if is_wake { 1 } else { value },
            fourth,
            other.as_ptr(),
            sixth,
        );
    }
    Ok(())
}

impl Attacker {
    /// Maps another part, or file, and keeps it.
    fn pin(&self, rng: &mut fastrand::Rng) {
        let request = match ask(&self.connection, &open(&self.name, false)) {
            Ok((Reply::Opened { current, .. }, _)) if rng.bool() => {
                object(self.epoch, Some(current), false)
            }
            _ => Request::File {
                epoch: self.epoch,
                seq: rng.u64(..1 << 20),
            },
        };
        if let Ok((_, Some(fd))) = ask(&self.connection, &request) {
            let len = nix::sys::stat::fstat(&fd).map_or(0, |stat| stat.st_size as usize);
            // What is empty cannot be.
            let _ = mapped::pin(fd, len);
        }
        // Each question takes the daemon's time, of which others have more need.
        std::thread::sleep(NAP / 20);
    }
}
