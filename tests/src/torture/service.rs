//! Everything that clients have a daemon do, with each of its system calls seen.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ledger_client::admin::drop_context;
use ledger_client::{AppendError, Appender, NewEntry};
use ledger_shm::control::State;
use ledger_shm::{Control, Refused};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::Verdicts;
use super::observed::{another, entries};
use super::promises::{ATTACHED, DENSE, KEPT, RESUMES, TRIED};
use crate::supervised::{Call, Order, Supervised};
use crate::{Instance, PATIENCE};

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
    /// All of it was done.
    pub(super) is_through: bool,
    /// An appender that is still attached.
    pub(super) appender: Option<Appender>,
    /// System calls until it listened.
    pub(super) ready_after: usize,
    /// System calls.
    pub(super) calls: usize,
    /// What the daemon said.
    pub(super) said: Vec<String>,
    /// How it ended.
    pub(super) ended: Option<WaitStatus>,
    /// Whether it served in the end.
    has_served: bool,
}

/// Has a daemon ended that does not end by itself.
struct Ends(Pid);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
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
    let listens = AtomicBool::new(false);
    let mut command = instance.ledgerd(&["run"]);
    let mut daemon = Supervised::start(command.args(ARGS).stderr(Stdio::piped()));
    let (pid, mut lines) = (daemon.pid(), daemon.stderr());
    begin(pid);
    let told = std::thread::scope(|scope| {
        let clients = scope.spawn(|| {
            // Also when somebody panics.
            let _ends = Ends(pid);
            let mut told = Told::default();
            let mut afterwards = Some(afterwards);
            while let Ok(line) = lines.line() {
                if line.contains(" listens at ") {
                    listens.store(true, Ordering::Relaxed);
                    told.is_through = live(instance, wait, &mut told).is_some();
                    if let Some(afterwards) = afterwards.take() {
                        afterwards(pid, &mut told);
                    }
                    // It may be dead.
                    let _ = kill(pid, Signal::SIGTERM);
                }
                told.said.push(line);
            }
            told
        });
        daemon.run(|call| {
            calls += 1;
            let listens = listens.load(Ordering::Relaxed);
            if !listens {
                ready_after = calls;
            }
            decide(call, listens)
        });
        clients.join().expect("no panic")
    });
    Told {
        calls,
        ready_after,
        ended: daemon.ended(),
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

/// Has a daemon that lacks something do everything, then has it lack nothing any more, and
/// checks that it goes on; and that the next one has everything. `begin` and `end` are told
/// which process it is, `decide` is asked about each of its system calls.
pub(super) fn outlast(
    instance: &mut Instance,
    begin: impl FnOnce(Pid),
    decide: impl FnMut(&Call, bool) -> Order,
    end: impl FnOnce(Pid) + Send,
    verdicts: &mut Verdicts,
    case: &str,
) -> Told {
    let mut told = lived(instance, WAIT, begin, decide, |pid, told| {
        end(pid);
        // It may have ended.
        told.has_served = instance.builder().connect().is_ok();
        if told.has_served {
            let has_closed = go_on(told);
            verdicts.count("told_to_open_again", has_closed.into());
            check_kept(instance, told, verdicts, case);
        }
    });
    verdicts.count("served_on", told.has_served.into());
    let is_error = matches!(told.ended, Some(WaitStatus::Exited(_, 1..)));
    verdicts.count("ended_with_an_error", is_error.into());
    let is_abort = matches!(told.ended, Some(WaitStatus::Signaled(..)));
    verdicts.count("aborted", is_abort.into());
    let has_panicked = told.said.iter().any(|line| line.contains("panicked"));
    verdicts.check(RESUMES, told.has_ended_well() && !has_panicked, || {
        let last = &told.said[told.said.len().saturating_sub(3)..];
        format!("{case}: {:?}: {last:?}", told.ended)
    });
    instance.start(&ARGS);
    check_kept(instance, &mut told, verdicts, case);
    let status = instance.stop_daemon();
    verdicts.check(TRIED, status.success(), || {
        format!("{case}: the last one: {status}")
    });
    told
}

impl Told {
    /// As who was told to, or with an error before it served.
    fn has_ended_well(&self) -> bool {
        // Rust ends a program that gets no memory for a value, wherever that is.
        // The standard library's, and the C library's, which has to allocate as well.
        let is_out_of_memory = |line: &String| {
            line.starts_with("memory allocation of ")
                || line.starts_with("Fatal glibc error: ") && line.ends_with(": out of memory")
        };
        match self.ended {
            Some(WaitStatus::Exited(_, 0)) => true,
            Some(WaitStatus::Exited(..)) => !self.has_served && !self.said.is_empty(),
            Some(WaitStatus::Signaled(_, Signal::SIGABRT, _)) => {
                self.said.iter().any(is_out_of_memory)
            }
            _ => false,
        }
    }
}

/// Has the attached appender go on. If the kernel had no memory for its connection, its
/// context may have been given up as one that nobody uses, and it is told to open it again.
fn go_on(told: &mut Told) -> bool {
    let Some(appender) = &mut told.appender else {
        return false;
    };
    appender.set_wait(PATIENCE);
    match appender.append(&another()) {
        Ok(appended) => {
            told.appended.insert("log", appended.seq);
            false
        }
        Err(AppendError::Refused(Refused::Closed)) => {
            told.appender = None;
            true
        }
        Err(error) => panic!("{error}"),
    }
}

/// Checks that what was told is there, and goes on, with the daemon that there is now.
pub(super) fn check_kept(
    instance: &Instance,
    told: &mut Told,
    verdicts: &mut Verdicts,
    case: &str,
) {
    if let Some(appender) = &mut told.appender {
        appender.set_wait(PATIENCE);
        let seq = appender.append(&another()).map(|appended| appended.seq);
        verdicts.check(ATTACHED, seq.is_ok(), || format!("{case}: {seq:?}"));
        told.appended.insert("log", seq.unwrap_or(0));
    }
    let ledger = instance.connect();
    for (name, last) in &mut told.appended {
        let context = ledger.context(name).open_or_create().expect("a context");
        let there = entries(&context).map(|entries| entries.len() as u64);
        let is_kept = there.as_ref().is_ok_and(|count| count >= last);
        verdicts.check(KEPT, is_kept, || {
            format!("{case}: {name}: {there:?} of {last}")
        });
        let mut appender = context.appender().expect("an appender");
        let next = appender.append(&another()).map(|appended| appended.seq);
        let is_next = there.is_ok_and(|count| next == Ok(count + 1));
        verdicts.check(DENSE, is_next, || format!("{case}: {name}: then {next:?}"));
        *last = next.unwrap_or(*last);
    }
}
