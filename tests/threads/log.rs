//! What the threads share: the parts of a log, its bell and its control object, each mapped
//! once.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use ledger_shm::append::{Parts, Tail};
use ledger_shm::bell::Bell;
use ledger_shm::control::{Control, Facts, Sizes};
use ledger_shm::entry::Limits;
use ledger_shm::error::Full;
use ledger_shm::fork::Generation;
use ledger_shm::object::{Epoch, Instance, Name, Object, unlink};
use ledger_shm::read::Link;
use ledger_shm::segment::{Geometry, Segment};

/// Parts that a seal can name.
const SPARES: u64 = 48;
/// Parts that the daemon goes on in after it closed the log.
const SUCCESSORS: u64 = 3;
const PART_LEN: usize = 16 << 10;
const EPOCH: Epoch = Epoch([7; 16]);

pub struct Log {
    pub bell: Arc<Bell>,
    pub control: Control,
    /// By number, from 1.
    parts: Vec<Arc<Segment>>,
}

impl Log {
    pub fn create() -> Log {
        let uid = std::fs::metadata("/proc/self").expect("ourselves").uid();
        let name = format!("threads_{}", std::process::id());
        let instance = Instance::new(uid, &name).expect("a name");
        let facts = Facts {
            name: "threads".into(),
            epoch: EPOCH,
            limits: Limits::default(),
            has_foreign_writers: false,
            sizes: Sizes::default(),
            created_at_ns: 0,
        };
        let control = Control::create(&instance, facts, None, 1).expect("a control object");
        unlink(&instance, Name::Control(EPOCH)).expect("its name");
        let part = |part| Arc::new(create_part(&instance, part));
        let log = Log {
            bell: Arc::new(Bell::create().expect("a bell").1),
            control,
            parts: (1..=SPARES + SUCCESSORS).map(part).collect(),
        };
        log.control.set_first_part(1);
        log.control.finish();
        log
    }

    pub fn part(&self, part: u64) -> Arc<Segment> {
        Arc::clone(&self.parts[part as usize - 1])
    }

    /// A part where it stands in the log.
    pub fn link(&self, part: u64) -> Link {
        let segment = self.part(part);
        let base_seq = segment.base_seq();
        Link { segment, base_seq }
    }

    pub fn tail(&self, part: u64) -> Tail {
        let generation = Generation::current().expect("the same for all");
        Tail::new(self.part(part), generation).expect("a part of the log")
    }

    /// Those that only the daemon names.
    pub fn successors(&self) -> impl Iterator<Item = u64> {
        SPARES + 1..=SPARES + SUCCESSORS
    }
}

impl Parts for Log {
    fn mapped(&self, part: u64) -> Option<Arc<Segment>> {
        Some(self.part(part))
    }

    fn spare(&self, record_len: usize) -> Result<Arc<Segment>, Full> {
        let mut spares = self.parts[..SPARES as usize].iter();
        let fits =
            |segment: &&Arc<Segment>| segment.is_spare() && segment.geometry().fits(record_len);
        spares.find(fits).cloned().ok_or(Full::NoSpare)
    }
}

/// Its name is gone before anybody could leave it behind.
fn create_part(instance: &Instance, part: u64) -> Segment {
    let geometry = Geometry::of_len(PART_LEN);
    let name = Name::Part(EPOCH, part);
    let object = Object::create(instance, name, geometry.segment_len).expect("memory");
    unlink(instance, name).expect("its name");
    let base_seq = u64::from(part == 1);
    Segment::format(&object, EPOCH.0, part, geometry, base_seq, 0).expect("a part")
}
