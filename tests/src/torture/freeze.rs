//! An appender that is stopped before each of its instructions, until others have left it
//! and its memory far behind; then it goes on.

use ledger_client::{Entry, NewEntry};

use super::appends::{Scene, Stage, everywhere};
use super::course::Place;
use super::observed::{
    Found, Lateness, another, append_at_once, caught_up, check_drained, check_whole, check_woken,
    entries, found, leave_behind,
};
use super::promises::{DENSE, FENCED, KEPT, NO_WAITING, UNCHANGED, WATCHED};
use super::{Effort, Verdicts};
use crate::{PATIENCE, Programs, now_ns};

/// Entries that each of two others appends meanwhile: small, so that two spares hold those
/// of one while the daemon is dead.
const MEANWHILE: u64 = 1000;
/// Of those, how many do not wait for more memory.
const AT_ONCE: u64 = 3;
/// Of which a spare of the usual length holds one: the second one of them ends a part.
static LARGE: [u8; 40_000] = [b'o'; 40_000];
const LARGE_ONES: u64 = 2;
/// Entries that it appends when it is through.
const AFTERWARDS: u64 = 3;

/// Stops an appender at places of every path.
pub fn freeze(programs: Programs, effort: &Effort) -> Verdicts {
    let args = ["--durability", "archive", "--window", "8K"];
    everywhere("freeze", programs, effort, &args, one)
}

fn one(
    stage: &mut Stage,
    place: Place,
    lateness: Option<&Lateness>,
    verdicts: &mut Verdicts,
    case: &str,
) -> bool {
    let mut scene = stage.scene();
    let context = scene.context().clone();
    let mut watcher = context.watch(1);
    scene.begin(stage.instance());
    let is_there = scene.run_to(stage, place);
    scene.freeze();
    stage.recover();

    let objects = stage.instance().objects();
    let first = context.latest().expect("readable") + 1;
    let asleep_for = scene.filled + scene.interfered.len() as u64 + 1;
    let is_seen = asleep_for < first;
    let woken = |scene: &mut Scene, since_ns, verdicts: &mut Verdicts| {
        if let Some(sleeper) = &mut scene.sleeper {
            check_woken(sleeper, asleep_for, since_ns, lateness, verdicts, case);
        }
    };
    if is_seen {
        // Others ring as well: it is seen without them.
        let unseen_at_ns = scene.unseen_at_ns;
        woken(&mut scene, unseen_at_ns, verdicts);
    }
    stage.have_room(&scene.other);
    let others_began_ns = now_ns().expect("a clock");
    let mapped = overtake(stage, &mut scene, first, lateness, verdicts, case);
    if !is_seen {
        woken(&mut scene, others_began_ns, verdicts);
    }
    if let Some(sleeper) = &mut scene.sleeper {
        check_drained(sleeper, first + MEANWHILE - 1, verdicts, case);
    }
    if stage.is_daemon_dead() {
        stage.restart();
    }
    // And a process of its own.
    let mut another = scene.reader;
    another.must(&format!("open {}", context.name()));
    let last = another.must(&format!("fill {MEANWHILE} 1"));
    let total = first + 2 * MEANWHILE - 1;
    verdicts.check(DENSE, last == total.to_string(), || {
        format!("{case}: {last}, not {total}")
    });
    stage.return_reader(another);
    let mut others = scene.interfered.len() as u64 + 2 * MEANWHILE;
    others += leave_behind(&objects, &mut scene.other);
    let before = entries(&context);
    let seen = caught_up(&mut watcher);
    let there = before.as_ref().map(|before| before.len() as u64);
    verdicts.check(WATCHED, seen.as_ref().ok() == there.as_ref().ok(), || {
        format!("{case}: {seen:?} of {there:?}, while it is stopped")
    });

    let answer = scene.victim.thaw();
    let is_same = |(entry, before): &(_, Found)| found(entry).as_ref() == Ok(before);
    verdicts.check(UNCHANGED, mapped.iter().all(is_same), || {
        format!("{case}: in memory: {answer}")
    });
    match (before, entries(&context)) {
        (Ok(before), Ok(after)) => {
            let by_victim = after.len() as u64 - scene.filled - others;
            check_thawed(stage, &answer, by_victim, [&before, &after], verdicts, case);
        }
        unread => verdicts.check(KEPT, false, || format!("{case}: {unread:?}")),
    }
    let more = scene.victim.peer.must(&format!("fill {AFTERWARDS} 64"));
    let total = context.latest().expect("readable");
    verdicts.check(DENSE, more == total.to_string(), || {
        format!("{case}: {more} of {total}")
    });
    check_whole(&context, &mut watcher, total, verdicts, case);
    is_there
}

/// Another process appends while the victim stands still: from this seq on, at once as long as
/// there is room. What is there after the first few, in the memory that they were found in.
fn overtake(
    stage: &Stage,
    scene: &mut Scene,
    first: u64,
    lateness: Option<&Lateness>,
    verdicts: &mut Verdicts,
    case: &str,
) -> Vec<(Entry<'static>, Found)> {
    for seq in first..first + AT_ONCE {
        append_at_once(&mut scene.other, &another(), seq, lateness, verdicts, case);
    }
    let context = scene.context().clone();
    let held = |seq| {
        let entry = context.get(seq).expect("readable").expect("it is there");
        let found = found(&entry).expect("it is whole");
        (entry, found)
    };
    let mapped = (1..first + AT_ONCE).map(held).collect();
    let mut next = first + AT_ONCE;
    // Without a daemon there is no room for that.
    while !stage.is_daemon_dead() && next < first + AT_ONCE + LARGE_ONES {
        let large = NewEntry::new("other", &LARGE);
        verdicts.check(NO_WAITING, scene.other.wait_ready(PATIENCE), || {
            format!("{case}: no memory")
        });
        append_at_once(&mut scene.other, &large, next, lateness, verdicts, case);
        next += 1;
    }
    let small = NewEntry::new("other", b"o");
    for seq in next..first + MEANWHILE {
        let got = scene.other.append(&small).map(|appended| appended.seq);
        verdicts.check(DENSE, got == Ok(seq), || {
            format!("{case}: {got:?}, not {seq}")
        });
    }
    mapped
}

/// What was there before the victim went on is as it was, and behind it there is what it says.
fn check_thawed(
    stage: &Stage,
    answer: &str,
    by_victim: u64,
    [before, after]: [&[Found]; 2],
    verdicts: &mut Verdicts,
    case: &str,
) {
    let is_same = after.starts_with(before);
    verdicts.check(UNCHANGED, is_same, || format!("{case}: {answer}"));
    let late = (after.len() - before.len()) as u64;
    let is_so = stage.is_told(answer, by_victim, after);
    verdicts.check(FENCED, is_so, || {
        format!("{case}: {by_victim} of it, {late} of them after it went on: {answer}")
    });
    verdicts.count("appended_before", (by_victim - late).min(1));
    verdicts.count("appended_after", late.min(1));
    verdicts.count("refused", u64::from(!answer.starts_with("ok")));
}
