//! One way, at a fixed rate: from when a payload was due to when it has been read.

use crate::peers::{Missing, Place, Wait};

use super::Piece;
use super::player::{Part, Player};
use super::stage::{Cast, Line, Round, Stage};
use super::table::Table;

struct Players {
    sender: Player,
    receiver: Player,
}

fn start(peer: &str, place: &Place) -> Result<Players, Missing> {
    if peer == "machine" {
        return Err(Missing::NoSuchThing("its word has no room for a time"));
    }
    Ok(Players {
        receiver: Player::start(peer, Part::Receiver(0), place)?,
        sender: Player::start(peer, Part::Sender(0), place)?,
    })
}

impl Players {
    fn play(&mut self, count: u64, interval_ns: u64) -> Result<Round, Missing> {
        self.sender.tell("settle")?;
        self.sender.hear("settled")?;
        self.receiver.tell(&format!("age {}", count - 1))?;
        self.sender.tell(&format!("pace {count} {interval_ns}"))?;
        self.sender.hear("paced")?;
        let (_, ages) = self.receiver.hear_figures("aged")?;
        Ok((ages.value_at_quantile(0.5) as f64, ages))
    }
}

const RATES: [(u64, &str); 3] = [
    (10_000, "10 k/s"),
    (100_000, "100 k/s"),
    (1_000_000, "1 M/s"),
];

fn line(stage: &Stage, rate: u64) -> Line {
    let place = Place::of(format!("paced-{rate}"), 64, 1, Wait::Spinning);
    let mut casts = stage.casts(&place, start);
    let count = match stage.is_quick() {
        true => rate / 10,
        false => rate / 3,
    };
    for round in 0..=stage.rounds() {
        for cast in &mut casts {
            cast.play(round > 0, |players| {
                players.play(count, 1_000_000_000 / rate)
            });
        }
    }
    Line(casts.into_iter().map(Cast::figures).collect())
}

/// One table: a column for each rate.
pub fn tables(stage: &Stage) -> Vec<Piece> {
    vec![Piece::Times(Table {
        name: "paced",
        caption: "One way to a receiver that spins, 64 B at a fixed rate".to_owned(),
        of_each_round: "p50 of rounds",
        columns: RATES.map(|(rate, name)| (name, line(stage, rate))).into(),
        curves: vec![1, 2],
        has_bars: false,
        note: String::new(),
    })]
}
