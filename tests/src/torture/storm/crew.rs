//! Those who work in a storm, and what they were told.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ledger_client::{Appender, Context};
use nix::sys::signal::Signal;

use super::super::Verdicts;
use super::super::promises::{ATTACHED, NO_PANIC, WATCHED};
use crate::worker::{Worker, is_restless};
use crate::{Instance, PATIENCE, eventually};

/// How soon it is looked again whether somebody goes on.
const LOOK: Duration = Duration::from_millis(1);
const APPENDERS: usize = 8;
const WATCHERS: usize = 4;
/// All of them.
pub(super) const CREW: usize = APPENDERS + WATCHERS;
/// A watcher that comes has so many entries to read first, at most.
const BEHIND: u64 = 5000;
/// What they work on.
pub(super) const LOG: &str = "log";

/// How much the appenders do.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// Some of them never rest: all processors are busy.
    Busy,
    /// All of them rest now and then, so that who dies or begins seldom waits for a processor.
    Rested,
}

/// Those who append, one after the other.
#[derive(Debug)]
struct Newcomers {
    pace: Pace,
    next: u64,
}

impl Iterator for Newcomers {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        let is_wanted = |who: &u64| matches!(self.pace, Pace::Busy) || !is_restless(*who);
        let who = (self.next..).find(is_wanted)?;
        self.next = who + 1;
        Some(who)
    }
}

/// Those who work.
#[derive(Debug)]
pub(super) struct Crew {
    pub(super) context: Context,
    /// One that nobody kills: it is ours.
    pub(super) other: Appender,
    /// First those who append.
    workers: Vec<Worker>,
    /// Who each of the appenders is.
    who: Vec<u64>,
    newcomers: Newcomers,
    /// Of each appender that there was, the seqs that it was told.
    pub(super) acknowledged: BTreeMap<u64, Vec<u64>>,
    stopped: Vec<usize>,
    daemon_is_stopped: bool,
}

impl Crew {
    /// All of them begin.
    pub(super) fn begin(instance: &Instance, pace: Pace) -> Crew {
        let context = instance.context(LOG);
        let mut other = context.appender().expect("a daemon");
        other.set_wait(PATIENCE);
        let mut newcomers = Newcomers { pace, next: 0 };
        let who: Vec<u64> = newcomers.by_ref().take(APPENDERS).collect();
        let start = |n| match who.get(n) {
            Some(who) => Worker::start(instance, "append", LOG, *who),
            None => Worker::start(instance, "watch", LOG, 1),
        };
        let workers: Vec<Worker> = (0..CREW).map(start).collect();
        for worker in &workers {
            eventually("it is at work", || worker.told_last().expect("it can"));
        }
        Crew {
            context,
            other,
            workers,
            who,
            newcomers,
            acknowledged: BTreeMap::new(),
            stopped: Vec::new(),
            daemon_is_stopped: false,
        }
    }

    /// Kills one of them, and has another one take its place.
    pub(super) fn replace(
        &mut self,
        instance: &Instance,
        n: usize,
        rng: &mut fastrand::Rng,
        verdicts: &mut Verdicts,
        case: &str,
    ) {
        self.kill(n, verdicts, case);
        if n < APPENDERS {
            self.who[n] = self.newcomers.next().expect("there are always more");
            self.workers[n] = Worker::start(instance, "append", LOG, self.who[n]);
        } else {
            let latest = self.context.latest().expect("readable");
            let from = rng.u64(latest.saturating_sub(BEHIND) + 1..=latest + 1);
            self.workers[n] = Worker::start(instance, "watch", LOG, from);
        }
    }

    fn kill(&mut self, n: usize, verdicts: &mut Verdicts, case: &str) {
        let worker = &mut self.workers[n];
        let ended = worker.process.try_wait().expect("our child");
        verdicts.check(NO_PANIC, ended.is_none(), || {
            format!("{case}: it ended by itself: {ended:?}")
        });
        worker.process.kill_now();
        verdicts.count("killed", 1);
        let told = worker.told();
        if n < APPENDERS {
            verdicts.check(ATTACHED, told.is_ok(), || format!("{case}: {told:?}"));
            let seqs: Vec<u64> = told.into_iter().flatten().map(|(_, seq)| seq).collect();
            verdicts.count("killed_after_an_entry", u64::from(!seqs.is_empty()));
            self.acknowledged.insert(self.who[n], seqs);
        } else {
            verdicts.check(WATCHED, told.is_ok(), || format!("{case}: {told:?}"));
        }
    }

    /// Stops one of them, or the daemon; or has it go on if it is stopped. One appender
    /// is left that works.
    pub(super) fn stop_or_go_on(
        &mut self,
        instance: &Instance,
        rng: &mut fastrand::Rng,
        verdicts: &mut Verdicts,
    ) {
        let n = rng.usize(..=CREW);
        if n == CREW {
            if self.daemon_is_stopped {
                instance.resume_daemon();
            } else {
                instance.pause_daemon();
            }
            self.daemon_is_stopped = !self.daemon_is_stopped;
            verdicts.count("daemons_stopped", u64::from(self.daemon_is_stopped));
        } else if let Some(at) = self.stopped.iter().position(|stopped| *stopped == n) {
            self.stopped.swap_remove(at);
            self.workers[n].process.signal(Signal::SIGCONT);
        } else {
            self.workers[n].process.signal(Signal::SIGSTOP);
            self.stopped.push(n);
            verdicts.count("stopped", 1);
            let appenders = self.stopped.iter().filter(|n| **n < APPENDERS).count();
            if appenders == APPENDERS {
                let longest = self.stopped.iter().position(|n| *n < APPENDERS);
                let n = self.stopped.remove(longest.expect("all of them"));
                self.workers[n].process.signal(Signal::SIGCONT);
            }
        }
    }

    /// Whoever is neither dead nor stopped goes on, now that there is a daemon.
    pub(super) fn check_goes_on(
        &mut self,
        instance: &Instance,
        verdicts: &mut Verdicts,
        case: &str,
    ) {
        if std::mem::take(&mut self.daemon_is_stopped) {
            instance.resume_daemon();
        }
        let is_at_work = |n: &usize| !self.stopped.contains(n);
        for n in (0..CREW).filter(is_at_work) {
            let told = || self.workers[n].told_last().ok().flatten();
            let before = told();
            let deadline = Instant::now() + PATIENCE;
            while told() == before && Instant::now() < deadline {
                std::thread::sleep(LOOK);
            }
            verdicts.check(ATTACHED, told() != before, || {
                format!("{case}: one that nobody stopped does not go on after {before:?}")
            });
        }
    }

    /// Has the storm be over: all go on, and then no other but ours appends.
    pub(super) fn calm(&mut self, instance: &Instance, verdicts: &mut Verdicts, case: &str) {
        if self.daemon_is_stopped {
            instance.resume_daemon();
        }
        for n in self.stopped.drain(..) {
            self.workers[n].process.signal(Signal::SIGCONT);
        }
        for n in 0..APPENDERS {
            self.kill(n, verdicts, case);
        }
    }

    /// Those who watch.
    pub(super) fn watchers(&self) -> &[Worker] {
        &self.workers[APPENDERS..]
    }
}
