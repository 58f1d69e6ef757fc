//! What is read, and where it says that nothing is.

use ledger_shm::format::RECORD_HEADER_LEN;
use ledger_shm::read::{Cursor, Filter, Found, Link};
use ledger_shm::segment::Glance;
use ledger_shm::slot::Slot;
use ledger_shm::{Corrupt, Entry, NewEntry, Segment};

use crate::shelf::{EPOCH, Shelf};

#[test]
fn the_frontier_is_found_wherever_it_is() {
    let shelf = Shelf::of(1, 8 << 10);
    let mut tail = shelf.tail(1);
    let capacity = shelf.part(1).geometry().slot_capacity;
    let part = shelf.part(1);
    for count in 0..=capacity {
        assert_eq!(part.frontier(), Ok(count));
        for seq in 0..=capacity as u64 + 2 {
            let is_there = (1..=count as u64).contains(&seq);
            assert_eq!(part.holds(1, seq), Ok(is_there), "{seq} of {count}");
        }
        assert_eq!(part.lamport_before(count), Ok(count as u64));
        if count < capacity {
            shelf.append(&mut tail, b"").expect("room");
        }
    }
}

#[test]
fn a_part_says_what_lies_at_each_seq() {
    let shelf = Shelf::of(2, 8 << 10);
    let mut tail = shelf.tail(1);
    while tail.segment().part() == 1 {
        shelf.append(&mut tail, &[1; 900]).expect("room");
    }
    let base_seq = shelf.part(2).base_seq();
    let capacity = shelf.part(2).geometry().slot_capacity as u64;
    let found = |part, seq| shelf.link(part).peek(seq).expect("sound");
    assert_eq!(found(1, 0), Found::Elsewhere);
    assert_eq!(found(1, 1), Found::Entry);
    assert_eq!(found(1, base_seq - 1), Found::Entry);
    assert_eq!(found(1, base_seq), Found::Seal(2));
    // Nobody asks there who knows of the seal.
    assert_eq!(found(1, base_seq + 1), Found::Nothing);
    assert_eq!(found(2, base_seq - 1), Found::Elsewhere);
    assert_eq!(found(2, base_seq), Found::Entry);
    assert_eq!(found(2, base_seq + 1), Found::Nothing);
    assert_eq!(found(2, base_seq + capacity), Found::Nothing);
    assert_eq!(found(2, base_seq + capacity + 1), Found::Elsewhere);
    assert_eq!(found(2, u64::MAX), Found::Elsewhere);
    let entry = shelf.link(2).get(base_seq).expect("sound").expect("there");
    assert_eq!(entry.seq(), base_seq);
    let none = shelf.link(2).get(base_seq + 1).expect("sound");
    assert_eq!(none.err(), Some(Found::Nothing));
}

#[test]
fn a_cursor_goes_from_entry_to_entry_and_from_part_to_part() {
    let shelf = Shelf::of(2, 8 << 10);
    let mut tail = shelf.tail(1);
    while tail.segment().part() == 1 {
        shelf.append(&mut tail, &[1; 900]).expect("room");
    }
    let latest = tail.next_seq() - 1;
    let mut cursor = Cursor::new(shelf.link(1), 1);
    let all = Filter::default();
    assert!(
        cursor.entry().expect("sound").is_none(),
        "it has not looked"
    );
    let mut seen = Vec::new();
    loop {
        assert_eq!(cursor.next_seq(), seen.len() as u64 + 1);
        match cursor.step(&all).expect("sound") {
            Found::Entry => {
                let entry = cursor.entry().expect("sound").expect("it was found");
                entry.verify().expect("checksums that hold");
                seen.push(entry.seq());
                let held = cursor.held_entry().expect("sound").expect("the same");
                assert_eq!(Some(&held.seq()), seen.last());
            }
            Found::Seal(part) => cursor.follow(shelf.link(part)),
            found => {
                assert_eq!(found, Found::Nothing);
                break;
            }
        }
    }
    assert_eq!(seen, Vec::from_iter(1..=latest));
    assert_eq!(cursor.link().segment.part(), 2);
    assert!(cursor.held_entry().expect("sound").is_none());
    shelf.append(&mut tail, b"more").expect("room");
    assert_eq!(cursor.step(&all), Ok(Found::Entry));
    assert_eq!(cursor.next_seq(), latest + 2);
}

