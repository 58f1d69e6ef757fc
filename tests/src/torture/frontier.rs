//! Where a log ends, looked at from outside while somebody is stopped in it.

use std::collections::BTreeSet;
use std::io::ErrorKind;

use ledger_client::Context;
use ledger_shm::Control;
use ledger_shm::object::{Epoch, Instance, Name, Object};
use ledger_shm::segment::Segment;
use ledger_shm::slot::Slot;

use crate::eventually;

/// The first slot of a log that was empty when this was made.
#[derive(Debug)]
pub struct Frontier {
    segment: Segment,
    index: usize,
}

impl Frontier {
    /// That of a context now.
    ///
    /// # Panics
    ///
    /// If it cannot be read.
    pub fn of(instance: &Instance, context: &Context) -> Frontier {
        // A part may leave memory between two looks.
        eventually("the end of a log is found", || {
            Frontier::found(instance, context.epoch())
        })
    }

    fn found(instance: &Instance, epoch: Epoch) -> Option<Frontier> {
        let control = Control::open(instance, epoch, false).expect("it is there");
        let mut part = control.first_part();
        let mut seen = BTreeSet::new();
        loop {
            assert!(seen.insert(part), "part {part} is named by two seals");
            let object = match Object::open(instance, Name::Part(epoch, part), false) {
                Err(error) if error.kind() == ErrorKind::NotFound => return None,
                outcome => outcome.expect("a part"),
            };
            let segment = Segment::map(&object, false).expect("a part");
            let index = segment.frontier().expect("an index");
            match segment.look(index).expect("a slot") {
                Slot::Seal(next) => part = next,
                _ => return Some(Frontier { segment, index }),
            }
        }
    }

    /// Whether somebody has put something there.
    pub fn has_moved(&self) -> bool {
        self.segment.look(self.index) != Ok(Slot::Empty)
    }

    /// The part it is in.
    pub fn part(&self) -> u64 {
        self.segment.part()
    }

    /// How much of that part's data area is taken.
    pub fn data_taken(&self) -> usize {
        self.segment.data_taken()
    }

    /// Whether the index of that part has no room for another entry.
    pub fn is_index_full(&self) -> bool {
        self.index == self.segment.geometry().slot_capacity
    }
}
