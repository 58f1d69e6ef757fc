//! Who is woken, and who is told again.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ledger_shm::Bell;
use ledger_shm::bell::many::{Nudge, sleep_at_any};
use ledger_shm::format::BELL_LEN;
use ledger_shm::object::MapError;

/// Longer than anything here takes that is woken.
const LONG: Duration = Duration::from_secs(30);

fn bell() -> Bell {
    Bell::create().expect("memory").1
}

#[test]
fn it_rings_once_for_all_who_have_announced_themselves() {
    let bell = bell();
    bell.ring_if_parked();
    assert_eq!(bell.words(), [0, 0, 0], "nobody was there");
    let _one = bell.park();
    let _other = bell.park();
    assert_eq!(bell.words(), [1, 0, 0]);
    bell.ring_if_parked();
    assert_eq!((bell.words(), bell.count()), ([0, 1, 0], 1));
    bell.ring_if_parked();
    assert_eq!(bell.count(), 1);
    bell.announce();
    bell.ring_if_parked();
    assert_eq!(bell.count(), 2);
    bell.ring_all();
    assert_eq!(bell.count(), 3, "whoever is there");
}

#[test]
fn who_notices_a_ring_passes_it_on_and_who_does_not_has_nothing_to_pass_on() {
    let bell = bell();
    bell.park().found();
    assert_eq!(bell.words(), [1, 0, 0]);
    let (first, second) = (bell.park(), bell.park());
    bell.ring_if_parked();
    first.found();
    assert_eq!(bell.words(), [0, 1, 1]);
    second.found();
    assert_eq!(bell.words(), [0, 1, 1]);
    // It rang before this one came.
    bell.park().found();
    assert_eq!(bell.words(), [1, 1, 1]);
    bell.ring_all();
    assert_eq!(bell.words(), [1, 2, 1]);
}

#[test]
fn a_sleeper_is_woken_or_does_not_fall_asleep() {
    let bell = bell();
    let began = Instant::now();
    let parked = bell.park();
    bell.ring_if_parked();
    parked.sleep(LONG);
    assert_eq!(bell.words(), [0, 1, 1]);
    thread::scope(|scope| {
        let sleepers: Vec<_> = (0..3)
            .map(|_| {
                let parked = bell.park();
                scope.spawn(move || parked.sleep(LONG))
            })
            .collect();
        // One is woken by the ring, the others by it; or they find that it rang.
        bell.ring_if_parked();
        for sleeper in sleepers {
            sleeper.join().expect("it sleeps");
        }
    });
    assert_eq!(bell.words(), [0, 2, 2]);
    assert!(began.elapsed() < LONG, "they slept until the end");
    bell.park().sleep(Duration::from_millis(1));
    assert_eq!(bell.words(), [1, 2, 2], "nobody rang");
}

#[test]
fn one_thread_sleeps_at_many_bells() {
    let bells: Vec<_> = (0..3).map(|_| (Arc::new(bell()), 0)).collect();
    let nudge = Nudge::default();
    let began = Instant::now();
    let sleep = || sleep_at_any((&nudge, 0), &bells, std::iter::empty(), Some(LONG));
    thread::scope(|scope| {
        let sleeper = scope.spawn(sleep);
        bells[2].0.announce();
        bells[2].0.ring_if_parked();
        sleeper.join().expect("it sleeps");
    });
    let bells: Vec<_> = bells
        .iter()
        .map(|(bell, _)| (Arc::clone(bell), bell.count()))
        .collect();
    let sleep = || sleep_at_any((&nudge, 0), &bells, std::iter::empty(), Some(LONG));
    thread::scope(|scope| {
        let sleeper = scope.spawn(sleep);
        nudge.call();
        sleeper.join().expect("it sleeps");
    });
    assert_eq!(nudge.count(), 1);
    sleep();
    assert!(began.elapsed() < LONG, "it slept until the end");
}

#[test]
fn a_bell_that_others_could_cut_short_is_none() {
    let (fd, bell) = Bell::create().expect("memory");
    let same = Bell::map(&fd).expect("ours");
    same.ring_all();
    assert_eq!(bell.count(), 1);
    let what = |len: u64| {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(len).expect("room");
        match Bell::map(&file) {
            Err(MapError::Corrupt(corrupt)) => (corrupt.what, corrupt.found),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(what(BELL_LEN as u64), ("bell seals", 0));
    assert_eq!(
        what(BELL_LEN as u64 - 1),
        ("bell length", BELL_LEN as u64 - 1)
    );
}
