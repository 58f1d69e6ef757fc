//! A watcher that is killed before each of its instructions, or stopped there until its log
//! has gone on without it; or overtaken, which is what it looks for once more before it
//! sleeps.
//!
//! Reading order: `stage`, the ways a watcher can take, and how to stop one on each.

mod stage;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

pub use self::stage::Path;
use self::stage::{Scene, Sleeper, Stage};
use super::course::Place;
use super::observed::{
    Lateness, append_at_once, check_drained, check_whole, check_woken, leave_behind,
};
use super::promises::{TRIED, WATCHED, WOKEN};
use super::{Effort, Verdicts};
use crate::Programs;

/// Entries that others append meanwhile, or afterwards.
const MORE: u64 = 3;

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
        let elsewhere_before = verdicts.counted("stopped_elsewhere");
        let mut tried = 0;
        for place in places.iter().take_while(has_time) {
            for fate in [Fate::Overtaken, Fate::Killed, Fate::Stopped] {
                tried += 1;
                let name = format!("{of}, at {place:?} of {}, {fate:?}", stage.length());
                let outcome = catch_unwind(AssertUnwindSafe(|| match fate {
                    Fate::Killed => {
                        kill(&mut stage, *place, lateness.as_ref(), &mut verdicts, &name);
                    }
                    Fate::Stopped => stop(&mut stage, *place, &mut verdicts, &name),
                    Fate::Overtaken => overtake(&mut stage, *place, &mut verdicts, &name),
                }));
                verdicts.check(TRIED, outcome.is_ok(), || name);
            }
        }
        verdicts.count("cases", tried);
        let elsewhere = verdicts.counted("stopped_elsewhere") - elsewhere_before;
        verdicts.check_places(tried, elsewhere, &of);
        eprintln!(
            "watcher: {of}: {} instructions, asleep after {:?}: {tried} cases at {} places, {elsewhere} not met, in {:.1} s",
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

fn kill(
    stage: &mut Stage,
    place: Place,
    lateness: Option<&Lateness>,
    verdicts: &mut Verdicts,
    case: &str,
) {
    let mut scene = stage.scene();
    scene.run_to(stage, place, verdicts);
    let Scene {
        victim,
        mut other,
        mut sleeper,
        latest,
        ..
    } = scene;
    victim.kill();
    for seq in latest + 1..=latest + MORE {
        append_at_once(&mut other, seq, verdicts, case);
    }
    let context = other.context().clone();
    let mut watcher = context.watch(1);
    check_whole(&context, &mut watcher, latest + MORE, verdicts, case);
    // It was not the first one to sleep, so somebody else had to wake it.
    if let Some(Sleeper { peer, appended_ns }) = &mut sleeper {
        check_woken(peer, latest, *appended_ns, lateness, verdicts, case);
    }
}

fn stop(stage: &mut Stage, place: Place, verdicts: &mut Verdicts, case: &str) {
    let mut scene = stage.scene();
    scene.run_to(stage, place, verdicts);
    scene.victim.freeze();
    let first = scene.latest + 1;
    for seq in first..first + MORE {
        append_at_once(&mut scene.other, seq, verdicts, case);
    }
    leave_behind(&stage.instance().objects(), &mut scene.other);
    let answer = scene.victim.thaw();
    verdicts.check(WATCHED, answer == scene.answer, || {
        format!("{case}: {answer}, not {}", scene.answer)
    });
    let context = scene.other.context().clone();
    let total = context.latest().expect("readable");
    check_drained(&mut scene.victim.peer, total, verdicts, case);
    check_whole(&context, &mut context.watch(1), total, verdicts, case);
}

fn overtake(stage: &mut Stage, place: Place, verdicts: &mut Verdicts, case: &str) {
    let mut scene = stage.scene();
    scene.run_to(stage, place, verdicts);
    let seq = scene.latest + 1;
    append_at_once(&mut scene.other, seq, verdicts, case);
    let has_overslept = scene.run_out();
    verdicts.check(WOKEN, !has_overslept, || {
        format!("{case}: it sleeps though there is an entry")
    });
    let answer = scene.victim.peer.hear();
    verdicts.check(WATCHED, answer == scene.answer, || {
        format!("{case}: {answer}, not {}", scene.answer)
    });
    check_drained(&mut scene.victim.peer, seq, verdicts, case);
}
