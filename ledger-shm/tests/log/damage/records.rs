//! Records that nobody writes, and what of them is not looked at.

use std::mem::offset_of;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ledger_shm::format::{RECORD_HEADER_LEN, RecordHeader};
use ledger_shm::read::{Cursor, Filter, Found, Link};
use ledger_shm::slot::{Extent, Slot};
use ledger_shm::{Corrupt, NewEntry};

use crate::shelf::Shelf;

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

#[test]
fn what_changes_while_it_is_read_is_what_was_verified_or_damaged() {
    const OFTEN: usize = 10_000;
    let mut shelf = Shelf::of(1, 8 << 10);
    let mut tail = shelf.tail(1);
    let payload = [b'p'; 4000];
    shelf.append(&mut tail, &payload).expect("room");
    let segment = Arc::new(shelf.map_distrusted(1).expect("a part"));
    let base_seq = segment.base_seq();
    let link = Link { segment, base_seq };
    let at = shelf.record_at(1).start + RECORD_HEADER_LEN + 2000;
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let words = [
                u64::from_le_bytes(*b"others'!"),
                u64::from_le_bytes([b'p'; 8]),
            ];
            for word in words.iter().cycle() {
                shelf.write(1, at, *word);
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let (mut whole, mut damaged, mut others) = (0, 0, Vec::new());
        while (whole < OFTEN || damaged < OFTEN) && others.is_empty() {
            match link.clone().get(1) {
                Ok(Ok(entry)) if entry.payload() == payload => whole += 1,
                Err(corrupt) if corrupt.what == "record body checksum" => damaged += 1,
                other => others.push(format!("{other:?}")),
            }
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(others.is_empty(), "after {whole} whole ones: {others:?}");
    });
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
