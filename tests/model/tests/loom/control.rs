//! `Control`: what the daemon tells of is there when it is told.

use crate::roll::full_log;
use crate::{assert_needed, check};
use ledger_shm_under_loom::control::{Facts, Memory, Sizes};
use ledger_shm_under_loom::entry::Limits;
use ledger_shm_under_loom::object::Epoch;
use ledger_shm_under_loom::sync::{Label, Ordering};

const COMPLETE: &str = "the first resident part has its base";

/// A daemon that retires the first part, and a reader that comes new and begins
/// with the first resident one.
fn the_first_part_retires() {
    check(|| {
        let epoch = Epoch([0; 16]);
        let memory = Memory::zeroed();
        let facts = Facts {
            name: "model".into(),
            epoch,
            limits: Limits::default(),
            has_foreign_writers: false,
            sizes: Sizes::default(),
            created_at_ns: 0,
        };
        let daemon = memory.create(facts, 1);
        daemon.set_first_part(1);
        daemon.finish();
        let reader = memory.open(epoch).expect("a finished object");

        let parts = full_log(&[1]);
        let theirs = parts.clone();
        let thread = loom::thread::spawn(move || {
            theirs.0[1].complete(2, 1).expect("nobody else does");
            daemon.set_first_part(2);
        });
        match reader.first_part() {
            1 => {}
            part => assert_eq!((part, parts.0[1].base_seq()), (2, 2), "{COMPLETE}"),
        }
        thread.join().expect("a daemon that goes on");
        assert_eq!(reader.first_part(), 2);
    });
}

#[test]
fn the_first_resident_part_has_its_base() {
    the_first_part_retires();
}

#[test]
fn the_first_part_s_number_must_release_the_base() {
    assert_needed(
        Label::Control,
        Ordering::Release,
        the_first_part_retires,
        COMPLETE,
    );
}

#[test]
fn the_first_part_s_number_must_acquire_the_base() {
    assert_needed(
        Label::Control,
        Ordering::Acquire,
        the_first_part_retires,
        COMPLETE,
    );
}
