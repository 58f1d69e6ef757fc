//! What sending costs who sends.

use crate::peers::{Missing, Place, Wait};

use super::Piece;
use super::player::{Part, Player};
use super::stage::{Cast, Line, Round, Stage};
use super::table::Table;

/// Who is there while it is measured.
#[derive(Clone, Copy)]
struct Audience {
    name: &'static str,
    file: &'static str,
    receivers: usize,
    wait: Wait,
}

const AUDIENCES: [Audience; 4] = [
    Audience {
        name: "nobody waiting",
        file: "send-nobody",
        receivers: 0,
        wait: Wait::Spinning,
    },
    Audience {
        name: "one live",
        file: "send-live",
        receivers: 1,
        wait: Wait::Spinning,
    },
    Audience {
        name: "one parked",
        file: "send-parked",
        receivers: 1,
        wait: Wait::Parked,
    },
    Audience {
        name: "eight parked",
        file: "send-eight-parked",
        receivers: 8,
        wait: Wait::Parked,
    },
];

const LENS: [(usize, &str); 3] = [(64, "64 B"), (1 << 10, "1 KiB"), (64 << 10, "64 KiB")];

/// Long enough for eight to be asleep again.
const GAP_NS: u64 = 1_000_000;

struct Players {
    sender: Player,
    receivers: Vec<Player>,
}

fn start(peer: &str, place: &Place) -> Result<Players, Missing> {
    // Before who sends: some have to be there to be sent to.
    let receivers = (0..place.receivers).map(|n| Player::start(peer, Part::Receiver(n), place));
    Ok(Players {
        receivers: receivers.collect::<Result<_, _>>()?,
        sender: Player::start(peer, Part::Sender(0), place)?,
    })
}

impl Players {
    /// Sends so many, and waits until all have received them: how long it took in all, in
    /// nanoseconds, and how long each took if that is asked for.
    fn send(&mut self, count: u64, gap_ns: u64, is_timed: bool) -> Result<Round, Missing> {
        self.sender.tell("settle")?;
        self.sender.hear("settled")?;
        for receiver in &mut self.receivers {
            receiver.tell(&format!("receive {}", count - 1))?;
        }
        let is_timed = u8::from(is_timed);
        self.sender
            .tell(&format!("send {count} {gap_ns} {is_timed} 0"))?;
        let sent = self.sender.hear_figures("sent")?;
        for receiver in &mut self.receivers {
            receiver.hear("received")?;
        }
        Ok(sent)
    }

    /// All of them in a row for the mean, then each by itself.
    fn flood(&mut self, count: u64) -> Result<Round, Missing> {
        let (elapsed_ns, _) = self.send(count, 0, false)?;
        let (_, latencies) = self.send(count / 4, 0, true)?;
        Ok((elapsed_ns / count as f64, latencies))
    }

    /// With a pause before each, in which who receives falls asleep.
    fn drip(&mut self, count: u64) -> Result<Round, Missing> {
        let (_, latencies) = self.send(count, GAP_NS, true)?;
        Ok((latencies.mean(), latencies))
    }
}

/// Every peer, with payloads of this length and before this audience.
fn line(stage: &Stage, len: usize, audience: Audience) -> Line {
    let Audience {
        receivers, wait, ..
    } = audience;
    let topic = format!("send-{len}-{receivers}-{wait:?}");
    let place = Place::of(topic, len, receivers, wait);
    let mut casts = stage.casts(&place, start);
    // Fits into the memory that each has prepared.
    let count = (24 << 20) / (len as u64 + 128);
    for round in 0..=stage.rounds() {
        for cast in &mut casts {
            let count = count.min(if cast.is_slow { 2_000 } else { 100_000 });
            cast.play(round > 0, |players| match wait {
                Wait::Parked => players.drip(100),
                Wait::Spinning | Wait::Later => players.flood(count),
            });
        }
    }
    Line(casts.into_iter().map(Cast::figures).collect())
}

/// A table for each audience.
pub fn tables(stage: &Stage) -> Vec<Piece> {
    let tables = AUDIENCES.map(|audience| {
        Piece::Times(Table {
            name: audience.file,
            caption: format!("Sending, {}", audience.name),
            of_each_round: "mean",
            columns: LENS
                .map(|(len, name)| (name, line(stage, len, audience)))
                .into(),
            curves: vec![0],
            has_bars: true,
            note: String::new(),
        })
    });
    tables.into()
}
