//! Snapshots that zstd has compressed and that are not as they were written any more.

use std::io::Read;
use std::path::Path;

use ledger_client::NewEntry;
use ledger_shm::file::{SnapshotError, SnapshotReader};
use ledger_tests::Instance;

use crate::started;

/// As `ledgerd snapshot verify` and `load` read it, which tell by its beginning whether
/// it is compressed: all bytes that it is.
fn read(bytes: &[u8], whole: &[Vec<u8>]) -> Result<Vec<u8>, SnapshotError> {
    let input: Box<dyn Read> = if bytes.starts_with(&ZSTD_MAGIC) {
        Box::new(zstd::Decoder::with_buffer(bytes).map_err(SnapshotError::Read)?)
    } else {
        Box::new(bytes)
    };
    let mut heard = Vec::new();
    let mut reader = SnapshotReader::new(Heard(input, &mut heard));
    let mut whole = whole.iter();
    while reader.next_section()?.is_some() {
        reader.read_section(|_, record| {
            // Whatever is wrong behind it: nobody is given another one.
            assert_eq!(Some(record), whole.next().map(Vec::as_slice));
            Ok(())
        })?;
    }
    drop(reader);
    Ok(heard)
}

/// First bytes of what zstd has compressed (RFC 8878, 3.1.1).
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();

/// Keeps what is read from another one.
struct Heard<'a>(Box<dyn Read + 'a>, &'a mut Vec<u8>);

impl Read for Heard<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = self.0.read(buffer)?;
        self.1.extend_from_slice(&buffer[..len]);
        Ok(len)
    }
}

/// The records of a snapshot, each with the zeros behind it.
fn records(mut plain: &[u8]) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    let mut reader = SnapshotReader::new(&mut plain);
    while reader.next_section().expect("whole").is_some() {
        let kept = reader.read_section(|_, record| {
            records.push(record.to_vec());
            Ok(())
        });
        kept.expect("whole");
    }
    records
}

/// Whether the program finds a snapshot of these bytes sound.
fn is_sound(instance: &Instance, bytes: &[u8]) -> bool {
    let path = instance.runtime_dir().join("changed");
    std::fs::write(&path, bytes).expect("ours");
    let output = instance.run(&["snapshot", "verify", text(&path)]);
    let code = output.status.code();
    assert!(matches!(code, Some(0 | 1)), "{output:?}");
    code == Some(0)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn every_bit_and_every_length_of_a_compressed_snapshot_is_the_same_or_damage() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    // Some of it compresses, and some does not.
    for payload in [
        &b"income: 4200, income: 4200"[..],
        &[0; 300],
        b"",
        b"\xff\x01",
    ] {
        let entry = NewEntry::new("facts", payload).metadata(&[("agent", "credit")]);
        appender.append(&entry).expect("room");
    }
    let [plain, small] = ["plain", "small"].map(|name| instance.runtime_dir().join(name));
    instance.printed(&["snapshot", "export", "log", "-o", text(&plain)]);
    instance.printed(&["snapshot", "export", "log", "-o", text(&small), "--zstd"]);
    let small = std::fs::read(small).expect("just written");
    let whole = records(&std::fs::read(plain).expect("just written"));
    assert_eq!(whole.len(), 4);
    let plain = read(&small, &whole).expect("whole");
    assert!(small.len() < plain.len());

    // The program agrees about some of each kind.
    let (mut same, mut damaged) = (0, 0);
    let mut agrees = |bytes: &[u8], is_same: bool| {
        let count = if is_same { &mut same } else { &mut damaged };
        *count += 1;
        if (*count - 1) % 500 < 2 {
            assert_eq!(is_sound(&instance, bytes), is_same);
        }
    };
    for bit in 0..small.len() * 8 {
        let mut changed = small.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        let found = read(&changed, &whole);
        // Not every bit of what is compressed means something.
        assert!(
            found.as_ref().is_ok_and(|found| *found == plain) || found.is_err(),
            "bit {bit}"
        );
        agrees(&changed, found.is_ok());
    }
    for len in 0..small.len() {
        let found = read(&small[..len], &whole);
        assert!(found.is_err(), "{len} bytes");
        agrees(&small[..len], false);
    }
    let behind = [&small[..], &[0]].concat();
    assert!(read(&behind, &whole).is_err(), "one byte more");
    agrees(&behind, false);
    assert!(
        damaged > small.len() * 4,
        "{same} are the same, {damaged} are not"
    );
}
