//! What is found in a directory, and what becomes of it.

use std::os::unix::fs::symlink;

use super::*;
use crate::archive::by_hand::{a_home, finished, head, names, none, open, put};
use crate::objects::epoch;

#[test]
fn files_are_found_by_their_names_in_the_order_of_their_entries() {
    let (_dir, home) = a_home();
    let (one, other) = (FileName::Finished(5), FileName::Finished(9));
    let (open, failed) = (FileName::Open(20), FileName::Failed(20));
    for name in [open, other, one, failed] {
        put(&home, name, "");
    }
    std::fs::write(home.dir.join("7.ledger"), "").expect("ours");
    let files = home.files().expect("it is there");
    assert_eq!(files, [one, other, open, failed]);
    assert_eq!(home.finished().expect("it is there"), [5, 9]);
    assert_eq!(home.first_seq().expect("it is there"), 5);
    for (seq, file) in [
        (0, Some(5)),
        (4, None),
        (5, Some(5)),
        (8, Some(5)),
        (9, Some(9)),
        (99, Some(9)),
    ] {
        let found = home.file_of(seq).expect("it is there");
        assert_eq!(found.map(|(first_seq, _)| first_seq), file, "{seq}");
    }
}

#[test]
fn where_there_is_no_directory_there_is_nothing() {
    let (_dir, home) = a_home();
    std::fs::remove_dir(&home.dir).expect("it is empty");
    assert_eq!(home.files().expect("nothing"), []);
    assert_eq!(home.first_seq().expect("nothing"), 1);
    assert!(home.file_of(1).expect("nothing").is_none());
    assert_eq!(home.finished_tree().expect("nothing"), none());
    let unfinished = home.unfinished(FileName::Open(1)).expect("nothing");
    assert!(unfinished.is_none());
    assert!(home.facts().expect("nothing").is_none());
    assert!(matches!(home.recover(), Err(MapError::Unfinished)));
    home.give_up(1).expect("nothing to give up");
    home.set_aside().expect("nothing to set aside");
    home.remove_aside().expect("nothing to remove");
}

#[test]
fn what_cannot_be_read_is_not_taken_for_nothing() {
    let (dir, home) = a_home();
    let (disk, place) = (home.disk.clone(), dir.path().join("a file"));
    std::fs::write(&place, "").expect("ours");
    let elsewhere = Home::new(place, disk);
    assert!(elsewhere.files().is_err());
    assert!(elsewhere.finished().is_err());
    assert!(elsewhere.unfinished(FileName::Open(1)).is_err());
    // What has a file's name, and is followed nowhere.
    let name = FileName::Finished(1);
    symlink("/dev/null", home.path(name)).expect("ours");
    assert!(home.file_of(1).is_err());
    let name = FileName::Open(1);
    std::fs::create_dir(home.path(name)).expect("ours");
    assert!(home.unfinished(name).is_err());
}

#[test]
fn an_unfinished_file_has_what_is_valid_and_what_is_torn() {
    let (_dir, home) = a_home();
    let name = FileName::Open(1);
    let valid = open("found", &none(), 3);
    for torn in ["", "torn"] {
        put(&home, name, [&valid[..], torn.as_bytes()].concat());
        let found = home.unfinished(name).expect("it is there");
        let found = found.expect("it has a head");
        assert_eq!((found.scan.last_seq(), found.name), (3, name));
        assert_eq!(found.torn, torn.as_bytes());
    }
    for headless in [&b""[..], &valid[..40], &[7; 4096]] {
        put(&home, name, headless);
        assert!(home.unfinished(name).expect("it is there").is_none());
    }
}

#[test]
fn facts_are_those_of_the_last_file_that_has_some() {
    let (_dir, home) = a_home();
    put(&home, FileName::Open(9), "");
    assert!(home.facts().expect("no file says any").is_none());
    put(&home, FileName::Open(8), [7; 4096]);
    assert!(home.facts().is_err(), "there may have been some");
    let name = || home.facts().expect("one says some").map(|facts| facts.name);
    put(&home, FileName::Finished(1), open("first", &none(), 0));
    assert_eq!(name().as_deref(), Some("first"));
    put(&home, FileName::Finished(4), open("second", &none(), 0));
    assert_eq!(name().as_deref(), Some("second"));
}

#[test]
fn contexts_and_what_was_dropped_are_told_by_the_names_of_directories() {
    let (dir, home) = a_home();
    let path = |name: &str| dir.path().join(name);
    let other = epoch(8);
    let dropped = path(&format!("{other}.dropped"));
    for made in [
        dropped.clone(),
        path(&format!("{other}.other")),
        path("8.dropped.8"),
        path("x.dropped"),
        path("8"),
        path(&"x".repeat(32)),
    ] {
        std::fs::create_dir(made).expect("ours");
    }
    let found = Home::dropped(dir.path()).expect("it is there");
    assert_eq!(found, [(other, dropped)]);
    let found = Home::all(dir.path(), &home.disk).expect("it is there");
    let found: Vec<_> = found.into_iter().map(|(name, of)| (name, of.dir)).collect();
    assert_eq!(found, [(epoch(1), home.dir.clone())]);
}

#[test]
fn what_is_dropped_is_set_aside_and_then_removed() {
    let (dir, home) = a_home();
    put(&home, FileName::Finished(1), "bytes");
    home.set_aside().expect("it is there");
    assert!(!home.dir.exists());
    let found = Home::dropped(dir.path()).expect("it is there");
    assert_eq!(found.len(), 1);
    home.remove_aside().expect("it is there");
    assert!(!found[0].1.exists());
}

