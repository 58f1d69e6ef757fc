//! For unit tests: objects of an instance of its own, as a daemon or its death leaves them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ledger_shm::control::{Facts, Sizes, State};
use ledger_shm::entry::Limits;
use ledger_shm::fork::Generation;
use ledger_shm::object::{self, Epoch, Instance, Name};
use ledger_shm::segment::Geometry;
use ledger_shm::{Control, Segment, Tail};

use crate::maker::make;
use crate::options::Options;

/// The daemon before this one.
pub(crate) const EARLIER: u64 = 8;

/// Is removed when it is dropped.
pub(crate) struct Objects {
    pub(crate) instance: Instance,
    pub(crate) options: Options,
}

impl Objects {
    pub(crate) fn new() -> Objects {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        // What a test leaves that is killed, those of `tests/it` remove: they know it by this.
        let name = format!("t_{}_unit_{number}", std::process::id());
        Objects {
            instance: Instance::own(&name).expect("a valid name"),
            options: Options::new(&name),
        }
    }

    /// A context whose creation was cut short before its end.
    pub(crate) fn begun(&self, id: u8, home: Option<Epoch>) -> Control {
        Control::create(&self.instance, facts(id), home, EARLIER).expect("room")
    }

    /// A context in this state, without a part.
    pub(crate) fn context(&self, id: u8, home: Option<Epoch>, state: State) -> Control {
        let control = self.begun(id, home);
        control.set_first_part(1);
        control.set_state(state);
        control.finish();
        control
    }

    pub(crate) fn part(&self, id: u8, number: u64, base_seq: u64) -> Segment {
        self.part_of(id, number, base_seq, 16 << 10)
    }

    /// As that, of so many bytes.
    pub(crate) fn part_of(&self, id: u8, number: u64, base_seq: u64, len: usize) -> Segment {
        let geometry = Geometry::of_len(len);
        let base_lamport = base_seq.saturating_sub(1);
        let made = make(
            &self.instance,
            epoch(id),
            number,
            geometry,
            base_seq,
            base_lamport,
        );
        made.expect("room")
    }

    /// Makes an object one of something else.
    pub(crate) fn spoil(&self, name: Name) {
        let file = File::options()
            .write(true)
            .open(name.path_in(&self.instance));
        let file = file.expect("ours");
        file.write_all_at(&[7; 8], 0).expect("it has a magic");
    }

    pub(crate) fn count(&self) -> usize {
        object::list(&self.instance).expect("memory").len()
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        for name in object::list(&self.instance).into_iter().flatten() {
            let _ = object::unlink(&self.instance, name);
        }
    }
}

pub(crate) fn epoch(id: u8) -> Epoch {
    Epoch([id; 16])
}

/// The higher the id, the older the context.
pub(crate) fn facts(id: u8) -> Facts {
    Facts {
        name: format!("context {id}"),
        epoch: epoch(id),
        limits: Limits::default(),
        sizes: Sizes::default(),
        has_foreign_writers: false,
        created_at_ns: 100 - u64::from(id),
    }
}

/// Who appends to a part.
pub(crate) fn tail(segment: Segment) -> Tail {
    let made_in = Generation::current().expect("memory");
    Tail::new(Arc::new(segment), made_in).expect("it is new")
}

pub(crate) fn close(tail: &mut Tail) {
    tail.close().expect("it is sound").expect("it is the last");
}
