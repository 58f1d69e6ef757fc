//! What is there after a daemon that died, or that lacked something.

use std::time::Duration;

use ledger_client::{AppendError, OpenError};
use ledger_shm::Refused;
use ledger_shm::control::State;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::Verdicts;
use super::observed::{another, caught_up, entries};
use super::promises::{ATTACHED, DENSE, KEPT, LOADED, RESUMES, TRIED, WATCHED};
use super::service::{ARGS, Told, lived};
use crate::call::Call;
use crate::supervised::Order;
use crate::{Instance, PATIENCE, eventually};

/// How long a daemon lacks something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Until everything was asked of it: then it is to serve on.
    Asked,
    /// Until it has ended.
    Ended,
}

/// What a daemon lacks.
#[derive(Debug)]
pub(super) struct Lack<B, E, K> {
    /// How long.
    pub(super) until: Until,
    /// How long its clients wait for it.
    pub(super) wait: Duration,
    /// Has this process lack it.
    pub(super) begin: B,
    /// Has it lack it no longer.
    pub(super) end: E,
    /// Whether the kernel has killed it for that.
    pub(super) may_be_killed: K,
    /// Whether who is attached may lose its connection for that.
    pub(super) may_cost_connection: bool,
}

/// Has a daemon that lacks something do everything, then has it lack nothing any more, and
/// checks that it goes on; and that the next one has everything. `decide` is asked about
/// each of its system calls.
pub(super) fn outlast(
    instance: &mut Instance,
    lack: Lack<impl FnOnce(Pid), impl Fn(Pid) + Sync, impl Fn() -> bool>,
    decide: impl FnMut(&Call, bool) -> Order,
    verdicts: &mut Verdicts,
    case: &str,
) -> Told {
    let Lack {
        until,
        end,
        may_cost_connection,
        ..
    } = lack;
    let (mut daemon, mut has_served) = (None, false);
    let begin = |pid| {
        daemon = Some(pid);
        (lack.begin)(pid);
    };
    let mut told = lived(instance, lack.wait, begin, decide, |pid, told| {
        if until == Until::Asked {
            end(pid);
            // It may have ended.
            has_served = instance.builder().connect().is_ok();
        }
        if has_served {
            go_on(instance, told, may_cost_connection, verdicts, case);
            check_kept(instance, told, verdicts, case);
        }
    });
    end(daemon.expect("it has begun"));
    verdicts.count("served_on", has_served.into());
    let is_error = matches!(told.ended, Some(WaitStatus::Exited(_, 1..)));
    verdicts.count("ended_with_an_error", is_error.into());
    let was_killed = is_signaled(&told, Signal::SIGKILL) && (lack.may_be_killed)();
    verdicts.count("killed", was_killed.into());
    verdicts.count("aborted", is_signaled(&told, Signal::SIGABRT).into());
    let has_panicked = has_panicked(&told.said);
    let has_ended_well = was_killed || has_ended_well(&told, until, has_served);
    verdicts.check(RESUMES, has_ended_well && !has_panicked, || {
        let last = &told.said[told.said.len().saturating_sub(3)..];
        format!("{case}: {:?}: {last:?}", told.ended)
    });
    // Whatever the kernel refuses the daemon, its clients understand what it says of it.
    let is_understood = told
        .error
        .as_ref()
        .is_none_or(|error| !error.contains("an answer "));
    verdicts.check(RESUMES, is_understood, || {
        format!("{case}: {:?}", told.error)
    });
    instance.start(&ARGS);
    if !has_served {
        // Its daemon has ended, and may have been away for long.
        go_on(instance, &mut told, true, verdicts, case);
    }
    check_kept(instance, &mut told, verdicts, case);
    let status = instance.stop_daemon();
    verdicts.check(TRIED, status.success(), || {
        format!("{case}: the last one: {status}")
    });
    told
}

/// But for the standard library, where a thread gets no memory to begin with.
fn has_panicked(said: &[String]) -> bool {
    let is_without_stack = |line: &String| line.starts_with("failed to allocate an alternative");
    said.iter().enumerate().any(|(n, line)| {
        line.contains("panicked") && !said.get(n + 1).is_some_and(is_without_stack)
    })
}

fn is_signaled(told: &Told, by: Signal) -> bool {
    matches!(told.ended, Some(WaitStatus::Signaled(_, signal, _)) if signal == by)
}

