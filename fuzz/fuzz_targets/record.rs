//! A record of arbitrary bytes: refused, or every part of it can be looked at.
//!
//! The fuzzer cannot guess checksums, so they are computed for it.
#![no_main]

use ledger_shm::Entry;
use ledger_shm::format::{RECORD_HEADER_LEN, RecordHeader};
use ledger_shm::record::{access_typed, crc32c};
use libfuzzer_sys::fuzz_target;

#[repr(align(16))]
struct Aligned([u8; 4096]);

fuzz_target!(|input: (u64, u64, &[u8])| {
    let (seq, lamport, body) = input;
    let mut memory = Aligned([0; 4096]);
    let len = body.len().min(memory.0.len() - RECORD_HEADER_LEN);
    let record = &mut memory.0[..RECORD_HEADER_LEN + len];
    let (header, target) = record
        .split_first_chunk_mut()
        .expect("longer than a header");
    target.copy_from_slice(&body[..len]);
    RecordHeader {
        body_len: len as u32,
        body_crc: crc32c(target),
        seq,
        appended_at_ns: 0,
        lamport,
        key_hash: 0,
        reserved: 0,
        header_crc: 0,
        reserved_end: 0,
    }
    .write_to(header);
    if let Ok(entry) = Entry::from_bytes(record) {
        assert_eq!((entry.seq(), entry.lamport()), (seq, lamport));
        std::hint::black_box((entry.key().len(), format!("{entry:?}")));
        for (key, value) in entry.metadata() {
            std::hint::black_box((key.chars().count(), value.chars().count()));
        }
        if let Ok(text) = access_typed::<ledger_shm::record::ArchivedPair>(entry.payload()) {
            std::hint::black_box(text.key.chars().count());
        }
    }
});
