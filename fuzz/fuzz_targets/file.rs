//! A file of an archive, or a snapshot, of arbitrary bytes: whoever verifies, scans, maps
//! or streams it ends with entries or with an error. What it is made of is a whole one
//! with some of its bytes exchanged, and with checksums that hold again where asked for,
//! so that what lies behind them is reached.
#![no_main]

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use ledger_shm::control::{Facts, Sizes};
use ledger_shm::entry::Limits;
use ledger_shm::file::{Head, Scan, SectionPlan, SnapshotReader, SnapshotWriter, verify};
use ledger_shm::format::FILE_TRAILER_LEN;
use ledger_shm::merkle::Frontier;
use ledger_shm::object::{Epoch, Instance, MEMORY_DIR, Object};
use ledger_shm::read::Link;
use ledger_shm::record::crc32c;
use ledger_shm::segment::StoredNodes;
use ledger_shm::{Appended, Entry, NewEntry, Segment};
use libfuzzer_sys::fuzz_target;

const ENTRIES: u64 = 40;

/// One file for all runs, without a name: nothing is left behind.
static FILE: LazyLock<File> = LazyLock::new(|| {
    let path = Path::new(MEMORY_DIR).join(format!("ledger-fuzz-{}", std::process::id()));
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).mode(0o600);
    let file = file.open(&path).expect("room");
    std::fs::remove_file(path).expect("ours");
    file
});

static WHOLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let head = Head {
        facts: Facts {
            name: "loan-7".into(),
            epoch: Epoch([7; 16]),
            limits: Limits::default(),
            sizes: Sizes::default(),
            has_foreign_writers: false,
            created_at_ns: 17,
        },
        before: Frontier::default(),
        base_lamport: 0,
        begun_at_ns: 18,
        snapshot: None,
    };
    let records: Vec<Vec<u8>> = (1..=ENTRIES)
        .map(|seq| {
            let appended = Appended {
                seq,
                lamport: seq,
                appended_at_ns: seq,
            };
            let payload = vec![seq as u8; seq as usize];
            let entry = NewEntry::new("k", &payload).metadata(&[("a", "longer than eight")]);
            entry.record(&appended, &Limits::default()).expect("small")
        })
        .collect();
    let mut plan = SectionPlan::new(1);
    records.iter().for_each(|record| plan.add(record.len()));
    let mut writer = SnapshotWriter::begin(Vec::new(), &head, &plan).expect("memory");
    for record in &records {
        let entry = Entry::from_bytes(record).expect("just made");
        writer.push(&entry).expect("memory");
    }
    writer.finish().expect("memory").target
});

/// Has the trailer's checksum hold, and the head's.
fn repair(bytes: &mut [u8]) {
    const HEAD_CRC_AT: usize = 248;
    const TRAILER_CRC_AT: usize = 112;
    let Some(at) = bytes.len().checked_sub(FILE_TRAILER_LEN) else {
        return;
    };
    let crc = crc32c(&bytes[at..at + TRAILER_CRC_AT]);
    bytes[at + TRAILER_CRC_AT..][..4].copy_from_slice(&crc.to_le_bytes());
    // The name is as long as it is in the whole one, unless it was exchanged.
    if let Some(head) = bytes.get_mut(..272) {
        head[HEAD_CRC_AT..HEAD_CRC_AT + 4].fill(0);
        let crc = crc32c(head);
        head[HEAD_CRC_AT..HEAD_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    }
}

fuzz_target!(|input: (Vec<(u16, u8)>, u16, bool)| {
    let (changes, len, is_repaired) = input;
    let mut bytes = WHOLE.clone();
    for (at, value) in changes {
        let at = usize::from(at) % bytes.len();
        bytes[at] = value;
    }
    if len > 0 {
        bytes.truncate(usize::from(len));
    }
    if is_repaired {
        repair(&mut bytes);
    }
    let is_sound = verify(&bytes[..]).is_ok();
    if let Ok(scan) = Scan::of(&bytes[..]) {
        assert!(scan.valid_len() <= bytes.len() && scan.count() <= ENTRIES);
    }
    let mut reader = SnapshotReader::new(&bytes[..]);
    let mut read = || {
        while reader.next_section().ok()?.is_some() {
            reader.read_section(|_, _| Ok(())).ok()?;
        }
        Some(())
    };
    // A snapshot of one file is one if the file is.
    assert!(read().is_none() || is_sound);

    FILE.set_len(0).expect("ours");
    FILE.write_all_at(&bytes, 0).expect("memory");
    let file = FILE.try_clone().expect("a descriptor");
    let instance = Instance::own("fuzz").expect("valid");
    let object = Object::received(&instance, file.into()).expect("ours");
    let Ok((segment, head, _)) = Segment::map_file(&object) else {
        return;
    };
    let segment = Arc::new(segment);
    let base_seq = head.first_seq();
    for seq in (base_seq..).take(ENTRIES as usize + 2) {
        let link = Link {
            segment: Arc::clone(&segment),
            base_seq,
        };
        if let Ok(Ok(entry)) = link.get(seq) {
            std::hint::black_box(format!("{entry:?} {:?}", entry.verify()));
        }
    }
    if let Ok(Some(nodes)) = StoredNodes::of(&segment) {
        for index in 0..4 {
            std::hint::black_box(nodes.node(4, index));
        }
    }
});
