//! Lines become a snapshot, and a snapshot lines: for tests, and for fuzzers.

use ledger_shm::file::SnapshotReader;

use super::Spooled;
use crate::cli::Failure;
use crate::commands::print;

/// The snapshot that lines become.
///
/// # Errors
///
/// What an import says to them.
pub fn snapshot(lines: &[u8]) -> Result<Vec<u8>, String> {
    let spooled = Spooled::read(lines).map_err(|failure| match failure {
        Failure::Said(_, why) => why,
        other => panic!("{other:?}"),
    })?;
    let snapshot = spooled.write("loan-7".to_owned(), Vec::new());
    Ok(snapshot.expect("memory"))
}

/// The entries of a snapshot, as lines again.
///
/// # Panics
///
/// If it is none.
pub fn lines_of(snapshot: &[u8]) -> String {
    let mut reader = SnapshotReader::new(snapshot);
    let mut lines = String::new();
    while reader.next_section().expect("a snapshot").is_some() {
        let read = reader.read_section(|entry, _| {
            lines += &serde_json::to_string(&print::Line::of(entry)).expect("text");
            lines.push('\n');
            Ok(())
        });
        read.expect("a snapshot");
    }
    lines
}
