use super::*;
use crate::entry::{Entry, LAMPORT_RECEIVED_MAX, Limits};
use crate::file::tests::{head, record};
use crate::file::{Damage, FileWriter, Head, verify};
use crate::format::{KEY_LEN_MAX, RECORD_ALIGN, RecordHeader};
use crate::merkle::{CHUNK_COUNT, Frontier, Hash, leaf_hash};
use crate::record::{self, crc32c};
use crate::{Appended, NewEntry};

/// A plan for the entries that [`snapshot`] has.
fn plan(first_seq: u64, counts: &[u64]) -> SectionPlan {
    let mut plan = SectionPlan::new(first_seq);
    for seq in first_seq..first_seq + counts.iter().sum::<u64>() {
        plan.add(record(seq, seq as usize % 40).len());
    }
    plan.divided(counts)
}

/// A snapshot whose files have so many entries.
fn snapshot(first_seq: u64, counts: &[u64]) -> Vec<u8> {
    snapshot_of(&head(first_seq), counts, |seq| seq as usize % 40)
}

fn snapshot_of(head: &Head, counts: &[u64], payload_len: impl Fn(u64) -> usize) -> Vec<u8> {
    let plan = plan(head.first_seq(), counts);
    let mut writer = SnapshotWriter::begin(Vec::new(), head, &plan).expect("memory");
    let end = head.first_seq() + counts.iter().sum::<u64>();
    for seq in head.first_seq()..end {
        assert_eq!((writer.next_seq(), writer.last_lamport()), (seq, seq - 1));
        let record = record(seq, payload_len(seq));
        let entry = Entry::from_bytes(&record).expect("just made");
        writer.push(&entry).expect("memory");
    }
    assert_eq!((writer.next_seq(), writer.last_lamport()), (end, end - 1));
    writer.finish().expect("memory").target
}

/// Seqs and the root of what these bytes are.
fn read(bytes: &[u8]) -> Result<(Vec<u64>, Hash), SnapshotError> {
    let mut reader = SnapshotReader::new(bytes);
    assert!(reader.tree().is_none());
    let mut seqs = Vec::new();
    while reader.next_section()?.is_some() {
        let (tables, trailer) = reader.read_section(|entry, padded| {
            assert!(padded.starts_with(entry.record_bytes()));
            seqs.push(entry.seq());
            Ok(())
        })?;
        assert_eq!(crc32c(&tables), trailer.tables_crc);
    }
    Ok((seqs, reader.tree().expect("a file was read").root()))
}

#[test]
fn a_snapshot_comes_back_whatever_its_files_are() {
    let mut tree = Frontier::default();
    for seq in 1..=40 {
        let record = record(seq, seq as usize % 40);
        let entry = Entry::from_bytes(&record).expect("just made");
        tree.push(leaf_hash(&entry), |_| {});
    }
    let root = tree.root();
    for counts in [&[40][..], &[1, 39], &[17, 16, 7]] {
        let bytes = snapshot(1, counts);
        let (seqs, of_these) = read(&bytes).expect("whole");
        assert!(seqs.into_iter().eq(1..=40), "{counts:?}");
        assert_eq!(of_these, root, "{counts:?}");
    }
    let (seqs, _) = read(&snapshot(1, &[0])).expect("an empty one is one");
    assert!(seqs.is_empty());
    let (seqs, _) = read(&snapshot(900, &[3, 4])).expect("one that begins later");
    assert!(seqs.into_iter().eq(900..=906));
}

#[test]
fn its_length_is_known_before_it_is_written() {
    let name_len = head(1).facts.name.len();
    for counts in [&[0][..], &[33], &[16, 1], &[20, 30, 4]] {
        let total_len = plan(1, counts).total_len(name_len);
        assert_eq!(total_len, snapshot(1, counts).len() as u64, "{counts:?}");
    }
}

