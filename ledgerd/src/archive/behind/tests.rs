//! What a daemon finds of one before it, and what it goes on with.

use std::fs::OpenOptions;
use std::io::Write;
use std::sync::atomic::Ordering;

use ledger_shm::file::{FileName, Scan, Trailer, verify};
use ledger_shm::object::{self, Name};

use super::*;
use crate::archive::stage::{Stage, names};
use crate::objects::{close, epoch};

/// The seqs of the valid entries of a file.
fn held(stage: &Stage, name: FileName) -> std::ops::RangeInclusive<u64> {
    let file = stage.file(name);
    let (head, last_seq) = match name {
        FileName::Finished(_) => {
            let (head, trailer) = verify(&file).expect("it is whole");
            (head, trailer.last_seq())
        }
        _ => {
            let scan = Scan::of(&file).expect("it has a head");
            let last_seq = scan.last_seq();
            (scan.head, last_seq)
        }
    };
    head.first_seq()..=last_seq
}

fn trouble(stage: &mut Stage) -> String {
    let trouble = stage.keeper.advance(true).expect_err("it is in trouble");
    trouble.to_string()
}

#[test]
fn all_parts_are_written_one_behind_the_other() {
    let mut stage = Stage::new();
    stage.append(500);
    assert!(stage.tail.segment().part() >= 3, "it has rolled twice");
    stage.keeper.advance(true).expect("room");
    assert_eq!(stage.told(), (500, 500, 0));
    assert_eq!(held(&stage, FileName::Open(1)), 1..=500);
    stage.append(100);
    stage.restart();
    stage.keeper.advance(true).expect("room");
    assert_eq!(stage.told(), (600, 600, 0));
    assert_eq!(held(&stage, FileName::Open(1)), 1..=600);
}

#[test]
fn a_file_that_is_long_enough_is_finished_and_another_one_begun() {
    let mut stage = Stage::new();
    stage.restart_with(4096);
    stage.append(200);
    stage.keeper.advance(true).expect("room");
    let finished = Home::finished(stage.keeper.home().expect("begun")).expect("it is there");
    assert!(finished.len() > 2, "{finished:?}");
    let mut next = 1;
    for (file, first_seq) in finished.iter().enumerate() {
        let name = FileName::Finished(*first_seq);
        let held = held(&stage, name);
        assert_eq!(*held.start(), next, "{file}");
        next = held.end() + 1;
        let len = stage.file(name).metadata().expect("ours").len();
        assert!((4096..2 * 4096).contains(&len), "{len}");
    }
    let finished_seq = next - 1;
    assert_eq!(stage.told(), (200, 200, finished_seq));
    assert_eq!(
        stage.files().len(),
        finished.len() + usize::from(finished_seq < 200)
    );
}

#[test]
fn a_log_that_was_closed_and_has_gone_on_is_written_to_its_end() {
    let mut stage = Stage::new();
    stage.append(3);
    close(&mut stage.tail);
    stage.keeper.advance(true).expect("room");
    stage.go_on(4);
    stage.append(2);
    stage.keeper.advance(true).expect("room");
    assert_eq!(held(&stage, FileName::Open(1)), 1..=5);
}

#[test]
fn what_is_torn_is_kept_aside_and_the_file_gone_on_with() {
    let mut stage = Stage::new();
    stage.append(3);
    stage.keeper.leave().expect("room");
    let open = stage.path(FileName::Open(1));
    let mut file = OpenOptions::new().append(true).open(open).expect("ours");
    file.write_all(b"torn").expect("room");
    stage.append(1);
    stage.restart();
    stage.keeper.advance(true).expect("room");
    assert_eq!(held(&stage, FileName::Open(1)), 1..=4);
    let scan = Scan::of(&stage.file(FileName::Open(1))).expect("it is sound");
    assert_eq!(scan.damage, None);
    let aside = stage.dir().join("00000000000000000001.open.torn-0");
    assert_eq!(std::fs::read(aside).expect("kept"), b"torn");
}

#[test]
fn a_file_that_is_damaged_is_written_anew_from_memory() {
    let mut stage = Stage::new();
    stage.append(3);
    stage.keeper.leave().expect("room");
    let open = FileName::Open(1);
    let before = std::fs::read(stage.path(open)).expect("ours");
    // One that was cut, and one without a head.
    for damaged in [&before[..before.len() - 8], b"nothing"] {
        std::fs::write(stage.path(open), damaged).expect("ours");
        stage.restart();
        let hold = stage.disk.hold();
        stage.keeper.advance(false).expect("room");
        assert_eq!(stage.told(), (3, 3, 0));
        let failed = std::fs::read(stage.path(FileName::Failed(1))).expect("kept");
        assert_eq!(failed, damaged);
        drop(hold);
        stage.keeper.leave().expect("room");
        assert_eq!(stage.files(), names([open]), "all of it is there");
        assert_eq!(
            std::fs::read(stage.path(open)).expect("ours").len(),
            before.len()
        );
        assert_eq!(held(&stage, open), 1..=3);
    }
}