#[test]
fn a_filter_lets_through_its_key_from_its_seq_on() {
    let shelf = Shelf::of(1, 16 << 10);
    let mut tail = shelf.tail(1);
    for n in 1..=30_u64 {
        let key = format!("k{}", n % 3);
        shelf
            .append_entry(&mut tail, &NewEntry::new(&key, ""))
            .expect("room");
    }
    let seqs = |filter: &Filter| {
        let mut cursor = Cursor::new(shelf.link(1), 1);
        let mut seqs = Vec::new();
        while cursor.step(filter).expect("sound") == Found::Entry {
            seqs.push(cursor.next_seq() - 1);
        }
        assert_eq!(cursor.next_seq(), 31);
        seqs
    };
    let mut filter = Filter::default();
    filter.set_first_seq(28);
    assert_eq!(seqs(&filter), [28, 29, 30]);
    filter.set_key("k1");
    assert_eq!(seqs(&filter), [28]);
    filter.set_first_seq(23);
    assert_eq!(seqs(&filter), [25, 28]);
    filter.set_key("k");
    assert!(seqs(&filter).is_empty());
}

#[test]
fn what_others_may_write_is_read_as_a_copy_that_holds() {
    let mut shelf = Shelf::of(1, 8 << 10);
    let mut tail = shelf.tail(1);
    for _ in 0..3 {
        shelf.append(&mut tail, b"income: 4200").expect("room");
    }
    let trusted = shelf.map(1).expect("a part");
    let copied = shelf.map_distrusted(1).expect("a part");
    assert!(trusted.is_trusted() && !copied.is_trusted());
    assert!(!copied.is_writable() && shelf.part(1).is_writable());
    let copied = Link {
        segment: copied.into(),
        base_seq: 1,
    };
    let mut cursor = Cursor::new(copied.clone(), 1);
    let all = Filter::default();
    let is_whole = |entry: &Entry<'_>| {
        entry.verify().expect("checksums that hold");
        assert_eq!(entry.payload(), b"income: 4200");
    };
    assert_eq!(cursor.step(&all), Ok(Found::Entry));
    let held = copied.clone().get(1).expect("sound").expect("there");
    let seen = cursor.entry().expect("sound").expect("it was found");
    // Whatever others write meanwhile.
    let at = shelf.record_at(1).start + RECORD_HEADER_LEN;
    let word = shelf.word(1, at);
    shelf.write(1, at, !word);
    is_whole(&seen);
    is_whole(&held);
    shelf.write(1, at, word);

    let at = shelf.record_at(2).start + RECORD_HEADER_LEN;
    let word = shelf.word(1, at);
    shelf.write(1, at, !word);
    assert_eq!(cursor.step(&all), Ok(Found::Entry));
    let damage = cursor.entry().expect_err("damaged");
    assert_eq!(damage.what, "record body checksum");
    assert_eq!(cursor.next_seq(), 2, "not past it");
    assert_eq!(cursor.step(&all), Ok(Found::Entry));
    assert!(cursor.held_entry().is_err());
    assert_eq!(cursor.next_seq(), 2, "not past it");
    assert!(copied.clone().get(2).is_err());
    shelf.write(1, at, word);
    assert_eq!(cursor.step(&all), Ok(Found::Entry));
    is_whole(&cursor.entry().expect("sound").expect("it was found"));

    // Another entry's record is none, however sound: by its slot, or by its bytes.
    let slot = |index| shelf.word(1, shelf.slot_at(index));
    let own = slot(1);
    shelf.write(1, shelf.slot_at(1), slot(0));
    let damage = copied.get(2).expect_err("not that one");
    let is_first = Corrupt::new("record seq", 1, 2);
    assert_eq!(damage, is_first);
    shelf.write(1, shelf.slot_at(1), own);
    cursor = Cursor::new(cursor.link().clone(), 2);
    assert_eq!(cursor.step(&all), Ok(Found::Entry));
    for (from, to) in shelf.record_at(1).zip(shelf.record_at(2)).step_by(8) {
        shelf.write(1, to, shelf.word(1, from));
    }
    assert_eq!(cursor.entry().expect_err("not that one"), is_first);
}

#[test]
fn a_glance_sees_where_a_part_begins_and_ends() {
    let shelf = Shelf::of(3, 8 << 10);
    let mut tail = shelf.tail(1);
    while tail.segment().part() < 3 {
        shelf.append(&mut tail, &[1; 900]).expect("room");
    }
    tail.close().expect("sound").expect("the last part");
    shelf.part(3).set_successor(9);
    for part in 1..=3 {
        let segment = shelf.part(part);
        let entries = segment.frontier().expect("sound");
        let end = segment.look(entries).expect("sound");
        assert_eq!(end == Slot::Closed, part == 3);
        let expected = Glance {
            epoch: EPOCH,
            part,
            segment_len: 8 << 10,
            base_seq: segment.base_seq(),
            entries: entries as u64,
            end,
            successor: (part == 3).then_some(9),
        };
        let glance = Segment::glance(shelf.object(part)).expect("a part");
        assert_eq!(glance, Some(expected));
    }
    let large = Shelf::of(1, 64 << 10);
    let glance = Segment::glance(large.object(1)).expect("a part");
    assert_eq!(glance, None, "an index of more than a page");
}
