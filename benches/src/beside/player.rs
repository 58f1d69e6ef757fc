//! A process that plays one half of a peer, as the one sees it who directs: it is told what
//! to do line by line, see [`super::part`].

use std::fmt::Display;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver as Lines, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::child::Running;
use crate::peers::{Missing, Peer, Place};
use crate::report::histogram;

use super::stage::Round;
use crate::with_peer;

/// Longer than any line takes to be answered.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Longer than it takes one to end; then it is killed.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// What a process plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The nth.
    Sender(usize),
    /// The nth.
    Receiver(usize),
    Pinger,
    Echoer,
    /// Reads what was sent before it came.
    Latecomer,
    /// Has topics that it does not use.
    Idler,
}

impl Part {
    /// Its name, and which of that name it is.
    fn words(self) -> (&'static str, usize) {
        match self {
            Part::Sender(n) => ("sender", n),
            Part::Receiver(n) => ("receiver", n),
            Part::Pinger => ("pinger", 0),
            Part::Echoer => ("echoer", 0),
            Part::Latecomer => ("latecomer", 0),
            Part::Idler => ("idler", 0),
        }
    }

    /// Who sends first has a core, and all who receive share the other one; so do others who
    /// send, in turn.
    fn core(self) -> usize {
        match self {
            Part::Sender(n) => n % 2,
            Part::Pinger => 0,
            Part::Receiver(_) | Part::Echoer | Part::Latecomer | Part::Idler => 1,
        }
    }
}

/// Somebody who plays.
pub struct Player {
    lines: Lines<String>,
    /// None when there will be no more.
    orders: Option<ChildStdin>,
    process: Running,
}

impl Player {
    /// Starts a process, and waits until it is set up.
    pub fn start(peer: &str, part: Part, place: &Place) -> Result<Player, Missing> {
        let mut player = Player::launch(peer, part, place)?;
        player.hear("ready")?;
        Ok(player)
    }

    fn launch(peer: &str, part: Part, place: &Place) -> Result<Player, Missing> {
        let program = match part {
            Part::Sender(_) => with_peer!(peer, sending_program(place)),
            _ => None,
        };
        let mut command = program.unwrap_or_else(|| ourselves(peer, part, place));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let process = Running::start_pinned(&mut command, part.core());
        let mut process = process.map_err(failed)?;
        let (Some(orders), Some(output)) = (process.stdin.take(), process.stdout.take()) else {
            unreachable!("both are pipes");
        };
        let (said, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if said.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Player {
            lines,
            orders: Some(orders),
            process,
        })
    }

    pub fn tell(&mut self, order: &str) -> Result<(), Missing> {
        let orders = self.orders.as_mut().expect("it has not ended");
        writeln!(orders, "{order}").map_err(failed)
    }

    /// The next line, behind the word that it begins with.
    pub fn hear(&mut self, word: &str) -> Result<String, Missing> {
        let said = self.hear_within(word, PATIENCE)?;
        said.ok_or_else(|| Missing::Failed(format!("no {word:?} was heard")))
    }

    /// The same of one that may not come in time.
    pub fn hear_within(
        &mut self,
        word: &str,
        patience: Duration,
    ) -> Result<Option<String>, Missing> {
        let line = match self.lines.recv_timeout(patience) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Missing::Failed(format!("it ended before {word:?}")));
            }
        };
        let said = line.strip_prefix(word);
        let said = said.ok_or_else(|| Missing::Failed(format!("{line:?} instead of {word:?}")))?;
        Ok(Some(said.trim_start().to_owned()))
    }

    /// A time and latencies, behind the word.
    pub fn hear_figures(&mut self, word: &str) -> Result<Round, Missing> {
        let said = self.hear(word)?;
        let (elapsed, pairs) = said.split_once(' ').unwrap_or((&said, ""));
        let unread = || Missing::Failed(format!("no figures: {said}"));
        let elapsed = elapsed.parse().map_err(|_| unread())?;
        Ok((elapsed, latencies(pairs).ok_or_else(unread)?))
    }

    /// Waits until it has stopped itself.
    pub fn await_stop(&mut self) -> Result<(), Missing> {
        let pid = Pid::from_raw(self.process.id().cast_signed());
        let flags = WaitPidFlag::WUNTRACED | WaitPidFlag::WNOHANG;
        let start = Instant::now();
        loop {
            match waitpid(pid, Some(flags)).map_err(failed)? {
                WaitStatus::Stopped(..) => return Ok(()),
                WaitStatus::StillAlive if start.elapsed() < PATIENCE => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                other => return Err(Missing::Failed(format!("{other:?} instead of a stop"))),
            }
        }
    }

    /// Ends it where it is.
    pub fn kill(&mut self) -> Result<(), Missing> {
        self.process.kill().map_err(failed)?;
        self.process.wait().map_err(failed)?;
        Ok(())
    }
}

impl Drop for Player {
    /// Lets it end by itself, and take with it what it has made.
    fn drop(&mut self) {
        self.orders = None;
        while self.lines.recv_timeout(END_PATIENCE).is_ok() {}
    }
}

fn failed(error: impl Display) -> Missing {
    Missing::Failed(error.to_string())
}

fn program<P: Peer>() -> Option<PathBuf> {
    P::program()
}

fn sending_program<P: Peer>(place: &Place) -> Option<Command> {
    P::sending_program(place)
}

fn ourselves(peer: &str, part: Part, place: &Place) -> Command {
    let built = with_peer!(peer, program());
    let program = built.unwrap_or_else(|| std::env::current_exe().expect("our own path"));
    let mut command = Command::new(program);
    let (name, n) = part.words();
    command.args(["--role", "player", "--", peer, name, &place.address]);
    command
        .arg(&place.dir)
        .args([&place.topic, place.wait.word()]);
    let keeps_all = usize::from(place.keeps_all);
    let numbers = [n, place.len, place.senders, place.receivers, keeps_all];
    command.args(numbers.map(|number| number.to_string()));
    command
}

/// What [`super::part::pairs`] has written.
fn latencies(pairs: &str) -> Option<Histogram<u64>> {
    let mut latencies = histogram();
    for pair in pairs.split_whitespace() {
        let (ns, count) = pair.split_once(':')?;
        latencies.saturating_record_n(ns.parse().ok()?, count.parse().ok()?);
    }
    Some(latencies)
}
