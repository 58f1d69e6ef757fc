//! A daemon that stands still before one of its system calls after the other, while others
//! append, read and watch; then it goes on.

use ledger_client::{Appender, Context, Watcher};

use crate::supervised::Order;
use crate::torture::aftermath::check_kept;
use crate::torture::observed::{ANOTHER_LEN, Lateness, another, append_at_once, caught_up};
use crate::torture::promises::{ATTACHED, KEPT, WATCHED};
use crate::torture::service::{ARGS, lived};
use crate::torture::{Effort, Verdicts};
use crate::{Instance, PATIENCE, Programs};

/// Of each this many calls it stands still before one: so little is appended meanwhile that
/// the memory that is there when it starts holds all of it.
const EACH: usize = 64;
/// Entries that are appended while it stands still.
const MEANWHILE: u64 = 3;

/// Has daemons do everything, and stand still on the way: all threads of it, as each makes
/// a call sooner or later.
pub(super) fn stopped(programs: Programs, effort: &Effort, verdicts: &mut Verdicts) {
    let lateness = effort.is_all().then(Lateness::watched);
    let cases = effort.cases(EACH, "stopped");
    let mut tried = 0;
    for first in cases.into_iter().take_while(|_| effort.has_time()) {
        let name = format!("stopped before call {first}, and each {EACH}th after it");
        verdicts.meet(&name, |verdicts| {
            one(programs, first, lateness.as_ref(), verdicts, &name);
            true
        });
        tried += 1;
    }
    verdicts.check_met("stopped", tried);
    if let Some(lateness) = &lateness {
        lateness.tell(verdicts);
    }
}

fn one(
    programs: Programs,
    first: usize,
    lateness: Option<&Lateness>,
    verdicts: &mut Verdicts,
    case: &str,
) {
    let mut instance = Instance::started(programs, &ARGS);
    let mut beside = Beside::attached(&instance);
    // So that the next one finds something to recover, and somebody who comes back.
    instance.kill_daemon();
    let mut calls = 0;
    let mut told = lived(
        &instance,
        PATIENCE,
        |_| {},
        |_, _| {
            if calls % EACH == first {
                beside.go_on(lateness, verdicts, case);
                verdicts.count("stopped", 1);
            }
            calls += 1;
            Order::Go
        },
        |_, _| {},
    );
    verdicts.check(ATTACHED, told.is_through, || {
        format!("{case}: {:?}", told.error)
    });
    instance.start(&ARGS);
    beside.come_back(verdicts, case);
    told.appended.insert("beside", beside.last);
    check_kept(&instance, &mut told, verdicts, case);
}

/// Who has work to do beside all that a daemon is asked for.
struct Beside {
    context: Context,
    appender: Appender,
    watcher: Watcher,
    last: u64,
}

impl Beside {
    /// With memory for what it will append.
    fn attached(instance: &Instance) -> Beside {
        let context = instance.context("beside");
        let appender = context.appender().expect("an appender");
        assert!(appender.wait_ready(PATIENCE), "a daemon makes it");
        Beside {
            watcher: context.watch(1),
            context,
            appender,
            last: 0,
        }
    }

    /// While the daemon stands still.
    fn go_on(&mut self, lateness: Option<&Lateness>, verdicts: &mut Verdicts, case: &str) {
        for _ in 0..MEANWHILE {
            let seq = self.last + 1;
            append_at_once(
                &mut self.appender,
                &another(),
                seq,
                lateness,
                verdicts,
                case,
            );
            self.last = seq;
        }
        let seen = caught_up(&mut self.watcher);
        verdicts.check(WATCHED, seen == Ok(self.last), || {
            format!("{case}: {seen:?} of {}", self.last)
        });
        let entry = self.context.get(self.last);
        let payload_len = entry.map(|entry| entry.map(|entry| entry.payload().len()));
        let is_there = matches!(payload_len, Ok(Some(ANOTHER_LEN)));
        verdicts.check(KEPT, is_there, || {
            format!("{case}: {payload_len:?} bytes of {}", self.last)
        });
    }

    /// With another daemon, and without opening anything again.
    fn come_back(&mut self, verdicts: &mut Verdicts, case: &str) {
        self.appender.set_wait(PATIENCE);
        let seq = self
            .appender
            .append(&another())
            .map(|appended| appended.seq);
        verdicts.check(ATTACHED, seq == Ok(self.last + 1), || {
            format!("{case}: {seq:?} after {}", self.last)
        });
        self.last += 1;
        let seen = caught_up(&mut self.watcher);
        verdicts.check(WATCHED, seen == Ok(self.last), || {
            format!("{case}: {seen:?} of {}", self.last)
        });
    }
}
