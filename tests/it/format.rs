//! docs/FORMAT.md says what the code does.

use std::mem::{offset_of, size_of};

use ledger_client::wire::{Hello, WIRE_VERSION};
use ledger_shm::control::State;
use ledger_shm::format::{
    ARCHIVE_FORMAT, BellHeader, CONTROL_MAGIC, ControlHeader, FILE_MAGIC, FINISHED_MAGIC,
    FORMAT_VERSION, FileHeader, FileTrailer, RecordHeader, RosterEntry, SEGMENT_MAGIC,
    STATE_ARCHIVED, STATE_DROPPED, STATE_IDLE, STATE_LOADING, STATE_OPEN, STATE_QUARANTINED,
    SegmentHeader,
};
use ledger_shm::object::{Epoch, Instance, Name};
use ledger_shm::slot::{Extent, Slot};

const DOCUMENT: &str = include_str!("../../docs/FORMAT.md");

/// The text under a heading.
fn section(heading: &str) -> &'static str {
    DOCUMENT
        .split("\n## ")
        .find(|section| section.starts_with(heading))
        .unwrap_or_else(|| panic!("no section {heading}"))
}

/// Offset, size and name of every field in the table under a heading.
fn documented(heading: &str) -> Vec<(usize, usize, String)> {
    section(heading)
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let (offset, size) = (cells.next()?.parse().ok()?, cells.next()?.parse().ok()?);
            let name = cells.next()?.trim_matches('`').to_owned();
            Some((offset, size, name))
        })
        .collect()
}

macro_rules! fields {
    ($header:ty: $($field:ident),* $(,)?) => {{
        fn size_of_field<T, F>(_: fn(&T) -> &F) -> usize {
            size_of::<F>()
        }
        vec![$((
            offset_of!($header, $field),
            size_of_field::<$header, _>(|header| &header.$field),
            stringify!($field).to_owned(),
        )),*]
    }};
}

fn compare(heading: &str, code: &[(usize, usize, String)], len: usize) {
    assert_eq!(documented(heading), code, "{heading}");
    let mut end = 0;
    for (offset, size, name) in code {
        assert_eq!(*offset, end, "{heading}: a gap before {name}");
        end = offset + size;
    }
    assert_eq!(end, len, "{heading}: every byte is in the table");
}

#[test]
fn the_tables_of_the_document_are_the_structures_of_the_code() {
    let segment = fields!(SegmentHeader: magic_word, version, archive_format, epoch, part,
        segment_len, index_offset, slot_capacity, data_offset, data_len, reserved_geometry,
        base_lamport_word, base_seq_word, successor_word, reserved_base, data_tail_word,
        reserved_tail);
    compare("Segment", &segment, size_of::<SegmentHeader>());
    let record = fields!(RecordHeader: body_len, body_crc, seq, appended_at_ns, lamport, key_hash,
        reserved, header_crc, reserved_end);
    compare("Record", &record, size_of::<RecordHeader>());
    let control = fields!(ControlHeader: magic_word, version, archive_format, epoch, created_at_ns,
        payload_len_max, metadata_len_max, name_len, foreign_writers, first_len, spare_len_min,
        spare_len_max, window_len, home, reserved_facts, state_word, next_part_word,
        first_part_word, generation_word, archived_seq_word, durable_seq_word, reserved_state,
        name, reserved_end);
    compare("Control object", &control, size_of::<ControlHeader>());
    let bell = fields!(BellHeader: parked_word, reserved_parked, count_word, reserved_count,
        relayed_word, reserved_relayed, unlisted_word, reserved_unlisted, roster);
    compare("Bell", &bell, size_of::<BellHeader>());
    let head = fields!(FileHeader: magic, version, archive_format, epoch, created_at_ns,
        payload_len_max, metadata_len_max, name_len, foreign_writers, first_len, spare_len_min,
        spare_len_max, window_len, begun_at_ns, snapshot_first_seq, snapshot_last_seq,
        section_count, base_lamport, first_seq,
        reserved_successor, reserved, header_crc, reserved_end);
    compare("File header", &head, size_of::<FileHeader>());
    let trailer = fields!(FileTrailer: count, index_offset, file_len, last_lamport, is_complete,
        tables_crc, first_seq, root, reserved, trailer_crc, reserved_end, magic);
    compare("File trailer", &trailer, size_of::<FileTrailer>());
    let entry = fields!(RosterEntry: client_word, next_seq_word, reserved);
    compare("Roster entry", &entry, size_of::<RosterEntry>());
}

