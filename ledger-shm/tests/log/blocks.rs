//! Where records lie: back to back in blocks that grow, and never two in one place.

use std::sync::Barrier;
use std::thread;

use ledger_shm::append::Tail;
use ledger_shm::{Full, Refused};

use crate::shelf::Shelf;

const LINE: usize = 64;

fn extent(shelf: &Shelf, index: u64) -> (usize, usize) {
    let extent = shelf.part(1).extent(index as usize).expect("sound");
    let extent = extent.expect("an entry");
    (extent.offset, extent.len)
}

#[test]
fn blocks_double_up_to_a_part_of_the_segment() {
    // The largest there are, in a segment that has room for more of them than enough.
    const BLOCK_LEN_MAX: usize = 64 << 10;
    for len in [128 << 10, 4 << 20] {
        let shelf = Shelf::of(1, len);
        let goal_max = (shelf.part(1).geometry().data_len / 32).min(BLOCK_LEN_MAX);
        let mut tail = shelf.tail(1);
        let (mut taken, mut blocks) = (0, Vec::new());
        while taken < 12 * goal_max {
            shelf.append(&mut tail, b"abc").expect("room");
            let now = shelf.part(1).data_taken();
            if now > taken {
                blocks.push(now - taken);
                taken = now;
            }
        }
        let (_, len) = extent(&shelf, 0);
        let first = len.next_multiple_of(LINE);
        let expected = std::iter::successors(Some(first), |len| Some((len * 2).min(goal_max)));
        let expected = expected.map(|len| len.next_multiple_of(LINE));
        assert_eq!(blocks, Vec::from_iter(expected.take(blocks.len())));
        assert!(blocks.iter().filter(|len| **len >= goal_max).count() > 3);
    }
}

#[test]
fn who_appends_alone_wastes_nothing() {
    let shelf = Shelf::of(1, 64 << 10);
    let mut tail = shelf.tail(1);
    let mut end = 0;
    for n in 0..100 {
        // Now and then one that is larger than any block.
        let len = if n % 11 == 10 { 4000 } else { n % 7 * 9 };
        shelf.append(&mut tail, &vec![1; len]).expect("room");
        let (offset, len) = extent(&shelf, n as u64);
        assert_eq!(offset, end, "entry {n}");
        end = offset + len.next_multiple_of(16);
    }
    let taken = shelf.part(1).data_taken();
    assert!(taken - end < shelf.part(1).geometry().data_len / 16);
}

#[test]
fn no_two_records_share_a_byte_however_many_append() {
    let shelf = Shelf::of(1, 64 << 10);
    let mut tails: Vec<Tail> = (0..5).map(|_| shelf.tail(1)).collect();
    let mut count = 0;
    // All lengths, in an order that every appender takes part in.
    let full = loop {
        let n = count as usize;
        let tail = &mut tails[n * 7 % 5];
        match shelf.append(tail, &vec![n as u8; n * 37 % 900]) {
            Ok(appended) => assert_eq!(appended.seq, count + 1),
            Err(refused) => break refused,
        }
        count += 1;
    };
    assert_eq!(full, Refused::Full(Full::NoSpare));
    let mut extents: Vec<_> = (0..count).map(|index| extent(&shelf, index)).collect();
    extents.sort_unstable();
    for pair in extents.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
    }
    let last = extents.last().map(|(offset, len)| offset + len);
    let data_len = shelf.part(1).geometry().data_len;
    assert!(last.is_some_and(|end| end <= data_len));
    // All but the ends of blocks, in which the next record did not fit.
    let used: usize = extents.iter().map(|(_, len)| len).sum();
    assert!(used > data_len * 2 / 3, "{used} of {data_len}");
    for seq in 1..=count {
        let entry = shelf.link(1).get(seq).expect("sound").expect("there");
        entry.verify().expect("checksums that hold");
        assert_eq!(entry.payload().len(), (seq as usize - 1) * 37 % 900);
        assert!(entry.payload().iter().all(|byte| *byte == (seq - 1) as u8));
    }
}

#[test]
fn of_those_who_see_room_for_one_record_one_has_it() {
    for _ in 0..1_000 {
        let shelf = Shelf::of(1, 8 << 10);
        let starts = Barrier::new(3);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let mut tail = shelf.tail(1);
                    starts.wait();
                    shelf.fill(&mut tail, &[1; 4_000])
                });
            }
        });
        assert_eq!(shelf.part(1).frontier(), Ok(1));
        let (offset, len) = extent(&shelf, 0);
        assert!(offset + len <= shelf.part(1).geometry().data_len);
    }
}

#[test]
fn one_that_does_not_fit_leaves_the_rest_to_smaller_ones() {
    let shelf = Shelf::of(1, 8 << 10);
    let data_len = shelf.part(1).geometry().data_len;
    let (mut one, mut other) = (shelf.tail(1), shelf.tail(1));
    shelf.append(&mut one, b"small").expect("room");
    let taken = shelf.part(1).data_taken();
    let too_long = vec![2; data_len - taken];
    let refused = shelf.append(&mut other, &too_long);
    assert_eq!(refused, Err(Refused::Full(Full::NoSpare)));
    assert!(other.missing_len() > too_long.len());
    assert_eq!(
        shelf.part(1).data_taken(),
        taken,
        "nothing was taken for it"
    );
    let rest = data_len - taken;
    for payload_len in (0..rest).rev() {
        match shelf.append(&mut other, &vec![3; payload_len]) {
            Ok(_) => {
                assert_eq!(extent(&shelf, 1), (taken, rest), "to the last byte");
                break;
            }
            Err(refused) => assert_eq!(refused, Refused::Full(Full::NoSpare)),
        }
    }
    assert_eq!(shelf.part(1).frontier(), Ok(2));
}

#[test]
fn a_large_record_in_between_leaves_the_block_to_small_ones() {
    let shelf = Shelf::of(1, 256 << 10);
    let (mut one, mut other) = (shelf.tail(1), shelf.tail(1));
    // Until there is a block with room for many.
    for _ in 0..60 {
        shelf.append(&mut one, b"small").expect("room");
    }
    // Somebody takes what follows, so that the next one cannot go on there.
    shelf.append(&mut other, b"elsewhere").expect("room");
    let (before, len) = extent(&shelf, 59);
    shelf.append(&mut one, &[4; 20_000]).expect("room");
    shelf.append(&mut one, b"small").expect("room");
    let (after, _) = extent(&shelf, 62);
    assert_eq!(
        after,
        before + len.next_multiple_of(16),
        "in the same block"
    );
}
