//! A segment whose index and data are arbitrary bytes: every read ends with an
//! entry, with nothing, or with an error.
#![no_main]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, LazyLock};

use ledger_shm::fork::Generation;
use ledger_shm::format::SEGMENT_HEADER_LEN;
use ledger_shm::object::{Epoch, Instance, Name, Object, unlink};
use ledger_shm::read::{Cursor, Filter, Found, Link};
use ledger_shm::segment::Geometry;
use ledger_shm::{Segment, Tail};
use libfuzzer_sys::fuzz_target;

struct Target {
    file: File,
    segment: Arc<Segment>,
}

/// One object for all runs, without a name: nothing is left behind.
static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let instance = Instance::own(&format!("fuzz_{}", std::process::id())).expect("valid");
    let name = Name::Part(Epoch([1; 16]), 1);
    let geometry = Geometry::of_len(16 << 10);
    let object = Object::create(&instance, name, geometry.segment_len).expect("room");
    let segment = Segment::format(&object, [1; 16], 1, geometry, 1, 0).expect("fresh");
    let file = OpenOptions::new().write(true).open(name.path_in(&instance));
    let file = file.expect("ours");
    unlink(&instance, name).expect("ours");
    Target {
        file,
        segment: Arc::new(segment),
    }
});

fuzz_target!(|input: (&[u8], u64)| {
    let (bytes, seq) = input;
    let Target { file, segment } = &*TARGET;
    let mut memory = vec![0; segment.geometry().segment_len - SEGMENT_HEADER_LEN];
    let len = bytes.len().min(memory.len());
    memory[..len].copy_from_slice(&bytes[..len]);
    file.write_all_at(&memory, SEGMENT_HEADER_LEN as u64)
        .expect("inside");

    let link = Link {
        segment: Arc::clone(segment),
        base_seq: 1,
    };
    if let Ok(Ok(entry)) = link.clone().get(seq) {
        std::hint::black_box(format!("{entry:?}"));
    }
    std::hint::black_box(link.peek(seq).ok());
    let mut cursor = Cursor::new(link, 1);
    let mut filter = Filter::default();
    filter.set_key("k");
    while let Ok(Found::Entry) = cursor.step(&filter) {
        std::hint::black_box(
            cursor
                .entry()
                .map(|entry| entry.map(|entry| entry.seq()))
                .ok(),
        );
    }
    if let Ok(frontier) = segment.frontier() {
        std::hint::black_box(segment.lamport_before(frontier).ok());
        let made_in = Generation::current().expect("a page");
        std::hint::black_box(Tail::new(Arc::clone(segment), made_in).ok());
    }
});
