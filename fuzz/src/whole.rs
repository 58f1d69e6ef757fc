//! Whole snapshots, of which targets exchange some bytes: with checksums that hold again
//! where asked for, so that what lies behind them is reached.

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

/// What the context is called.
const NAME: &str = "loan-7";
/// Entries of the longest one.
pub const ENTRIES: u64 = 60;
/// Of each whole one, how many entries its files have, and the key of all of them: others
/// of the same entries, fewer and more of them, and some of other entries.
const WHOLES: [(&[u64], &str); 4] = [
    (&[40], "k"),
    (&[20], "k"),
    (&[20, 30, 10], "k"),
    (&[40], "other"),
];

/// A whole one, and where its files are in it.
struct Whole {
    bytes: Vec<u8>,
    files: Vec<Place>,
}

/// Where a file is, and where its records are in it.
struct Place {
    file: Range<usize>,
    records: Vec<Range<usize>>,
}

static WHOLE: LazyLock<Vec<Whole>> =
    LazyLock::new(|| WHOLES.map(|(counts, key)| whole(counts, key)).into());

fn whole(counts: &[u64], key: &str) -> Whole {
    let head = Head {
        facts: Facts {
            name: NAME.into(),
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
    let records: Vec<Vec<u8>> = (1..=counts.iter().sum())
        .map(|seq| {
            let appended = Appended {
                seq,
                lamport: seq,
                appended_at_ns: seq,
            };
            let payload = vec![seq as u8; seq as usize];
            let entry = NewEntry::new(key, &payload).metadata(&[("a", "longer than eight")]);
            entry.record(&appended, &Limits::default()).expect("small")
        })
        .collect();
    let mut plan = SectionPlan::new(1);
    records.iter().for_each(|record| plan.add(record.len()));
    let plan = plan.divided(counts);
    let mut writer = SnapshotWriter::begin(Vec::new(), &head, &plan).expect("memory");
    for record in &records {
        let entry = Entry::from_bytes(record).expect("just made");
        writer.push(&entry).expect("memory");
    }
    let bytes = writer.finish().expect("memory").target;
    let (mut files, mut start, mut first) = (Vec::new(), 0, 0);
    for count in counts {
        let records = &records[first..][..*count as usize];
        let mut alone = SectionPlan::new(first as u64 + 1);
        records.iter().for_each(|record| alone.add(record.len()));
        let end = start + alone.total_len(NAME.len()) as usize;
        files.push(place(&bytes, start..end, records));
        (start, first) = (end, first + records.len());
    }
    assert_eq!(start, bytes.len(), "it ends elsewhere");
    Whole { bytes, files }
}

fn place(bytes: &[u8], file: Range<usize>, records: &[Vec<u8>]) -> Place {
    let bytes = &bytes[file.clone()];
    let index_at = trailer_at(bytes) + offset_of!(FileTrailer, index_offset);
    let mut end = stated(bytes, index_at);
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
    Place {
        file,
        records: places,
    }
}

fn trailer_at(bytes: &[u8]) -> usize {
    bytes.len().saturating_sub(FILE_TRAILER_LEN)
}

/// A word of eight bytes there.
fn stated(bytes: &[u8], at: usize) -> usize {
    let word = bytes[at..at + 8].try_into().expect("eight");
    u64::from_le_bytes(word) as usize
}

/// Has every checksum hold that lies where it does in the whole one, of whatever it is over.
fn repair(bytes: &mut [u8], files: &[Place]) {
    for place in files {
        let end = place.file.end.min(bytes.len());
        if let Some(file) = bytes.get_mut(place.file.start..end) {
            repair_file(file, &place.records);
        }
    }
}

fn repair_file(bytes: &mut [u8], records: &[Range<usize>]) {
    for place in records {
        if let Some(record) = bytes.get_mut(place.clone()) {
            repair_record(record);
        }
    }
    if let Some(head) = bytes.get_mut(..records[0].start) {
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
    which: u8,
}

impl Damage {
    fn of(&self) -> &'static Whole {
        &WHOLE[usize::from(self.which) % WHOLE.len()]
    }

    /// Whether it is done to a snapshot of one file, which that file is.
    pub fn is_of_one_file(&self) -> bool {
        self.of().files.len() == 1
    }

    /// The snapshot with this done to it.
    pub fn done(&self) -> Vec<u8> {
        let Whole { bytes, files } = self.of();
        let mut bytes = bytes.clone();
        for (at, value) in &self.changes {
            let at = usize::from(*at) % bytes.len();
            bytes[at] = *value;
        }
        if self.len > 0 {
            bytes.truncate(usize::from(self.len));
        }
        if self.is_repaired {
            repair(&mut bytes, files);
        }
        bytes
    }
}
