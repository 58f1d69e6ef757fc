//! A daemon that is killed before each of its system calls while it has everything to do
//! that a daemon does; and the next ones, while they recover. Or it stands still there.

mod stopped;

use std::collections::BTreeSet;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::aftermath::{check_goes_on_alone, check_kept};
use super::promises::TRIED;
use super::service::{ARGS, Told, WAIT, lived};
use super::{Effort, Verdicts};
use crate::call::Call;
use crate::supervised::Order;
use crate::{Instance, PATIENCE, Programs};

/// Daemons that are killed one after the other while they recover, at most.
const DEEP: usize = 3;

/// Kills daemons, and has others stand still.
///
/// # Panics
///
/// If a daemon that nobody kills does not do everything.
pub fn daemon(programs: Programs, effort: &Effort) -> Verdicts {
    let began = Instant::now();
    let mut verdicts = Verdicts::new("daemon", effort);
    for (way, _, effort) in effort.kinds(&Way::ALL, |way| format!("{way:?}")) {
        match way {
            Way::Killed => killed(programs, &effort, &mut verdicts),
            Way::Stopped => stopped::stopped(programs, &effort, &mut verdicts),
        }
    }
    eprintln!(
        "daemon: {} killed, {} that recovered, and {} times stopped, in {:.1} s",
        verdicts.counted("killed"),
        verdicts.counted("killed_recovering"),
        verdicts.counted("stopped"),
        began.elapsed().as_secs_f64()
    );
    verdicts
}

/// What becomes of a daemon before a call.
#[derive(Clone, Copy, Debug)]
enum Way {
    Killed,
    Stopped,
}

impl Way {
    const ALL: [Way; 2] = [Way::Killed, Way::Stopped];
}

fn killed(programs: Programs, effort: &Effort, verdicts: &mut Verdicts) {
    let made = lives(programs);
    let mut rng = effort.rng("deep");
    let cases = effort.cases(made.calls, "calls");
    let has_time = |_: &&usize| effort.has_time();
    let mut struck = BTreeSet::new();
    for case in cases.iter().take_while(has_time) {
        let deep = rng.usize(0..=DEEP);
        let drawn = (0..deep).map(|_| rng.usize(0..made.recovering));
        let recovering: Vec<usize> = drawn.collect();
        let name = format!(
            "killed before {case} of {} calls, then {recovering:?}",
            made.calls
        );
        verdicts.meet(&name, |verdicts| {
            let before = one(programs, *case, &recovering, verdicts, &name);
            struck.extend(before);
            before.is_some()
        });
    }
    let tried = verdicts.counted("cases");
    let not_met = verdicts.check_met("killed", tried);
    verdicts.fact("kinds_of_calls", made.kinds.len());
    let has_recovered = verdicts.counted("killed_recovering") > 0;
    verdicts.check(TRIED, has_recovered, || "none killed that recovered".into());
    let has_gone_on = verdicts.counted("appended_without_a_daemon") > 0;
    verdicts.check(TRIED, has_gone_on || !effort.is_all(), || {
        "nobody appended without a daemon".into()
    });
    let spared: Vec<u64> = made.kinds.difference(&struck).copied().collect();
    eprintln!(
        "daemon: {} system calls, {} of the next one until it listens: {not_met} of {tried} not met, none killed before a call of {spared:?}",
        made.calls, made.recovering,
    );
    verdicts.fact("kinds_of_calls_spared", spared);
}

/// System calls.
struct Made {
    /// In a whole life, with its end.
    calls: usize,
    /// Of those, which ones there are.
    kinds: BTreeSet<u64>,
    /// Of one that finds all that was left by a death, until it listens.
    recovering: usize,
}

fn lives(programs: Programs) -> Made {
    let mut kinds = BTreeSet::new();
    let look = |call: &Call, _| {
        kinds.insert(call.nr);
        Order::Go
    };
    let instance = Instance::new(programs);
    let whole = lived(&instance, PATIENCE, |_| {}, look, |_, _| {});
    assert!(whole.is_through, "{whole:?}");
    let instance = Instance::new(programs);
    let left = lived(&instance, PATIENCE, |_| {}, |_, _| Order::Go, kill_it);
    assert!(left.is_through, "{left:?}");
    let next = lived(&instance, PATIENCE, |_| {}, |_, _| Order::Go, |_, _| {});
    Made {
        calls: whole.calls,
        kinds,
        recovering: next.ready_after,
    }
}

fn kill_it(pid: Pid, _: &mut Told) {
    kill(pid, Signal::SIGKILL).expect("it lives");
}

/// Before which call it was killed; none if it made fewer, as threads take turns otherwise.
fn one(
    programs: Programs,
    at: usize,
    recovering: &[usize],
    verdicts: &mut Verdicts,
    case: &str,
) -> Option<u64> {
    let mut instance = Instance::new(programs);
    let mut left = Left::new(at);
    let decide = |call: &Call, _| left.order(call);
    let mut told = lived(&instance, WAIT, |_| {}, decide, |_, _| {});
    let killed_before = left.killed_before;
    verdicts.count("killed", killed_before.is_some().into());
    check_goes_on_alone(&mut told, verdicts, case);
    for at in recovering {
        let mut left = Left::new(*at);
        // What finds less to recover may be through before.
        let decide = |call: &Call, listens| match listens {
            true => Order::Kill,
            false => left.order(call),
        };
        lived(&instance, WAIT, |_| {}, decide, |_, _| {});
        let is_killed = left.killed_before.is_some();
        verdicts.count("killed_recovering", is_killed.into());
    }
    instance.start(&ARGS);
    check_kept(&instance, &mut told, verdicts, case);
    let status = instance.stop_daemon();
    verdicts.check(TRIED, status.success(), || {
        format!("{case}: the last one: {status}")
    });
    killed_before
}

/// The calls that are left to a daemon that is to be killed.
struct Left {
    count: usize,
    killed_before: Option<u64>,
}

impl Left {
    fn new(count: usize) -> Left {
        Left {
            count,
            killed_before: None,
        }
    }

    /// What becomes of the next one.
    fn order(&mut self, call: &Call) -> Order {
        if self.count == 0 {
            self.killed_before.get_or_insert(call.nr);
            return Order::Kill;
        }
        self.count -= 1;
        Order::Go
    }
}
