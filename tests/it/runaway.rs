//! A log that runs away from who comes to it: between two of its system calls others append
//! so much that nothing is in memory any more of what was.

use std::process::Stdio;

use ledger_client::NewEntry;
use ledger_client::converge::history::timeline;
use ledger_tests::supervised::{Order, Supervised};
use ledger_tests::{Instance, PATIENCE, eventually, parts_in_memory};
use nix::sys::wait::WaitStatus;

use crate::archive::SMALL;
use crate::forged_runs::forged;
use crate::started;

/// Whose parts leave memory as soon as they can, for files that end as soon as they can.
fn small() -> Instance {
    started(&[&SMALL[..], &["--archive-file", "64K"]].concat())
}

/// Entries that are appended before those before them are in files: a machine that is busy
/// would have ever more files, which then takes who looks for one ever more calls.
const AHEAD_MAX: u64 = 64;

/// Appends until none of the parts that are in memory now is.
fn run_away(instance: &Instance) {
    let context = instance.context("log");
    let mut appender = context.appender().expect("a daemon");
    let parts = || parts_in_memory(&instance.objects(), context.epoch());
    let before = parts();
    let payload = [0; 8 << 10];
    eventually("nothing is left of what was in memory", || {
        let entry = NewEntry::new("more", &payload);
        let seq = appender.append(&entry).expect("room").seq;
        let behind = seq.saturating_sub(AHEAD_MAX);
        context.wait_durable(behind, PATIENCE).expect("a disk");
        let left = parts();
        before.iter().all(|part| !left.contains(part)).then_some(())
    });
}

/// Runs a command, before whose call of this number, since it has come, the log runs away.
/// False if it has not so many.
fn run(instance: &Instance, args: &[&str], n: usize) -> bool {
    let (mut has_come, mut calls) = (false, 0);
    let mut command = instance.ledgerd(args);
    let mut supervised = Supervised::start(command.stdout(Stdio::null()));
    supervised.run(|call| {
        // It looks for the context by name, or asks the daemon for it.
        has_come |= [libc::SYS_getdents64, libc::SYS_connect].contains(&(call.nr as i64));
        if has_come && calls == n {
            run_away(instance);
        }
        calls += usize::from(has_come);
        Order::Go
    });
    let ended = supervised.ended();
    assert!(
        matches!(ended, Some(WaitStatus::Exited(_, 0))),
        "away before call {n} of {args:?}: {ended:?}"
    );
    n < calls
}

fn catches_up(args: &[&str]) {
    let instance = small();
    run_away(&instance);
    let calls = (0..).take_while(|n| run(&instance, args, *n)).count();
    assert!(calls > 20, "{args:?} makes {calls} calls");
}

#[test]
fn who_appends_to_a_log_that_runs_away_catches_up_with_it() {
    catches_up(&["append", "log", "facts", "x"]);
}

#[test]
fn who_reads_a_log_that_runs_away_catches_up_with_it() {
    catches_up(&["get", "log", "1"]);
    catches_up(&["tail", "log", "-n", "1"]);
}

#[test]
fn who_prints_slower_than_others_append_comes_to_an_end() {
    let instance = small();
    let context = instance.context("log");
    let mut appender = context.appender().expect("a daemon");
    // More than a command keeps before it writes.
    let payload = [0; 64 << 10];
    let mut append = || {
        appender
            .append(&NewEntry::new("more", &payload))
            .expect("room")
    };
    append();
    let mut written = 0;
    let mut command = instance.ledgerd(&["get", "log"]);
    let mut supervised = Supervised::start(command.stdout(Stdio::null()));
    supervised.run(|call| {
        if call.nr as i64 == libc::SYS_write && call.args[0] == 1 {
            written += 1;
            append();
        }
        if written > 100 {
            Order::Kill
        } else {
            Order::Go
        }
    });
    let ended = supervised.ended();
    let has_ended = matches!(ended, Some(WaitStatus::Exited(_, 0)));
    assert!(has_ended && written > 0, "{ended:?} after {written} writes");
}

#[test]
fn a_timeline_ends_where_the_log_ended_when_it_began() {
    let instance = small();
    let context = instance.context("run");
    let happens = || forged(&context, "intents", "null", &[("kind", "run_started")]);
    happens();
    let events = timeline(&context).expect("readable");
    happens();
    let told = events.take(10).inspect(|event| {
        assert!(event.is_ok(), "{event:?}");
        happens();
    });
    assert_eq!(told.count(), 1);
}

#[test]
fn who_looks_into_a_log_that_runs_away_catches_up_with_it() {
    catches_up(&["inspect", "log"]);
}