#[test]
fn a_file_that_failed_is_kept_until_all_of_it_is_elsewhere() {
    let mut stage = Stage::new();
    stage.append(2);
    stage.keeper.finish(2).expect("room");
    stage.append(3);
    stage.keeper.leave().expect("room");
    let (first, open, failed) = (
        FileName::Finished(1),
        FileName::Open(3),
        FileName::Failed(3),
    );
    std::fs::rename(stage.path(open), stage.path(failed)).expect("ours");
    stage.restart();
    let hold = stage.disk.hold();
    assert!(!stage.keeper.advance(false).expect("room"));
    // What is in the one that failed is durable, and what is in the other is not yet.
    assert_eq!(stage.told(), (5, 5, 2));
    assert_eq!(stage.files(), names([first, failed, open]));
    drop(hold);
    // A daemon that finds both, and as much in the other one.
    stage.append(1);
    stage.keeper.leave().expect("room");
    assert_eq!(stage.files(), names([first, open]));
    std::fs::copy(stage.path(open), stage.path(failed)).expect("ours");
    stage.restart();
    stage.keeper.advance(false).expect("room");
    assert_eq!(stage.files(), names([first, open]));
    assert_eq!(stage.told(), (6, 6, 2));
    // Or whose file is finished.
    stage.keeper.leave().expect("room");
    std::fs::rename(stage.path(open), stage.path(failed)).expect("ours");
    stage.restart();
    stage.keeper.finish(6).expect("room");
    assert_eq!(stage.files(), names([first, FileName::Finished(3)]));
}

#[test]
fn a_file_that_cannot_be_gone_on_with_is_given_up_where_no_other_has_what_was_durable() {
    for is_elsewhere in [false, true] {
        let mut stage = Stage::new();
        stage.append(3);
        stage.keeper.leave().expect("room");
        let (open, failed) = (FileName::Open(1), FileName::Failed(1));
        if is_elsewhere {
            std::fs::copy(stage.path(open), stage.path(failed)).expect("ours");
        }
        stage.restart();
        stage.disk.is_full.store(true, Ordering::Release);
        assert!(trouble(&mut stage).starts_with("cannot write the archive"));
        let expected = match is_elsewhere {
            false => vec![failed.to_string()],
            true => names([failed, open]).to_vec(),
        };
        assert_eq!(stage.files(), expected);
    }
}

#[test]
fn memory_that_does_not_reach_back_to_the_files_is_said() {
    let mut stage = Stage::with(5, 16 << 10);
    stage.append(1);
    let said = trouble(&mut stage);
    assert!(
        said.contains("entries from 1 to 4 are not in memory either"),
        "{said}"
    );
    assert!(stage.files().is_empty());
}

#[test]
fn a_first_part_that_begins_nowhere_is_damaged() {
    for base_seq in [0, SEQ_MAX + 1] {
        let mut stage = Stage::new();
        object::unlink(&stage.memory.instance, Name::Part(epoch(1), 1)).expect("ours");
        stage.memory.part(1, 1, base_seq);
        let trouble = stage.keeper.advance(true).expect_err("it is damaged");
        assert!(trouble.is_damage(), "{trouble}");
    }
}

#[test]
fn files_that_hold_more_than_memory_are_said() {
    let mut stage = Stage::new();
    stage.append(3);
    stage.keeper.leave().expect("room");
    let first = Name::Part(epoch(1), 1);
    object::unlink(&stage.memory.instance, first).expect("ours");
    stage.tail = crate::objects::tail(stage.memory.part(1, 1, 1));
    stage.append(2);
    stage.restart();
    let said = trouble(&mut stage);
    assert!(
        said.contains("they end with entry 3, and memory before"),
        "{said}"
    );
    stage.append(1);
    stage.restart();
    stage.keeper.leave().expect("it is as long as its files");
}

#[test]
fn another_daemon_goes_on_behind_what_is_finished() {
    let mut stage = Stage::new();
    stage.append(3);
    stage.keeper.finish(3).expect("room");
    stage.append(2);
    stage.restart();
    let hold = stage.disk.hold();
    stage.keeper.advance(false).expect("room");
    assert_eq!(stage.told(), (5, 3, 3));
    drop(hold);
    stage.keeper.finish(5).expect("room");
    assert_eq!(held(&stage, FileName::Finished(4)), 4..=5);
    let trailer = Trailer::read(&stage.file(FileName::Finished(4))).expect("it is whole");
    assert!(!trailer.is_complete);
}

#[test]
fn much_is_copied_in_turns_and_finished_when_it_is_left() {
    let mut stage = Stage::with(1, 16 << 20);
    stage.append_all(9, &[7; 1 << 20]);
    assert!(stage.keeper.advance(false).expect("room"));
    assert_eq!(stage.told(), (8, 8, 8), "each is as long as a file");
    assert!(!stage.keeper.advance(false).expect("room"));
    // Of so many bytes another daemon should not have to look at each.
    let mut stage = Stage::with(1, 16 << 20);
    stage.append_all(2, &[7; 400 << 10]);
    stage.restart_with(2 << 20);
    stage.keeper.leave().expect("room");
    assert_eq!(stage.files(), names([FileName::Open(1)]));
    stage.append_all(1, &[7; 400 << 10]);
    stage.keeper.leave().expect("room");
    assert_eq!(stage.files(), names([FileName::Finished(1)]));
}

#[test]
fn what_is_in_the_place_of_a_new_file_is_kept_aside() {
    let mut stage = Stage::new();
    stage.append(1);
    std::fs::create_dir(stage.dir()).expect("ours");
    std::fs::write(stage.path(FileName::Open(1)), "cut short").expect("ours");
    stage.keeper.advance(true).expect("room");
    assert_eq!(held(&stage, FileName::Open(1)), 1..=1);
    let aside = stage.dir().join("00000000000000000001.open.torn-0");
    assert_eq!(std::fs::read(aside).expect("kept"), b"cut short");
}

#[test]
fn why_a_file_cannot_be_begun_is_said() {
    let mut stage = Stage::new();
    stage.append(1);
    stage.disk.is_full.store(true, Ordering::Release);
    let said = trouble(&mut stage);
    let why = std::io::ErrorKind::StorageFull.to_string();
    assert!(said.contains(&why), "{said}");
}
