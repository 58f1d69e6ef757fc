//! Which files may go, and that they do.

use std::os::unix::fs::symlink;

use super::*;
use crate::archive::by_hand::{a_home, finished as whole, names, none, put, put_ten};
use crate::options::{ContextRules, Retention};

const HOUR: Duration = Duration::from_secs(3600);

/// Who removes what is in this directory, by this.
fn cleaner(archive_dir: &Path, retention: Retention) -> Cleaner {
    let instance = Instance::own("retain_tests").expect("a valid name");
    let mut options = Options::new("retain_tests");
    options.retention = retention;
    Cleaner::new(instance, archive_dir.to_owned(), options)
}

fn entries(count: u64) -> Retention {
    Retention {
        entries: Some(count),
        ..Retention::default()
    }
}

fn bytes(len: u64) -> Retention {
    Retention {
        bytes: Some(len),
        ..Retention::default()
    }
}

fn age(age: Duration) -> Retention {
    Retention {
        age: Some(age),
        ..Retention::default()
    }
}

/// Files of ten entries each, which are so old.
fn put_all(home: &Home, ages: &[Duration]) {
    let mut tree = none();
    for age in ages {
        let at_ns = now_ns() - age.as_nanos() as u64;
        tree = put_ten(home, "log", &tree, at_ns);
    }
}

fn finished(first_seqs: impl IntoIterator<Item = u64>) -> Vec<FileName> {
    first_seqs.into_iter().map(FileName::Finished).collect()
}

/// How many of four files of ten entries each, three of them old, may go.
fn outdated(retention: Retention) -> usize {
    let (dir, home) = a_home();
    put_all(&home, &[9 * HOUR, 8 * HOUR, 7 * HOUR, Duration::ZERO]);
    let outdated = cleaner(dir.path(), retention).outdated(&home);
    let outdated = outdated.expect("they are whole");
    assert_eq!(outdated, finished((1..).step_by(10).take(outdated.len())));
    outdated.len()
}

/// What each of these files weighs.
fn file_len() -> u64 {
    let (_dir, home) = a_home();
    put_all(&home, &[Duration::ZERO]);
    let found = std::fs::metadata(home.path(FileName::Finished(1)));
    found.expect("it is there").len()
}

#[test]
fn a_file_may_go_when_there_are_enough_entries_behind_it() {
    for (count, expected) in [(31, 0), (30, 1), (21, 1), (20, 2), (11, 2), (10, 3), (0, 3)] {
        assert_eq!(outdated(entries(count)), expected, "{count}");
    }
}

#[test]
fn a_file_may_go_when_there_are_enough_bytes_behind_it() {
    let (dir, home) = a_home();
    put_all(&home, &[HOUR; 4]);
    let lens = [1, 11, 21, 31].map(|first_seq| {
        let found = std::fs::metadata(home.path(FileName::Finished(first_seq)));
        found.expect("it is there").len()
    });
    for may_go in 1..=3 {
        let behind = lens[may_go..].iter().sum();
        for (len, expected) in [(behind, may_go), (behind + 1, may_go - 1)] {
            let outdated = cleaner(dir.path(), bytes(len)).outdated(&home);
            assert_eq!(outdated.expect("they are whole").len(), expected, "{len}");
        }
    }
}

#[test]
fn a_file_may_go_when_its_last_entry_is_old_enough() {
    let half = HOUR / 2;
    for (limit, expected) in [
        (9 * HOUR + half, 0),
        (8 * HOUR + half, 1),
        (7 * HOUR + half, 2),
        (6 * HOUR + half, 3),
        (Duration::ZERO, 3),
        (Duration::MAX, 0),
    ] {
        assert_eq!(outdated(age(limit)), expected, "{limit:?}");
    }
}

#[test]
fn a_file_may_go_as_soon_as_one_limit_lets_it() {
    let none = Retention::default();
    assert_eq!(outdated(none), 0);
    for (by_entries, by_bytes, by_age) in [(1, 2, 3), (3, 1, 2), (2, 3, 1), (0, 0, 2), (0, 2, 0)] {
        let (len, half) = (file_len() / 2, HOUR / 2);
        let retention = Retention {
            entries: Some(40 - 10 * by_entries),
            bytes: Some(7 * len - 2 * len * by_bytes),
            age: Some(9 * HOUR + half - HOUR * by_age as u32),
        };
        let most = by_entries.max(by_bytes).max(by_age);
        assert_eq!(outdated(retention) as u64, most, "{retention:?}");
    }
}

