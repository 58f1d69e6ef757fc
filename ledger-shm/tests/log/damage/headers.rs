//! Headers that nobody writes.

use std::mem::offset_of;

use ledger_shm::fork::Generation;
use ledger_shm::format::{SEGMENT_MAGIC, SEQ_MAX, SegmentHeader};
use ledger_shm::object::MapError;
use ledger_shm::{Corrupt, Full, Refused, Tail};

use crate::shelf::{EPOCH, Shelf};

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
