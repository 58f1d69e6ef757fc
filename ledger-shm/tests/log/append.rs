//! What an append leaves, and what it says.

use ledger_shm::entry::{LAMPORT_RECEIVED_MAX, Limits};
use ledger_shm::format::KEY_LEN_MAX;
use ledger_shm::{Appended, NewEntry, Refused};

use crate::shelf::{Held, NOW_NS, Shelf};

#[test]
fn entries_are_numbered_as_they_come_whoever_appends() {
    let shelf = Shelf::of(1, 16 << 10);
    let (mut one, mut other) = (shelf.tail(1), shelf.tail(1));
    assert_eq!(one.next_seq(), 1);
    for seq in 1..=20 {
        // Each goes on where the other has left it, having seen nothing of it.
        let tail = if seq % 3 == 0 { &mut one } else { &mut other };
        let appended = shelf.append(tail, b"abc").expect("room");
        let expected = Appended {
            seq,
            lamport: seq,
            appended_at_ns: NOW_NS,
        };
        assert_eq!(appended, expected);
        assert_eq!(tail.next_seq(), seq + 1);
    }
    assert_eq!(shelf.tail(1).next_seq(), 21, "who comes later");
    assert_eq!(shelf.part(1).frontier(), Ok(20));
}

#[test]
fn what_is_read_is_what_was_appended() {
    let shelf = Shelf::of(1, 16 << 10);
    let mut tail = shelf.tail(1);
    let pairs = [
        ("a", "1"),
        ("", ""),
        ("a", "one that lies behind its reference"),
    ];
    let key = "a key that lies behind its reference";
    let entry = NewEntry::new(key, &[0, 159, 146, 150]).metadata(&pairs);
    let appended = shelf.append_entry(&mut tail, &entry).expect("room");
    let read = shelf.link(1).get(1).expect("sound").expect("there");
    read.verify().expect("checksums that hold");
    assert_eq!((read.key(), read.payload()), (key, &[0, 159, 146, 150][..]));
    assert_eq!(Vec::from_iter(read.metadata()), pairs);
    assert_eq!((read.seq(), read.lamport()), (1, 1));
    assert_eq!(read.appended_at_ns(), NOW_NS);
    let debug = format!("{read:?}");
    assert!(debug.contains("payload_len: 4, metadata: 3"), "{debug}");
    // As it would be put into a file.
    let record = entry.record(&appended, &Limits::default());
    assert_eq!(record.as_deref(), Ok(read.record_bytes()));
}

#[test]
fn its_lamport_time_is_after_all_that_it_follows() {
    let shelf = Shelf::of(1, 16 << 10);
    let (mut one, mut other) = (shelf.tail(1), shelf.tail(1));
    let append = |tail: &mut _, received| {
        let entry = NewEntry::new("k", "").received_lamport(received);
        shelf
            .append_entry(tail, &entry)
            .map(|appended| appended.lamport)
    };
    assert_eq!(append(&mut one, 0), Ok(1));
    assert_eq!(append(&mut one, 40), Ok(41));
    assert_eq!(append(&mut other, 7), Ok(42));
    assert_eq!(append(&mut one, 42), Ok(43));
    let latest = LAMPORT_RECEIVED_MAX - 1;
    assert_eq!(append(&mut one, latest), Ok(latest + 1));
    assert_eq!(append(&mut other, latest), Ok(latest + 2));
    let received = LAMPORT_RECEIVED_MAX;
    let refused = Refused::LamportTooLarge { received };
    assert_eq!(append(&mut one, received), Err(refused));
    assert_eq!(shelf.part(1).lamport_before(5), Ok(latest + 1));
    let read = shelf.link(1).get(2).expect("sound").expect("there");
    assert_eq!(read.lamport(), 41);
    assert_eq!(shelf.tail(1).next_seq(), 7);
}

