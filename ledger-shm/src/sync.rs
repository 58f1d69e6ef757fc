//! Atomics and fences: the machine's, or loom's. The only file that names
//! either.
//!
//! Every release in this crate names the acquire it is for by a [`Label`], and
//! `docs/ORDERING.md` has one row per label. Under loom a label can be switched
//! to `Relaxed` at run time, which is how a model proves that it is needed.

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64};
pub use std::sync::atomic::Ordering;
#[cfg(not(loom))]
pub use std::sync::atomic::{AtomicU32, AtomicU64};

/// One edge between a write and the reads it is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    /// A slot's CAS carries the record's bytes to whoever reads the slot.
    Publish,
    /// A successor's `base_seq` carries its `base_lamport`.
    Roll,
    /// A part's magic, or the word that first names it, carries its header.
    Create,
    /// A sleeper's flag against the slot it looks at again.
    Park,
    /// The bell's count carries the clearing of the flag.
    Ring,
    /// The daemon's control words carry the objects they tell of.
    Control,
}

impl Label {
    /// `ordering`, or `Relaxed` in a model that switched this label off.
    #[cfg(not(loom))]
    #[inline(always)]
    pub const fn at(self, ordering: Ordering) -> Ordering {
        ordering
    }

    /// A fence that belongs to this label.
    #[cfg(not(loom))]
    #[inline(always)]
    pub fn fence(self, ordering: Ordering) {
        std::sync::atomic::fence(ordering);
    }
}

#[cfg(loom)]
mod weak {
    use super::{Label, Ordering};
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    static WEAKENED: AtomicUsize = AtomicUsize::new(usize::MAX);

    impl Label {
        /// From now on this label orders nothing, in every model of this process.
        pub fn weaken(self) {
            WEAKENED.store(self as usize, SeqCst);
        }

        fn is_weakened(self) -> bool {
            WEAKENED.load(SeqCst) == self as usize
        }

        /// `ordering`, or `Relaxed` in a model that switched this label off.
        pub fn at(self, ordering: Ordering) -> Ordering {
            if self.is_weakened() {
                Ordering::Relaxed
            } else {
                ordering
            }
        }

        /// A fence that belongs to this label.
        pub fn fence(self, ordering: Ordering) {
            if !self.is_weakened() {
                loom::sync::atomic::fence(ordering);
            }
        }
    }
}
