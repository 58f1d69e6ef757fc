//! There and back: one sends, the other one answers.

use crate::peers::{Missing, Place, Wait};

use super::Piece;
use super::player::{Part, Player};
use super::stage::{Cast, Line, Round, Stage};
use super::table::Table;

struct Players {
    pinger: Player,
    echoer: Player,
}

/// Each has to be there to be sent to before the other one sends.
fn start(peer: &str, place: &Place) -> Result<Players, Missing> {
    let mut echoer = Player::start(peer, Part::Echoer, place)?;
    let pinger = Player::start(peer, Part::Pinger, place)?;
    echoer.tell("connect")?;
    echoer.hear("connected")?;
    Ok(Players { pinger, echoer })
}

impl Players {
    fn play(&mut self, count: u64) -> Result<Round, Missing> {
        self.pinger.tell("settle")?;
        self.pinger.hear("settled")?;
        self.echoer.tell(&format!("echo {count}"))?;
        self.pinger.tell(&format!("ping {count}"))?;
        let (_, latencies) = self.pinger.hear_figures("pinged")?;
        self.echoer.hear("echoed")?;
        Ok((latencies.value_at_quantile(0.5) as f64, latencies))
    }
}

fn line(stage: &Stage, wait: Wait) -> Line {
    let place = Place::of(format!("trip-{wait:?}"), 64, 1, wait);
    let mut casts = stage.casts(&place, start);
    for round in 0..=stage.rounds() {
        for cast in &mut casts {
            let count = match wait {
                Wait::Spinning if !cast.is_slow => 20_000,
                _ => 1_000,
            };
            cast.play(round > 0, |players| players.play(count));
        }
    }
    Line(casts.into_iter().map(Cast::figures).collect())
}

/// One table: a column for each way to wait.
pub fn tables(stage: &Stage) -> Vec<Piece> {
    let waits = [("spinning", Wait::Spinning), ("parked", Wait::Parked)];
    vec![Piece::Times(Table {
        name: "round-trip",
        caption: "There and back, 64 B".to_owned(),
        of_each_round: "p50 of rounds",
        columns: waits.map(|(name, wait)| (name, line(stage, wait))).into(),
        curves: vec![0, 1],
        has_bars: false,
        note: String::new(),
    })]
}
