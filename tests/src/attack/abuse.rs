//! What somebody does over and over who may read a context, and wishes nobody well.

mod bell;
mod descriptors;

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use ledger_client::wire::{Hello, Reply, Request};
use ledger_shm::format::BELL_LEN;
use ledger_shm::object::Instance;
use ledger_shm::socket::{PACKET_LEN_MAX, Packets};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::Attacker;
use crate::mapped;
use crate::spoken::{ask, greeted, object, open};

/// Each thing that is done over and over, and what it is.
pub const ABUSES: [&str; 10] = [
    // Any value into any word of the bell and of its roster.
    "bell",
    // Every futex operation that there is, on any word of it.
    "futex",
    // Descriptors to the daemon, which has no use for any.
    "descriptors",
    // Questions, each as soon as the last one is answered.
    "questions",
    // Questions whose answers nobody reads.
    "unread",
    // Halves of messages, nothing at all, and far too much.
    "halves",
    // As many connections as there can be.
    "crowd",
    // The same, as fast as they can be made and dropped.
    "knocks",
    // The same, and the context is opened each time.
    "visits",
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
    let has_context = matches!(what, "bell" | "futex" | "questions" | "unread" | "pins");
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
            ("bell", _, Some(bell)) => bell::scribble(bell, &mut rng),
            ("futex", _, Some(bell)) => bell::play_with_futexes(bell, &mut rng)?,
            ("pins", Some(attacker), _) => attacker.pin(&mut rng),
            ("descriptors", ..) => {
                // It may be let go for the first that it sends.
                let Some(connection) = placed(socket) else {
                    continue;
                };
                while let Some(open) = descriptors::send(&connection, &mut rng)? {
                    others.push(open);
                }
            }
            ("questions", Some(attacker), _) => {
                ask(&attacker.connection, &attacker.question(&mut rng))?;
            }
            ("unread", Some(attacker), _) => {
                let Some(connection) = placed(socket) else {
                    continue;
                };
                let request = attacker.question(&mut rng);
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
            ("visits", ..) => {
                // It may be let go, being one of too many for a moment.
                let _ = placed(socket).map(|connection| ask(&connection, &open(context, false)));
            }
            (other, ..) => return Err(format!("unknown abuse {other:?}").into()),
        }
    }
    Ok(())
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
    /// One that the daemon has an answer to.
    fn question(&self, rng: &mut fastrand::Rng) -> Request {
        match rng.u8(..3) {
            0 => open(&self.name, false),
            1 => object(self.epoch, None, false),
            _ => Request::Status,
        }
    }

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
