//! A process that plays one half of a peer, and how it is told what to do.
//!
//! It says `ready` when it is set up, then does what each line of its standard input says and
//! answers with one line:
//!
//! | line | does | answers |
//! |---|---|---|
//! | `settle` | waits until nothing is being prepared | `settled` |
//! | `send COUNT GAP_NS TIMED` | sends, with a pause before each; takes the time of each if TIMED is 1 | `sent ELAPSED_NS`, latencies |
//! | `receive COUNT` | receives until the last of so many | `received` |
//! | `pace COUNT INTERVAL_NS` | sends at fixed times, whether the one before is done or not | `paced` |
//! | `age COUNT` | as `receive`, with the time from when each was to be sent | `aged ELAPSED_NS`, latencies |
//! | `connect` | is set up to answer | `connected` |
//! | `echo COUNT` | answers so many | `echoed` |
//! | `ping COUNT` | sends so many, each when the one before is answered | `pinged ELAPSED_NS`, latencies |
//!
//! Latencies are pairs `NS:COUNT`.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver as Lines, channel};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::time::{ClockId, clock_gettime};

use crate::child::Running;
use crate::peers::{Missing, Peer, Place, Receiver, Sender, Wait};
use crate::report::{histogram, pin};

use super::stage::Round;
use crate::with_peer;

/// Longer than any line takes to be answered.
const PATIENCE: Duration = Duration::from_secs(120);

/// Longer than it takes one to end; then it is killed.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// What a process plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Sender,
    /// The nth.
    Receiver(usize),
    Pinger,
    Echoer,
}

impl Part {
    fn to_text(self) -> String {
        match self {
            Part::Sender => "sender".to_owned(),
            Part::Receiver(n) => n.to_string(),
            Part::Pinger => "pinger".to_owned(),
            Part::Echoer => "echoer".to_owned(),
        }
    }

    /// Who sends first has a core, and all others share another one.
    fn core(self) -> usize {
        match self {
            Part::Sender | Part::Pinger => 0,
            Part::Receiver(_) | Part::Echoer => 1,
        }
    }
}

/// Long enough for the other side to be asleep.
const THINK: Duration = Duration::from_micros(60);

/// Somebody who plays, as the one sees who directs.
pub struct Player {
    lines: Lines<String>,
    /// None when there will be no more.
    orders: Option<ChildStdin>,
    _process: Running,
}

impl Player {
    /// Starts a process, and waits until it is set up.
    pub fn start(peer: &str, part: Part, place: &Place) -> Result<Player, Missing> {
        let program = match part {
            Part::Sender => with_peer!(peer, sending_program(place)),
            _ => None,
        };
        let mut command = program.unwrap_or_else(|| ourselves(peer, part, place));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let failed = |error: std::io::Error| Missing::Failed(error.to_string());
        let mut process = Running::start(&mut command).map_err(failed)?;
        let child = process.child();
        let (Some(orders), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
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
        let mut player = Player {
            lines,
            orders: Some(orders),
            _process: process,
        };
        player.hear("ready")?;
        Ok(player)
    }

    pub fn tell(&mut self, order: &str) -> Result<(), Missing> {
        let orders = self.orders.as_mut().expect("it has not ended");
        writeln!(orders, "{order}").map_err(|error| Missing::Failed(error.to_string()))
    }

    /// The next line, behind the word that it begins with.
    pub fn hear(&mut self, word: &str) -> Result<String, Missing> {
        let line = self.lines.recv_timeout(PATIENCE);
        let line = line.map_err(|_| Missing::Failed(format!("no {word:?} was heard")))?;
        let said = line.strip_prefix(word);
        let said = said.ok_or_else(|| Missing::Failed(format!("{line:?} instead of {word:?}")))?;
        Ok(said.trim_start().to_owned())
    }
}

impl Player {
    /// A time and latencies, behind the word.
    pub fn hear_figures(&mut self, word: &str) -> Result<Round, Missing> {
        let said = self.hear(word)?;
        let (elapsed, pairs) = said.split_once(' ').unwrap_or((&said, ""));
        let unread = || Missing::Failed(format!("no figures: {said}"));
        let elapsed = elapsed.parse().map_err(|_| unread())?;
        Ok((elapsed, latencies(pairs).ok_or_else(unread)?))
    }
}

impl Drop for Player {
    /// Lets it end by itself, and take with it what it has made.
    fn drop(&mut self) {
        self.orders = None;
        while self.lines.recv_timeout(END_PATIENCE).is_ok() {}
    }
}

fn sending_program<P: Peer>(place: &Place) -> Option<Command> {
    P::sending_program(place)
}

fn ourselves(peer: &str, part: Part, place: &Place) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("our own path"));
    let wait = match place.wait {
        Wait::Spinning => "spinning",
        Wait::Parked => "parked",
    };
    command.args(["--role", "player", "--"]);
    let (core, part) = (part.core().to_string(), part.to_text());
    command.args([peer, &part, &core, &place.address]);
    command.arg(&place.dir);
    command.args([
        &place.topic,
        &place.len.to_string(),
        &place.receivers.to_string(),
    ]);
    command.arg(wait);
    command
}

