//! What an appender finds when others were faster, at the moments that decide it: while it
//! asks for a spare, and between placing a record and publishing it.

use std::cell::RefCell;
use std::sync::Arc;

use ledger_shm::append::Tail;
use ledger_shm::entry::Limits;
use ledger_shm::{Appended, Clock, Full, NewEntry, Parts, Refused, Segment};

use crate::shelf::{NOW_NS, Shelf};

/// What somebody else does, once.
type Deed<'a> = RefCell<Option<Box<dyn FnOnce() + 'a>>>;

fn deed<'a>(what: impl FnOnce() + 'a) -> Deed<'a> {
    RefCell::new(Some(Box::new(what)))
}

fn done(deed: &Deed<'_>) {
    if let Some(what) = deed.take() {
        what();
    }
}

/// Asked for a spare, it lets somebody else be faster.
struct Slow<'a> {
    shelf: &'a Shelf,
    before: Deed<'a>,
}

impl Parts for Slow<'_> {
    fn mapped(&self, part: u64) -> Option<Arc<Segment>> {
        self.shelf.mapped(part)
    }

    fn spare(&self, record_len: usize) -> Result<Arc<Segment>, Full> {
        let found = self.shelf.spare(record_len);
        done(&self.before);
        // As good as before, unless it is gone.
        found.and_then(|found| match found.is_spare() {
            true => Ok(found),
            false => self.shelf.spare(record_len),
        })
    }
}

/// Asked for the time, it lets somebody else be faster.
struct Late<'a>(Deed<'a>);

impl Clock for Late<'_> {
    fn now_ns(&mut self) -> u64 {
        done(&self.0);
        NOW_NS
    }
}

/// Two who have filled the first part, in which a small record has room and no large one.
fn almost_full(shelf: &Shelf) -> (Tail, Tail, u64) {
    let (mut one, other) = (shelf.tail(1), shelf.tail(1));
    let (mut latest, some) = (0, [1; 400]);
    while shelf.part(1).geometry().data_len - shelf.part(1).data_taken() > 1000 {
        latest = shelf.append(&mut one, &some).expect("room").seq;
    }
    (one, other, latest)
}

const LARGE: [u8; 2000] = [2; 2000];

/// What comes of a large record while somebody else is faster.
fn sealing<'a>(
    shelf: &'a Shelf,
    tail: &mut Tail,
    before: impl FnOnce() + 'a,
) -> Result<Appended, Refused> {
    let slow = Slow {
        shelf,
        before: deed(before),
    };
    let entry = NewEntry::new("k", &LARGE);
    tail.try_append(&entry, &Limits::default(), &slow, &mut Late(deed(|| ())))
}

#[test]
fn who_asks_for_a_spare_while_another_seals_follows_it() {
    // With a spare left that it could have named, and with none.
    for parts in [3, 2] {
        let shelf = Shelf::of(parts, 8 << 10);
        let (mut one, mut other, latest) = almost_full(&shelf);
        let appended = sealing(&shelf, &mut one, || {
            let appended = shelf.append(&mut other, &LARGE);
            assert_eq!(appended.map(|appended| appended.seq), Ok(latest + 1));
        });
        let appended = appended.expect("room");
        assert_eq!((appended.seq, appended.lamport), (latest + 2, latest + 2));
        assert_eq!(one.segment().part(), 2);
        assert_eq!(shelf.part(2).frontier(), Ok(2));
    }
}

#[test]
fn who_asks_for_a_spare_while_another_appends_seals_behind_it() {
    for parts in [2, 1] {
        let shelf = Shelf::of(parts, 8 << 10);
        let (mut one, mut other, latest) = almost_full(&shelf);
        let appended = sealing(&shelf, &mut one, || {
            let appended = shelf.append(&mut other, b"small");
            assert_eq!(appended.map(|appended| appended.seq), Ok(latest + 1));
        });
        assert_eq!(shelf.part(1).frontier(), Ok(latest as usize + 1));
        if parts == 1 {
            assert_eq!(appended, Err(Refused::Full(Full::NoSpare)));
            continue;
        }
        let appended = appended.expect("room");
        assert_eq!((appended.seq, appended.lamport), (latest + 2, latest + 2));
        assert_eq!(shelf.part(2).base_seq(), latest + 2);
    }
}

#[test]
fn who_asks_for_a_spare_while_the_log_is_closed_is_refused() {
    for parts in [2, 1] {
        let shelf = Shelf::of(parts, 8 << 10);
        let (mut one, mut other, latest) = almost_full(&shelf);
        let refused = sealing(&shelf, &mut one, || {
            assert_eq!(other.close(), Ok(Ok((latest + 1, latest))));
        });
        assert_eq!(refused, Err(Refused::Full(Full::Reopening)));
        assert!(parts == 1 || shelf.part(2).is_spare());
    }
}

#[test]
fn who_has_placed_a_record_while_others_append_takes_the_next_number() {
    let shelf = Shelf::of(1, 8 << 10);
    let (mut one, mut other) = (shelf.tail(1), shelf.tail(1));
    let entry = NewEntry::new("k", "mine");
    let mut late = Late(deed(|| {
        for lamport in [1, 40] {
            let entry = NewEntry::new("k", "theirs").received_lamport(lamport - 1);
            let appended = shelf.append_entry(&mut other, &entry);
            assert_eq!(appended.map(|appended| appended.lamport), Ok(lamport));
        }
    }));
    let appended = one.try_append(&entry, &Limits::default(), &shelf, &mut late);
    let appended = appended.expect("room");
    assert_eq!((appended.seq, appended.lamport), (3, 41));
    let read = shelf.link(1).get(3).expect("sound").expect("there");
    read.verify().expect("a checksum of the number that it got");
    assert_eq!(
        (read.seq(), read.lamport(), read.payload()),
        (3, 41, &b"mine"[..])
    );
}

#[test]
fn who_has_placed_a_record_in_a_part_that_ends_places_it_again_in_the_next() {
    let shelf = Shelf::of(2, 8 << 10);
    let (mut one, mut other, latest) = almost_full(&shelf);
    let entry = NewEntry::new("k", "mine");
    let mut late = Late(deed(|| {
        shelf.append(&mut other, &LARGE).expect("room");
    }));
    let appended = one.try_append(&entry, &Limits::default(), &shelf, &mut late);
    let appended = appended.expect("room");
    assert_eq!((appended.seq, one.segment().part()), (latest + 2, 2));
    let read = shelf
        .link(2)
        .get(latest + 2)
        .expect("sound")
        .expect("there");
    read.verify().expect("checksums that hold");
    assert_eq!(read.payload(), b"mine");
}

#[test]
fn who_has_placed_a_record_in_a_log_that_is_closed_has_appended_nothing() {
    let shelf = Shelf::of(1, 8 << 10);
    let (mut one, mut other) = (shelf.tail(1), shelf.tail(1));
    let entry = NewEntry::new("k", "mine");
    let mut late = Late(deed(|| {
        assert_eq!(other.close(), Ok(Ok((1, 0))));
    }));
    let refused = one.try_append(&entry, &Limits::default(), &shelf, &mut late);
    assert_eq!(refused, Err(Refused::Full(Full::Reopening)));
    assert_eq!(shelf.part(1).frontier(), Ok(0));
}
