use super::*;
use crate::entry::Entry;
use crate::file::Damage;
use crate::file::tests::{head, record};
use crate::file::verify;

/// A snapshot whose files have so many entries.
fn snapshot(first_seq: u64, counts: &[u64]) -> Vec<u8> {
    let plan = SectionPlan::of_counts(first_seq, counts);
    let mut writer = SnapshotWriter::begin(Vec::new(), &head(first_seq), &plan).expect("memory");
    for seq in first_seq..first_seq + counts.iter().sum::<u64>() {
        let record = record(seq, seq as usize % 40);
        let entry = Entry::from_bytes(&record).expect("just made");
        writer.push(&entry).expect("memory");
    }
    writer.finish().expect("memory").target
}

/// Seqs and the root of what these bytes are.
fn read(bytes: &[u8]) -> Result<(Vec<u64>, crate::merkle::Hash), SnapshotError> {
    let mut reader = SnapshotReader::new(bytes);
    let mut seqs = Vec::new();
    while reader.next_section()?.is_some() {
        reader.read_section(|entry, padded| {
            assert!(padded.starts_with(entry.record_bytes()));
            seqs.push(entry.seq());
            Ok(())
        })?;
    }
    Ok((seqs, reader.tree().expect("a file was read").root()))
}

#[test]
fn a_snapshot_comes_back_whatever_its_files_are() {
    let (_, root) = read(&snapshot(1, &[40])).expect("whole");
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
    for counts in [&[0][..], &[33], &[16, 1]] {
        let mut plan = SectionPlan::new(1);
        for seq in 1..=counts.iter().sum::<u64>() {
            plan.add(record(seq, seq as usize % 40).len());
        }
        if let [_] = counts {
            assert_eq!(plan.counts(), counts);
            assert_eq!(plan.total_len(name_len), snapshot(1, counts).len() as u64);
        }
    }
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
    // The end of another snapshot of the same length.
    let other = snapshot(1, &[3, 2, 4]);
    let mixed = [&bytes[..two], &other[two.min(other.len())..]].concat();
    assert!(read(&mixed).is_err());
}

#[test]
fn what_is_wrong_has_a_name() {
    assert!(matches!(read(b""), Err(SnapshotError::NotOne { .. })));
    assert!(matches!(
        read(b"PK\x03\x04 something else"),
        Err(SnapshotError::NotOne { .. })
    ));
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