/// What such a process does.
pub fn play(arguments: &[String]) {
    let [peer, part, core, address, dir, topic, len, receivers, wait] = arguments else {
        panic!("not what a player is told: {arguments:?}");
    };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let place = Place {
        address: address.clone(),
        dir: dir.into(),
        topic: topic.clone(),
        len: number(len),
        receivers: number(receivers),
        wait: match &**wait {
            "parked" => Wait::Parked,
            _ => Wait::Spinning,
        },
    };
    // Before it starts a thread of its own, which runs there, too.
    pin(number(core));
    match &**part {
        "sender" => with_peer!(&**peer, play_sender(&place)),
        "pinger" => with_peer!(&**peer, play_pinger(&place)),
        "echoer" => with_peer!(&**peer, play_echoer(&place)),
        n => with_peer!(&**peer, play_receiver(&place, n.parse().expect("a number"))),
    }
}

fn say(line: &str) {
    // Whoever directs may have ended.
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

fn orders() -> impl Iterator<Item = Vec<String>> {
    let lines = std::io::stdin().lines().map_while(Result::ok);
    lines.map(|line| line.split(' ').map(str::to_owned).collect())
}

fn play_sender<P: Peer>(place: &Place) {
    let mut sender = P::sender(place);
    let mut payload = vec![0x5a_u8; place.len];
    say("ready");
    for order in orders() {
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        match order[..] {
            ["settle"] => {
                sender.settle();
                say("settled");
            }
            ["send", count, gap, timed] => {
                let number = |text: &str| text.parse::<u64>().expect("a number");
                let gap = Duration::from_nanos(number(gap));
                let (elapsed, latencies) =
                    send(&mut sender, &mut payload, number(count), gap, timed == "1");
                say(&format!(
                    "sent {} {}",
                    elapsed.as_nanos(),
                    pairs(&latencies)
                ));
            }
            ["pace", count, interval] => {
                let number = |text: &str| text.parse::<u64>().expect("a number");
                pace(&mut sender, &mut payload, number(count), number(interval));
                say("paced");
            }
            _ => panic!("not an order: {order:?}"),
        }
    }
}

/// Nanoseconds of a clock that all processes share.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Sends each when it is due. One that is late makes those after it late, and their time
/// counts from when they were due: nothing that waits is left out.
fn pace(sender: &mut impl Sender, payload: &mut [u8], count: u64, interval_ns: u64) {
    let start = now_ns() + 1_000_000;
    for n in 0..count {
        let due = start + n * interval_ns;
        while now_ns() < due {
            std::hint::spin_loop();
        }
        payload[..8].copy_from_slice(&n.to_le_bytes());
        payload[8..16].copy_from_slice(&due.to_le_bytes());
        sender.send(payload);
    }
}

/// Sends so many; a payload begins with its number.
fn send(
    sender: &mut impl Sender,
    payload: &mut [u8],
    count: u64,
    gap: Duration,
    is_timed: bool,
) -> (Duration, Histogram<u64>) {
    let mut latencies = histogram();
    let start = Instant::now();
    for n in 0..count {
        payload[..8].copy_from_slice(&n.to_le_bytes());
        if !gap.is_zero() {
            std::thread::sleep(gap);
        }
        if is_timed {
            let start = Instant::now();
            sender.send(payload);
            latencies.saturating_record(start.elapsed().as_nanos() as u64);
        } else {
            sender.send(payload);
        }
    }
    (start.elapsed(), latencies)
}

fn play_receiver<P: Peer>(place: &Place, n: usize) {
    let mut receiver = P::receiver(place, n);
    say("ready");
    for order in orders() {
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        let [what @ ("receive" | "age"), count] = order[..] else {
            panic!("not an order: {order:?}");
        };
        let last = count.parse::<u64>().expect("a number") - 1;
        let mut ages = histogram();
        let mut number = None;
        while number != Some(last) {
            receiver.receive(&mut |payload| {
                number = Some(word(payload, 0));
                look(payload);
                if what == "age" {
                    let age = now_ns().saturating_sub(word(payload, 8));
                    ages.saturating_record(age);
                }
            });
        }
        match what {
            "age" => say(&format!("aged 0 {}", pairs(&ages))),
            _ => say("received"),
        }
    }
}

/// A number in a payload; one that is too short for it has none.
fn word(payload: &[u8], offset: usize) -> u64 {
    let bytes = payload.get(offset..offset + 8).unwrap_or(&[0; 8]);
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn play_pinger<P: Peer>(place: &Place) {
    let mut receiver = P::receiver(&place.towards("back"), 0);
    let mut sender = P::sender(&place.towards("there"));
    let mut payload = vec![0x5a_u8; place.len];
    say("ready");
    for order in orders() {
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        match order[..] {
            ["settle"] => {
                sender.settle();
                say("settled");
            }
            ["ping", count] => {
                let mut latencies = histogram();
                let start = Instant::now();
                for n in 0..count.parse().expect("a number") {
                    let before = Instant::now();
                    while place.wait == Wait::Parked && before.elapsed() < THINK {
                        std::hint::spin_loop();
                    }
                    payload[..8].copy_from_slice(&u64::to_le_bytes(n));
                    let start = Instant::now();
                    sender.send(&payload);
                    receiver.receive(&mut look);
                    latencies.saturating_record(start.elapsed().as_nanos() as u64);
                }
                let elapsed_ns = start.elapsed().as_nanos();
                say(&format!("pinged {elapsed_ns} {}", pairs(&latencies)));
            }
            _ => panic!("not an order: {order:?}"),
        }
    }
}

fn play_echoer<P: Peer>(place: &Place) {
    let mut receiver = P::receiver(&place.towards("there"), 0);
    let mut sender = None;
    let mut payload = vec![0xa5_u8; place.len];
    say("ready");
    for order in orders() {
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        match (&order[..], &mut sender) {
            (["connect"], None) => {
                sender = Some(P::sender(&place.towards("back")));
                say("connected");
            }
            (["echo", count], Some(sender)) => {
                for n in 0..count.parse().expect("a number") {
                    receiver.receive(&mut look);
                    payload[..8].copy_from_slice(&u64::to_le_bytes(n));
                    sender.send(&payload);
                }
                say("echoed");
            }
            _ => panic!("not an order: {order:?}"),
        }
    }
}

/// Reads all of it.
fn look(payload: &[u8]) {
    std::hint::black_box(payload.iter().fold(0, |sum, byte| sum ^ byte));
}

/// A histogram as text.
fn pairs(latencies: &Histogram<u64>) -> String {
    let recorded = latencies.iter_recorded();
    let pairs = recorded.map(|it| format!("{}:{}", it.value_iterated_to(), it.count_at_value()));
    pairs.collect::<Vec<_>>().join(" ")
}

/// What [`pairs`] has written.
fn latencies(pairs: &str) -> Option<Histogram<u64>> {
    let mut latencies = histogram();
    for pair in pairs.split_whitespace() {
        let (ns, count) = pair.split_once(':')?;
        latencies.saturating_record_n(ns.parse().ok()?, count.parse().ok()?);
    }
    Some(latencies)
}
