//! Several who send into one, which somebody is connected to and reads afterwards.

use crate::peers::{Missing, Place, Wait};

use super::Piece;
use super::part::now_ns;
use super::player::{Part, Player};
use super::stage::{Cast, Line, Round, Stage};
use super::table::Table;

struct Players {
    senders: Vec<Player>,
    receiver: Player,
}

fn start(peer: &str, place: &Place) -> Result<Players, Missing> {
    let receiver = Player::start(peer, Part::Receiver(0), place)?;
    let senders = (0..place.senders).map(|n| Player::start(peer, Part::Sender(n), place));
    Ok(Players {
        receiver,
        senders: senders.collect::<Result<_, _>>()?,
    })
}

/// Until all have been told when they begin.
const TELLING_NS: u64 = 20_000_000;

impl Players {
    /// All at once, so many in all: the time for one of them, and how long each call took.
    fn play(&mut self, count: u64) -> Result<Round, Missing> {
        let (elapsed_ns, _) = self.send(count, false)?;
        let (_, latencies) = self.send(count / 4, true)?;
        Ok((elapsed_ns / count as f64, latencies))
    }

    fn send(&mut self, count: u64, is_timed: bool) -> Result<Round, Missing> {
        for sender in &mut self.senders {
            sender.tell("settle")?;
            sender.hear("settled")?;
        }
        let each = count / self.senders.len() as u64;
        let (is_timed, start_ns) = (u8::from(is_timed), now_ns() + TELLING_NS);
        for sender in &mut self.senders {
            sender.tell(&format!("send {each} 0 {is_timed} {start_ns}"))?;
        }
        let mut rounds = Vec::new();
        for sender in &mut self.senders {
            rounds.push(sender.hear_figures("sent")?);
        }
        self.receiver.tell("skip")?;
        self.receiver.hear("skipped")?;
        let all = rounds
            .into_iter()
            .reduce(|(slowest, mut all), (elapsed, latencies)| {
                all.add(latencies).expect("the same bounds");
                (f64::max(slowest, elapsed), all)
            });
        Ok(all.expect("somebody sends"))
    }
}

/// Of all who send in one round: fits into the memory that each peer has prepared.
const COUNT: u64 = 160_000;
const COUNT_OF_SLOW: u64 = 2_000;

fn line(stage: &Stage, senders: usize) -> Line {
    let topic = format!("producers-{senders}");
    let place = Place {
        senders,
        ..Place::of(topic, 64, 1, Wait::Later)
    };
    let mut casts = stage.casts(&place, start);
    for round in 0..=stage.rounds() {
        for cast in &mut casts {
            let count = if cast.is_slow { COUNT_OF_SLOW } else { COUNT };
            cast.play(round > 0, |players| players.play(count));
        }
    }
    Line(casts.into_iter().map(Cast::figures).collect())
}

/// One table: a column for each number of who send.
pub fn tables(stage: &Stage) -> Vec<Piece> {
    let columns = vec![
        ("one", line(stage, 1)),
        ("two, on two cores", line(stage, 2)),
        ("eight, on two cores", line(stage, 8)),
    ];
    vec![Piece::Times(Table {
        name: "producers",
        caption: "Several who send 64 B into one".to_owned(),
        of_each_round: "mean",
        columns,
        curves: vec![1],
        has_bars: true,
        note: "Somebody is connected, and reads when all has been sent. The mean is the time of \
               all divided by what they sent; p50 and p99.9 are of single calls."
            .to_owned(),
    })]
}
