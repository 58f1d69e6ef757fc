//! Appenders, watchers and the daemon, killed and stopped at random and started again,
//! while all of them work on one log; on all processors, and on one.

use std::fs::File;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::promises::{NO_PANIC, TRIED};
use super::{Effort, Verdicts};
use crate::process::Process;
use crate::{Instance, Programs};

mod calm;
mod crew;

use crew::{CREW, Crew, Pace};

/// Rolls often, so that it happens in the middle of that.
const ARGS: [&str; 8] = [
    "--spare-min",
    "64K",
    "--spare-max",
    "256K",
    "--window",
    "1M",
    "--archive-file",
    "8M",
];
/// Blows on one log, before what has become of it is looked at.
const ROUND: usize = 1000;
/// So often it is looked at whether those who are left go on.
const LOOKED_AT_EVERY: usize = 50;

/// What happens at random.
#[derive(Clone, Copy, Debug)]
enum Weather {
    /// Clients are killed, and others come.
    ClientKilled,
    /// The daemon is, while it serves and while it starts; now and then a client.
    DaemonKilled,
    /// Everybody is stopped, and goes on after a while.
    Stopped,
}

impl Weather {
    /// Where processors are busy, a killed client takes some 40 ms to end and be replaced:
    /// few rounds of many blows are like that.
    fn pace(self, effort: &Effort, rng: &mut fastrand::Rng) -> Pace {
        match self {
            Weather::ClientKilled if effort.is_all() && rng.u8(..10) > 0 => Pace::Rested,
            _ => Pace::Busy,
        }
    }
}

/// How much of each there is.
const STORMS: [(Weather, bool, usize); 6] = [
    (Weather::ClientKilled, false, 100_000),
    (Weather::DaemonKilled, false, 5000),
    (Weather::Stopped, false, 20_000),
    (Weather::ClientKilled, true, 10_000),
    (Weather::DaemonKilled, true, 1000),
    (Weather::Stopped, true, 10_000),
];

/// Has it storm.
pub fn storm(programs: Programs, effort: &Effort) -> Verdicts {
    let mut verdicts = Verdicts::new("storm", effort);
    let name = |(weather, is_on_one, _)| {
        let on = if is_on_one { "One" } else { "All" };
        format!("{weather:?}On{on}")
    };
    for ((weather, is_on_one, blows), name, effort) in effort.kinds(&STORMS, name) {
        let began = Instant::now();
        let mut rng = effort.rng(&name);
        let _on_one = is_on_one.then(OnOne::begin);
        let (mut left, mut dealt) = (blows.min(effort.cases_max), 0);
        while left > 0 && effort.has_time() {
            let count = left.min(ROUND);
            let case = format!("{name}: with {left} blows left");
            let outcome = verdicts.tried(&case, |verdicts| {
                round(programs, weather, count, &effort, &mut rng, verdicts, &case)
            });
            dealt += outcome.unwrap_or(0);
            left -= count;
        }
        verdicts.check(TRIED, dealt > 0, || format!("{name}: no time for any"));
        eprintln!(
            "storm: {name}: {dealt} blows in {:.1} s",
            began.elapsed().as_secs_f64()
        );
    }
    verdicts
}

/// How many blows there was time for.
fn round(
    programs: Programs,
    weather: Weather,
    blows: usize,
    effort: &Effort,
    rng: &mut fastrand::Rng,
    verdicts: &mut Verdicts,
    case: &str,
) -> usize {
    let mut dealt = 0;
    let mut instance = Instance::started(programs, &ARGS);
    let mut crew = Crew::begin(&instance, weather.pace(effort, rng));
    for n in 1..=blows {
        if !effort.has_time() {
            break;
        }
        match weather {
            Weather::ClientKilled => {
                pause(rng, Duration::from_millis(4));
                crew.replace(&instance, rng.usize(..CREW), rng, verdicts, case);
            }
            Weather::DaemonKilled => {
                kill_daemon(&mut instance, &mut crew, rng, verdicts, case);
            }
            Weather::Stopped => {
                pause(rng, Duration::from_millis(4));
                crew.stop_or_go_on(&instance, rng, verdicts);
            }
        }
        if n % LOOKED_AT_EVERY == 0 || n == blows {
            crew.check_goes_on(&instance, verdicts, case);
        }
        dealt = n;
    }
    calm::check(&instance, crew, effort, verdicts, case);
    dealt
}

/// One that serves, one or two that have hardly started, and there is one again.
fn kill_daemon(
    instance: &mut Instance,
    crew: &mut Crew,
    rng: &mut fastrand::Rng,
    verdicts: &mut Verdicts,
    case: &str,
) {
    pause(rng, Duration::from_millis(30));
    instance.kill_daemon();
    verdicts.count("serving_daemons_killed", 1);
    if rng.u8(..10) == 0 {
        crew.replace(instance, rng.usize(..CREW), rng, verdicts, case);
    }
    for _ in 0..rng.usize(..3) {
        let mut command = instance.ledgerd(&["run"]);
        let said = instance.runtime_dir().join("starting");
        let said_to = File::create(&said).expect("room");
        let mut starting = Process::start(command.args(ARGS).stderr(said_to));
        pause(rng, Duration::from_millis(10));
        let ended = starting.try_wait().expect("our child");
        verdicts.check(NO_PANIC, ended.is_none(), || {
            format!("{case}: a daemon ended by itself: {ended:?}")
        });
        drop(starting);
        let said = std::fs::read_to_string(&said).expect("text");
        verdicts.check(NO_PANIC, !said.contains("panicked"), || {
            format!("{case}: {said}")
        });
        verdicts.count("starting_daemons_killed", 1);
    }
    instance.start(&ARGS);
}

/// Lets them work for up to that long: where it strikes them is the point of a storm.
fn pause(rng: &mut fastrand::Rng, longest: Duration) {
    std::thread::sleep(longest.mul_f64(rng.f64()));
}

/// Has this thread, and all that it starts, run on one processor, until it is dropped.
struct OnOne(CpuSet);

impl OnOne {
    fn begin() -> OnOne {
        let us = Pid::from_raw(0);
        let before = sched_getaffinity(us).expect("our own");
        let first = (0..CpuSet::count()).find(|cpu| before.is_set(*cpu) == Ok(true));
        let mut one = CpuSet::new();
        one.set(first.expect("we run on one")).expect("it exists");
        sched_setaffinity(us, &one).expect("a part of what was allowed");
        OnOne(before)
    }
}

impl Drop for OnOne {
    fn drop(&mut self) {
        let _ = sched_setaffinity(Pid::from_raw(0), &self.0);
    }
}
