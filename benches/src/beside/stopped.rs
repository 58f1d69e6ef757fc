//! One who sends is stopped in the middle of it, and then killed there: what becomes of the
//! others, and of who receives.

use std::time::Duration;

use crate::peers::{Missing, Place, Wait};

use super::Piece;
use super::part::now_ns;
use super::player::{Part, Player};
use super::stage::{Line, Round, Stage};
use super::table::{Table, add, time};

struct Players {
    victim: Player,
    sender: Player,
    receiver: Player,
    /// How often who receives has been told to and has not said that it has.
    owed: u32,
}

fn start(peer: &str, place: &Place) -> Result<Players, Missing> {
    Ok(Players {
        receiver: Player::start(peer, Part::Receiver(0), place)?,
        victim: Player::start(peer, Part::Sender(1), place)?,
        sender: Player::start(peer, Part::Sender(0), place)?,
        owed: 0,
    })
}

/// What has become of the victim.
#[derive(Clone, Copy)]
enum Act {
    Idle,
    Stopped,
    Killed,
}

const ACTS: [(Act, &str); 3] = [
    (Act::Idle, "before"),
    (Act::Stopped, "while it is stopped"),
    (Act::Killed, "after it was killed"),
];

/// Until the one who sends has been told when to begin.
const TELLING_NS: u64 = 2_000_000;

/// How long each call of the other one took, and until who receives had the last one.
type Outcome = (Round, Option<Duration>);

impl Players {
    fn play(&mut self, act: Act, count: u64, patience: Duration) -> Result<Outcome, Missing> {
        match act {
            Act::Idle => {}
            Act::Stopped => {
                self.victim.tell("stop")?;
                self.victim.await_stop()?;
            }
            Act::Killed => self.victim.kill()?,
        }
        self.send(count, patience)
    }

    fn send(&mut self, count: u64, patience: Duration) -> Result<Outcome, Missing> {
        self.sender.tell("settle")?;
        self.sender.hear("settled")?;
        self.receiver.tell(&format!("receive {}", count - 1))?;
        self.owed += 1;
        let start_ns = now_ns() + TELLING_NS;
        self.sender.tell(&format!("send {count} 0 1 {start_ns}"))?;
        let (elapsed_ns, latencies) = self.sender.hear_figures("sent")?;
        let sent_ns = start_ns + elapsed_ns as u64;
        let mut received = None;
        while self.owed > 0 {
            let waited = Duration::from_nanos(now_ns().saturating_sub(sent_ns));
            let left = patience.saturating_sub(waited);
            let Some(at_ns) = self.receiver.hear_within("received", left)? else {
                break;
            };
            self.owed -= 1;
            let at_ns: u64 = at_ns.parse().expect("a time");
            received = Some(Duration::from_nanos(at_ns.saturating_sub(sent_ns)));
        }
        let received = received.filter(|_| self.owed == 0);
        let p50 = latencies.value_at_quantile(0.5) as f64;
        Ok(((p50, latencies), received))
    }
}

/// Enough for a tail, and far less than anybody has room for before it has been received.
const COUNT: u64 = 20_000;
const COUNT_OF_SLOW: u64 = 1_000;

/// For who receives to have it.
const PATIENCE: Duration = Duration::from_secs(20);
const PATIENCE_OF_QUICK: Duration = Duration::from_secs(1);

/// Who can be stopped has to be made anew.
const ROUNDS: u32 = 5;

/// What was measured in one act.
#[derive(Default)]
struct Scene {
    line: Line,
    /// The longest of all rounds, or that it took longer than anybody waited.
    received: Vec<(&'static str, Option<Duration>)>,
}

impl Scene {
    fn add(&mut self, peer: &'static str, outcome: Result<Outcome, Missing>) {
        if let Ok((_, received)) = &outcome {
            match self.received.iter_mut().find(|(name, _)| *name == peer) {
                Some((_, longest)) => *longest = longest.zip(*received).map(|(a, b)| a.max(b)),
                None => self.received.push((peer, *received)),
            }
        }
        self.line.add(peer, outcome.map(|(round, _)| round));
    }
}

fn scenes(stage: &Stage, rounds: u32, patience: Duration) -> [Scene; 3] {
    let mut scenes: [Scene; 3] = Default::default();
    for round in 0..rounds {
        let place = Place {
            senders: 2,
            ..Place::of(format!("stopped-{round}"), 64, 1, Wait::Spinning)
        };
        let casts = stage.casts(&place, start);
        for mut cast in casts {
            let count = if cast.is_slow { COUNT_OF_SLOW } else { COUNT };
            // So that they are warm: a clock of ours counts after some milliseconds. Who
            // fails in it has failed.
            for _ in 0..2 {
                let _ = cast.perform(|players| players.send(count, patience));
            }
            for ((act, _), scene) in ACTS.iter().zip(&mut scenes) {
                let outcome = cast.perform(|players| players.play(*act, count, patience));
                scene.add(cast.peer, outcome);
            }
        }
    }
    scenes
}

/// What it costs the other one, and how long it takes who receives.
pub fn tables(stage: &Stage) -> Vec<Piece> {
    let (rounds, patience) = match stage.is_quick() {
        true => (1, PATIENCE_OF_QUICK),
        false => (ROUNDS, PATIENCE),
    };
    let scenes = scenes(stage, rounds, patience);
    let mut note =
        format!("Until who is connected had the last of them, the longest of {rounds}:\n\n| |");
    for (_, name) in ACTS {
        add(&mut note, format_args!(" {name} |"));
    }
    note += "\n|---|---|---|---|\n";
    for (peer, _) in &scenes[0].received {
        add(&mut note, format_args!("| {peer} |"));
        for scene in &scenes {
            let found = scene.received.iter().find(|(name, _)| name == peer);
            let cell = match found {
                Some((_, Some(longest))) => time(longest.as_nanos() as f64),
                Some((_, None)) => format!("not within {} s", patience.as_secs()),
                None => "failed".to_owned(),
            };
            add(&mut note, format_args!(" {cell} |"));
        }
        note += "\n";
    }
    let columns = ACTS.iter().zip(scenes);
    vec![Piece::Times(Table {
        name: "stopped",
        caption: "Another one's calls, 64 B, when one who sends is stopped between taking room \
                  and publishing, and then killed there"
            .to_owned(),
        of_each_round: "p50 of rounds",
        columns: columns
            .map(|((_, name), scene)| (*name, scene.line))
            .collect(),
        curves: vec![0, 1],
        has_bars: false,
        note: note.trim_end().to_owned(),
    })]
}
