//! What somebody does over and over who may read a context, and wishes nobody well.

mod bell;
mod descriptors;

use std::error::Error;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use ledger_client::wire::{Hello, Reply, Request};
use ledger_shm::format::BELL_LEN;
use ledger_shm::object::Instance;
use ledger_shm::socket::{PACKET_LEN_MAX, Packets};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Attacker;
use crate::mapped;
use crate::spoken::{ask, greeted, object, open};

/// What is done over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abuse {
    /// Any value into any word of the bell and of its roster.
    Bell,
    /// Every futex operation that there is, on any word of it.
    Futex,
    /// Descriptors to the daemon, which has no use for any.
    Descriptors,
    /// Questions, each as soon as the last one is answered.
    Questions,
    /// Questions whose answers nobody reads.
    Unread,
    /// Halves of messages, nothing at all, and far too much.
    Halves,
    /// As many connections as there can be.
    Crowd,
    /// The same, as fast as they can be made and dropped.
    Knocks,
    /// The same, and the context is opened each time.
    Visits,
    /// Everything that can be mapped, and never let go of.
    Pins,
}

impl Abuse {
    /// Each there is.
    pub const ALL: [Abuse; 10] = [
        Abuse::Bell,
        Abuse::Futex,
        Abuse::Descriptors,
        Abuse::Questions,
        Abuse::Unread,
        Abuse::Halves,
        Abuse::Crowd,
        Abuse::Knocks,
        Abuse::Visits,
        Abuse::Pins,
    ];

    /// How it is asked for.
    pub fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// As many as the daemon is told to bear in all, by default.
const CROWD: usize = 10_000;
/// What it has done by then is felt; it is said.
const WELL_BEGUN: u64 = 100;
/// Longer than any packet may be.
const FAR_TOO_LONG: usize = 2 * PACKET_LEN_MAX;
/// How long a sleep of an abuser lasts, so that it does something else again.
const NAP: Duration = Duration::from_millis(20);

/// Does one of [`Abuse::ALL`] to a context, until it is killed.
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
    let known = Abuse::ALL.into_iter().find(|abuse| abuse.name() == what);
    let abuse = known.ok_or_else(|| format!("unknown abuse {what:?}"))?;
    let mut rng = fastrand::Rng::new();
    // Not all have the context open: they may find no place for it.
    let attacker = || Attacker::new(socket, instance, context);
    let (mut kept, mut others) = (Vec::new(), Vec::new());
    // Once, and whether anything came of it.
    type Once<'a> = Box<dyn FnMut() -> Result<bool, Box<dyn Error>> + 'a>;
    let mut once: Once<'_> = match abuse {
        Abuse::Bell => {
            let words = attacker()?.keep_bell()?;
            Box::new(move || {
                bell::scribble(words, &mut rng);
                Ok(true)
            })
        }
        Abuse::Futex => {
            let words = attacker()?.keep_bell()?;
            Box::new(move || {
                bell::play_with_futexes(words, &mut rng)?;
                Ok(true)
            })
        }
        Abuse::Pins => {
            let attacker = attacker()?;
            Box::new(move || Ok(attacker.pin(&mut rng)))
        }
        Abuse::Questions => {
            let attacker = attacker()?;
            Box::new(move || {
                ask(&attacker.connection, &attacker.question(&mut rng))?;
                Ok(true)
            })
        }
        Abuse::Unread => {
            let attacker = attacker()?;
            Box::new(move || {
                let Some(connection) = placed(socket) else {
                    return Ok(false);
                };
                let request = attacker.question(&mut rng);
                // Until it is let go, or would have to wait.
                connection.set_timeout(NAP)?;
                let opens = open(context, false).encode();
                let mut asked = u64::from(connection.send(&opens, None).is_ok());
                while asked > 0 && connection.send(&request.encode(), None).is_ok() {
                    asked += 1;
                }
                kept.push(connection);
                Ok(asked > 1)
            })
        }
        Abuse::Descriptors => Box::new(move || {
            // It may be let go for the first that it sends.
            let Some(connection) = placed(socket) else {
                return Ok(false);
            };
            if let Some(open) = descriptors::send(&connection, &mut rng)? {
                others.push(open);
            }
            Ok(true)
        }),
        Abuse::Halves => Box::new(move || {
            let Ok(connection) = Packets::connect(socket, NAP) else {
                return Ok(false);
            };
            let packet = half(context, &mut rng);
            let mut sent = 0_u64;
            // It is let go for all of them, sooner or later.
            while connection.send(&packet, None).is_ok() {
                sent += 1;
                if packet.is_empty() {
                    break;
                }
            }
            Ok(sent > 0)
        }),
        Abuse::Crowd => Box::new(move || match Packets::connect(socket, NAP) {
            Ok(connection) if kept.len() < CROWD => {
                if rng.bool() {
                    let _ = connection.send(&Hello::OURS.encode(), None);
                }
                kept.push(connection);
                Ok(true)
            }
            // As many as it can have.
            _ => {
                std::thread::sleep(NAP);
                Ok(false)
            }
        }),
        Abuse::Knocks => Box::new(|| Ok(Packets::connect(socket, NAP).is_ok())),
        Abuse::Visits => Box::new(|| {
            // It may be let go, being one of too many for a moment.
            let visit = placed(socket).map(|connection| ask(&connection, &open(context, false)));
            Ok(visit.is_some_and(|answer| answer.is_ok()))
        }),
    };
    let mut done = 0;
    loop {
        let is_done = once()?;
        done += u64::from(is_done);
        if is_done && done == WELL_BEGUN {
            println!("{done} 0");
        }
    }
}

/// A connection of its own; none while there is no place for it.
fn placed(socket: &Path) -> Option<Packets> {
    let greeted = greeted(socket).ok();
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

impl Attacker {
    /// The words of the bell, of a context that it has open until it ends.
    fn keep_bell(self) -> Result<&'static [AtomicU32], Errno> {
        let words = mapped::words32(&self.bell, BELL_LEN);
        std::mem::forget(self);
        words
    }

    /// One that the daemon has an answer to.
    fn question(&self, rng: &mut fastrand::Rng) -> Request {
        match rng.u8(..3) {
            0 => open(&self.name, false),
            1 => object(self.epoch, None, false),
            _ => Request::Status,
        }
    }

    /// Maps another part, or file, and keeps it; whether there was one.
    fn pin(&self, rng: &mut fastrand::Rng) -> bool {
        let request = match ask(&self.connection, &open(&self.name, false)) {
            Ok((Reply::Opened { current, .. }, _)) if rng.bool() => {
                object(self.epoch, Some(current), false)
            }
            _ => Request::File {
                epoch: self.epoch,
                seq: rng.u64(..1 << 20),
            },
        };
        let is_pinned = match ask(&self.connection, &request) {
            Ok((_, Some(fd))) => {
                let len = nix::sys::stat::fstat(&fd).map_or(0, |stat| stat.st_size as usize);
                // What is empty cannot be.
                mapped::pin(fd, len).is_ok()
            }
            _ => false,
        };
        // Each question takes the daemon's time, of which others have more need.
        std::thread::sleep(NAP / 20);
        is_pinned
    }
}
