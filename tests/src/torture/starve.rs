//! A daemon whose system calls fail, once or lastingly, while it has everything to do that
//! a daemon does, and while it ends; and clients whose calls do.
//!
//! What fails is what a kernel may refuse of each: room, memory, descriptors, the disk; an
//! interruption; fewer bytes than were asked for. Memory that has no file is left out: Rust
//! ends a program that gets none of it.
//!
//! Reading order: `shortage`, which calls fail, and how; `client`, what clients do.

mod client;
mod shortage;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use nix::sys::wait::WaitStatus;

use self::client::Client;
use self::shortage::{Counts, Course, FAULTS, Shortage, Tally};
use super::aftermath::{Lack, outlast};
use super::promises::{RESUMES, TRIED};
use super::service::{WAIT, lived};
use super::{Effort, Verdicts};
use crate::call::Call;
use crate::supervised::Order;
use crate::{Instance, PATIENCE, Programs};

/// Whose calls fail.
#[derive(Clone, Copy, Debug)]
enum Whose {
    Daemon,
    Client(Client),
}

const ALL: [Whose; 4] = [
    Whose::Daemon,
    Whose::Client(Client::Appends),
    Whose::Client(Client::Exports),
    Whose::Client(Client::Loads),
];

/// Starves daemons and clients.
///
/// # Panics
///
/// If one that lacks nothing does not do everything.
pub fn starve(programs: Programs, effort: &Effort) -> Verdicts {
    let mut verdicts = Verdicts::new("starve", effort);
    let mut made = HashSet::new();
    for (whose, name, effort) in effort.kinds(&ALL, |whose| format!("{whose:?}")) {
        let began = Instant::now();
        let counts = match whose {
            Whose::Daemon => counted(programs, &mut verdicts),
            Whose::Client(client) => client::counted(programs, client, &mut verdicts),
        };
        made.extend(counts.keys().copied());
        let shortages = Shortage::all(&counts);
        let cases = effort.cases(shortages.len(), &name);
        let mut tried = 0;
        for case in cases.iter().take_while(|_| effort.has_time()) {
            let shortage = &shortages[*case];
            let case = format!("{name}: {shortage:?}");
            tried += 1;
            // Threads take turns otherwise, and make fewer calls of some kinds then.
            verdicts.meet(&case, |verdicts| match whose {
                Whose::Daemon => one(programs, shortage, verdicts, &case),
                Whose::Client(client) => client::one(programs, client, shortage, verdicts, &case),
            });
        }
        let not_met = verdicts.check_met(&name, tried);
        eprintln!(
            "starve: {name}: {tried} of {} shortages, {not_met} of them not met, in {:.1} s",
            shortages.len(),
            began.elapsed().as_secs_f64()
        );
    }
    if effort.only.is_empty() {
        let has_served = verdicts.counted("served_on") > 0;
        verdicts.check(TRIED, has_served, || "no daemon served on".into());
        for (nr, _) in FAULTS {
            let is_made = made.contains(&(*nr as u64));
            verdicts.check(TRIED, is_made, || format!("nobody makes system call {nr}"));
        }
    }
    verdicts
}

/// Of a daemon that lacks nothing.
fn counted(programs: Programs, verdicts: &mut Verdicts) -> Counts {
    let tally = Tally::default();
    let count = |call: &Call, _| {
        tally.see(call);
        Order::Go
    };
    let instance = Instance::new(programs);
    let told = lived(&instance, PATIENCE, |_| {}, count, |_, _| tally.ask());
    assert!(told.is_through, "{told:?}");
    tally.end(verdicts)
}

/// Whether it was met.
fn one(programs: Programs, shortage: &Shortage, verdicts: &mut Verdicts, case: &str) -> bool {
    let mut course = Course::of(shortage);
    let is_over = AtomicBool::new(false);
    let decide = |call: &Call, _| match is_over.load(Ordering::Relaxed) {
        true => Order::Go,
        false => course.order(call),
    };
    let end = |_| is_over.store(true, Ordering::Relaxed);
    let mut instance = Instance::new(programs);
    let lack = Lack {
        until: shortage.until,
        wait: WAIT,
        begin: |_| {},
        end,
        may_be_killed: || false,
        may_cost_connection: shortage.may_cost_connection(),
    };
    let told = outlast(&mut instance, lack, decide, verdicts, case);
    let is_error = matches!(told.ended, Some(WaitStatus::Exited(_, 1..)));
    let is_clear = !is_error || shortage.may_end_with(&told.said.join("\n"));
    verdicts.check(RESUMES, is_clear, || format!("{case}: {:?}", told.said));
    course.is_met
}
