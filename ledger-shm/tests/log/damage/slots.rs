//! Slots that nobody writes, and seals to parts that do not follow.

use ledger_shm::format::WITHDRAWN;
use ledger_shm::slot::Slot;
use ledger_shm::{Corrupt, Refused};

use crate::shelf::Shelf;

const GARBAGE: u64 = 3 << 62 | 5;

#[test]
fn a_slot_that_nobody_writes_is_named_by_who_comes_to_it() {
    let shelf = Shelf::of(2, 8 << 10);
    let mut tail = shelf.tail(1);
    shelf.append(&mut tail, b"").expect("room");
    shelf.write(1, shelf.slot_at(1), GARBAGE);
    let damage = Corrupt::new("slot", GARBAGE, 0);
    assert_eq!(shelf.append(&mut tail, b""), Err(Refused::Corrupt(damage)));
    assert_eq!(tail.close(), Err(damage));
    assert_eq!(shelf.part(1).look(1), Err(damage));
    assert_eq!(shelf.part(1).extent(1), Err(damage));
    assert_eq!(shelf.part(1).lamport_before(2), Err(damage));
    assert_eq!(shelf.link(1).peek(2), Err(damage));
    assert_eq!(shelf.link(1).end(), Err(damage));
    let refused = shelf.append(&mut tail, &[0; 9000]);
    assert_eq!(
        refused,
        Err(Refused::Corrupt(damage)),
        "nor does it seal there"
    );
}

#[test]
fn an_entry_where_only_a_seal_belongs_is_damage() {
    // With a spare, and without.
    for parts in [1, 2] {
        let shelf = Shelf::of(parts, 8 << 10);
        let mut tail = shelf.tail(1);
        let capacity = shelf.part(1).geometry().slot_capacity;
        for _ in 0..capacity {
            shelf.append(&mut tail, b"").expect("room");
        }
        let first = shelf.word(1, shelf.slot_at(0));
        shelf.write(1, shelf.slot_at(capacity), first);
        let refused = shelf.append(&mut tail, b"").expect_err("damage");
        let damage = Corrupt::new("seal slot", capacity as u64, 0);
        assert_eq!(refused, Refused::Corrupt(damage));
        assert_eq!(tail.close(), Err(damage));
        let peeked = shelf.link(1).peek(capacity as u64 + 1);
        let damage = peeked.expect_err("damage");
        assert_eq!((damage.what, damage.found), ("seal slot", 0));
        assert_eq!(shelf.link(1).end(), Err(damage));
        assert_eq!(shelf.part(1).holds(1, capacity as u64 + 1), Ok(false));
    }
}

#[test]
fn parts_that_do_not_follow_each_other_are_damage() {
    let shelf = Shelf::of(2, 8 << 10);
    let second = shelf.part(2);
    assert_eq!(second.complete(10, 30), Ok(()));
    assert_eq!(
        second.complete(10, 30),
        Ok(()),
        "everybody computes the same"
    );
    assert_eq!(
        second.complete(10, 31),
        Err(Corrupt::new("base lamport", 30, 31))
    );
    assert_eq!(
        second.complete(11, 30),
        Err(Corrupt::new("base seq", 10, 11))
    );
    let mut tail = shelf.tail(1);
    shelf.append(&mut tail, b"").expect("room");
    shelf.write(1, shelf.slot_at(1), Slot::Seal(2).encode());
    let refused = shelf
        .append(&mut tail, b"")
        .expect_err("it begins elsewhere");
    assert_eq!(
        refused,
        Refused::Corrupt(Corrupt::new("base lamport", 30, 1))
    );
}

#[test]
fn a_seal_that_names_what_was_withdrawn_is_damage() {
    let shelf = Shelf::of(2, 8 << 10);
    let mut tail = shelf.tail(1);
    shelf.append(&mut tail, b"").expect("room");
    shelf.part(2).withdraw().expect("a spare");
    shelf.write(1, shelf.slot_at(1), Slot::Seal(2).encode());
    let refused = shelf.append(&mut tail, b"").expect_err("it is none");
    let damage = Corrupt::new("base seq", WITHDRAWN, 2);
    assert_eq!(refused, Refused::Corrupt(damage));
}