#[test]
fn what_was_set_aside_before_is_not_written_over() {
    let (_dir, home) = a_home();
    home.set_aside().expect("it is there");
    std::fs::create_dir_all(home.dir.join("in the way")).expect("ours");
    home.set_aside().expect("what was there is empty");
    std::fs::create_dir(&home.dir).expect("ours");
    assert!(home.set_aside().is_err());
    assert!(home.dir.exists());
}

#[test]
fn of_two_that_could_not_be_written_the_first_is_kept() {
    let (_dir, home) = a_home();
    let (open, failed) = (FileName::Open(5), FileName::Failed(5));
    home.give_up(5).expect("nothing to give up");
    assert!(names(&home).is_empty());
    for bytes in ["first", "second"] {
        put(&home, open, bytes);
        home.give_up(5).expect("it is there");
        assert_eq!(names(&home), [failed.to_string()]);
        assert_eq!(std::fs::read(home.path(failed)).expect("kept"), b"first");
    }
    home.give_up(5).expect("it was");
    assert_eq!(names(&home), [failed.to_string()]);
}

#[test]
fn what_is_valid_of_the_last_file_is_finished() {
    let (_dir, home) = a_home();
    let (first, tree) = finished("of this name", &none(), 3, true);
    put(&home, FileName::Finished(1), first);
    let recovered = home.recover().expect("it is whole");
    assert!(recovered.is_complete);
    assert_eq!((&recovered.tree, recovered.last_lamport), (&tree, 3));
    assert_eq!(recovered.facts.name, "of this name");

    // Something may have been appended, even if nothing of it is left.
    put(&home, FileName::Open(4), "");
    let recovered = home.recover().expect("the first is whole");
    assert!(!recovered.is_complete);
    assert_eq!((&recovered.tree, recovered.last_lamport), (&tree, 3));
    let beginning = open("of this name", &tree, 0);
    put(&home, FileName::Open(4), &beginning);
    let recovered = home.recover().expect("a head is valid");
    assert!(!recovered.is_complete);
    assert_eq!((&recovered.tree, recovered.last_lamport), (&tree, 3));
    assert_eq!(
        std::fs::read(home.path(FileName::Open(4))).expect("kept"),
        beginning
    );

    let torn = [&open("of this name", &tree, 2)[..], b"torn"].concat();
    put(&home, FileName::Open(4), torn);
    for _ in 0..2 {
        let recovered = home.recover().expect("two are valid");
        assert!(!recovered.is_complete);
        assert_eq!((recovered.tree.count(), recovered.last_lamport), (5, 5));
        let (expected, _) = finished("of this name", &tree, 2, false);
        let name = FileName::Finished(4);
        assert_eq!(std::fs::read(home.path(name)).expect("finished"), expected);
        let aside = "00000000000000000004.open.torn-0";
        assert_eq!(std::fs::read(home.dir.join(aside)).expect("kept"), b"torn");
        assert_eq!(names(&home).len(), 3);
    }
}

#[test]
fn of_a_file_and_one_that_failed_before_the_one_that_reaches_further_is_finished() {
    for (of_open, of_failed) in [(2, 3), (3, 3), (3, 2), (0, 1), (1, 0)] {
        let (_dir, home) = a_home();
        put(&home, FileName::Open(1), open("open", &none(), of_open));
        put(
            &home,
            FileName::Failed(1),
            open("failed", &none(), of_failed),
        );
        let recovered = home.recover().expect("both are valid");
        let (failed, torn) = (
            FileName::Failed(1).to_string(),
            "00000000000000000001.open.torn-0",
        );
        let ((name, count), (other, of_other), kept_as) = match of_open >= of_failed {
            true => (("open", of_open), ("failed", of_failed), failed.as_str()),
            false => (("failed", of_failed), ("open", of_open), torn),
        };
        let found = (&*recovered.facts.name, recovered.tree.count());
        assert_eq!(found, (name, count));
        let (expected, _) = finished(name, &none(), count, false);
        let bytes = std::fs::read(home.path(FileName::Finished(1))).expect("finished");
        assert_eq!(bytes, expected, "{of_open} {of_failed}");
        // Of the other one nothing is thrown away.
        assert_eq!(names(&home).len(), 2);
        let bytes = std::fs::read(home.dir.join(kept_as)).expect("kept");
        assert_eq!(bytes, open(other, &none(), of_other));
    }
    // Alone it is finished, too.
    let (_dir, home) = a_home();
    put(&home, FileName::Failed(1), open("failed", &none(), 2));
    assert_eq!(home.recover().expect("two").tree.count(), 2);
    assert_eq!(names(&home), [FileName::Finished(1).to_string()]);
}

#[test]
fn a_file_that_is_begun_again_throws_nothing_away() {
    let (_dir, home) = a_home();
    let beginning = head("begun", none());
    let open_name = FileName::Open(1);
    let written = open("before", &none(), 1);
    let headed = open("before", &none(), 0);
    let torn = [&headed[..], b"torn"].concat();
    for (before, is_kept) in [
        (None, false),
        (Some(&headed), false),
        (Some(&torn), true),
        (Some(&written), true),
    ] {
        for name in names(&home) {
            std::fs::remove_file(home.dir.join(name)).expect("ours");
        }
        if let Some(before) = before {
            put(&home, open_name, before);
        }
        home.reopen(&beginning).expect("there is room");
        let bytes = std::fs::read(home.path(open_name)).expect("begun");
        assert_eq!(bytes, beginning.encode());
        let aside = home.dir.join(format!("{open_name}.torn-0"));
        assert_eq!(
            std::fs::read(aside).ok().as_ref(),
            before.filter(|_| is_kept)
        );
        assert_eq!(names(&home).len(), 1 + usize::from(is_kept));
    }
    home.close_again(1).expect("it is there");
    assert!(home.close_again(1).is_err(), "it was removed");
}
