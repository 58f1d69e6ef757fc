//! One context, step by step, while its disk takes things or does not.

use std::sync::atomic::Ordering;

use ledger_shm::file::{FileName, Scan, Trailer};
use ledger_shm::object::Name;

use super::*;
use crate::archive::stage::{Stage, names};
use crate::objects::{close, epoch};

/// What went wrong since then is to be tried again, as late as it should be.
fn assert_retry_since(stage: &Stage, begun: Instant) {
    let at = stage.keeper.retry_at.expect("it is to be tried again");
    assert!(at >= begun + RETRY && at <= Instant::now() + RETRY);
}

#[test]
fn what_is_copied_is_durable_at_once_where_that_is_wanted() {
    let mut stage = Stage::new();
    assert!(stage.keeper.is_settled() && stage.keeper.is_well());
    stage.append(3);
    assert!(!stage.keeper.advance(true).expect("room"));
    assert_eq!(stage.told(), (3, 3, 0));
    assert!(stage.keeper.is_settled() && stage.keeper.is_well());
    stage.append(2);
    let hold = stage.disk.hold();
    assert!(!stage.keeper.advance(false).expect("room"));
    assert_eq!(stage.told(), (5, 3, 0));
    assert!(!stage.keeper.is_settled(), "two are not on stable storage");
    assert!(stage.keeper.is_well(), "three are");
    drop(hold);
    ledger_tests::eventually("they are, too", || {
        assert!(!stage.keeper.advance(false).expect("room"));
        stage.keeper.is_settled().then_some(())
    });
    assert_eq!(stage.told(), (5, 5, 0));
    assert_eq!(stage.files(), names([FileName::Open(1)]));
}

#[test]
fn what_is_finished_already_is_not_finished_again() {
    let mut stage = Stage::new();
    stage.append(3);
    stage.keeper.finish(2).expect("room");
    assert_eq!(stage.told(), (3, 3, 3));
    assert_eq!(stage.files(), names([FileName::Finished(1)]));
    stage.append(2);
    assert!(!stage.keeper.advance(true).expect("room"));
    for seq in [2, 3] {
        stage.keeper.finish(seq).expect("room");
        assert_eq!(stage.told(), (5, 5, 3), "{seq}");
    }
    let begun = [FileName::Finished(1), FileName::Open(4)];
    assert_eq!(stage.files(), names(begun));
    stage.keeper.finish(4).expect("room");
    assert_eq!(stage.told(), (5, 5, 5));
    let both = [FileName::Finished(1), FileName::Finished(4)];
    assert_eq!(stage.files(), names(both));
}

#[test]
fn who_is_left_keeps_no_memory_and_goes_on_in_its_file() {
    let mut stage = Stage::new();
    stage.append(3);
    stage.keeper.leave().expect("room");
    assert!(stage.keeper.behind.is_none());
    assert_eq!(stage.told(), (3, 3, 0));
    assert_eq!(stage.files(), names([FileName::Open(1)]));
    stage.append(2);
    stage.keeper.leave().expect("room");
    assert_eq!(stage.told(), (5, 5, 0));
    let scan = Scan::of(&stage.file(FileName::Open(1))).expect("it is sound");
    assert_eq!((scan.last_seq(), scan.damage), (5, None));
    assert_eq!(stage.files(), names([FileName::Open(1)]));
}

#[test]
fn only_a_log_that_is_closed_is_complete() {
    let mut stage = Stage::new();
    stage.append(3);
    assert!(!stage.keeper.complete().expect("room"));
    assert_eq!(stage.files(), names([FileName::Open(1)]));
    close(&mut stage.tail);
    assert!(stage.keeper.complete().expect("room"));
    assert_eq!(stage.told(), (3, 3, 3));
    let trailer = Trailer::read(&stage.file(FileName::Finished(1))).expect("it is sound");
    assert!(trailer.is_complete);
    assert_eq!((trailer.count, stage.files().len()), (3, 1));
    // With everything finished before, a file without entries says it.
    let mut stage = Stage::new();
    stage.append(3);
    stage.keeper.finish(3).expect("room");
    close(&mut stage.tail);
    assert!(stage.keeper.complete().expect("room"));
    let both = [FileName::Finished(1), FileName::Finished(4)];
    assert_eq!(stage.files(), names(both));
    let trailer = Trailer::read(&stage.file(both[1])).expect("it is sound");
    assert_eq!((trailer.is_complete, trailer.count), (true, 0));
}

