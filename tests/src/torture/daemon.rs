//! A daemon that is killed before each of its system calls while it has everything to do
//! that a daemon does; and the next ones, while they recover.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::aftermath::check_kept;
use super::promises::TRIED;
use super::service::{ARGS, Told, WAIT, lived};
use super::{Effort, Verdicts};
use crate::call::Call;
use crate::supervised::Order;
use crate::{Instance, PATIENCE, Programs};

/// Daemons that are killed one after the other while they recover, at most.
const DEEP: usize = 3;

/// Kills daemons.
///
/// # Panics
///
/// If a daemon that nobody kills does not do everything.
pub fn daemon(programs: Programs, effort: &Effort) -> Verdicts {
    let began = Instant::now();
    let mut verdicts = Verdicts::new("daemon", effort);
    let made = lives(programs);
    let mut rng = effort.rng("deep");
    let cases = effort.cases(made.calls, "calls");
    let has_time = |_: &&usize| effort.has_time();
    for case in cases.iter().take_while(has_time) {
        let deep = rng.usize(0..=DEEP);
        let drawn = (0..deep).map(|_| rng.usize(0..made.recovering));
        let recovering: Vec<usize> = drawn.collect();
        let name = format!(
            "killed before {case} of {} calls, then {recovering:?}",
            made.calls
        );
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            one(programs, *case, &recovering, &mut verdicts, &name);
        }));
        verdicts.count("to_be_killed", 1 + deep as u64);
        verdicts.check(TRIED, outcome.is_ok(), || name);
    }
    eprintln!(
        "daemon: {} system calls, {} of the next one until it listens: {} of {} daemons killed in {:.1} s",
        made.calls,
        made.recovering,
        verdicts.counted("killed"),
        verdicts.counted("to_be_killed"),
        began.elapsed().as_secs_f64()
    );
    verdicts
}

/// System calls.
struct Made {
    /// In a whole life.
    calls: usize,
    /// Of one that finds all that was left by a death, until it listens.
    recovering: usize,
}

fn lives(programs: Programs) -> Made {
    let instance = Instance::new(programs);
    let whole = lived(&instance, PATIENCE, |_| {}, |_, _| Order::Go, kill_it);
    assert!(whole.is_through, "{whole:?}");
    let next = lived(&instance, PATIENCE, |_| {}, |_, _| Order::Go, |_, _| {});
    Made {
        calls: whole.calls,
        recovering: next.ready_after,
    }
}

fn kill_it(pid: Pid, _: &mut Told) {
    kill(pid, Signal::SIGKILL).expect("it lives");
}

fn one(programs: Programs, at: usize, recovering: &[usize], verdicts: &mut Verdicts, case: &str) {
    let mut instance = Instance::new(programs);
    let mut left = Left::new(at);
    let mut told = lived(&instance, WAIT, |_| {}, |_, _| left.order(), |_, _| {});
    // Threads take turns otherwise, and make fewer calls then.
    verdicts.count("killed", left.is_killed.into());
    for at in recovering {
        let mut left = Left::new(*at);
        // What finds less to recover may be through before.
        let decide = |_: &Call, listens| match listens {
            true => Order::Kill,
            false => left.order(),
        };
        lived(&instance, WAIT, |_| {}, decide, |_, _| {});
        verdicts.count("killed", left.is_killed.into());
    }
    instance.start(&ARGS);
    check_kept(&instance, &mut told, verdicts, case);
    let status = instance.stop_daemon();
    verdicts.check(TRIED, status.success(), || {
        format!("{case}: the last one: {status}")
    });
}

/// The calls that are left to a daemon that is to be killed.
struct Left {
    count: usize,
    is_killed: bool,
}

impl Left {
    fn new(count: usize) -> Left {
        Left {
            count,
            is_killed: false,
        }
    }

    /// What becomes of the next one.
    fn order(&mut self) -> Order {
        self.is_killed |= self.count == 0;
        self.count = self.count.saturating_sub(1);
        match self.is_killed {
            true => Order::Kill,
            false => Order::Go,
        }
    }
}