#[test]
fn a_file_of_a_snapshot_has_so_many_bytes_of_records_and_so_many_entries() {
    let most = 1 << 30;
    for (lens, counts) in [
        (&[most][..], &[1][..]),
        (&[most - 15], &[1]),
        (&[most - 16, 16], &[2]),
        (&[most - 16, 1], &[2]),
        (&[most - 16, 17, most - 32], &[1, 2]),
        (&[most - 16, 17, most - 31], &[1, 1, 1]),
        // One entry may have more.
        (&[2 * most, 1, 2 * most], &[1, 1, 1]),
    ] {
        let mut plan = SectionPlan::new(1);
        lens.iter().for_each(|len| plan.add(*len));
        assert_eq!(plan.counts(), counts, "{lens:?}");
    }
    let mut plan = SectionPlan::new(1);
    (0..2 * FILE_COUNT_MAX + 1).for_each(|_| plan.add(1));
    assert_eq!(plan.counts(), [FILE_COUNT_MAX, FILE_COUNT_MAX, 1]);
}

#[test]
fn a_chunk_at_once_makes_the_same_snapshot() {
    let counts = [16, 20, 40, 4];
    let plan = plan(1, &counts);
    let mut writer = SnapshotWriter::begin(Vec::new(), &head(1), &plan).expect("memory");
    let mut chunks = Vec::new();
    while writer.next_seq() <= 80 {
        let begin = writer.next_seq();
        let len = if writer.takes_chunk() { CHUNK_COUNT } else { 1 };
        let records: Vec<_> = (begin..begin + len)
            .map(|seq| record(seq, seq as usize % 40))
            .collect();
        let entries: Vec<_> = records
            .iter()
            .map(|record| Entry::from_bytes(record).expect("just made"))
            .collect();
        match &entries[..] {
            [entry] => writer.push(entry).expect("memory"),
            chunk => {
                let mut tree = Frontier::default();
                let leaves = chunk.iter().map(leaf_hash);
                leaves.for_each(|leaf| tree.push(leaf, |_| {}));
                writer.push_chunk(chunk, tree.root()).expect("memory");
                chunks.push(begin);
            }
        }
        assert_eq!(
            (writer.next_seq(), writer.last_lamport()),
            (begin + len, begin + len - 1)
        );
    }
    // Those that lie in one file.
    assert_eq!(chunks, [1, 17, 49]);
    assert!(!writer.takes_chunk());
    let bytes = writer.finish().expect("memory").target;
    assert_eq!(bytes, snapshot(1, &counts));
}

#[test]
fn every_bit_and_every_length_of_a_snapshot_counts() {
    let mut bytes = snapshot(1, &[2, 1]);
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    for len in 0..bytes.len() {
        assert!(read(&bytes[..len]).is_err(), "{len} bytes");
    }
    bytes.push(0);
    assert!(read(&bytes).is_err(), "one byte more");
}

