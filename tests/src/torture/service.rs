//! Everything that clients have a daemon do, with each of its system calls seen.

use std::collections::BTreeMap;
use std::error::Error;
use std::time::{Duration, Instant};

use ledger_client::admin::drop_context;
use ledger_client::{Appender, Context, Ledger, NewEntry, Watcher};
use ledger_shm::Control;
use ledger_shm::control::State;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::observed::another;
use crate::Instance;
use crate::call::Call;
use crate::supervised::{Order, serve};

/// Small, so that little is enough to roll, retire and finish files.
pub(super) const ARGS: [&str; 12] = [
    "--spare-min",
    "64K",
    "--spare-max",
    "64K",
    "--window",
    "16K",
    "--archive-file",
    "64K",
    // However little there is when it starts.
    "--memory-budget",
    "64M",
    "--idle-close-after",
    "0.01",
];
/// Clients do not wait longer for a daemon that may be dead.
pub(super) const WAIT: Duration = Duration::from_millis(200);

/// What was acknowledged to the clients of one daemon.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// Of each context, the last seq.
    pub(super) appended: BTreeMap<&'static str, u64>,
    /// Of each context that was loaded or dropped: how many entries it has if that was not
    /// done, and if it was. It was if it was acknowledged.
    pub(super) whole: BTreeMap<&'static str, [u64; 2]>,
    /// All of it was done.
    pub(super) is_through: bool,
    /// What a client was told of why not.
    pub(super) error: Option<String>,
    /// An appender that is still attached.
    pub(super) appender: Option<Appender>,
    /// Who watches what that appends.
    pub(super) watcher: Option<Watcher>,
    /// System calls until it listened.
    pub(super) ready_after: usize,
    /// System calls.
    pub(super) calls: usize,
    /// What the daemon said.
    pub(super) said: Vec<String>,
    /// How it ended.
    pub(super) ended: Option<WaitStatus>,
}

/// Has a daemon do everything, with what is decided about each of its system calls, and
/// something else before it is to end: `begin` is told which process it is, `decide` whether
/// it listens by then.
pub(super) fn lived(
    instance: &Instance,
    wait: Duration,
    begin: impl FnOnce(Pid),
    mut decide: impl FnMut(&Call, bool) -> Order,
    afterwards: impl FnOnce(Pid, &mut Told) + Send,
) -> Told {
    let (mut calls, mut ready_after) = (0, 0);
    let count_and_decide = |call: &Call, listens: bool| {
        calls += 1;
        if !listens {
            ready_after = calls;
        }
        decide(call, listens)
    };
    let work = |pid| {
        let mut told = Told::default();
        let outcome = live(instance, wait, &mut told);
        told.error = outcome.err().map(|error| error.to_string());
        told.is_through = told.error.is_none();
        afterwards(pid, &mut told);
        told
    };
    let served = serve(instance, &ARGS, begin, count_and_decide, work);
    Told {
        calls,
        ready_after,
        said: served.said,
        ended: served.ended,
        ..served.outcome.unwrap_or_default()
    }
}

/// All that clients have a daemon do, or why it does not: it may be dead.
fn live(instance: &Instance, wait: Duration, told: &mut Told) -> Result<(), Box<dyn Error>> {
    let ledger = instance.builder().connect()?;
    // Create, provision, roll, archive, finish files, retire.
    let context = ledger.context("log").open_or_create()?;
    let control = Control::open(&instance.objects(), context.epoch(), false)?;
    let first_part = control.first_part();
    let mut appender = context.appender()?;
    appender.set_wait(wait);
    let large = NewEntry::new("other", &[b'o'; 2000]);
    let appender = told.appender.insert(appender);
    told.watcher = Some(context.watch(1));
    for _ in 0..100 {
        let seq = appender.append(&large)?.seq;
        told.appended.insert("log", seq);
    }
    context.wait_durable(100, wait)?;
    comes_true(wait, || control.first_part() != first_part)?;
    // Snapshot, load, drop, and load what a context goes on with.
    load(&ledger, &context, "copy", told)?;
    load(&ledger, &context, "gone", told)?;
    told.appended.remove("gone");
    told.whole.insert("gone", [100, 0]);
    drop_context(&ledger, "gone")?;
    told.whole.insert("gone", [0, 0]);
    for _ in 0..20 {
        let appender = told.appender.as_mut().expect("inserted above");
        let seq = appender.append(&large)?.seq;
        told.appended.insert("log", seq);
    }
    load(&ledger, &context, "copy", told)?;
    // Close, give memory up, come back.
    let idle = instance.builder().connect()?;
    let context = idle.context("idle").open_or_create()?;
    told.appended
        .insert("idle", context.appender()?.append(&another())?.seq);
    // Looked at without the daemon, for which whoever asks is not idle.
    let control = Control::open(&instance.objects(), context.epoch(), false)?;
    drop((context, idle));
    comes_true(10 * wait, || {
        matches!(control.state(), Ok(State::Idle | State::Archived))
    })?;
    let context = ledger.context("idle").open_or_create()?;
    let mut appender = context.appender()?;
    appender.set_wait(wait);
    told.appended
        .insert("idle", appender.append(&another())?.seq);
    Ok(())
}

/// Waits until something holds, which a dead daemon does not do.
fn comes_true(wait: Duration, mut look: impl FnMut() -> bool) -> Result<(), Box<dyn Error>> {
    let deadline = Instant::now() + wait;
    while !look() {
        if Instant::now() > deadline {
            return Err("the daemon does nothing".into());
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// Has a context go on with a snapshot of another one, or become it.
fn load(
    ledger: &Ledger,
    from: &Context,
    name: &'static str,
    told: &mut Told,
) -> Result<(), Box<dyn Error>> {
    let mut snapshot = Vec::new();
    let summary = from.snapshot_to(&mut snapshot).run()?;
    let before = told.appended.get(name).copied().unwrap_or(0);
    told.whole.insert(name, [before, summary.last_seq]);
    ledger.load_from(snapshot.as_slice()).name(name).run()?;
    told.whole.remove(name);
    told.appended.insert(name, summary.last_seq);
    Ok(())
}
