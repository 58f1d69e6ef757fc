//! The tree over a log, as it follows from what its files store.

use std::cell::Cell;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::Arc;

use ledger_shm::control::{Facts, Sizes};
use ledger_shm::entry::Limits;
use ledger_shm::file::{FileWriter, Finished, Head, LogNodes};
use ledger_shm::merkle::{Frontier, Hash, Nodes, leaf_hash, node, tree_of};
use ledger_shm::object::{Epoch, Instance, MapError, Object};
use ledger_shm::read::Link;
use ledger_shm::segment::StoredNodes;
use ledger_shm::{Appended, Entry, NewEntry, Segment};

use crate::shelf::{EPOCH, Shelf};

fn record(seq: u64) -> Vec<u8> {
    let appended = Appended {
        seq,
        lamport: seq,
        appended_at_ns: seq,
    };
    let record = NewEntry::new("k", "a payload").record(&appended, &Limits::default());
    record.expect("within all limits")
}

/// The tree over so many entries, and what is stored of it.
fn tree(count: u64) -> Frontier {
    let mut tree = Frontier::default();
    for seq in 1..=count {
        let record = record(seq);
        let entry = Entry::from_bytes(&record).expect("just made");
        tree.push(leaf_hash(&entry), |_| {});
    }
    tree
}

/// A finished file of so many entries behind others.
fn file(before: u64, count: u64) -> Finished<Vec<u8>> {
    let head = Head {
        facts: Facts {
            name: "loan-7".into(),
            epoch: Epoch(EPOCH),
            limits: Limits::default(),
            sizes: Sizes::default(),
            has_foreign_writers: false,
            created_at_ns: 1,
        },
        before: tree(before),
        base_lamport: before,
        begun_at_ns: 2,
        snapshot: None,
    };
    let mut writer = FileWriter::begin(Vec::new(), &head).expect("memory");
    for seq in before + 1..=before + count {
        let record = record(seq);
        let entry = Entry::from_bytes(&record).expect("just made");
        writer.push(&entry).expect("memory");
    }
    let finished = writer.finish(false).expect("memory");
    assert_eq!(finished.tree, tree(before + count));
    finished
}

fn map(bytes: &[u8], base_seq: u64) -> Link {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("room");
    let nobody_elses = Permissions::from_mode(0o600);
    file.set_permissions(nobody_elses).expect("ours");
    let uid = file.metadata().expect("ours").uid();
    let instance = Instance::new(uid, "log").expect("a name");
    let object = Object::received(&instance, file.into()).expect("of nobody else");
    let (segment, ..) = Segment::map_file(&object).expect("whole");
    Link {
        segment: Arc::new(segment),
        base_seq,
    }
}

#[test]
fn trees_of_a_log_follow_from_its_files_and_what_was_before_them() {
    let parts = [(0, 20), (20, 13), (33, 50)]
        .map(|(before, count)| map(&file(before, count).target, before + 1));
    // Of which the first ones may be gone.
    for (first_part, before) in [(0, 0), (1, 20), (2, 33)] {
        let located = Cell::new(0);
        let locate = |seq| -> Result<Link, MapError> {
            located.set(located.get() + 1);
            let mut rest = parts[first_part..].iter().rev();
            let part = rest.find(|part| part.base_seq <= seq);
            Ok(part.expect("it is not gone").clone())
        };
        let mut nodes = LogNodes::new(tree(before), locate);
        for count in before..=83 {
            let found = tree_of(&mut nodes, count).expect("whole");
            assert_eq!(found, tree(count), "{count} entries");
        }
        // What lies in one file is found without looking for that again.
        located.set(0);
        for index in 60..83 {
            node(&mut nodes, 0, index, 83).expect("whole");
        }
        assert!(located.get() <= 1, "{} times", located.get());
    }
}

#[test]
fn what_is_stored_is_not_hashed_again() {
    let first = map(&file(0, 20).target, 1);
    let mut bytes = file(20, 50).target;
    // Entry 25, of a chunk that begins in the file before.
    let records_at = file(20, 0).trailer.index_offset as usize;
    bytes[records_at + 4 * record(1).len().next_multiple_of(16)] ^= 1;
    let second = map(&bytes, 21);
    let locate =
        |seq| -> Result<Link, MapError> { Ok(if seq <= 20 { &first } else { &second }.clone()) };
    let mut nodes = LogNodes::new(Frontier::default(), locate);
    assert!(nodes.leaf(24).is_err(), "it is damaged");
    for count in 32..=70 {
        let found = tree_of(&mut nodes, count).expect("no need to read it");
        assert_eq!(found, tree(count), "{count} entries");
    }
}

#[test]
fn an_entry_that_is_not_where_it_should_be_is_damage() {
    let part = map(&file(0, 5).target, 1);
    let mut nodes = LogNodes::new(Frontier::default(), |_| Ok::<_, MapError>(part.clone()));
    assert!(nodes.leaf(4).is_ok());
    match nodes.leaf(5) {
        Err(MapError::Corrupt(corrupt)) => assert_eq!(corrupt.found, 6),
        other => panic!("{other:?}"),
    }
}

fn root(level: u32, index: u64) -> Hash {
    let mut subtree = Frontier::default();
    for seq in (index << level) + 1..=(index + 1) << level {
        let record = record(seq);
        let entry = Entry::from_bytes(&record).expect("just made");
        subtree.push(leaf_hash(&entry), |_| {});
    }
    subtree.root()
}

fn stored(bytes: &[u8], base_seq: u64) -> Option<StoredNodes> {
    StoredNodes::of(&map(bytes, base_seq).segment).expect("a trailer")
}

#[test]
fn a_file_stores_what_became_complete_in_it() {
    // It may begin with the last entry of a chunk.
    for before in [15, 16, 20] {
        let file = file(before, 50);
        let seqs = before + 1..=before + 50;
        let nodes = stored(&file.target, before + 1).expect("a file");
        for level in 0..8 {
            for index in 0..6 {
                let end = (index + 1) << level;
                let expected = (level >= 4 && seqs.contains(&end)).then(|| root(level, index));
                assert_eq!(nodes.node(level, index), expected, "{level} {index}");
            }
        }
        for first_seq in 1..=80 {
            let is_whole = seqs.contains(&first_seq) && seqs.contains(&(first_seq + 15));
            let chunk = (is_whole && first_seq % 16 == 1).then(|| root(4, first_seq / 16));
            assert_eq!(nodes.chunk(first_seq), chunk, "{first_seq} behind {before}");
        }
        assert_eq!(nodes.head().expect("whole").first_seq(), before + 1);
        assert_eq!(nodes.trailer(), &file.trailer);
    }
}

#[test]
fn damaged_nodes_are_as_good_as_none_and_memory_has_none() {
    let mut file = file(20, 50);
    let (nodes_at, count) = file.trailer.nodes();
    assert_eq!(count, 6, "three chunks, two above, and one above these");
    file.target[nodes_at as usize] ^= 1;
    assert!(stored(&file.target, 21).is_none());
    let memory = Shelf::of(1, 8 << 10).part(1);
    assert!(StoredNodes::of(&memory).expect("a part").is_none());
}
