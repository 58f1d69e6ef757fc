//! For unit tests: a context in memory, and who writes it into its files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use ledger_shm::control::State;
use ledger_shm::entry::Limits;
use ledger_shm::error::Full;
use ledger_shm::file::FileName;
use ledger_shm::object::Name;
use ledger_shm::{Clock, Control, NewEntry, Parts, Segment, Tail};
use tempfile::TempDir;

use super::by_hand::files_in;
use super::disk::Disk;
use super::file_system::FileSystem;
use super::keeper::Keeper;
use super::synced_file::Syncer;
use super::{KernelFileSystem, Marks};
use crate::objects::{Objects, epoch, tail};
use crate::options::Options;

const FILE_LEN: usize = 1 << 20;
const FIRST_SPARE: u64 = 2;
const NEXT_PART: u64 = 9;

/// Keeps nothing while it is full, and has nobody know what it keeps while it is held.
#[derive(Debug, Default)]
pub(super) struct Governed {
    pub(super) is_full: AtomicBool,
    gate: Mutex<Gate>,
    is_changed: Condvar,
}

#[derive(Debug, Default)]
struct Gate {
    is_held: bool,
    /// Who wants to know what it keeps.
    waiting: usize,
}

impl Governed {
    /// Holds it until that is dropped.
    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        self.change(|gate| gate.is_held = true);
        Hold(Arc::clone(self))
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().expect("nobody panics with it")
    }

    fn change(&self, change: impl FnOnce(&mut Gate)) {
        change(&mut self.gate());
        self.is_changed.notify_all();
    }

    fn wait_while(&self, is_so: impl Fn(&Gate) -> bool) {
        let waited = self.is_changed.wait_while(self.gate(), |gate| is_so(gate));
        drop(waited.expect("nobody panics with it"));
    }
}

pub(super) struct Hold(Arc<Governed>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.change(|gate| gate.is_held = false);
    }
}

impl Hold {
    /// Until somebody wants to know what it keeps.
    pub(super) fn until_asked(&self) {
        self.0.wait_while(|gate| gate.waiting == 0);
    }
}

impl FileSystem for Governed {
    fn create(&self, path: &Path) -> io::Result<File> {
        match self.is_full.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => KernelFileSystem.create(path),
        }
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.change(|gate| gate.waiting += 1);
        self.wait_while(|gate| gate.is_held);
        self.change(|gate| gate.waiting -= 1);
        match self.is_full.load(Ordering::Acquire) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => file.sync_data(),
        }
    }
}

/// The parts that can follow.
struct Spares(Vec<Arc<Segment>>);

impl Parts for Spares {
    fn mapped(&self, part: u64) -> Option<Arc<Segment>> {
        self.0.iter().find(|of| of.part() == part).cloned()
    }

    fn spare(&self, _: usize) -> Result<Arc<Segment>, Full> {
        let spare = self.0.iter().find(|part| part.is_spare());
        spare.cloned().ok_or(Full::NoSpare)
    }
}

/// No time passes.
struct NoTime;

impl Clock for NoTime {
    fn now_ns(&mut self) -> u64 {
        1
    }
}

/// A context in memory, and who writes it into its files.
pub(super) struct Stage {
    pub(super) memory: Objects,
    pub(super) disk: Arc<Governed>,
    control: Control,
    pub(super) tail: Tail,
    marks: Arc<Marks>,
    pub(super) keeper: Keeper,
    spares: Spares,
    archive: TempDir,
}

impl Stage {
    pub(super) fn new() -> Stage {
        Stage::with(1, 16 << 10)
    }

    /// With a first part that begins with this seq and has so many bytes.
    pub(super) fn with(first_seq: u64, len: usize) -> Stage {
        let (memory, archive) = (Objects::new(), tempfile::tempdir().expect("a directory"));
        let control = memory.context(1, Some(epoch(1)), State::Open);
        let tail = tail(memory.part_of(1, 1, first_seq, len));
        let spares = FIRST_SPARE..NEXT_PART;
        let spares = spares.map(|number| Arc::new(memory.part(1, number, 0)));
        let spares = Spares(spares.collect());
        let (disk, marks) = Default::default();
        let keeper = keeper(&memory, &archive, &disk, &marks, FILE_LEN);
        Stage {
            memory,
            disk,
            control,
            tail,
            marks,
            keeper,
            spares,
            archive,
        }
    }

