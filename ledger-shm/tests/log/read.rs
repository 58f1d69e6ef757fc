//! What is read, and where it says that nothing is.

use ledger_shm::read::{Cursor, Filter, Found, Link};
use ledger_shm::{Corrupt, NewEntry};

use crate::shelf::Shelf;

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
    let extent = shelf.part(1).extent(1).expect("sound").expect("an entry");
    let at = shelf.part(1).geometry().data_offset + extent.offset + extent.len - 8;
    let trusted = shelf.map(1, true).expect("a part");
    let copied = shelf.map(1, false).expect("a part");
    assert!(trusted.is_trusted() && !copied.is_trusted());
    assert!(!copied.is_writable() && shelf.part(1).is_writable());
    let copied = Link {
        segment: copied.into(),
        base_seq: 1,
    };
    let mut cursor = Cursor::new(copied.clone(), 1);
    let all = Filter::default();
    assert_eq!(cursor.step(&all), Ok(Found::Entry));
    let payload = |cursor: &mut Cursor| {
        let entry = cursor.entry()?.expect("it was found");
        Ok::<_, Corrupt>((entry.seq(), entry.payload().to_vec()))
    };
    assert_eq!(payload(&mut cursor), Ok((1, b"income: 4200".to_vec())));

    let word = shelf.word(1, at);
    shelf.write(1, at, !word);
    assert_eq!(cursor.step(&all), Ok(Found::Entry));
    let damage = payload(&mut cursor).expect_err("damaged");
    assert_eq!(damage.what, "record body checksum");
    assert_eq!(cursor.next_seq(), 2, "not past it");
    assert_eq!(cursor.step(&all), Ok(Found::Entry));
    assert!(cursor.held_entry().is_err());
    assert_eq!(cursor.next_seq(), 2, "not past it");
    assert!(copied.clone().get(2).is_err());
    shelf.write(1, at, word);
    assert_eq!(cursor.step(&all), Ok(Found::Entry));
    assert_eq!(payload(&mut cursor), Ok((2, b"income: 4200".to_vec())));
    // Another entry's record is none, however sound.
    let slot = |index| shelf.word(1, shelf.slot_at(index));
    shelf.write(1, shelf.slot_at(1), slot(0));
    let damage = copied.get(2).expect_err("not that one");
    assert_eq!(
        (damage.what, damage.found, damage.expected),
        ("record seq", 1, 2)
    );
}
