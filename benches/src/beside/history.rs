//! Reading what was sent before: all of it, one of it, as soon as one has come.

use crate::peers::{Missing, Place, Wait};

use super::Piece;
use super::player::{Part, Player};
use super::stage::{Cast, Line, Round, Stage};
use super::table::Table;

struct Players {
    latecomer: Player,
    /// Whatever it has made stays as long as it does.
    _sender: Player,
}

/// So many are there before anybody comes.
fn start(peer: &str, place: &Place, count: u64) -> Result<Players, Missing> {
    let mut sender = Player::start(peer, Part::Sender(0), place)?;
    sender.tell(&format!("send {count} 0 0 0"))?;
    sender.hear("sent")?;
    Ok(Players {
        latecomer: Player::start(peer, Part::Latecomer, place)?,
        _sender: sender,
    })
}

impl Players {
    fn scan(&mut self, count: u64) -> Result<Round, Missing> {
        self.latecomer.tell(&format!("scan {count}"))?;
        let (elapsed_ns, _) = self.latecomer.hear_figures("scanned")?;
        // There is no call of which each could be timed by itself.
        let mut each = crate::report::histogram();
        each.saturating_record((elapsed_ns / count as f64) as u64);
        Ok((elapsed_ns / count as f64, each))
    }

    fn get(&mut self, gets: u64, count: u64) -> Result<Round, Missing> {
        self.latecomer.tell(&format!("get {gets} {count}"))?;
        let (elapsed_ns, latencies) = self.latecomer.hear_figures("got")?;
        Ok((elapsed_ns / gets as f64, latencies))
    }

    fn open(&mut self, opens: u64) -> Result<Round, Missing> {
        self.latecomer.tell(&format!("open {opens}"))?;
        let (elapsed_ns, latencies) = self.latecomer.hear_figures("opened")?;
        Ok((elapsed_ns / opens as f64, latencies))
    }
}

fn place(name: &str) -> Place {
    Place {
        keeps_all: true,
        ..Place::of(format!("history-{name}"), 64, 0, Wait::Later)
    }
}

/// A column: what is done in each round with so many there.
fn line(
    stage: &Stage,
    name: &str,
    count: u64,
    rounds: u32,
    act: impl Fn(&mut Players, bool) -> Result<Round, Missing>,
) -> Line {
    let mut casts = stage.casts(&place(name), |peer, place| start(peer, place, count));
    for round in 0..=rounds {
        for cast in &mut casts {
            let is_slow = cast.is_slow;
            cast.play(round > 0, |players| act(players, is_slow));
        }
    }
    Line(casts.into_iter().map(Cast::figures).collect())
}

/// One table: a column for each way to read.
pub fn tables(stage: &Stage) -> Vec<Piece> {
    let rounds = stage.rounds();
    let (count, many) = match stage.is_quick() {
        true => (100_000, 200_000),
        false => (1_000_000, 10_000_000),
    };
    let gets = |is_slow| if is_slow { 2_000 } else { 100_000 };
    let columns = vec![
        (
            "one at random",
            line(stage, "get", count, rounds, |players, is_slow| {
                players.get(gets(is_slow), count)
            }),
        ),
        (
            "come, and read the first",
            line(stage, "open", 1000, rounds, |players, _| players.open(100)),
        ),
        (
            "come, and read all",
            line(stage, "scan", many, rounds.min(3), |players, _| {
                players.scan(many)
            }),
        ),
    ];
    vec![Piece::Times(Table {
        name: "history",
        caption: "What was sent before, 64 B each".to_owned(),
        of_each_round: "mean",
        columns,
        curves: vec![0],
        has_bars: true,
        note: format!(
            "One of {count}; the first of 1000; all of {many}, of which the time is that of each, \
             and p50 and p99.9 are of the rounds."
        ),
    })]
}
