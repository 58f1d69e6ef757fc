//! A daemon that is killed before each of its system calls while it has everything to do
//! that a daemon does; and the next ones, while they recover.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ledger_client::admin::drop_context;
use ledger_client::{Appender, NewEntry};
use ledger_shm::Control;
use ledger_shm::control::State;
use nix::sys::signal::{Signal, kill};

use super::observed::{another, entries};
use super::promises::{ATTACHED, DENSE, KEPT, TRIED};
use super::{Effort, Verdicts};
use crate::supervised::Supervised;
use crate::{Instance, PATIENCE, Programs};

/// Small, so that little is enough to roll, retire and finish files.
const ARGS: [&str; 10] = [
    "--spare-min",
    "64K",
    "--spare-max",
    "64K",
    "--window",
    "16K",
    "--archive-file",
    "64K",
    "--idle-close-after",
    "0.01",
];
/// Daemons that are killed one after the other, at most.
const DEEP: usize = 3;
/// Clients do not wait longer for a daemon that may be dead.
const WAIT: Duration = Duration::from_millis(200);

/// What was acknowledged to the clients of one daemon.
#[derive(Debug, Default)]
struct Told {
    /// Of each context, the last seq.
    appended: BTreeMap<&'static str, u64>,
    /// All of it was done.
    is_through: bool,
    /// An appender that is still attached.
    appender: Option<Appender>,
    /// System calls until it listened.
    ready_after: usize,
    /// System calls.
    calls: usize,
}

/// Kills daemons.
///
/// # Panics
///
/// If a daemon that nobody kills does not do everything.
pub fn daemon(programs: Programs, effort: &Effort) -> Verdicts {
    let began = Instant::now();
    let mut verdicts = Verdicts::new("daemon", effort);
    let told = lived(&Instance::new(programs), None);
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
    let told = lived(&instance, Some(at));
    for at in recovering {
        let mut command = instance.ledgerd(&["run"]);
        let mut daemon = Supervised::start(command.args(ARGS).stderr(Stdio::null()));
        let mut left = *at;
        daemon.run(|| is_last(&mut left));
    }
    instance.start(&ARGS);
    let mut appended = told.appended;
    if let Some(mut appender) = told.appender {
        appender.set_wait(PATIENCE);
        let seq = appender.append(&another()).map(|appended| appended.seq);
        verdicts.check(ATTACHED, seq.is_ok(), || format!("{case}: {seq:?}"));
        appended.insert("log", seq.unwrap_or(0));
    }
    let ledger = instance.connect();
    for (name, last) in appended {
        let context = ledger.context(name).open_or_create().expect("a context");
        let there = entries(&context).map(|entries| entries.len() as u64);
        let is_kept = there.as_ref().is_ok_and(|count| *count >= last);
        verdicts.check(KEPT, is_kept, || {
            format!("{case}: {name}: {there:?} of {last}")
        });
        let mut appender = context.appender().expect("an appender");
        let next = appender.append(&another()).map(|appended| appended.seq);
        let is_next = there.is_ok_and(|count| next == Ok(count + 1));
        verdicts.check(DENSE, is_next, || format!("{case}: {name}: then {next:?}"));
    }
    let status = instance.stop_daemon();
    verdicts.check(TRIED, status.success(), || {
        format!("{case}: the last one: {status}")
    });
}

/// Whether none of the calls is left that are made; counts one more.
fn is_last(left: &mut usize) -> bool {
    let fewer = left.checked_sub(1);
    *left = fewer.unwrap_or(0);
    fewer.is_none()
}

/// Has a daemon do everything, until it has made so many system calls.
fn lived(instance: &Instance, kill_at: Option<usize>) -> Told {
    let mut left = kill_at.unwrap_or(usize::MAX);
    let wait = kill_at.map_or(PATIENCE, |_| WAIT);
    let (mut calls, mut ready_after) = (0, 0);
    let listens = AtomicBool::new(false);
    let mut command = instance.ledgerd(&["run"]);
    let mut daemon = Supervised::start(command.args(ARGS).stderr(Stdio::piped()));
    let (pid, mut lines) = (daemon.pid(), daemon.stderr());
    let told = std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            let mut told = Told::default();
            while let Ok(line) = lines.line() {
                if line.contains(" listens at ") {
                    listens.store(true, Ordering::Relaxed);
                    told.is_through = live(instance, wait, &mut told).is_some();
                    // It may be dead.
                    let _ = kill(pid, Signal::SIGTERM);
                }
            }
            told
        });
        daemon.run(|| {
            calls += 1;
            if !listens.load(Ordering::Relaxed) {
                ready_after = calls;
            }
            is_last(&mut left)
        });
        clients.join().expect("no panic")
    });
    Told {
        calls,
        ready_after,
        ..told
    }
}

/// All that clients have a daemon do; none if it does not, because it is dead.
fn live(instance: &Instance, wait: Duration, told: &mut Told) -> Option<()> {
    let ledger = instance.builder().connect().ok()?;
    // Create, provision, roll, archive, finish files, retire.
    let context = ledger.context("log").open_or_create().ok()?;
    let mut appender = context.appender().ok()?;
    appender.set_wait(wait);
    let large = NewEntry::new("other", &[b'o'; 2000]);
    let appender = told.appender.insert(appender);
    for _ in 0..100 {
        let seq = appender.append(&large).ok()?.seq;
        told.appended.insert("log", seq);
    }
    context.wait_durable(100, wait).ok()?;
    // Snapshot, load, drop.
    let mut snapshot = Vec::new();
    context.snapshot_to(&mut snapshot).run().ok()?;
    ledger
        .load_from(snapshot.as_slice())
        .name("copy")
        .run()
        .ok()?;
    told.appended.insert("copy", 100);
    ledger
        .load_from(snapshot.as_slice())
        .name("gone")
        .run()
        .ok()?;
    drop_context(&ledger, "gone").ok()?;
    // Close, give memory up, come back.
    let idle = instance.builder().connect().ok()?;
    let context = idle.context("idle").open_or_create().ok()?;
    told.appended.insert(
        "idle",
        context.appender().ok()?.append(&another()).ok()?.seq,
    );
    // Looked at without the daemon, for which whoever asks is not idle.
    let control = Control::open(&instance.objects(), context.epoch(), false).ok()?;
    drop((context, idle));
    let deadline = Instant::now() + 10 * wait;
    while !matches!(control.state(), Ok(State::Idle | State::Archived)) {
        if Instant::now() > deadline {
            return None;
        }
        std::thread::yield_now();
    }
    let context = ledger.context("idle").open_or_create().ok()?;
    let mut appender = context.appender().ok()?;
    appender.set_wait(wait);
    told.appended
        .insert("idle", appender.append(&another()).ok()?.seq);
    Some(())
}
