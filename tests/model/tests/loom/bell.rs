//! `Park` and `Ring`: nobody sleeps on while what it waits for is there.
//!
//! Here no sleep ends by itself, so a wake that is lost is a deadlock.

use std::sync::Arc;

use crate::{DEADLOCK, Mapped, append, assert_needed, check, check_preempting, log, tail};
use ledger_shm_under_loom::Bell;
use ledger_shm_under_loom::append::Parts;
use ledger_shm_under_loom::bell::SLEEP_MAX;
use ledger_shm_under_loom::read::{Cursor, Filter, Found, Link};
use ledger_shm_under_loom::sync::{Label, Ordering};

/// Waits for the next entry as a watcher does that does not spin.
fn watch(parts: &Mapped, bell: &Bell) {
    let link = Link {
        segment: Arc::clone(&parts.0[0]),
        base_seq: 1,
    };
    let mut cursor = Cursor::new(link, 1);
    let filter = Filter::default();
    loop {
        let parked = bell.park();
        match cursor.step(&filter).expect("sound records") {
            Found::Entry => return parked.found(),
            Found::Seal(part) => {
                parked.found();
                cursor.follow(Link {
                    segment: parts.mapped(part).expect("a part that a seal names"),
                    base_seq: cursor.next_seq(),
                });
            }
            Found::Nothing => parked.sleep(SLEEP_MAX),
            other => panic!("{other:?} in a log that nobody closes"),
        }
    }
}

fn append_and_ring(parts: &Mapped, bell: &Bell) {
    append(&mut tail(&parts.0[0]), parts, "news").expect("room");
    bell.ring_if_parked();
}

fn a_watcher_and_an_appender() {
    check(|| {
        let parts = log(&[1]);
        let bell = Arc::new(Bell::model());
        let (their_parts, their_bell) = (parts.clone(), Arc::clone(&bell));
        let thread = loom::thread::spawn(move || watch(&their_parts, &their_bell));
        append_and_ring(&parts, &bell);
        thread.join().expect("a watcher that ends");
    });
}

#[test]
fn a_watcher_never_sleeps_on() {
    a_watcher_and_an_appender();
}

#[test]
fn flag_and_slot_must_be_looked_at_in_one_order() {
    assert_needed(
        Label::Park,
        Ordering::SeqCst,
        a_watcher_and_an_appender,
        DEADLOCK,
    );
}

/// The ring wakes one of them, and that one wakes the other.
#[test]
fn two_watchers_hear_one_ring() {
    check_preempting(3, || {
        let parts = log(&[1]);
        let bell = Arc::new(Bell::model());
        let watchers = [(); 2].map(|()| {
            let (parts, bell) = (parts.clone(), Arc::clone(&bell));
            loom::thread::spawn(move || watch(&parts, &bell))
        });
        append_and_ring(&parts, &bell);
        for watcher in watchers {
            watcher.join().expect("a watcher that ends");
        }
    });
}

