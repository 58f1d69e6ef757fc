//! Parts of one log.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ledger_shm::append::Tail;
use ledger_shm::entry::Limits;
use ledger_shm::fork::Generation;
use ledger_shm::object::{Epoch, Instance, MapError, Name, Object, unlink};
use ledger_shm::read::Link;
use ledger_shm::segment::Geometry;
use ledger_shm::{Appended, Clock, Full, NewEntry, Parts, Refused, Segment};

pub(crate) const EPOCH: [u8; 16] = *b"of all the parts";

/// As old as each entry is.
pub(crate) const NOW_NS: u64 = 1_000;

/// A clock that somebody holds.
pub(crate) struct Held;

impl Clock for Held {
    fn now_ns(&mut self) -> u64 {
        NOW_NS
    }
}

/// The first part of a log, and spares for it.
pub(crate) struct Shelf {
    /// By number, from 1.
    parts: Vec<(Object, Arc<Segment>)>,
    /// Parts up to this one are mapped by who appends.
    pub(crate) mapped: AtomicU64,
}

impl Shelf {
    /// So many parts of such a length.
    pub(crate) fn of(count: u64, len: usize) -> Shelf {
        let geometry = Geometry::of_len(len);
        let parts = (1..=count).map(|part| part_of(part, geometry)).collect();
        Shelf {
            parts,
            mapped: AtomicU64::new(count),
        }
    }

    pub(crate) fn part(&self, part: u64) -> Arc<Segment> {
        Arc::clone(&self.parts[part as usize - 1].1)
    }

    /// A part where it stands in the log.
    pub(crate) fn link(&self, part: u64) -> Link {
        let segment = self.part(part);
        let base_seq = segment.base_seq();
        Link { segment, base_seq }
    }

    pub(crate) fn tail(&self, part: u64) -> Tail {
        let generation = Generation::current().expect("a page");
        Tail::new(self.part(part), generation).expect("a part of the log")
    }

    /// Maps a part once more, for reading.
    pub(crate) fn map(&self, part: u64) -> Result<Segment, MapError> {
        Segment::map(self.object(part), false)
    }

    /// The same, from now on as what others may write, too.
    pub(crate) fn map_distrusted(&mut self, part: u64) -> Result<Segment, MapError> {
        self.parts[part as usize - 1].0.distrust();
        self.map(part)
    }

    pub(crate) fn object(&self, part: u64) -> &Object {
        &self.parts[part as usize - 1].0
    }

    /// Writes a word, as anybody could who may append.
    pub(crate) fn write(&self, part: u64, offset: usize, word: u64) {
        let file = self.file(part);
        let written = file.write_all_at(&word.to_le_bytes(), offset as u64);
        written.expect("our memory");
    }

    pub(crate) fn word(&self, part: u64, offset: usize) -> u64 {
        let mut word = [0; 8];
        let read = self.file(part).read_exact_at(&mut word, offset as u64);
        read.expect("our memory");
        u64::from_le_bytes(word)
    }

    /// Where the word of a slot lies, in every part.
    pub(crate) fn slot_at(&self, index: usize) -> usize {
        self.part(1).geometry().index_offset + index * 8
    }

    /// Where the record of an entry of the first part begins, and ends.
    pub(crate) fn record_at(&self, seq: u64) -> Range<usize> {
        let part = self.part(1);
        let extent = part.extent(seq as usize - 1).expect("sound");
        let extent = extent.expect("an entry");
        let at = part.geometry().data_offset + extent.offset;
        at..at + extent.len
    }

    fn file(&self, part: u64) -> File {
        let object = self.object(part).as_fd();
        File::from(object.try_clone_to_owned().expect("a descriptor"))
    }

    pub(crate) fn append(&self, tail: &mut Tail, payload: &[u8]) -> Result<Appended, Refused> {
        self.append_entry(tail, &NewEntry::new("k", payload))
    }

    pub(crate) fn append_entry(
        &self,
        tail: &mut Tail,
        entry: &NewEntry<'_>,
    ) -> Result<Appended, Refused> {
        tail.try_append(entry, &Limits::default(), self, &mut Held)
    }

    /// Appends until it is refused; how many entries that were, and why.
    pub(crate) fn fill(&self, tail: &mut Tail, payload: &[u8]) -> (u64, Refused) {
        let mut count = 0;
        loop {
            match self.append(tail, payload) {
                Ok(_) => count += 1,
                Err(refused) => return (count, refused),
            }
        }
    }
}

impl Parts for Shelf {
    fn mapped(&self, part: u64) -> Option<Arc<Segment>> {
        (part <= self.mapped.load(Ordering::Relaxed)).then(|| self.part(part))
    }

    fn spare(&self, record_len: usize) -> Result<Arc<Segment>, Full> {
        let mut spares = self.parts.iter().map(|(_, segment)| segment);
        let fits =
            |segment: &&Arc<Segment>| segment.is_spare() && segment.geometry().fits(record_len);
        spares.find(fits).cloned().ok_or(Full::NoSpare)
    }
}

/// Its name is gone before anybody could leave it behind.
fn part_of(part: u64, geometry: Geometry) -> (Object, Arc<Segment>) {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let uid = std::fs::metadata("/proc/self").expect("ourselves").uid();
    let made = MADE.fetch_add(1, Ordering::Relaxed);
    let instance = Instance::new(uid, &format!("log_{}_{made}", std::process::id()));
    let instance = instance.expect("a name");
    let name = Name::Part(Epoch(EPOCH), part);
    let object = Object::create(&instance, name, geometry.segment_len).expect("memory");
    unlink(&instance, name).expect("its name");
    let base_seq = u64::from(part == 1);
    let segment = Segment::format(&object, EPOCH, part, geometry, base_seq, 0).expect("a part");
    (object, Arc::new(segment))
}
