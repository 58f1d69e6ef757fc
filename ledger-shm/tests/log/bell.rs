//! Who is woken, and who is told again.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_shm::Bell;
use ledger_shm::bell::many::{BELLS_MAX, Nudge, sleep_at_any};
use ledger_shm::format::BELL_LEN;
use ledger_shm::object::MapError;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::sleepers::{LONG, wakes};

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
    // One is woken by the ring, the others by it.
    let sleepers = (0..3)
        .map(|_| bell.park())
        .map(|parked| || parked.sleep(LONG));
    wakes(|| bell.ring_if_parked(), sleepers);
    assert_eq!(bell.words(), [0, 2, 2]);
    assert!(began.elapsed() < LONG, "they slept until the end");
}

#[test]
fn a_sleeper_that_nobody_wakes_sleeps_until_its_time_is_over() {
    let bell = bell();
    let began = Instant::now();
    let time = Duration::from_millis(3);
    bell.park().sleep(time);
    assert!(began.elapsed() >= time);
    assert_eq!(bell.words(), [1, 0, 0]);
}

#[test]
fn one_thread_sleeps_at_many_bells() {
    let bells: Vec<_> = (0..3).map(|_| Arc::new(bell())).collect();
    let nudge = &Nudge::default();
    let began = Instant::now();
    let sleep = || {
        let seen: Vec<_> = bells
            .iter()
            .map(|bell| (Arc::clone(bell), bell.count()))
            .collect();
        move || sleep_at_any((nudge, 0), &seen, std::iter::empty(), Some(LONG))
    };
    let ring = || {
        bells[2].announce();
        bells[2].ring_if_parked();
    };
    wakes(ring, std::iter::once(sleep()));
    wakes(|| nudge.call(), std::iter::once(sleep()));
    // None of these passes a ring on.
    wakes(|| bells[1].ring_all(), [sleep(), sleep()].into_iter());
    wakes(|| bells[1].relay(9), [sleep(), sleep()].into_iter());
    assert_eq!(nudge.count(), 1);
    // It was called before.
    sleep()();
    assert!(began.elapsed() < LONG, "it slept until the end");
}

#[test]
fn a_thread_that_no_bell_wakes_sleeps_until_its_time_is_over() {
    let nudge = Nudge::default();
    assert_eq!(nudge.count(), 0);
    let bell = Arc::new(bell());
    for count in [0, 1, BELLS_MAX] {
        let bells = vec![(Arc::clone(&bell), 0); count];
        let began = Instant::now();
        let time = Duration::from_millis(3);
        sleep_at_any((&nudge, 0), &bells, std::iter::empty(), Some(time));
        assert!(began.elapsed() >= time, "{count} bells");
    }
}

#[test]
fn a_bell_that_others_could_cut_short_is_none() {
    let (fd, bell) = Bell::create().expect("memory");
    let same = Bell::map(&fd).expect("ours");
    same.ring_all();
    assert_eq!(bell.count(), 1);
    let what = |len: u64, seals| {
        let file = File::from(memfd_create("bell", MFdFlags::MFD_ALLOW_SEALING).expect("memory"));
        file.set_len(len).expect("room");
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("none so far");
        match Bell::map(&file) {
            Err(MapError::Corrupt(corrupt)) => (corrupt.what, corrupt.found),
            other => panic!("{other:?}"),
        }
    };
    let len = BELL_LEN as u64;
    for seals in [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW] {
        assert_eq!(what(len, seals), ("bell seals", 0));
    }
    for len in [0, len - 1, len + 1] {
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
        assert_eq!(what(len, seals), ("bell length", len));
    }
}
