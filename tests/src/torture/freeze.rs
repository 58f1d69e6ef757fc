//! An appender that is stopped before each of its instructions, until others have left it
//! and its memory far behind; then it goes on.

use ledger_client::NewEntry;

use super::appends::{Stage, everywhere};
use super::course::Place;
use super::observed::{append_at_once, check_whole, entries, leave_behind};
use super::promises::{DENSE, FENCED, KEPT, UNCHANGED};
use super::{Effort, Verdicts};
use crate::Programs;

/// Entries that others append meanwhile: small, so that two spares hold them.
const MEANWHILE: u64 = 1000;
/// Of those, how many do not wait for more memory.
const AT_ONCE: u64 = 3;
/// Entries that it appends when it is through.
const AFTERWARDS: u64 = 3;

/// Stops an appender at places of every path.
pub fn freeze(programs: Programs, effort: &Effort) -> Verdicts {
    let args = ["--durability", "archive", "--window", "8K"];
    everywhere("freeze", programs, effort, &args, one)
}

fn one(stage: &mut Stage, place: Place, verdicts: &mut Verdicts, case: &str) {
    let mut scene = stage.scene();
    let context = scene.context().clone();
    let mut watcher = context.watch(1);
    scene.begin();
    scene.run_to(stage, place, verdicts);
    scene.freeze();
    stage.recover();

    let objects = stage.instance().objects();
    let first = context.latest().expect("readable") + 1;
    stage.have_room(&scene.other);
    for seq in first..first + AT_ONCE {
        append_at_once(&mut scene.other, seq, verdicts, case);
    }
    let small = NewEntry::new("other", b"o");
    for seq in first + AT_ONCE..first + MEANWHILE {
        let got = scene.other.append(&small).map(|appended| appended.seq);
        verdicts.check(DENSE, got == Ok(seq), || {
            format!("{case}: {got:?}, not {seq}")
        });
    }
    let mut others = scene.interfered + MEANWHILE;
    if stage.is_daemon_dead() {
        stage.restart();
    }
    others += leave_behind(&objects, &mut scene.other);
    let before = entries(&context);

    let answer = scene.victim.thaw();
    let after = entries(&context);
    match (&before, &after) {
        (Ok(before), Ok(after)) => {
            let is_same = after.starts_with(before);
            verdicts.check(UNCHANGED, is_same, || format!("{case}: {answer}"));
            let by_victim = after.len() as u64 - scene.filled - others;
            let late = (after.len() - before.len()) as u64;
            let is_all = by_victim == stage.wanted();
            let is_clean = if answer.starts_with("ok") {
                is_all
            } else {
                answer.contains("no room") && !is_all
            };
            verdicts.check(FENCED, is_clean, || {
                format!("{case}: {by_victim} of it, {late} of them after it went on: {answer}")
            });
            verdicts.count("appended_before", (by_victim - late).min(1));
            verdicts.count("appended_after", late.min(1));
            verdicts.count("refused", u64::from(!answer.starts_with("ok")));
        }
        _ => verdicts.check(KEPT, false, || format!("{case}: {before:?}, {after:?}")),
    }
    let more = scene.victim.peer.must(&format!("fill {AFTERWARDS} 64"));
    let total = context.latest().expect("readable");
    verdicts.check(DENSE, more == total.to_string(), || {
        format!("{case}: {more} of {total}")
    });
    check_whole(&context, &mut watcher, total, verdicts, case);
}
