//! A daemon that is killed before each of its system calls while it has everything to do
//! that a daemon does; and the next ones, while they recover.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;
use std::time::Instant;

use super::promises::TRIED;
use super::service::{ARGS, WAIT, check_kept, lived};
use super::{Effort, Verdicts};
use crate::supervised::{Order, Supervised};
use crate::{Instance, PATIENCE, Programs};

/// Daemons that are killed one after the other, at most.
const DEEP: usize = 3;
/// Kills daemons.
///
/// # Panics
///
/// If a daemon that nobody kills does not do everything.
pub fn daemon(programs: Programs, effort: &Effort) -> Verdicts {
    let began = Instant::now();
    let mut verdicts = Verdicts::new("daemon", effort);
    let told = lived(
        &Instance::new(programs),
        PATIENCE,
        |_| {},
        |_, _| Order::Go,
        |_, _| {},
    );
    assert!(told.is_through, "{told:?}");
    let mut rng = effort.rng("deep");
    let cases = effort.cases(told.calls, "calls");
    let has_time = |_: &&usize| effort.has_time();
    for case in cases.iter().take_while(has_time) {
        let deep = rng.usize(0..DEEP);
        let recovering: Vec<usize> = (0..deep).map(|_| rng.usize(0..told.ready_after)).collect();
        let name = format!(
            "killed before {case} of {} calls, then {recovering:?}",
            told.calls
        );
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            one(programs, *case, &recovering, &mut verdicts, &name);
        }));
        verdicts.count("killed", 1 + deep as u64);
        verdicts.check(TRIED, outcome.is_ok(), || name);
    }
    eprintln!(
        "daemon: {} system calls, {} until it listens: {} daemons killed in {:.1} s",
        told.calls,
        told.ready_after,
        verdicts.counted("killed"),
        began.elapsed().as_secs_f64()
    );
    verdicts
}

fn one(programs: Programs, at: usize, recovering: &[usize], verdicts: &mut Verdicts, case: &str) {
    let mut instance = Instance::new(programs);
    let mut left = at;
    let mut told = lived(
        &instance,
        WAIT,
        |_| {},
        |_, _| is_last(&mut left),
        |_, _| {},
    );
    for at in recovering {
        let mut command = instance.ledgerd(&["run"]);
        let mut daemon = Supervised::start(command.args(ARGS).stderr(Stdio::null()));
        let mut left = *at;
        daemon.run(|_| is_last(&mut left));
    }
    instance.start(&ARGS);
    check_kept(&instance, &mut told, verdicts, case);
    let status = instance.stop_daemon();
    verdicts.check(TRIED, status.success(), || {
        format!("{case}: the last one: {status}")
    });
}

/// Has it killed when none of the calls is left that it makes; counts one more.
fn is_last(left: &mut usize) -> Order {
    let fewer = left.checked_sub(1);
    *left = fewer.unwrap_or(0);
    fewer.map_or(Order::Kill, |_| Order::Go)
}
