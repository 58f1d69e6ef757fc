//! Contexts written behind, into files that outlive memory.
//!
//! One thread looks at the frontiers of all contexts that somebody appends to, copies
//! what is new into the context's open file, and has it on stable storage soon after. No
//! appender wakes it and none waits for it. What is in finished files may leave memory.

mod archiver;
mod disk;
mod home;
mod keeper;

use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) use self::archiver::{Archiver, Order, Report};
pub(crate) use self::disk::StateLock;
pub(crate) use self::home::{Home, Recovered};

/// How far a context has come, as its archiver says and the server asks.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Every entry up to this one is in a finished file.
    finished_seq: AtomicU64,
}

impl Marks {
    pub(crate) fn finished_seq(&self) -> u64 {
        self.finished_seq.load(Ordering::Acquire)
    }

    fn set_finished_seq(&self, seq: u64) {
        // Who sees it unlinks memory, and others then look for the file: it has its
        // name by now.
        self.finished_seq.store(seq, Ordering::Release);
    }
}
