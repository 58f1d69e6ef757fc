//! A whole file, of which targets exchange some bytes: with checksums that hold again where
//! asked for, so that what lies behind them is reached.

use std::mem::offset_of;
use std::ops::Range;
use std::sync::LazyLock;

use ledger_shm::control::{Facts, Sizes};
use ledger_shm::entry::Limits;
use ledger_shm::file::{Head, SectionPlan, SnapshotWriter};
use ledger_shm::format::{
    FILE_TRAILER_LEN, FileHeader, FileTrailer, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader,
};
use ledger_shm::merkle::Frontier;
use ledger_shm::object::Epoch;
use ledger_shm::record::crc32c;
use ledger_shm::{Appended, Entry, NewEntry};
use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// Entries of the whole one.
pub const ENTRIES: u64 = 40;

/// The whole file, and where its records are in it.
struct Whole {
    bytes: Vec<u8>,
    records: Vec<Range<usize>>,
}

static WHOLE: LazyLock<Whole> = LazyLock::new(|| {
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
    let bytes = writer.finish().expect("memory").target;
    let mut end = stated(
        &bytes,
        trailer_at(&bytes) + offset_of!(FileTrailer, index_offset),
    );
    // The last one ends where the index begins.
    let mut places: Vec<Range<usize>> = Vec::new();
    for record in records.iter().rev() {
        let start = end - record.len().next_multiple_of(RECORD_ALIGN);
        assert_eq!(
            bytes[start..][..record.len()],
            record[..],
            "it lies elsewhere"
        );
        places.push(start..end);
        end = start;
    }
    places.reverse();
    Whole {
        bytes,
        records: places,
    }
});

fn trailer_at(bytes: &[u8]) -> usize {
    bytes.len().saturating_sub(FILE_TRAILER_LEN)
}

/// A word of eight bytes there.
fn stated(bytes: &[u8], at: usize) -> usize {
    let word = bytes[at..at + 8].try_into().expect("eight");
    u64::from_le_bytes(word) as usize
}

/// Has every checksum hold that lies where it does in the whole one, of whatever it is over.
fn repair(bytes: &mut [u8]) {
    for place in &WHOLE.records {
        if let Some(record) = bytes.get_mut(place.clone()) {
            repair_record(record);
        }
    }
    if let Some(head) = bytes.get_mut(..WHOLE.records[0].start) {
        let at = offset_of!(FileHeader, header_crc);
        head[at..at + 4].fill(0);
        let crc = crc32c(head);
        put(head, at, crc);
    }
    let at = trailer_at(bytes);
    if bytes.len() < at + FILE_TRAILER_LEN {
        return;
    }
    let index_at = stated(bytes, at + offset_of!(FileTrailer, index_offset));
    if let Some(tables) = bytes.get(index_at..at) {
        let crc = crc32c(tables);
        put(bytes, at + offset_of!(FileTrailer, tables_crc), crc);
    }
    let crc_at = at + offset_of!(FileTrailer, trailer_crc);
    put(bytes, crc_at, crc32c(&bytes[at..crc_at]));
}

fn repair_record(record: &mut [u8]) {
    let len_at = offset_of!(RecordHeader, body_len);
    let len = record[len_at..len_at + 4].try_into().expect("four");
    let body_end = RECORD_HEADER_LEN + u32::from_le_bytes(len) as usize;
    if let Some(body) = record.get(RECORD_HEADER_LEN..body_end) {
        let crc = crc32c(body);
        put(record, offset_of!(RecordHeader, body_crc), crc);
    }
    let crc_at = offset_of!(RecordHeader, header_crc);
    put(record, crc_at, crc32c(&record[..crc_at]));
}

fn put(bytes: &mut [u8], at: usize, crc: u32) {
    bytes[at..at + 4].copy_from_slice(&crc.to_le_bytes());
}

/// What is done to it.
#[derive(Arbitrary, Debug)]
pub struct Damage {
    changes: Vec<(u16, u8)>,
    len: u16,
    is_repaired: bool,
}

impl Damage {
    /// The file with this done to it.
    pub fn done(&self) -> Vec<u8> {
        let mut bytes = WHOLE.bytes.clone();
        for (at, value) in &self.changes {
            let at = usize::from(*at) % bytes.len();
            bytes[at] = *value;
        }
        if self.len > 0 {
            bytes.truncate(usize::from(self.len));
        }
        if self.is_repaired {
            repair(&mut bytes);
        }
        bytes
    }
}
