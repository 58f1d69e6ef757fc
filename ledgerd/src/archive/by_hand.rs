//! For unit tests: files of a context made by hand.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use ledger_shm::Appended;
use ledger_shm::control::Facts;
use ledger_shm::entry::{Entry, Limits, NewEntry};
use ledger_shm::file::{FileName, FileWriter, Head};
use ledger_shm::merkle::Frontier;
use tempfile::TempDir;

use super::KernelFileSystem;
use super::disk::Disk;
use super::home::Home;
use crate::objects::{epoch, facts};

/// A directory that is there, and goes with this.
pub(super) fn a_home() -> (TempDir, Home) {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::new(Arc::new(KernelFileSystem));
    let home = Home::new(dir.path().join(epoch(1).to_string()), disk);
    std::fs::create_dir(&home.dir).expect("ours");
    (dir, home)
}

/// A file that only its owner can use, as all of them.
pub(super) fn put(home: &Home, name: FileName, bytes: impl AsRef<[u8]>) {
    let mut options = File::options();
    options.mode(0o600).create(true).truncate(true).write(true);
    let file = options.open(home.path(name)).expect("ours");
    file.write_all_at(bytes.as_ref(), 0).expect("room");
}

/// What is in it, by name.
pub(super) fn names(home: &Home) -> Vec<String> {
    files_in(&home.dir)
}

pub(super) fn head(name: &str, before: Frontier) -> Head {
    let facts = Facts {
        name: name.into(),
        ..facts(1)
    };
    Head {
        facts,
        base_lamport: before.count(),
        before,
        begun_at_ns: 2,
        snapshot: None,
    }
}

/// A file behind these entries, with so many more, all of this time.
fn writer(name: &str, before: &Frontier, count: u64, at_ns: u64) -> FileWriter<Vec<u8>> {
    let mut writer = FileWriter::begin(Vec::new(), &head(name, before.clone())).expect("memory");
    for seq in (before.count() + 1..).take(count as usize) {
        let appended = Appended {
            seq,
            lamport: seq,
            appended_at_ns: at_ns,
        };
        let record = NewEntry::new("key", b"payload").record(&appended, &Limits::default());
        let record = record.expect("within all limits");
        let entry = Entry::from_bytes(&record).expect("just made");
        writer.push(&entry).expect("memory");
    }
    writer
}

pub(super) fn open(name: &str, before: &Frontier, count: u64) -> Vec<u8> {
    writer(name, before, count, 1).into_target()
}

/// A file that has its end, and the tree with it.
pub(super) fn finished(
    name: &str,
    before: &Frontier,
    count: u64,
    is_complete: bool,
) -> (Vec<u8>, Frontier) {
    let finished = writer(name, before, count, 1).finish(is_complete);
    let finished = finished.expect("memory");
    (finished.target, finished.tree)
}

/// Ten entries of this time in a file behind these; all entries then.
pub(super) fn put_ten(home: &Home, name: &str, before: &Frontier, at_ns: u64) -> Frontier {
    let finished = writer(name, before, 10, at_ns).finish(false);
    let finished = finished.expect("memory");
    put(
        home,
        FileName::Finished(before.count() + 1),
        finished.target,
    );
    finished.tree
}

pub(super) fn none() -> Frontier {
    Frontier::default()
}

/// What is in a directory, by name; nothing if it is not there.
pub(super) fn files_in(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let names = entries.map(|entry| entry.expect("ours").file_name());
    let mut names: Vec<_> = names
        .map(|name| name.into_string().expect("ASCII"))
        .collect();
    names.sort();
    names
}
