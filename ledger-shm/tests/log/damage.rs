//! Words that nobody writes who keeps to the protocol: each is named, and none ends the
//! process that finds it.

use std::mem::offset_of;

use ledger_shm::fork::Generation;
use ledger_shm::format::{
    RECORD_HEADER_LEN, RecordHeader, SEGMENT_MAGIC, SEQ_MAX, SegmentHeader, WITHDRAWN,
};
use ledger_shm::object::MapError;
use ledger_shm::read::{Cursor, Filter, Found};
use ledger_shm::slot::{Extent, Slot};
use ledger_shm::{Corrupt, Full, NewEntry, Refused, Tail};

use crate::shelf::{EPOCH, Shelf};

const GARBAGE: u64 = 3 << 62 | 5;

fn what(outcome: Result<impl Sized, MapError>) -> &'static str {
    match outcome.err().expect("refused") {
        MapError::Corrupt(corrupt) => corrupt.what,
        other => panic!("{other}"),
    }
}

#[test]
fn a_header_that_nobody_writes_is_named() {
    let shelf = Shelf::of(1, 16 << 10);
    let geometry = shelf.part(1).geometry();
    let len = geometry.segment_len as u64;
    let index_end = (geometry.index_offset + (geometry.slot_capacity + 1) * 8) as u64;
    let slots_max = (len - geometry.index_offset as u64) / 8;
    let capacity_at = offset_of!(SegmentHeader, slot_capacity);
    let data_offset_at = offset_of!(SegmentHeader, data_offset);
    let data_len_at = offset_of!(SegmentHeader, data_len);
    for (at, word, named) in [
        (
            offset_of!(SegmentHeader, magic_word),
            SEGMENT_MAGIC + 1,
            "segment magic",
        ),
        (
            offset_of!(SegmentHeader, index_offset),
            520,
            "segment index offset",
        ),
        (
            offset_of!(SegmentHeader, segment_len),
            len + 4096,
            "segment length",
        ),
        (offset_of!(SegmentHeader, segment_len), 0, "segment length"),
        (capacity_at, 0, "slot capacity"),
        (capacity_at, slots_max, "slot capacity"),
        (capacity_at, u64::MAX, "slot capacity"),
        // Still within the object, but the data begins before its end.
        (capacity_at, slots_max - 1, "data offset"),
        (
            data_offset_at,
            geometry.data_offset as u64 + 1,
            "data offset",
        ),
        (data_offset_at, index_end / 64 * 64, "data offset"),
        (
            data_offset_at,
            geometry.data_offset as u64 + 64,
            "data length",
        ),
        (data_offset_at, u64::MAX / 64 * 64, "data length"),
        (data_len_at, geometry.data_len as u64 - 1, "data length"),
        (data_len_at, u64::MAX, "data length"),
    ] {
        let before = shelf.word(1, at);
        shelf.write(1, at, word);
        assert_eq!(what(shelf.map(1)), named, "{word:#x} at {at}");
        shelf.write(1, at, before);
        shelf.map(1).expect("as it was");
    }
    shelf.write(1, offset_of!(SegmentHeader, magic_word), 0);
    let unfinished = shelf.map(1).err();
    assert!(matches!(unfinished, Some(MapError::Unfinished)));
}

#[test]
fn as_many_slots_as_fit_before_the_data_are_taken() {
    let shelf = Shelf::of(1, 16 << 10);
    let geometry = shelf.part(1).geometry();
    let slots = (geometry.data_offset - geometry.index_offset) / 8 - 1;
    let capacity_at = offset_of!(SegmentHeader, slot_capacity);
    shelf.write(1, capacity_at, slots as u64);
    let mapped = shelf.map(1).expect("they fit");
    assert_eq!(mapped.geometry().slot_capacity, slots);
    shelf.write(1, capacity_at, slots as u64 + 1);
    assert_eq!(what(shelf.map(1)), "data offset");
}

#[test]
fn a_part_is_what_its_name_says() {
    let shelf = Shelf::of(2, 8 << 10);
    let part = shelf.part(2);
    assert_eq!((part.epoch(), part.part()), (EPOCH, 2));
    assert_eq!(part.check_is(EPOCH, 2), Ok(()));
    let mapped = shelf.map(2).expect("a part");
    assert_eq!((mapped.epoch(), mapped.part()), (EPOCH, 2));
    let damage = |outcome: Result<(), Corrupt>| outcome.expect_err("another one").what;
    assert_eq!(damage(part.check_is(EPOCH, 1)), "part number in a header");
    for half in [0, 15] {
        let mut epoch = EPOCH;
        epoch[half] ^= 1;
        let corrupt = part.check_is(epoch, 2).expect_err("another one");
        assert_eq!(corrupt.what, "epoch in a header");
        let (first, second) = EPOCH.split_first_chunk().expect("two halves");
        let found = if half < 8 {
            first
        } else {
            second.as_array().expect("the other")
        };
        assert_eq!(corrupt.found, u64::from_be_bytes(*found));
    }
}

