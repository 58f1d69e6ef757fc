//! A whole file, of which targets exchange some bytes: with checksums that hold again where
//! asked for, so that what lies behind them is reached.

use std::sync::LazyLock;

use ledger_shm::control::{Facts, Sizes};
use ledger_shm::entry::Limits;
use ledger_shm::file::{Head, SectionPlan, SnapshotWriter};
use ledger_shm::format::FILE_TRAILER_LEN;
use ledger_shm::merkle::Frontier;
use ledger_shm::object::Epoch;
use ledger_shm::record::crc32c;
use ledger_shm::{Appended, Entry, NewEntry};
use libfuzzer_sys::arbitrary::{self, Arbitrary};

/// Entries of the whole one.
pub const ENTRIES: u64 = 40;

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
        let mut bytes = WHOLE.clone();
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