    /// As the next daemon finds it, after one that has ended by itself.
    pub(super) fn restart(&mut self) {
        self.restart_with(FILE_LEN);
    }

    /// As that, with files that are finished when they have so many bytes.
    pub(super) fn restart_with(&mut self, file_len: usize) {
        self.marks = Arc::default();
        self.keeper = keeper(
            &self.memory,
            &self.archive,
            &self.disk,
            &self.marks,
            file_len,
        );
    }

    /// Has the log go on in another part, once it was closed before this seq.
    pub(super) fn go_on(&mut self, first_seq: u64) {
        let next = self.memory.part(1, NEXT_PART, first_seq);
        self.tail.segment().set_successor(NEXT_PART);
        self.tail = tail(next);
    }

    pub(super) fn append(&mut self, count: usize) {
        self.append_all(count, b"payload");
    }

    /// So many entries, of this payload each.
    pub(super) fn append_all(&mut self, count: usize, payload: &[u8]) {
        for _ in 0..count {
            let entry = NewEntry::new("key", payload);
            let limits = Limits::default();
            let appended = self
                .tail
                .try_append(&entry, &limits, &self.spares, &mut NoTime);
            appended.expect("there is room");
        }
    }

    /// An entry that cannot be read: its slot is spoilt.
    pub(super) fn append_spoilt(&mut self) {
        self.append(1);
        let segment = self.tail.segment();
        let part = Name::Part(epoch(1), segment.part()).path_in(&self.memory.instance);
        let part = File::options().write(true).open(part);
        let index = self.tail.next_seq() - 1 - segment.base_seq();
        let at = segment.geometry().index_offset as u64 + index * 8;
        part.expect("ours")
            .write_all_at(&[7; 8], at)
            .expect("it is there");
    }

    /// Of a daemon that writes it behind.
    pub(super) fn options(&self) -> Options {
        let mut options = self.memory.options.clone();
        options.file_system = Arc::clone(&self.disk) as _;
        options
    }

    /// Where the files of all contexts are.
    pub(super) fn archive_dir(&self) -> PathBuf {
        self.archive.path().to_owned()
    }

    /// Where its files are.
    pub(super) fn dir(&self) -> PathBuf {
        self.archive.path().join(epoch(1).to_string())
    }

    /// What is in it, by name.
    pub(super) fn files(&self) -> Vec<String> {
        files_in(&self.dir())
    }

    pub(super) fn path(&self, name: FileName) -> PathBuf {
        self.dir().join(name.to_string())
    }

    pub(super) fn file(&self, name: FileName) -> File {
        File::open(self.path(name)).expect("it is there")
    }

    /// Up to where others are told that it is archived, durable and finished.
    pub(super) fn told(&self) -> (u64, u64, u64) {
        let finished_seq = self.marks.finished_seq();
        (self.archived_seq(), self.durable_seq(), finished_seq)
    }

    pub(super) fn archived_seq(&self) -> u64 {
        self.control.archived_seq()
    }

    pub(super) fn durable_seq(&self) -> u64 {
        self.control.durable_seq()
    }
}

fn keeper(
    memory: &Objects,
    archive: &TempDir,
    disk: &Arc<Governed>,
    marks: &Arc<Marks>,
    file_len: usize,
) -> Keeper {
    let place = (archive.path(), &Disk::new(Arc::clone(disk) as _));
    let syncer = Syncer::start().expect("threads");
    Keeper::new(
        &memory.instance,
        epoch(1),
        place,
        Arc::clone(marks),
        file_len,
        syncer,
    )
}

pub(super) fn names<const N: usize>(names: [FileName; N]) -> [String; N] {
    names.map(|name| name.to_string())
}
