//! `Roll`: a part ends once, everybody goes on in the same successor, and who
//! comes new to it knows the Lamport time before it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::{Mapped, append, assert_needed, check, check_preempting, history, log, tail};
use ledger_shm_under_loom::sync::{Label, Ordering};

/// A log whose first part is full, with the key "first" in it.
pub fn full_log(spares: &[usize]) -> Mapped {
    let parts = log(&[&[1], spares].concat());
    append(&mut tail(&parts.0[0]), &parts, "first").expect("room for one");
    parts
}

#[test]
fn two_sealers_with_different_spares_go_on_in_one() {
    let outcomes = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&outcomes);
    check_preempting(4, move || {
        let parts = full_log(&[2, 2]);
        let [first, one, other] = [0, 1, 2].map(|index| Arc::clone(&parts.0[index]));
        let theirs = Mapped(vec![first, other, one]);
        let mut mine = tail(&parts.0[0]);
        let mut their_tail = tail(&parts.0[0]);
        let thread = loom::thread::spawn(move || {
            append(&mut their_tail, &theirs, "theirs").expect("a spare");
            their_tail.segment().part()
        });
        append(&mut mine, &parts, "mine").expect("a spare");
        let their_part = thread.join().expect("an appender that ends");

        assert_eq!(mine.segment().part(), their_part, "one successor");
        let spares = parts.0.iter().filter(|segment| segment.is_spare());
        assert_eq!(spares.count(), 1, "the other spare is still one");
        let keys = history(&parts);
        assert_eq!(keys.len(), 3);
        outcomes
            .lock()
            .expect("no panic")
            .insert((their_part, keys));
    });
    let seen = seen.lock().expect("no panic");
    assert_eq!(seen.len(), 4, "either seals, either is first: {seen:?}");
}

/// Whoever finds the only spare gone finds out why.
#[test]
fn two_sealers_with_one_spare_both_go_on() {
    check_preempting(4, || {
        let parts = full_log(&[2]);
        let theirs = parts.clone();
        let mut mine = tail(&parts.0[0]);
        let mut their_tail = tail(&parts.0[0]);
        let thread = loom::thread::spawn(move || {
            append(&mut their_tail, &theirs, "theirs").expect("the spare, or the seal")
        });
        append(&mut mine, &parts, "mine").expect("the spare, or the seal");
        thread.join().expect("an appender that ends");
        assert_eq!(history(&parts).len(), 3);
    });
}

/// An appender that rolls, and one that finds the successor already named and
/// begins there, without having gone through the seal.
fn a_newcomer_in_the_successor() {
    let outcomes = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&outcomes);
    check(move || {
        let parts = full_log(&[2]);
        let mut mine = tail(&parts.0[0]);
        let theirs = parts.clone();
        let thread = loom::thread::spawn(move || {
            let successor = &theirs.0[1];
            if !successor.is_spare() {
                append(&mut tail(successor), &theirs, "newcomer").expect("room");
            }
        });
        append(&mut mine, &parts, "roller").expect("a spare");
        thread.join().expect("an appender that ends");
        outcomes.lock().expect("no panic").insert(history(&parts));
    });
    assert_eq!(
        seen.lock().expect("no panic").len(),
        3,
        "the newcomer comes first, second, or too early"
    );
}

#[test]
fn a_newcomer_knows_the_lamport_time_before_it() {
    a_newcomer_in_the_successor();
}

const FRESH: &str = "a spare that is still one";

/// An appender that rolls twice, and a newcomer in the last part who was offered
/// all of them long ago.
fn a_newcomer_with_old_offers() {
    check_preempting(3, || {
        let parts = full_log(&[1, 1, 2]);
        let mut mine = tail(&parts.0[0]);
        let theirs = parts.clone();
        let thread = loom::thread::spawn(move || {
            let current = &theirs.0[2];
            if !current.is_spare() {
                append(&mut tail(current), &theirs, "newcomer").expect(FRESH);
            }
        });
        append(&mut mine, &parts, "one").expect(FRESH);
        append(&mut mine, &parts, "two").expect(FRESH);
        thread.join().expect("an appender that ends");
    });
}

#[test]
fn a_newcomer_names_no_part_that_was_used() {
    a_newcomer_with_old_offers();
}

#[test]
fn the_base_seq_must_release_those_before_it() {
    assert_needed(
        Label::Roll,
        Ordering::Release,
        a_newcomer_with_old_offers,
        FRESH,
    );
}

/// An appender that rolls, and a look at the base of where it rolls to.
fn a_look_at_the_base() {
    check(|| {
        let parts = full_log(&[1]);
        let mut mine = tail(&parts.0[0]);
        let theirs = parts.clone();
        let thread = loom::thread::spawn(move || {
            let successor = &theirs.0[1];
            if !successor.is_spare() {
                assert_eq!(
                    successor.base_lamport(),
                    1,
                    "the base of a part is complete"
                );
            }
        });
        append(&mut mine, &parts, "roller").expect("a spare");
        thread.join().expect("a reader that ends");
    });
}

const INCOMPLETE: &str = "the base of a part is complete";

#[test]
fn who_sees_the_base_seq_sees_the_base_lamport() {
    a_look_at_the_base();
}

#[test]
fn the_base_seq_must_release_the_base_lamport() {
    let models = || a_look_at_the_base();
    assert_needed(Label::Roll, Ordering::Release, models, INCOMPLETE);
    let models = || a_newcomer_in_the_successor();
    assert_needed(Label::Roll, Ordering::Release, models, "is not above");
}

#[test]
fn the_base_seq_must_acquire_the_base_lamport() {
    assert_needed(
        Label::Roll,
        Ordering::Acquire,
        a_look_at_the_base,
        INCOMPLETE,
    );
}
