//! A watcher that is killed before each of its instructions, or stopped there until its log
//! has gone on without it; or overtaken, which is what it looks for once more before it
//! sleeps.
//!
//! Reading order: `stage`, the ways a watcher can take, and how to stop one on each.

mod stage;

use std::ops::RangeInclusive;
use std::time::Instant;

use ledger_client::{Appender, Context, NewEntry, Watcher};

pub use self::stage::Path;
use self::stage::{Scene, Sleeper, Stage};
use super::course::Place;
use super::observed::{
    Lateness, another, append_at_once, check_drained, check_whole, check_woken, leave_behind,
};
use super::promises::{DENSE, WATCHED, WOKEN};
use super::{Effort, Verdicts};
use crate::Programs;

/// Entries that others append at once, meanwhile or afterwards.
const AT_ONCE: u64 = 3;
/// Entries that each of two others appends while it stands still.
const MEANWHILE: u64 = 1000;

/// What becomes of the watcher.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// It is killed.
    Killed,
    /// It stands still while the log goes on, leaves memory, and is read from files.
    Stopped,
    /// It stands still while one more entry is appended.
    Overtaken,
}

/// Does all of that to watchers at places of every path.
pub fn watcher(programs: Programs, effort: &Effort) -> Verdicts {
    // A suite has more to do at the same time than a machine can be on time for.
    let lateness = effort.is_all().then(Lateness::watched);
    let mut verdicts = Verdicts::new("watcher", effort);
    for (path, of, effort) in effort.kinds(&Path::ALL, |path| format!("{path:?}")) {
        let began = Instant::now();
        let mut stage = Stage::set(programs, path);
        let places = stage.places(&effort);
        let has_time = |_: &&Place| effort.has_time();
        let mut tried = 0;
        for place in places.iter().take_while(has_time) {
            for fate in [Fate::Overtaken, Fate::Killed, Fate::Stopped] {
                tried += 1;
                let name = format!("{of}, at {place:?} of {}, {fate:?}", stage.length());
                verdicts.meet(&name, |verdicts| {
                    let mut case = Case {
                        lateness: lateness.as_ref(),
                        verdicts,
                        name: &name,
                    };
                    match fate {
                        Fate::Killed => kill(&mut stage, *place, &mut case),
                        Fate::Stopped => stop(&mut stage, *place, &mut case),
                        Fate::Overtaken => overtake(&mut stage, *place, &mut case),
                    }
                });
            }
        }
        let not_met = verdicts.check_met(&of, tried);
        eprintln!(
            "watcher: {of}: {} instructions, asleep after {:?}: {tried} cases at {} places, {not_met} not met, in {:.1} s",
            stage.length(),
            stage.slept_at(),
            places.len(),
            began.elapsed().as_secs_f64()
        );
    }
    if let Some(lateness) = &lateness {
        lateness.tell(&mut verdicts);
    }
    verdicts
}

/// What is looked at in one case.
struct Case<'c> {
    lateness: Option<&'c Lateness>,
    verdicts: &'c mut Verdicts,
    name: &'c str,
}

impl Case<'_> {
    fn append_at_once(&mut self, other: &mut Appender, seqs: RangeInclusive<u64>) {
        let Case {
            lateness,
            verdicts,
            name,
        } = self;
        for seq in seqs {
            append_at_once(other, &another(), seq, *lateness, verdicts, name);
        }
    }

    /// One that went to sleep after the victim was woken for the last entry, by whoever
    /// had to do it.
    fn check_woken(&mut self, sleeper: Option<&mut Sleeper>, seq: u64) {
        if let Some(Sleeper { peer, appended_ns }) = sleeper {
            let (verdicts, case) = (&mut *self.verdicts, self.name);
            check_woken(peer, seq, *appended_ns, self.lateness, verdicts, case);
        }
    }

    fn check_answer(&mut self, answer: &str, expected: &str) {
        self.verdicts.check(WATCHED, answer == expected, || {
            format!("{}: {answer}, not {expected}", self.name)
        });
    }

    /// All there is, as somebody sees it who was there before, and somebody new.
    fn check_whole(&mut self, context: &Context, standing: &mut Watcher, total: u64) {
        for watcher in [standing, &mut context.watch(1)] {
            check_whole(context, watcher, total, self.verdicts, self.name);
        }
    }
}

fn kill(stage: &mut Stage, place: Place, case: &mut Case<'_>) -> bool {
    let mut scene = stage.scene();
    let is_there = scene.run_to(stage, place);
    let Scene {
        victim,
        mut other,
        mut sleeper,
        mut standing,
        latest,
        ..
    } = scene;
    victim.kill();
    case.append_at_once(&mut other, latest + 1..=latest + AT_ONCE);
    // It was not the first one to sleep, so somebody else had to wake it.
    case.check_woken(sleeper.as_mut(), latest);
    case.check_whole(other.context(), &mut standing, latest + AT_ONCE);
    is_there
}

fn stop(stage: &mut Stage, place: Place, case: &mut Case<'_>) -> bool {
    let mut scene = stage.scene();
    let is_there = scene.run_to(stage, place);
    scene.victim.freeze();
    let first = scene.latest + 1;
    case.append_at_once(&mut scene.other, first..=scene.latest + AT_ONCE);
    case.check_woken(scene.sleeper.as_mut(), scene.latest);
    let small = NewEntry::new("other", b"o");
    for _ in AT_ONCE..MEANWHILE {
        scene.other.append(&small).expect("room");
    }
    // And a process of its own.
    let mut another = stage.instance().peer();
    another.must(&format!("open {}", scene.other.context().name()));
    let last = another.must(&format!("fill {MEANWHILE} 1"));
    let expected = scene.latest + 2 * MEANWHILE;
    case.verdicts
        .check(DENSE, last == expected.to_string(), || {
            format!("{}: {last}, not {expected}", case.name)
        });
    leave_behind(&stage.instance().objects(), &mut scene.other);
    let answer = scene.victim.thaw();
    case.check_answer(&answer, &scene.answer);
    let context = scene.other.context();
    let total = context.latest().expect("readable");
    check_drained(&mut scene.victim.peer, total, case.verdicts, case.name);
    case.check_whole(context, &mut scene.standing, total);
    is_there
}

fn overtake(stage: &mut Stage, place: Place, case: &mut Case<'_>) -> bool {
    let mut scene = stage.scene();
    let is_there = scene.run_to(stage, place);
    let seq = scene.latest + 1;
    case.append_at_once(&mut scene.other, seq..=seq);
    let has_overslept = scene.run_out();
    case.verdicts.check(WOKEN, !has_overslept, || {
        format!("{}: it sleeps though there is an entry", case.name)
    });
    let answer = scene.victim.peer.hear();
    case.check_answer(&answer, &scene.answer);
    check_drained(&mut scene.victim.peer, seq, case.verdicts, case.name);
    is_there
}