#[test]
fn files_of_a_snapshot_cannot_be_exchanged_or_left_out() {
    let bytes = snapshot(1, &[3, 3, 3]);
    let whole = |counts: &[u64]| snapshot(1, counts).len();
    let (one, two) = (whole(&[3]), whole(&[3, 3]));
    assert!(verify(&bytes[..one]).is_ok(), "each is a finished file");
    let swapped = [&bytes[..one], &bytes[two..], &bytes[one..two]].concat();
    assert!(matches!(read(&swapped), Err(SnapshotError::Damaged(_))));
    let without = [&bytes[..one], &bytes[two..]].concat();
    assert!(matches!(read(&without), Err(SnapshotError::Damaged(_))));
    assert!(matches!(
        read(&bytes[one..]),
        Err(SnapshotError::Part { .. })
    ));
    assert!(matches!(
        read(&bytes[..two]),
        Err(SnapshotError::Short { last_seq: 6 })
    ));
    // What follows is of another snapshot, and all else as it should be.
    let damage = |other: &[u8]| {
        assert_eq!(other.len(), bytes.len());
        let mixed = [&bytes[..one], &other[one..]].concat();
        match read(&mixed) {
            Err(SnapshotError::Damaged(damage)) => damage.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let mut renamed = head(1);
    renamed.facts.name = "loan-8".to_owned();
    let of_another_context = snapshot_of(&renamed, &[3, 3, 3], |seq| seq as usize % 40);
    // The record is filled up to as many bytes.
    let of_other_entries = snapshot_of(&head(1), &[3, 3, 3], |seq| match seq {
        1 => 0,
        seq => seq as usize % 40,
    });
    for other in [of_another_context, of_other_entries] {
        let damage = damage(&other);
        assert!(damage.contains("file that follows"), "{damage}");
    }
    let longer = snapshot(1, &[3, 3, 4]);
    let mixed = [&bytes[..one], &longer[one..]].concat();
    let error = read(&mixed).expect_err("another end").to_string();
    assert!(error.contains("last seq of a snapshot"), "{error}");
}

#[test]
fn only_an_empty_snapshot_has_a_file_without_entries() {
    let one = snapshot(1, &[3, 3]);
    let (first, trailer) = {
        let plan = plan(1, &[3]);
        let len = plan.total_len(head(1).facts.name.len()) as usize;
        let mut head = Head::decode(&one).expect("a head");
        head.snapshot = None;
        let mut writer = FileWriter::begin(Vec::new(), &head).expect("memory");
        for seq in 1..=3 {
            let record = record(seq, seq as usize % 40);
            let entry = Entry::from_bytes(&record).expect("just made");
            writer.push(&entry).expect("memory");
        }
        (&one[..len], writer.finish(false).expect("memory"))
    };
    let mut empty = head(1);
    empty.before = trailer.tree;
    empty.base_lamport = 3;
    empty.snapshot = Some(Span {
        first_seq: 1,
        last_seq: 6,
        section_count: 0,
    });
    let file = FileWriter::begin(Vec::new(), &empty).expect("memory");
    let empty = file.finish(false).expect("memory").target;
    let error = read(&[first, &empty].concat()).expect_err("no entries");
    let error = error.to_string();
    assert!(error.contains("entries of a file"), "{error}");
}

#[test]
fn what_is_cut_off_says_after_which_entry() {
    let counts = [3, 2];
    let bytes = snapshot(1, &counts);
    // Where the records end.
    let mut ends = Vec::new();
    let mut at = 0;
    let mut seq = 1;
    for count in counts {
        at += Head::decode(&bytes[at..]).expect("a head").data_offset();
        for _ in 0..count {
            at += record(seq, seq as usize % 40)
                .len()
                .next_multiple_of(RECORD_ALIGN);
            ends.push((at, seq));
            seq += 1;
        }
        at = plan(1, &[3]).total_len(head(1).facts.name.len()) as usize;
    }
    for len in 8..bytes.len() {
        let whole = ends.iter().rfind(|(end, _)| *end <= len);
        let expected = whole.map_or(0, |(_, seq)| *seq);
        match read(&bytes[..len]) {
            Err(SnapshotError::Short { last_seq }) => assert_eq!(last_seq, expected, "{len}"),
            other => panic!("{len} bytes: {other:?}"),
        }
    }
}

/// A snapshot of one entry: this one.
fn snapshot_of_one(base_lamport: u64, record: &[u8]) -> Result<(Vec<u64>, Hash), SnapshotError> {
    let mut head = head(5);
    head.base_lamport = base_lamport;
    let plan = SectionPlan::new(5).divided(&[1]);
    let mut writer = SnapshotWriter::begin(Vec::new(), &head, &plan).expect("memory");
    let entry = Entry::from_bytes(record).expect("its checksums are right");
    writer.push(&entry).expect("memory");
    read(&writer.finish().expect("memory").target)
}

#[test]
fn an_entry_that_no_ledger_can_have_is_refused() {
    let refused = |what: &str, base_lamport, record: &[u8]| {
        let error = snapshot_of_one(base_lamport, record)
            .expect_err(what)
            .to_string();
        assert!(error.contains(what), "{error}");
    };
    let with_lamport = |lamport| {
        let appended = Appended {
            seq: 5,
            lamport,
            appended_at_ns: 1,
        };
        let record = NewEntry::new("key", "payload").record(&appended, &Limits::default());
        record.expect("within all limits")
    };
    // Each entry before may have received the largest there is.
    let most = LAMPORT_RECEIVED_MAX - 1;
    assert!(snapshot_of_one(most + 4, &with_lamport(most + 5)).is_ok());
    refused("record lamport", most + 4, &with_lamport(most + 6));
    refused("record lamport", most + 5, &with_lamport(most + 6));

    let sound = with_lamport(5);
    let mut header = RecordHeader::decode(sound.first_chunk().expect("a header"));
    header.key_hash ^= 1;
    let mut record = sound.clone();
    header.write_to(record.first_chunk_mut().expect("a header"));
    refused("hash of a key", 4, &record);

    for (len, is_possible) in [
        (0, false),
        (1, true),
        (KEY_LEN_MAX, true),
        (KEY_LEN_MAX + 1, false),
    ] {
        let record = record_of(&"k".repeat(len));
        match is_possible {
            true => assert!(snapshot_of_one(4, &record).is_ok(), "{len}"),
            false => refused("length of a key", 4, &record),
        }
    }
}

/// A record that no limits apply to.
fn record_of(key: &str) -> Vec<u8> {
    let body_len = record::body_len(0, key, &[]);
    let mut bytes = rkyv::util::AlignedVec::<RECORD_ALIGN>::new();
    bytes.resize(crate::format::RECORD_HEADER_LEN + body_len, 0);
    let body = &mut bytes[crate::format::RECORD_HEADER_LEN..];
    record::write_around(body, 0, key, &[]).expect("short strings");
    RecordHeader::write_unnumbered(&mut bytes, key, 1);
    RecordHeader::number(bytes.first_chunk_mut().expect("a header"), 5, 5);
    bytes.to_vec()
}

#[test]
fn what_is_wrong_has_a_name() {
    for (bytes, said) in [
        (&b""[..], "it is empty"),
        (
            b"PK\x03\x04 something else",
            "it begins with \"PK\\x03\\x04 something e\"",
        ),
    ] {
        let error = read(bytes).expect_err("no snapshot");
        assert!(matches!(error, SnapshotError::NotOne { .. }));
        assert!(error.to_string().contains(said), "{error}");
    }
    let mut bytes = snapshot(1, &[5]);
    bytes[8] = 9;
    let error = read(&bytes).expect_err("another version").to_string();
    assert!(error.contains("version 9"), "{error}");
    let mut bytes = snapshot(1, &[5]);
    bytes[..8].reverse();
    assert!(matches!(read(&bytes), Err(SnapshotError::NotOne { .. })));
    let mut bytes = snapshot(1, &[5]);
    let third = head(1).data_offset() + record(1, 1).len().next_multiple_of(16);
    bytes[third + 20] ^= 1;
    match read(&bytes) {
        Err(SnapshotError::Damaged(Damage::Entry { seq, .. })) => assert_eq!(seq, 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_says_of_what_it_is_a_part_if_that_can_be() {
    let span = |first_seq, last_seq, section_count| Span {
        first_seq,
        last_seq,
        section_count,
    };
    let most = FILE_COUNT_MAX;
    assert_eq!(Span::NONE.of_section(7), Ok(None));
    for (span, first_seq) in [
        (span(1, 9, 3), 7),
        (span(1, 9, 9), 1),
        (span(7, 6, 0), 7),
        (span(7, 9, 1), 7),
        (span(1, SEQ_MAX - 1, most), SEQ_MAX - most),
    ] {
        assert_eq!(span.of_section(first_seq), Ok(Some(span)), "{span:?}");
    }
    for (span, first_seq) in [
        (span(0, 9, 3), 7),
        (span(8, 9, 3), 7),
        (span(1, 8, 3), 7),
        (span(7, 5, 0), 7),
        (span(1, SEQ_MAX, 3), 7),
        (span(1, 2 * most, most + 1), 1),
    ] {
        let damage = span.of_section(first_seq).expect_err("impossible");
        assert_eq!(
            (damage.what, damage.found),
            ("entries of a snapshot", span.last_seq)
        );
    }
}