#[test]
fn nobody_appends_to_what_is_no_part_of_a_log() {
    let generation = Generation::current().expect("a page");
    let shelf = Shelf::of(2, 8 << 10);
    let base_seq = |word| {
        shelf.write(2, offset_of!(SegmentHeader, base_seq_word), word);
        let tail = Tail::new(shelf.part(2), generation);
        tail.map(|tail| tail.next_seq())
            .map_err(|corrupt| corrupt.what)
    };
    for none in [0, SEQ_MAX + 1, u64::MAX] {
        assert_eq!(base_seq(none), Err("base seq of a current part"), "{none}");
    }
    assert_eq!(base_seq(1), Ok(1));
    assert_eq!(base_seq(SEQ_MAX), Ok(SEQ_MAX));
}

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
fn an_extent_beyond_the_data_is_named() {
    let shelf = Shelf::of(1, 8 << 10);
    let mut tail = shelf.tail(1);
    shelf.append(&mut tail, b"").expect("room");
    let data_len = shelf.part(1).geometry().data_len;
    let data_end = data_len / 16 * 16;
    let sound = shelf.part(1).extent(0).expect("sound").expect("an entry");
    let found = |offset, len| {
        let extent = Extent { offset, len };
        shelf.write(1, shelf.slot_at(0), Slot::Entry(extent).encode());
        let copied = shelf.part(1).copy_record(extent, &mut vec![0; len]);
        let peeked = shelf.link(1).peek(1).map(|_| ());
        (
            copied.map_err(|corrupt| corrupt.what),
            peeked.map_err(|corrupt| corrupt.what),
        )
    };
    assert_eq!(found(sound.offset, sound.len), (Ok(()), Ok(())));
    let least = RECORD_HEADER_LEN;
    for (offset, len) in [
        (data_end + 16, least),
        (data_end - least, data_len - data_end + least + 1),
        (0, data_len + 1),
    ] {
        let named = Err("record end");
        assert_eq!(found(offset, len), (named, named), "{len} at {offset}");
    }
    let named = Err("record length");
    assert_eq!(found(0, least - 1), (named, named));
    assert_eq!(found(0, least).0, Ok(()));
    let extent = Extent {
        offset: data_end - least,
        len: data_len,
    };
    let damage = shelf.part(1).copy_record(extent, &mut vec![0; data_len]);
    let end = (data_end - least + data_len) as u64;
    assert_eq!(
        damage,
        Err(Corrupt::new("record end", end, data_len as u64))
    );
    // All of the data area may be one record.
    assert_eq!(found(0, data_len).0, Ok(()));
    assert_eq!(
        found(data_end - least, data_len - data_end + least).0,
        Ok(())
    );
}

#[test]
fn a_payload_that_has_changed_is_noticed_by_who_verifies_it() {
    let shelf = Shelf::of(1, 8 << 10);
    let mut tail = shelf.tail(1);
    shelf.append(&mut tail, b"income: 4200").expect("room");
    let at = shelf.record_at(1).start + RECORD_HEADER_LEN;
    shelf.write(1, at, u64::from_le_bytes(*b"outcome:"));
    let entry = shelf.link(1).get(1).expect("where it lies").expect("there");
    assert_eq!(entry.payload(), b"outcome:4200");
    let damage = entry.verify().expect_err("damaged");
    assert_eq!(damage.what, "record body checksum");
}

/// A log of three entries with these keys.
fn of_keys(keys: [&str; 3]) -> Shelf {
    let shelf = Shelf::of(1, 8 << 10);
    let mut tail = shelf.tail(1);
    for key in keys {
        let entry = NewEntry::new(key, "");
        shelf.append_entry(&mut tail, &entry).expect("room");
    }
    shelf
}

/// Where the entries of a key are, or where it is damaged on the way to them.
fn seqs_of(shelf: &Shelf, key: &str) -> Result<Vec<u64>, u64> {
    let mut filter = Filter::default();
    filter.set_key(key);
    let mut cursor = Cursor::new(shelf.link(1), 1);
    let mut seqs = Vec::new();
    loop {
        match cursor.step(&filter) {
            Ok(Found::Entry) => seqs.push(cursor.next_seq() - 1),
            Ok(found) => {
                assert_eq!(found, Found::Nothing);
                return Ok(seqs);
            }
            Err(_) => return Err(cursor.next_seq()),
        }
    }
}

#[test]
fn who_looks_for_a_key_does_not_come_upon_the_damage_of_others() {
    let shelf = of_keys(["a", "b", "a"]);
    let body = shelf.record_at(2).start + RECORD_HEADER_LEN..shelf.record_at(2).end;
    for at in body.step_by(8) {
        shelf.write(1, at, u64::MAX);
    }
    assert!(shelf.link(1).get(2).is_err());
    assert_eq!(seqs_of(&shelf, "a"), Ok(vec![1, 3]));
    assert_eq!(seqs_of(&shelf, "b"), Err(2), "not past it");
}

#[test]
fn who_looks_for_a_key_compares_all_of_it() {
    let shelf = of_keys(["a", "b", "a"]);
    // As if both had one hash.
    let hash_at = |seq| shelf.record_at(seq).start + offset_of!(RecordHeader, key_hash);
    shelf.write(1, hash_at(2), shelf.word(1, hash_at(1)));
    assert_eq!(seqs_of(&shelf, "a"), Ok(vec![1, 3]));
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

#[test]
fn a_tail_that_says_more_than_there_is_leaves_no_room() {
    let at = offset_of!(SegmentHeader, data_tail_word);
    // Beyond the end, far beyond it, and where no block begins.
    for word in [8 << 10, u64::MAX, u64::MAX / 2, 1, 65] {
        let shelf = Shelf::of(1, 8 << 10);
        let data_len = shelf.part(1).geometry().data_len;
        shelf.write(1, at, word);
        let mut tail = shelf.tail(1);
        for _ in 0..2 {
            let refused = shelf.append(&mut tail, b"");
            let full = Err(Refused::Full(Full::NoSpare));
            assert_eq!(refused, full, "{word:#x}");
        }
        assert!(shelf.part(1).data_taken() <= data_len);
        assert_eq!(shelf.part(1).frontier(), Ok(0));
    }
}
