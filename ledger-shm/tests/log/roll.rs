//! How a part ends, and the log goes on.

use std::sync::atomic::Ordering;

use ledger_shm::read::{End, Found};
use ledger_shm::slot::Slot;
use ledger_shm::{Full, NewEntry, Refused};

use crate::shelf::Shelf;

#[test]
fn who_finds_a_part_full_names_the_next_one_and_all_go_on_there() {
    for payload in [&[0; 0][..], &[1; 900]] {
        let shelf = Shelf::of(4, 8 << 10);
        let (mut one, mut other) = (shelf.tail(1), shelf.tail(1));
        let mut seqs = Vec::new();
        while one.segment().part() < 3 {
            seqs.push(shelf.append(&mut one, payload).expect("room").seq);
        }
        assert_eq!(seqs, Vec::from_iter(1..=seqs.len() as u64));
        let latest = seqs.len() as u64;
        let first = shelf.part(1);
        let entries = first.frontier().expect("sound");
        assert_eq!(first.look(entries), Ok(Slot::Seal(2)));
        let base_seq = entries as u64 + 1;
        let end = End::Continued { part: 2, base_seq };
        assert_eq!(shelf.link(1).end(), Ok(end));
        let second = shelf.part(2);
        assert_eq!(second.base_seq(), base_seq);
        assert_eq!(second.base_lamport(), entries as u64);
        assert_eq!(shelf.link(3).end(), Ok(End::Open));
        // Who was asleep all the time finds the same way, part by part.
        let appended = shelf.append(&mut other, payload).expect("room");
        assert_eq!(appended.seq, latest + 1);
        assert_eq!(appended.lamport, latest + 1);
        assert_eq!(other.segment().part(), 3);
        assert!(shelf.part(4).is_spare());
    }
}

#[test]
fn an_index_is_used_to_its_last_slot() {
    let shelf = Shelf::of(2, 8 << 10);
    let mut tail = shelf.tail(1);
    let capacity = shelf.part(1).geometry().slot_capacity;
    // Records so small that slots run out first.
    let entry = NewEntry::new("k", "");
    for _ in 0..capacity {
        shelf.append_entry(&mut tail, &entry).expect("room");
    }
    assert_eq!(tail.segment().part(), 1);
    assert_eq!(shelf.part(1).frontier(), Ok(capacity));
    assert_eq!(shelf.part(1).look(capacity), Ok(Slot::Empty));
    let next = capacity as u64 + 1;
    assert_eq!(shelf.link(1).peek(next), Ok(Found::Nothing));
    shelf.append_entry(&mut tail, &entry).expect("room");
    assert_eq!(shelf.part(1).look(capacity), Ok(Slot::Seal(2)));
    assert_eq!(shelf.link(1).peek(next), Ok(Found::Seal(2)));
    assert_eq!(shelf.part(2).base_seq(), next);
}

#[test]
fn without_a_spare_a_part_stays_open() {
    let shelf = Shelf::of(1, 8 << 10);
    let mut tail = shelf.tail(1);
    let (count, full) = shelf.fill(&mut tail, &[1; 900]);
    assert_eq!(full, Refused::Full(Full::NoSpare));
    assert!(tail.missing_len() > 900 && tail.missing_len() < 1000);
    assert_eq!(shelf.link(1).end(), Ok(End::Open));
    assert_eq!(tail.next_seq(), count + 1);
    let appended = shelf.append(&mut tail, b"");
    assert_eq!(appended.map(|appended| appended.seq), Ok(count + 1));
    let (more, full) = shelf.fill(&mut tail, b"");
    assert_eq!(full, Refused::Full(Full::NoSpare));
    assert_eq!(tail.next_seq(), count + more + 2);
}

#[test]
fn a_part_that_is_not_mapped_yet_is_waited_for() {
    let shelf = Shelf::of(2, 8 << 10);
    let (mut one, mut other) = (shelf.tail(1), shelf.tail(1));
    while one.segment().part() == 1 {
        shelf.append(&mut one, &[1; 900]).expect("room");
    }
    shelf.mapped.store(1, Ordering::Relaxed);
    let latest = one.next_seq() - 1;
    let rolling = Err(Refused::Full(Full::Rolling));
    assert_eq!(shelf.append(&mut other, &[1; 900]), rolling);
    assert_eq!(shelf.append(&mut other, &[1; 900]), rolling, "again");
    shelf.mapped.store(2, Ordering::Relaxed);
    let appended = shelf.append(&mut other, &[1; 900]).expect("room");
    assert_eq!(appended.seq, latest + 1);
}

