//! A file of an archive, or a snapshot, that is damaged: whoever verifies, scans, maps or
//! streams it ends with entries or with an error.
#![no_main]

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, LazyLock};

use ledger_fuzz::whole::{Damage, ENTRIES};
use ledger_shm::Segment;
use ledger_shm::file::{Scan, SnapshotReader, verify};
use ledger_shm::object::{Instance, MEMORY_DIR, Object};
use ledger_shm::read::Link;
use ledger_shm::segment::StoredNodes;
use libfuzzer_sys::fuzz_target;

/// One file for all runs, without a name: nothing is left behind.
static FILE: LazyLock<File> = LazyLock::new(|| {
    let path = Path::new(MEMORY_DIR).join(format!("ledger-fuzz-{}", std::process::id()));
    let mut options = File::options();
    let file = options.read(true).write(true).create_new(true).mode(0o600);
    let file = file.open(&path).expect("room");
    std::fs::remove_file(path).expect("ours");
    file
});

fuzz_target!(|damage: Damage| {
    let bytes = damage.done();
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
    assert!(read().is_none() || is_sound || !damage.is_of_one_file());

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
