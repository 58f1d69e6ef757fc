//! Contexts written behind, into files that outlive memory.
//!
//! One thread looks at the frontiers of all contexts that somebody appends to, copies
//! what is new into the context's open file, and has it on stable storage soon after. No
//! appender wakes it and none waits for it. What is in finished files may leave memory.

mod archiver;
mod behind;
#[cfg(test)]
mod by_hand;
mod disk;
mod file_system;
mod home;
mod keeper;
mod loading;
mod retain;
#[cfg(test)]
mod stage;
mod synced_file;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use ledger_shm::file::FileName;

pub(crate) use self::archiver::{Archiver, Order, Report};
pub(crate) use self::disk::{Disk, StateLock, open_to_read};
pub use self::file_system::FileSystem;
pub(crate) use self::file_system::KernelFileSystem;
pub(crate) use self::home::{Home, Recovered};
pub(crate) use self::loading::Loading;
pub(crate) use self::synced_file::{SyncedFile, Syncer};

/// How far a context has come, as its archiver says and the server asks.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Every entry up to this one is in a finished file.
    finished_seq: AtomicU64,
    /// Somebody waits for stable storage, and the archiver has not begun to see to it.
    is_sync_wanted: AtomicBool,
}

impl Marks {
    pub(crate) fn finished_seq(&self) -> u64 {
        self.finished_seq.load(Ordering::Acquire)
    }

    /// Whether the archiver has to be told: it was not since it last began.
    pub(crate) fn want_sync(&self) -> bool {
        !self.is_sync_wanted.swap(true, Ordering::AcqRel)
    }

    /// What is wanted from now on takes another order.
    fn begin_sync(&self) {
        // Acquires what whoever wanted it has appended, whichever order brought it here.
        self.is_sync_wanted.swap(false, Ordering::AcqRel);
    }

    fn set_finished_seq(&self, seq: u64) {
        // Who sees it unlinks memory, and others then look for the file: it has its
        // name by now.
        self.finished_seq.store(seq, Ordering::Release);
    }
}

fn say_damaged(context: &str, home: &Path, first_seq: u64) {
    tracing::error!(
        context,
        home = %home.display(),
        first_seq,
        "a file is damaged that was on stable storage; it is written anew from memory"
    );
}

fn say_torn(context: &str, file: FileName, torn_len: usize) {
    tracing::warn!(
        context,
        %file,
        torn_len,
        "the end of a file is torn; it is kept beside it"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wants_stable_storage_gives_one_order_until_it_is_begun() {
        let marks = Marks::default();
        for _ in 0..2 {
            assert!(marks.want_sync());
            assert!(!marks.want_sync(), "there is an order");
            marks.begin_sync();
        }
    }
}