#[test]
fn a_file_that_was_not_kept_is_given_up_and_written_anew_from_memory() {
    let mut stage = Stage::new();
    stage.append(3);
    stage.keeper.advance(true).expect("room");
    stage.append(2);
    stage.disk.is_full.store(true, Ordering::Release);
    let begun = Instant::now();
    let trouble = stage.keeper.advance(true).expect_err("it is full");
    assert!(matches!(trouble, Trouble::Disk(_)), "{trouble}");
    let said = trouble.to_string();
    assert!(said.starts_with("cannot write the archive: "), "{said}");
    assert!(stage.keeper.is_waiting() && !stage.keeper.is_settled() && !stage.keeper.is_well());
    assert_eq!(stage.told(), (3, 3, 0));
    assert_eq!(stage.files(), names([FileName::Failed(1)]));

    // Not before its time, and not for ever.
    assert_retry_since(&stage, begun);
    stage.keeper.retry_at = Some(begun + 1000 * RETRY);
    stage.disk.is_full.store(false, Ordering::Release);
    assert!(!stage.keeper.advance(true).expect("it waits"));
    assert!(!stage.keeper.complete().expect("it waits"));
    stage.keeper.finish(5).expect("it waits");
    stage.keeper.leave().expect("it waits");
    assert_eq!(stage.told(), (3, 3, 0));
    assert!(stage.keeper.is_waiting());
    stage.keeper.set_due();
    let hold = stage.disk.hold();
    assert!(!stage.keeper.advance(false).expect("room"));
    assert!(!stage.keeper.is_waiting());
    assert_eq!(stage.told(), (5, 3, 0), "what was durable stays so");
    assert!(!stage.keeper.is_well(), "nothing was kept since");
    let both = [FileName::Failed(1), FileName::Open(1)];
    assert_eq!(stage.files(), names(both));
    drop(hold);
    stage.keeper.advance(true).expect("room");
    assert_eq!(stage.told(), (5, 5, 0));
    assert_eq!(
        stage.files(),
        names([FileName::Open(1)]),
        "all of it is there"
    );
    assert!(stage.keeper.is_settled() && stage.keeper.is_well());
}

/// A context that is damaged behind its third entry, and was found to be so after this.
fn with_damage(before: impl FnOnce(&Stage)) -> Stage {
    let mut stage = Stage::new();
    stage.append(3);
    stage.keeper.advance(false).expect("room");
    stage.append_spoilt();
    before(&stage);
    let trouble = stage.keeper.advance(false).expect_err("it is damaged");
    assert!(trouble.is_damage(), "{trouble}");
    assert!(!stage.keeper.is_waiting());
    assert!(stage.keeper.behind.is_none());
    stage
}

#[test]
fn what_is_damaged_is_not_tried_again_and_what_came_before_is_durable() {
    let stage = with_damage(|_| {});
    assert_eq!(stage.told(), (3, 3, 0));
    let scan = Scan::of(&stage.file(FileName::Open(1))).expect("it is sound");
    assert_eq!((scan.last_seq(), scan.damage), (3, None));
    assert_eq!(stage.files(), names([FileName::Open(1)]));
}

#[test]
fn a_file_that_fails_when_it_is_let_go_of_is_given_up() {
    let stage = with_damage(|stage| stage.disk.is_full.store(true, Ordering::Release));
    assert_eq!(stage.told(), (3, 0, 0));
    assert_eq!(stage.files(), names([FileName::Failed(1)]));
}

#[test]
fn memory_that_is_not_there_may_be_there_later() {
    let mut stage = Stage::new();
    stage.append(1);
    let name = Name::Part(epoch(1), 1);
    ledger_shm::object::unlink(&stage.memory.instance, name).expect("ours");
    let trouble = stage.keeper.advance(true).expect_err("it is not there");
    assert!(!trouble.is_damage(), "{trouble}");
    assert!(stage.keeper.is_waiting());
}

#[test]
fn files_that_do_not_go_with_memory_are_not_gone_on_with() {
    let mut stage = Stage::new();
    stage.append(3);
    stage.keeper.leave().expect("room");
    let dir = stage.dir();
    let away = dir.with_extension("away");
    std::fs::rename(&dir, &away).expect("ours");
    let trouble = stage.keeper.advance(true).expect_err("nothing is there");
    assert!(stage.files().is_empty());
    let said = trouble.to_string();
    assert!(
        said.contains("entries up to 3 were on stable storage"),
        "{said}"
    );
    assert!(said.contains(dir.to_str().expect("a string")), "{said}");
    assert!(stage.keeper.is_waiting() && !trouble.is_damage());
    std::fs::rename(&away, &dir).expect("ours");
    stage.append(1);
    stage.keeper.set_due();
    stage.keeper.advance(true).expect("they are back");
    assert_eq!(stage.told(), (4, 4, 0));
}

#[test]
fn a_log_that_has_gone_on_is_not_complete() {
    let mut stage = Stage::new();
    stage.append(3);
    close(&mut stage.tail);
    stage.keeper.advance(true).expect("room");
    stage.go_on(4);
    // Seen from where it was closed.
    let behind = stage.keeper.behind.as_mut().expect("it has begun");
    assert!(!behind.complete().expect("room"));
    assert_eq!(stage.files(), names([FileName::Open(1)]));
}

#[test]
fn after_a_panic_it_begins_again_from_the_files() {
    let mut stage = Stage::new();
    stage.append(2);
    stage.keeper.finish(2).expect("room");
    stage.append(1);
    stage.keeper.advance(true).expect("room");
    let begun = Instant::now();
    let trouble = stage.keeper.panicked(&String::from("on purpose"));
    let said = trouble.to_string();
    assert!(said.contains("panicked: on purpose"), "{said}");
    assert_retry_since(&stage, begun);
    // What it has written may be wrong, though the disk has kept it.
    let (finished, failed) = (FileName::Finished(1), FileName::Failed(3));
    assert_eq!(stage.files(), names([finished, failed]));
    stage.append(1);
    stage.keeper.set_due();
    stage.keeper.advance(true).expect("room");
    assert_eq!(stage.told(), (4, 4, 2));
    assert_eq!(stage.files(), names([finished, FileName::Open(3)]));
}