/// Who waits announces it and looks; a thread sleeps at the bell for it, and
/// looks again whenever that has rung.
fn a_sleeper_for_others(with_late_ringer: bool) {
    check_preempting(if with_late_ringer { 2 } else { 3 }, move || {
        let parts = log(&[1]);
        let bell = Arc::new(Bell::model());
        let late = with_late_ringer.then(|| {
            let _dead_watcher = bell.park();
            let their_bell = Arc::clone(&bell);
            loom::thread::spawn(move || their_bell.ring_if_parked())
        });
        let link = Link {
            segment: Arc::clone(&parts.0[0]),
            base_seq: 1,
        };
        let has_come = |link: &Link| link.peek(1).expect("sound records") == Found::Entry;
        let is_awaited = Arc::new(loom::sync::Mutex::new(Some(false)));
        let (their_link, their_bell, theirs) =
            (link.clone(), Arc::clone(&bell), Arc::clone(&is_awaited));
        let sleeper = loom::thread::spawn(move || {
            let mut seen = 0;
            loop {
                let count = their_bell.count();
                if count != seen {
                    seen = count;
                    their_bell.relay(count);
                }
                match *theirs.lock().expect("models do not poison") {
                    None => return,
                    Some(false) => {}
                    Some(true) => {
                        their_bell.announce();
                        if has_come(&their_link) {
                            return;
                        }
                    }
                }
                their_bell.sleep_at(seen);
            }
        });
        let (their_parts, their_bell) = (parts.clone(), Arc::clone(&bell));
        let appender = loom::thread::spawn(move || append_and_ring(&their_parts, &their_bell));
        *is_awaited.lock().expect("models do not poison") = Some(true);
        bell.announce();
        if has_come(&link) {
            // Nobody is needed any more.
            *is_awaited.lock().expect("models do not poison") = None;
            bell.ring_all();
        }
        appender.join().expect("an appender that ends");
        sleeper.join().expect("a sleeper that ends");
        if let Some(late) = late {
            late.join().expect("a ringer that ends");
        }
    });
}

#[test]
fn a_thread_that_sleeps_for_others_never_sleeps_on() {
    a_sleeper_for_others(false);
}

#[test]
fn a_late_ringer_takes_nobody_s_flag_from_under_a_sleeper_for_others() {
    a_sleeper_for_others(true);
}

#[test]
fn who_waits_and_who_sleeps_must_look_in_one_order() {
    assert_needed(
        Label::Park,
        Ordering::SeqCst,
        || a_sleeper_for_others(false),
        DEADLOCK,
    );
}

/// A flag that a dead watcher left, a late ringer that finds it, a watcher that
/// already knows that ring, and an appender whose entry it waits for.
fn a_late_ringer() {
    check_preempting(3, || {
        let parts = log(&[1]);
        let bell = Arc::new(Bell::model());
        let _dead_watcher = bell.park();
        let their_bell = Arc::clone(&bell);
        let late = loom::thread::spawn(move || their_bell.ring_if_parked());
        let (their_parts, their_bell) = (parts.clone(), Arc::clone(&bell));
        let appender = loom::thread::spawn(move || append_and_ring(&their_parts, &their_bell));
        watch(&parts, &bell);
        late.join().expect("a ringer that ends");
        appender.join().expect("an appender that ends");
    });
}

#[test]
fn a_late_ringer_takes_nobody_s_flag() {
    a_late_ringer();
}

#[test]
fn the_count_must_release_the_cleared_flag() {
    assert_needed(Label::Ring, Ordering::Release, a_late_ringer, DEADLOCK);
}

#[test]
fn the_count_must_acquire_the_cleared_flag() {
    assert_needed(Label::Ring, Ordering::Acquire, a_late_ringer, DEADLOCK);
}

/// One appender dies before it rings. The one behind it steps over its entry,
/// into the next part if need be, and rings for both.
fn an_appender_that_dies_before_it_rings(capacities: &'static [usize]) {
    check_preempting(3, move || {
        let parts = log(capacities);
        let bell = Arc::new(Bell::model());
        let mut dying = tail(&parts.0[0]);
        let their_parts = parts.clone();
        let dying = loom::thread::spawn(move || {
            append(&mut dying, &their_parts, "last words").expect("room");
        });
        let mut ringing = tail(&parts.0[0]);
        let (their_parts, their_bell) = (parts.clone(), Arc::clone(&bell));
        let ringing = loom::thread::spawn(move || {
            append(&mut ringing, &their_parts, "news").expect("room");
            their_bell.ring_if_parked();
        });
        watch(&parts, &bell);
        dying.join().expect("an appender that ends");
        ringing.join().expect("an appender that ends");
    });
}

#[test]
fn the_next_appender_rings_for_one_that_died() {
    an_appender_that_dies_before_it_rings(&[2]);
}

#[test]
fn the_next_appender_rings_across_a_seal() {
    an_appender_that_dies_before_it_rings(&[1, 2]);
}