/// As who was told to, or with an error while it lacked something.
fn has_ended_well(told: &Told, until: Until, has_served: bool) -> bool {
    // Rust ends a program that gets no memory for a value, wherever that is.
    // The standard library's, and the C library's, which has to allocate as well.
    let is_out_of_memory = |line: &String| {
        line.starts_with("memory allocation of ")
            || line.starts_with("Fatal glibc error: ") && line.ends_with(": out of memory")
    };
    match told.ended {
        // One that lacks nothing any more, and has not ended by itself, serves whoever comes.
        Some(WaitStatus::Exited(_, 0)) => until == Until::Ended || has_served,
        Some(WaitStatus::Exited(..)) => !has_served && !told.said.is_empty(),
        Some(WaitStatus::Signaled(_, Signal::SIGABRT, _)) => told.said.iter().any(is_out_of_memory),
        _ => false,
    }
}

/// Has the attached appender go on, once the daemon knows of it again. If the kernel had no
/// memory for its connection, its context may have been given up as one that nobody uses, and
/// it is told to open it again.
fn go_on(
    instance: &Instance,
    told: &mut Told,
    may_be_given_up: bool,
    verdicts: &mut Verdicts,
    case: &str,
) {
    let Some(appender) = &mut told.appender else {
        return;
    };
    let context = appender.context();
    eventually("it is connected, with its context open or given up", || {
        let is_open = matches!(context.state(), Ok(State::Open));
        // Nobody else has one open.
        let status = instance.connect().status().ok()?;
        let is_known = context.ledger().is_connected() && (status.attached > 0 || !is_open);
        is_known.then_some(())
    });
    appender.set_wait(PATIENCE);
    match appender.append(&another()) {
        Ok(appended) => drop(told.appended.insert("log", appended.seq)),
        Err(AppendError::Refused(Refused::Closed)) => {
            (told.appender, told.watcher) = (None, None);
            verdicts.count("told_to_open_again", 1);
            verdicts.check(ATTACHED, may_be_given_up, || {
                format!("{case}: it is to open its context again")
            });
        }
        Err(error) => panic!("{error}"),
    }
}

/// Who watches has seen all that was appended.
fn check_watched(told: &mut Told, verdicts: &mut Verdicts, case: &str) {
    if let Some(watcher) = &mut told.watcher {
        let (seen, last) = (caught_up(watcher), told.appended["log"]);
        verdicts.check(WATCHED, seen == Ok(last), || {
            format!("{case}: {seen:?} of {last}")
        });
    }
}

/// Checks that who is attached goes on while there is no daemon, until its memory is full.
pub(super) fn check_goes_on_alone(told: &mut Told, verdicts: &mut Verdicts, case: &str) {
    let Some(appender) = &mut told.appender else {
        return;
    };
    let appended = appender.try_append(&another());
    let is_it = match &appended {
        Ok(appended) => appended.seq > told.appended["log"],
        Err(error) => error.is_full(),
    };
    verdicts.check(ATTACHED, is_it, || {
        format!("{case}: without a daemon {appended:?}")
    });
    if let Ok(appended) = appended {
        told.appended.insert("log", appended.seq);
        verdicts.count("appended_without_a_daemon", 1);
        check_watched(told, verdicts, case);
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
        if let Ok(seq) = seq {
            told.appended.insert("log", seq);
            check_watched(told, verdicts, case);
        }
    }
    let ledger = instance.connect();
    for (name, counts) in std::mem::take(&mut told.whole) {
        let there = match ledger.context(name).open_read_only() {
            Err(OpenError::Unknown { .. }) => Ok(0),
            Err(error) => Err(error.to_string()),
            Ok(context) => entries(&context).map(|entries| entries.len() as u64),
        };
        let is_whole = there.as_ref().is_ok_and(|count| counts.contains(count));
        verdicts.check(LOADED, is_whole, || {
            format!("{case}: {name}: {there:?}, none of {counts:?}")
        });
        match there {
            Ok(0) => drop(told.whole.insert(name, counts)),
            Ok(count) => drop(told.appended.insert(name, count)),
            Err(_) => {}
        }
    }
    for (name, last) in &mut told.appended {
        let context = ledger.context(name).open_or_create().expect("a context");
        let there = entries(&context).map(|entries| entries.len() as u64);
        // One more may have been under way when its daemon died.
        let may_be = *last..=*last + 1;
        let is_kept = there.as_ref().is_ok_and(|count| may_be.contains(count));
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