#[test]
fn what_can_never_be_appended_takes_neither_a_number_nor_room() {
    let shelf = Shelf::of(1, 16 << 10);
    let mut tail = shelf.tail(1);
    let limits = Limits {
        payload_len_max: 8,
        metadata_len_max: 20,
    };
    let taken = shelf.part(1).data_taken();
    let key = "k".repeat(KEY_LEN_MAX + 1);
    for (entry, what, len) in [
        (NewEntry::new(&key, ""), "key", KEY_LEN_MAX + 1),
        (NewEntry::new("k", &[0; 9]), "payload", 9),
        (
            NewEntry::new("k", "").metadata(&[("ab", "cde")]),
            "metadata",
            21,
        ),
    ] {
        let refused = tail.try_append(&entry, &limits, &shelf, &mut Held);
        match refused {
            Err(Refused::TooLarge {
                what: found,
                len: found_len,
                max,
            }) => {
                assert_eq!((found, found_len), (what, len));
                assert!(max < len);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(shelf.part(1).data_taken(), taken);
    let empty = tail.try_append(&NewEntry::new("", ""), &limits, &shelf, &mut Held);
    assert_eq!(empty, Err(Refused::EmptyKey));
    let entry = NewEntry::new(&key[1..], &[0; 8]).metadata(&[("ab", "cd")]);
    let appended = tail.try_append(&entry, &limits, &shelf, &mut Held);
    assert_eq!(appended.map(|appended| appended.seq), Ok(1));
}

#[test]
fn a_typed_payload_is_as_large_as_its_limit_allows_wherever_it_begins() {
    let shelf = Shelf::of(1, 64 << 10);
    let mut tail = shelf.tail(1);
    for n in 0..40_u64 {
        // From nothing to more than is left of a block.
        let value = "x".repeat((n * 13) as usize);
        let entry = NewEntry::typed("k", &value);
        let len = entry.record(&appended(1), &Limits::default());
        let len = len.expect("small").len();
        let found = tail.try_append(&entry, &Limits::default(), &shelf, &mut Held);
        let seq = found.expect("room").seq;
        let extent = shelf.part(1).extent(seq as usize - 1);
        assert_eq!(extent.map(|extent| extent.expect("an entry").len), Ok(len));
        let read = shelf.link(1).get(seq).expect("sound").expect("there");
        read.verify().expect("checksums that hold");
        let value_read = read.typed::<String>().expect("what was appended");
        assert_eq!(*value_read, *value);

        let payload_len = read.payload().len();
        let limits = |payload_len_max| Limits {
            payload_len_max,
            ..Limits::default()
        };
        let taken = shelf.part(1).data_taken();
        let refused = tail.try_append(&entry, &limits(payload_len - 1), &shelf, &mut Held);
        let is_named = matches!(
            refused,
            Err(Refused::TooLarge { what: "payload", len, .. }) if len == payload_len
        );
        assert!(is_named, "{refused:?}");
        assert_eq!(shelf.part(1).data_taken(), taken);
        let taken = tail.try_append(&entry, &limits(payload_len), &shelf, &mut Held);
        assert_eq!(taken.map(|taken| taken.seq), Ok(seq + 1));
    }
}

#[test]
fn typed_payloads_of_two_appenders_lie_each_in_its_own_record() {
    let shelf = Shelf::of(1, 256 << 10);
    let mut tails = [shelf.tail(1), shelf.tail(1)];
    for n in 0..300_usize {
        let value = char::from(b'a' + (n % 26) as u8).to_string().repeat(n);
        // Often the payload alone fits into what is left of a block.
        let metadata = [("longer", "than what is left behind a payload".repeat(4))];
        let metadata = metadata
            .each_ref()
            .map(|(key, value)| (*key, value.as_str()));
        let entry = NewEntry::typed("k", &value).metadata(&metadata);
        let found = tails[n % 2].try_append(&entry, &Limits::default(), &shelf, &mut Held);
        let seq = found.expect("room").seq;
        let read = shelf.link(1).get(seq).expect("sound").expect("there");
        read.verify().expect("checksums that hold");
        let value_read = read.typed::<String>().expect("what was appended");
        assert_eq!(*value_read, *value);
    }
}

fn appended(seq: u64) -> Appended {
    Appended {
        seq,
        lamport: 1,
        appended_at_ns: 0,
    }
}

#[test]
fn an_entry_keeps_the_memory_that_it_lies_in() {
    let shelf = Shelf::of(1, 8 << 10);
    let mut tail = shelf.tail(1);
    shelf.append(&mut tail, b"income: 4200").expect("room");
    let entry = shelf.link(1).get(1).expect("sound").expect("there");
    drop((tail, shelf));
    entry.verify().expect("checksums that hold");
    assert_eq!(entry.payload(), b"income: 4200");
}
