//! An appender that is killed before each of its instructions.

use super::appends::{Stage, Survivors, everywhere};
use super::course::Place;
use super::observed::{
    ANOTHER_LEN, Lateness, another, append_at_once, caught_up, check_drained, check_whole,
    check_woken, digest, entries,
};
use super::promises::{KEPT, WATCHED, WHOLE};
use super::{Effort, Verdicts};
use crate::{Programs, now_ns};

/// Entries that others append afterwards.
const AFTERWARDS: u64 = 3;

/// Kills an appender at places of every path.
pub fn kill(programs: Programs, effort: &Effort) -> Verdicts {
    let args = ["--durability", "memory"];
    everywhere("kill", programs, effort, &args, one)
}

fn one(
    stage: &mut Stage,
    place: Place,
    lateness: Option<&Lateness>,
    verdicts: &mut Verdicts,
    case: &str,
) -> bool {
    let mut scene = stage.scene();
    let mut watcher = scene.context().watch(1);
    let seen = caught_up(&mut watcher);
    verdicts.check(WATCHED, seen == Ok(scene.filled), || {
        format!("{case}: {seen:?}")
    });
    let filled = entries(scene.context());
    scene.begin(stage.instance());
    let is_there = scene.run_to(stage, place);
    let context = scene.context().clone();
    let seen = context.latest();
    let unseen_at_ns = scene.unseen_at_ns;
    let Survivors {
        mut other,
        mut reader,
        mut sleeper,
        before,
        interfered,
    } = scene.kill();
    stage.recover();

    let latest = match context.latest() {
        Ok(latest) => latest,
        Err(error) => {
            verdicts.check(KEPT, false, || format!("{case}: {error}"));
            return is_there;
        }
    };
    let by_victim = latest.checked_sub(before);
    // What was there cannot have gone, and what was not does not come any more.
    let is_same = seen.as_ref().is_ok_and(|seen| *seen == latest);
    verdicts.check(WHOLE, is_same, || {
        format!("{case}: {latest} entries, {seen:?} before it was killed")
    });
    let is_appended = is_there && stage.has_appended(place);
    let least = if is_appended { stage.wanted() } else { 0 };
    let is_whole = by_victim.is_some_and(|count| (least..=stage.wanted()).contains(&count));
    verdicts.check(WHOLE, is_whole, || {
        format!("{case}: {latest} entries, {before} of others, {least} of its own at least")
    });
    verdicts.count("surely_appended", is_appended.into());
    verdicts.count("found_appended", by_victim.unwrap_or(0).min(1));
    // Others ring as well: what the victim has appended is seen without them.
    let mut slept = sleeper.as_mut().map(|sleeper| (sleeper, before + 1));
    if let Some((sleeper, seq)) = slept.take_if(|(_, seq)| *seq <= latest) {
        check_woken(sleeper, seq, unseen_at_ns, lateness, verdicts, case);
    }
    let total = latest + AFTERWARDS;
    stage.have_room(&other);
    let others_began_ns = now_ns().expect("a clock");
    for seq in latest + 1..=total {
        append_at_once(&mut other, &another(), seq, lateness, verdicts, case);
    }
    check_whole(&context, &mut watcher, total, verdicts, case);
    let lens = [
        interfered,
        vec![stage.payload_len(); by_victim.unwrap_or(0) as usize],
        vec![ANOTHER_LEN; AFTERWARDS as usize],
    ];
    let there = entries(&context);
    let is_kept = match (&filled, &there) {
        (Ok(filled), Ok(there)) => there.strip_prefix(&filled[..]).is_some_and(|since| {
            let since = since.iter().map(|entry| entry.payload_len);
            since.eq(lens.concat())
        }),
        _ => false,
    };
    verdicts.check(KEPT, is_kept, || {
        format!("{case}: {lens:?} bytes were appended after {filled:?}: {there:?}")
    });

    if let Some((sleeper, seq)) = slept {
        check_woken(sleeper, seq, others_began_ns, lateness, verdicts, case);
    }
    if let Some(sleeper) = &mut sleeper {
        check_drained(sleeper, total, verdicts, case);
    }
    check_drained(&mut reader, total, verdicts, case);
    // As who has never seen any of it.
    reader.must(&format!("read {}", context.name()));
    let read = reader.must("digest");
    let is_all = there.is_ok_and(|there| read == digest(&there));
    verdicts.check(WATCHED, is_all, || format!("{case}: {read}"));
    stage.return_reader(reader);
    is_there
}
