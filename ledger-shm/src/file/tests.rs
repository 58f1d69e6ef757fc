//! Whole files: what comes back, and what is said of damaged ones.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::*;
use crate::control::{Facts, Sizes};
use crate::entry::{Entry, Limits};
use crate::error::Corrupt;
use crate::format::{RECORD_ALIGN, RECORD_HEADER_LEN};
use crate::merkle::{Frontier, peak_count};
use crate::object::{Epoch, MapError, Object};
use crate::read::Link;
use crate::slot::{Extent, Slot};
use crate::{Appended, NewEntry, Segment};

/// A tree over so many entries, whatever they are.
fn before(count: u64) -> Frontier {
    let peaks = (0..peak_count(count)).map(|index| [index as u8; 32]);
    Frontier::new(count, peaks.collect()).expect("as many as that takes")
}

pub(super) fn head(first_seq: u64) -> Head {
    Head {
        facts: Facts {
            name: "loan-7".into(),
            epoch: Epoch([7; 16]),
            limits: Limits::default(),
            sizes: Sizes {
                first_len: Some(0),
                spare_len_min: Some(1 << 20),
                spare_len_max: Some(0),
                window_len: Some(0),
            },
            has_foreign_writers: false,
            created_at_ns: 17,
        },
        before: before(first_seq - 1),
        base_lamport: first_seq - 1,
        begun_at_ns: 18,
        snapshot: None,
    }
}

/// A record with a payload of this length, that is all of its number.
pub(super) fn record(seq: u64, payload_len: usize) -> Vec<u8> {
    let payload = vec![seq as u8; payload_len];
    let entry = NewEntry::new("key", &payload).metadata(&[("agent", "a longer value")]);
    let appended = Appended {
        seq,
        lamport: seq,
        appended_at_ns: 1000 + seq,
    };
    let record = entry.record(&appended, &Limits::default());
    record.expect("within all limits")
}

pub(super) fn file(first_seq: u64, count: u64) -> Vec<u8> {
    let mut writer = FileWriter::begin(Vec::new(), &head(first_seq)).expect("memory");
    for seq in first_seq..first_seq + count {
        push(&mut writer, &record(seq, seq as usize % 40));
    }
    assert_eq!(
        (writer.count(), writer.next_seq()),
        (count, first_seq + count)
    );
    writer.finish(true).expect("memory").target
}

fn push(writer: &mut FileWriter<Vec<u8>>, record: &[u8]) {
    let entry = Entry::from_bytes(record).expect("just made");
    writer.push(&entry).expect("memory");
}

#[test]
fn a_finished_file_verifies_and_says_what_it_holds() {
    for count in [0, 1, 9] {
        let bytes = file(5, count);
        let (found, trailer) = verify(&bytes[..]).expect("as it was written");
        assert_eq!(found, head(5));
        assert_eq!(trailer.count, count);
        assert!(trailer.is_complete);
        assert_eq!(trailer.last_lamport, 4 + count);
        let file = Object::unnamed().expect("memory");
        file.write_all_at(&bytes, 0).expect("memory");
        let again = verify(&file).expect("the same from a file");
        assert_eq!(again, (found, trailer));
    }
}

