//! `Create`: whoever finds an object finished finds all of its header.

use crate::{assert_needed, check};
use ledger_shm_under_loom::Segment;
use ledger_shm_under_loom::object::MapError;
use ledger_shm_under_loom::segment::{Geometry, Memory};
use ledger_shm_under_loom::sync::{Label, Ordering};

const WHOLE: &str = "a header with a magic is whole";

fn map_while_it_is_made(memory: &Memory) -> Option<Segment> {
    match memory.map() {
        Err(MapError::Unfinished) => None,
        outcome => Some(outcome.expect(WHOLE)),
    }
}

/// A daemon that makes a part, and somebody who maps it by name meanwhile.
fn a_part_is_made() {
    check(|| {
        let memory = Memory::zeroed(1, 2);
        let theirs = memory.clone();
        let thread = loom::thread::spawn(move || theirs.format(7, 42));
        if let Some(found) = map_while_it_is_made(&memory) {
            assert_eq!((found.part(), found.base_seq()), (7, 42), "{WHOLE}");
        }
        let made = thread.join().expect("a daemon that goes on");
        assert_eq!(found_geometry(&memory), made.geometry());
    });
}

fn found_geometry(memory: &Memory) -> Geometry {
    let found = map_while_it_is_made(memory).expect("finished by now");
    found.geometry()
}

#[test]
fn a_part_with_a_magic_is_whole() {
    a_part_is_made();
}

#[test]
fn the_magic_must_release_the_header() {
    assert_needed(Label::Create, Ordering::Release, a_part_is_made, WHOLE);
}

#[test]
fn the_magic_must_acquire_the_header() {
    assert_needed(Label::Create, Ordering::Acquire, a_part_is_made, WHOLE);
}

const FINISHED: &str = "a part that CLOSED leads to is finished";

/// A daemon that continues a closed log, and a watcher that waits behind CLOSED.
fn a_closed_log_goes_on() {
    check(|| {
        let closed = std::sync::Arc::new(Memory::zeroed(1, 2).format(1, 1));
        let memory = Memory::zeroed(1, 2);
        let (theirs, their_memory) = (closed.clone(), memory.clone());
        let thread = loom::thread::spawn(move || {
            let part = their_memory.format(2, 1).part();
            theirs.set_successor(part);
        });
        if closed.successor() == Some(2) {
            assert!(map_while_it_is_made(&memory).is_some(), "{FINISHED}");
        }
        thread.join().expect("a daemon that goes on");
    });
}

#[test]
fn the_successor_of_a_closed_part_is_finished() {
    a_closed_log_goes_on();
}

#[test]
fn the_successor_s_number_must_release_it() {
    assert_needed(
        Label::Create,
        Ordering::Release,
        a_closed_log_goes_on,
        FINISHED,
    );
}

#[test]
fn the_successor_s_number_must_acquire_it() {
    assert_needed(
        Label::Create,
        Ordering::Acquire,
        a_closed_log_goes_on,
        FINISHED,
    );
}