#[test]
fn another_spare_is_wanted_once_a_part_and_after_each_roll() {
    for is_of_data in [true, false] {
        let shelf = Shelf::of(3, 64 << 10);
        let geometry = shelf.part(1).geometry();
        let payload: &[u8] = if is_of_data { &[1; 500] } else { b"" };
        let mut tail = shelf.tail(1);
        assert!(!tail.take_wants_spare());
        let mut wanted = Vec::new();
        while tail.segment().part() == 1 {
            let seq = shelf.append(&mut tail, payload).expect("room").seq;
            if tail.take_wants_spare() {
                wanted.push(seq);
            }
        }
        let [half, roll] = wanted[..] else {
            panic!("{wanted:?}");
        };
        assert_eq!(roll, tail.next_seq() - 1, "in the part that it rolled to");
        // It is looked for once a block.
        let (at, all) = if is_of_data {
            let extent = shelf.part(1).extent(half as usize - 1);
            let extent = extent.expect("sound").expect("an entry");
            (extent.offset + extent.len, geometry.data_len)
        } else {
            (half as usize, geometry.slot_capacity)
        };
        assert!((all / 2..all / 2 + all / 16).contains(&at), "{at} of {all}");
    }
}

#[test]
fn a_closed_log_takes_nothing_until_it_goes_on() {
    let shelf = Shelf::of(2, 8 << 10);
    let (mut one, mut other) = (shelf.tail(1), shelf.tail(1));
    let entry = NewEntry::new("k", "").received_lamport(9);
    for _ in 0..3 {
        shelf.append_entry(&mut one, &entry).expect("room");
    }
    assert_eq!(other.close(), Ok(Ok((4, 12))));
    assert_eq!(other.close(), Ok(Ok((4, 12))), "closed already");
    assert_eq!(shelf.link(1).end(), Ok(End::Closed));
    assert_eq!(shelf.link(1).peek(4), Ok(Found::Closed));
    let refused = Err(Refused::Full(Full::Reopening));
    assert_eq!(shelf.append(&mut one, b""), refused);
    // Nor one for which a part would have to end.
    assert_eq!(shelf.append(&mut one, &[0; 9000]), refused);
    assert!(shelf.part(2).is_spare());

    assert_eq!(shelf.part(2).withdraw(), Ok(()));
    assert_eq!(shelf.part(2).withdraw(), Ok(()), "withdrawn already");
    assert!(!shelf.part(2).is_spare());
    assert_eq!(shelf.part(1).withdraw(), Err(1));
    shelf.part(1).set_successor(2);
    let end = End::Continued {
        part: 2,
        base_seq: 4,
    };
    assert_eq!(shelf.link(1).end(), Ok(end));
}

#[test]
fn a_log_that_goes_on_is_not_closed_where_it_did() {
    let shelf = Shelf::of(2, 8 << 10);
    let (mut one, mut other) = (shelf.tail(1), shelf.tail(1));
    while one.segment().part() == 1 {
        shelf.append(&mut one, &[1; 900]).expect("room");
    }
    assert_eq!(other.close(), Ok(Err(2)));
    let next = one.next_seq();
    assert_eq!(one.close(), Ok(Ok((next, next - 1))));
}

#[test]
fn an_end_of_all_slots_is_closed_in_the_last_one() {
    let shelf = Shelf::of(1, 8 << 10);
    let mut tail = shelf.tail(1);
    let (count, full) = shelf.fill(&mut tail, b"");
    assert_eq!(full, Refused::Full(Full::NoSpare));
    let capacity = shelf.part(1).geometry().slot_capacity;
    assert_eq!(count as usize, capacity);
    assert_eq!(tail.close(), Ok(Ok((count + 1, count))));
    assert_eq!(shelf.part(1).look(capacity), Ok(Slot::Closed));
    assert_eq!(shelf.link(1).peek(count + 1), Ok(Found::Closed));
    let refused = Err(Refused::Full(Full::Reopening));
    assert_eq!(shelf.append(&mut tail, b""), refused);
}

#[test]
fn who_comes_to_a_part_in_which_nothing_is_yet_goes_on_from_the_one_before() {
    let shelf = Shelf::of(2, 8 << 10);
    shelf.part(2).complete(4, 12).expect("a spare");
    let appended = shelf.append(&mut shelf.tail(2), b"").expect("room");
    assert_eq!((appended.seq, appended.lamport), (4, 13));
}