#[test]
fn every_bit_and_every_length_counts() {
    let whole = file(1, 4);
    let mut bytes = whole.clone();
    for bit in 0..whole.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(verify(&bytes[..]).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    for len in 0..whole.len() {
        assert!(verify(&whole[..len]).is_err(), "{len} bytes");
    }
    bytes.push(0);
    assert!(verify(&bytes[..]).is_err(), "one byte more");
    // The end of another file, and records in another order.
    let other = file(1, 5);
    bytes = whole.clone();
    bytes.truncate(whole.len() - 128);
    bytes.extend(&other[other.len() - 128..]);
    assert!(verify(&bytes[..]).is_err(), "another trailer");
}

/// What a reader of a mapped file gets of each entry, and that it is right.
fn read_mapped(file: &File, seqs: std::ops::Range<u64>) -> Result<Vec<u64>, MapError> {
    let object = Object::own(file.try_clone()?)?;
    let (segment, head, _) = Segment::map_file(&object)?;
    let link = Link {
        segment: Arc::new(segment),
        base_seq: head.first_seq(),
    };
    let is_read = |seq: &u64| {
        let Ok(Ok(entry)) = link.clone().get(*seq) else {
            return false;
        };
        let is_sound = entry.verify().is_ok();
        let as_written = record(*seq, *seq as usize % 40);
        assert!(!is_sound || entry.record_bytes() == as_written, "{seq}");
        is_sound
    };
    Ok(seqs.filter(is_read).collect())
}

#[test]
fn whoever_reads_a_damaged_file_gets_what_was_written_or_an_error() {
    let whole = file(3, 5);
    let file = Object::unnamed().expect("memory");
    file.write_all_at(&whole, 0).expect("memory");
    let all = read_mapped(&file, 3..8).expect("whole");
    assert_eq!(all.len(), 5);
    let records =
        head(3).data_offset()..Trailer::read(&whole[..]).expect("whole").index_offset as usize;
    for bit in 0..whole.len() * 8 {
        let at = bit / 8;
        let flipped = [whole[at] ^ 1 << (bit % 8)];
        file.write_all_at(&flipped, at as u64).expect("memory");
        let read = read_mapped(&file, 3..8);
        if records.contains(&at) {
            let read = read.expect("its head and its trailer are whole");
            assert!(
                read.len() >= 4,
                "bit {bit} costs more than one entry: {read:?}"
            );
        }
        file.write_all_at(&whole[at..=at], at as u64)
            .expect("memory");
    }
}

#[test]
fn a_slot_that_names_what_is_no_record_of_the_file_is_damage() {
    let mut bytes = file(3, 5);
    let index_at = Trailer::read(&bytes[..]).expect("whole").index_offset as usize;
    let data_len = index_at - head(3).data_offset();
    let beyond = Extent {
        offset: data_len - RECORD_ALIGN,
        len: RECORD_HEADER_LEN,
    };
    let word = Slot::Entry(beyond).encode().to_le_bytes();
    bytes[index_at..][..8].copy_from_slice(&word);
    let file = Object::unnamed().expect("memory");
    file.write_all_at(&bytes, 0).expect("memory");
    let (segment, ..) = Segment::map_file(&Object::own(file).expect("memory")).expect("ends");
    let link = Link {
        segment: Arc::new(segment),
        base_seq: 3,
    };
    let end = data_len - RECORD_ALIGN + RECORD_HEADER_LEN;
    let damage = Corrupt::new("record end", end as u64, data_len as u64);
    assert_eq!(link.clone().get(3).err(), Some(damage));
    assert!(link.get(4).expect("sound").is_ok());
}

#[test]
fn a_file_that_was_cut_off_is_unfinished() {
    let whole = file(3, 5);
    let file = Object::unnamed().expect("memory");
    file.write_all_at(&whole, 0).expect("memory");
    for len in (0..whole.len()).rev() {
        file.set_len(len as u64).expect("memory");
        let read = read_mapped(&file, 3..8);
        assert!(matches!(read, Err(MapError::Unfinished)), "{len}: {read:?}");
    }
}

#[test]
fn what_is_torn_ends_with_its_last_whole_record() {
    let head = head(1);
    let mut writer = FileWriter::begin(Vec::new(), &head).expect("memory");
    let mut ends = vec![(writer.len(), 0)];
    for seq in 1..=5 {
        push(&mut writer, &record(seq, 3 * seq as usize));
        ends.push((writer.len(), seq));
    }
    let bytes = std::mem::take(writer.target_mut());
    for len in 0..=bytes.len() {
        let scan = Scan::of(&bytes[..len]);
        if len < head.data_offset() {
            assert!(matches!(scan, Err(MapError::Unfinished)), "{len} bytes");
            continue;
        }
        let (valid_len, last_seq) = *ends
            .iter()
            .rfind(|(end, _)| *end <= len)
            .expect("the head is there");
        let scan = scan.expect("a head");
        assert_eq!((scan.valid_len(), scan.last_seq()), (valid_len, last_seq));
    }
    // It can be gone on with, and comes out as if nothing had happened.
    let scan = Scan::of(&bytes[..bytes.len() - 1]).expect("a head");
    let mut writer = FileWriter::resume(bytes[..scan.valid_len()].to_vec(), scan);
    push(&mut writer, &record(5, 15));
    let resumed = writer.finish(false).expect("memory").target;
    let (_, trailer) = verify(&resumed[..]).expect("whole again");
    assert_eq!((trailer.count, trailer.is_complete), (5, false));
    assert_eq!(resumed[..bytes.len()], bytes);
}

#[test]
fn damage_is_named_by_the_first_entry_that_it_hit() {
    let mut bytes = file(3, 6);
    let before = head(3).data_offset() + 3 * record(3, 3).len();
    let at = bytes[before..]
        .windows(8)
        .position(|word| word == 6_u64.to_le_bytes())
        .expect("the fourth record's seq");
    bytes[before + at] ^= 4;
    match verify(&bytes[..]) {
        Err(Damage::Entry { seq, .. }) => assert_eq!(seq, 6),
        other => panic!("{other:?}"),
    }
    assert!(Entry::from_bytes(&record(1, 1)).is_ok());
}