#[test]
fn the_last_file_stays() {
    for count in 0..=3 {
        let (dir, home) = a_home();
        put_all(&home, &[HOUR; 3][..count]);
        let outdated = cleaner(dir.path(), entries(0)).outdated(&home);
        assert_eq!(
            outdated.expect("they are whole").len(),
            count.saturating_sub(1)
        );
    }
}

#[test]
fn the_last_entry_stays_though_a_file_without_one_follows() {
    let (dir, home) = a_home();
    let tree = put_ten(&home, "log", &none(), 1);
    put(
        &home,
        FileName::Finished(11),
        whole("log", &tree, 0, true).0,
    );
    let outdated = cleaner(dir.path(), entries(0)).outdated(&home);
    assert_eq!(outdated.expect("they are whole"), []);
}

#[test]
fn nothing_goes_where_a_file_is_missing_until_it_is_back() {
    let (dir, home) = a_home();
    put_all(&home, &[HOUR; 3]);
    let (there, away) = (home.path(FileName::Finished(11)), dir.path().join("away"));
    std::fs::rename(&there, &away).expect("ours");
    let mut cleaner = cleaner(dir.path(), entries(0));
    assert!(matches!(cleaner.outdated(&home), Err(MapError::Corrupt(_))));
    let all = self::cleaner(dir.path(), entries(u64::MAX));
    assert_eq!(all.outdated(&home).expect("nothing is to go"), []);
    while cleaner.work(Instant::now(), |_| false) {}
    assert_eq!(names(&home).len(), 2);
    let said = cleaner.said[&home.dir].clone();
    assert!(said.contains("the seq behind a file"), "{said}");
    std::fs::rename(&away, &there).expect("ours");
    cleaner.look_at(&home);
    while cleaner.work(Instant::now(), |_| false) {}
    assert_eq!(names(&home).len(), 1);
    assert!(cleaner.said.is_empty(), "it is over");
}

#[test]
fn what_is_old_goes_one_file_at_a_time_and_not_where_there_is_trouble() {
    let (dir, home) = a_home();
    put_all(&home, &[HOUR; 3]);
    let mut cleaner = cleaner(dir.path(), age(HOUR / 2));
    let now = Instant::now;
    assert!(cleaner.due().is_some_and(|due| due <= now()));
    let is_in_trouble = |of: &Path| of == home.dir;
    while cleaner.work(now(), is_in_trouble) {}
    assert_eq!(names(&home).len(), 3);
    // All is looked at again, after a quarter of the shortest age.
    let due = cleaner.due().expect("ages go on");
    let pause = HOUR / 2 / SWEEPS_PER_AGE;
    assert!(due > now() && due <= now() + pause);
    cleaner.look_at(&home);
    let mut left = Vec::new();
    while cleaner.work(now(), |_| false) {
        left.push(names(&home).len());
    }
    assert_eq!(left, [3, 2, 1]);
}

#[test]
fn where_nothing_may_go_nothing_is_looked_at() {
    let (dir, home) = a_home();
    put_all(&home, &[HOUR; 3]);
    let mut cleaner = cleaner(dir.path(), Retention::default());
    assert!(cleaner.due().is_none());
    cleaner.look_at(&home);
    assert!(!cleaner.work(Instant::now(), |_| false));
    // Until something may, of some contexts only.
    let mut options = Options::new("retain_tests");
    options.context_rules = vec![ContextRules::new(["log"]).retention(entries(10))];
    cleaner.go_on_with(options);
    while cleaner.work(Instant::now(), |_| false) {}
    assert_eq!(names(&home), [FileName::Finished(21).to_string()]);
    assert!(cleaner.due().is_none(), "no age is limited");
}

#[test]
fn a_context_that_is_gone_is_no_trouble() {
    let (dir, home) = a_home();
    let mut cleaner = cleaner(dir.path(), entries(0));
    std::fs::remove_dir(&home.dir).expect("it is empty");
    cleaner.look_at(&home);
    while cleaner.work(Instant::now(), |_| false) {}
    assert!(cleaner.said.is_empty());
    symlink(&home.dir, &home.dir).expect("ours");
    cleaner.look_at(&home);
    while cleaner.work(Instant::now(), |_| false) {}
    assert!(cleaner.said.contains_key(&home.dir), "that leads nowhere");
}
