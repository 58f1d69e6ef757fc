//! What was given to other uids by descriptor, and has left the window since.
//!
//! A reader keeps what it has mapped for as long as it likes, and nobody can take
//! it back. So that it cannot hold more than a bounded amount, whoever holds much
//! gets nothing more. That it has let go is not believed but asked of the kernel,
//! which knows who else has a file: [`Object::is_shared`].

use std::collections::{BTreeSet, HashMap};

use ledger_shm::object::{Epoch, Instance, Name, Object};

#[derive(Debug)]
struct Retired {
    object: Object,
    uids: BTreeSet<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Lent {
    resident: HashMap<(Epoch, u64), BTreeSet<u32>>,
    retired: Vec<Retired>,
}

impl Lent {
    /// A process of this uid has got a part.
    pub(crate) fn lend(&mut self, epoch: Epoch, part: u64, uid: u32) {
        self.resident.entry((epoch, part)).or_default().insert(uid);
    }

    /// A part leaves the window; its name still exists.
    pub(crate) fn retire(&mut self, instance: &Instance, epoch: Epoch, part: u64) {
        let Some(uids) = self.resident.remove(&(epoch, part)) else {
            return;
        };
        match Object::open(instance, Name::Part(epoch, part), false) {
            Ok(object) => self.retired.push(Retired { object, uids }),
            Err(error) => {
                tracing::warn!(%epoch, part, %error, "a part will not be counted as held");
            }
        }
    }

    /// Bytes that have left the window and that processes of this uid, or of
    /// anybody for none, may still hold.
    pub(crate) fn held_len(&mut self, uid: Option<u32>) -> u64 {
        // What cannot be told counts as held.
        self.retired
            .retain(|retired| retired.object.is_shared().unwrap_or(true));
        let retired = self.retired.iter();
        retired
            .filter(|retired| uid.is_none_or(|uid| retired.uids.contains(&uid)))
            .map(|retired| retired.object.len() as u64)
            .sum()
    }
}