#[test]
fn the_numbers_of_the_document_are_the_codes() {
    for (magic, text) in [
        (SEGMENT_MAGIC, r"`LEDGSEG\x01`"),
        (CONTROL_MAGIC, r"`LEDGCTL\x01`"),
        (FILE_MAGIC, r"`LEDGARC\x01`"),
        (FINISHED_MAGIC, r"`LEDGFIN\x01`"),
    ] {
        let bytes = magic.to_le_bytes();
        let escaped = format!("`{}`", bytes.escape_ascii());
        assert_eq!(escaped, text);
        assert!(DOCUMENT.contains(text), "{text}");
    }
    assert!(DOCUMENT.contains(&format!("The format version is {FORMAT_VERSION}.")));
    assert!(DOCUMENT.contains(&format!("a `u64`: {ARCHIVE_FORMAT:#x}.")));
}

/// The cells of the row under a heading that begins with these.
fn row(heading: &str, cells: &[&str]) -> Vec<&'static str> {
    let mut rows = section(heading).lines().filter_map(|line| {
        let row = line.strip_prefix('|')?.strip_suffix('|')?;
        let row: Vec<&str> = row.split('|').map(str::trim).collect();
        row.starts_with(cells).then_some(row)
    });
    rows.next().unwrap_or_else(|| panic!("no row {cells:?}"))
}

#[test]
fn the_slots_of_the_document_are_the_codes() {
    let entry = Slot::Entry(Extent {
        offset: 16 * 5,
        len: 900,
    });
    for (slot, name, low_bits) in [
        (Slot::Empty, "EMPTY", 0),
        (entry, "ENTRY", 5 << 32 | 900),
        (Slot::Seal(7), "SEAL", 7),
        (Slot::Closed, "CLOSED", 0),
    ] {
        let word = slot.encode();
        let row = row("Slot", &[&(word >> 62).to_string()]);
        let meaning = row.last().expect("a meaning");
        assert!(meaning.starts_with(name), "{slot:?}: {row:?}");
        assert_eq!(word & (u64::MAX >> 2), low_bits, "{slot:?}");
    }
}

#[test]
fn the_states_of_the_document_are_the_codes() {
    let row = row("Control object", &["128", "8", "`state_word`"]);
    let states = [
        (STATE_OPEN, State::Open),
        (STATE_IDLE, State::Idle),
        (STATE_QUARANTINED, State::Quarantined),
        (STATE_DROPPED, State::Dropped),
        (STATE_ARCHIVED, State::Archived),
        (STATE_LOADING, State::Loading),
    ]
    .map(|(word, state)| format!("{word} {}", state.as_str()));
    assert_eq!(row[3], states.join(", "));
}

#[test]
fn the_names_of_the_document_are_the_codes() {
    let instance = Instance::new(7, "loans").expect("a valid name");
    let epoch = Epoch([0xab; 16]);
    let digits = "ab".repeat(16);
    for (name, meaning) in [
        (Name::Lock, "locked by"),
        (Name::Control(epoch), "control object"),
        (Name::Part(epoch, 42), "one segment"),
    ] {
        let in_code = name.in_instance(&instance);
        let in_document = in_code
            .replace("-7-", "-<uid>-")
            .replace("loans", "<instance>")
            .replace(&digits, "<epoch>")
            .replace("42", "<part>");
        let row = row("Objects", &[&format!("`{in_document}`")]);
        assert!(row[1].starts_with(meaning), "{row:?}");
    }
}

#[test]
fn the_greeting_of_the_document_is_the_codes() {
    let numbers = [WIRE_VERSION, FORMAT_VERSION, ARCHIVE_FORMAT];
    let expected = [&b"LEDGWIRE"[..], &numbers.map(u32::to_le_bytes).concat()].concat();
    assert_eq!(Hello::OURS.encode().as_slice(), expected);
    assert!(DOCUMENT.contains("20 fixed bytes each:\n`LEDGWIRE`"));
}

/// The bytes of one entry, so that a change of any of them is noticed.
#[test]
fn a_record_has_the_bytes_that_every_release_writes() {
    let instance = crate::started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let metadata = [("name", "longer than eight")];
    let entry = ledger_client::NewEntry::new("key", b"payload").metadata(&metadata);
    let appended = appender.append(&entry).expect("room");
    let entry = context.get(1).expect("readable").expect("there");
    let record = entry.record_bytes();
    let (header, body) = record.split_at(48);
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    assert_eq!(&header[16..24], appended.appended_at_ns.to_le_bytes());
    // Everything but the clock and the checksum over it.
    let fixed = format!("{} {}", hex(&header[..16]), hex(&header[24..40]));
    assert_eq!(
        fixed,
        "40000000481726fa0100000000000000 01000000000000006d75a44000000000"
    );
    let archive = concat!(
        "7061796c6f6164",                     // payload
        "6c6f6e676572207468616e206569676874", // value
        "6e616d65ffffffff",                   // key of the pair, inside its reference
        "91000000e7ffffff",                   // value of the pair: 17 bytes, 25 back
        "d8ffffff07000000",                   // payload: 40 back, 7 bytes
        "6b6579ffffffffff",                   // key
        "e0ffffff01000000",                   // pairs: 32 back, one
    );
    assert_eq!(hex(body), archive);
}
