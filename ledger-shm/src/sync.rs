//! Atomics and fences: the machine's, loom's, or those that ThreadSanitizer
//! understands. The only file that names any of them.
//!
//! Every release in this crate names the acquire it is for by a [`Label`], and
//! `docs/ORDERING.md` has one section per label. Under loom a label can be
//! switched to `Relaxed` at run time, which is how a model proves that it is
//! needed.

#[cfg(ledger_tsan)]
pub use fenceless::AtomicU64;
#[cfg(loom)]
pub use modelled::{AtomicU32, AtomicU64};
#[cfg(not(loom))]
pub use std::sync::atomic::AtomicU32;
#[cfg(not(any(loom, ledger_tsan)))]
pub use std::sync::atomic::AtomicU64;
pub use std::sync::atomic::Ordering;

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
    /// `ordering`, at a place that belongs to this label.
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
pub use weak::weaken;

#[cfg(ledger_tsan)]
#[allow(unsafe_code, reason = "words are found by their address, as in std")]
mod fenceless {
    use super::Ordering;
    use std::sync::atomic;

    /// A word whose every load acquires: ThreadSanitizer takes no note of the
    /// fence that follows one here. No fence follows the load of a shorter one.
    #[derive(Debug)]
    #[repr(transparent)]
    #[allow(missing_docs, reason = "as in std")]
    pub struct AtomicU64(atomic::AtomicU64);

    #[allow(missing_docs, reason = "as in std")]
    impl AtomicU64 {
        /// # Safety
        ///
        /// As in std.
        pub unsafe fn from_ptr<'a>(word: *mut u64) -> &'a Self {
            // SAFETY: by the caller's contract, and they are laid out alike.
            unsafe { &*word.cast() }
        }

        pub fn load(&self, ordering: Ordering) -> u64 {
            match ordering {
                Ordering::Relaxed => self.0.load(Ordering::Acquire),
                ordering => self.0.load(ordering),
            }
        }
    }

    impl std::ops::Deref for AtomicU64 {
        type Target = atomic::AtomicU64;

        fn deref(&self) -> &atomic::AtomicU64 {
            &self.0
        }
    }
}

#[cfg(loom)]
mod modelled {
    use super::Ordering;
    use loom::sync::Condvar;
    use loom::sync::atomic;

    /// A word of a model: loom's, and a turn that every load of it takes before.
    ///
    /// Loom looks for accesses that could have come in another order, but of
    /// each object it remembers only the last one. A thread that loads a word
    /// and then CASes it so hides the loads of all others, and loom 0.7 never
    /// tries the CAS before them. Accesses to a condition variable on which
    /// nobody waits all exclude each other, and order nothing else: with a turn
    /// before each load, the last access is all there is to remember.
    macro_rules! word {
        ($name:ident, $value:ty) => {
            #[derive(Debug)]
            #[allow(missing_docs, reason = "as in std")]
            pub struct $name {
                word: atomic::$name,
                turn: Condvar,
            }

            #[allow(missing_docs, reason = "as in std")]
            impl $name {
                pub fn new(value: $value) -> Self {
                    Self {
                        word: atomic::$name::new(value),
                        turn: Condvar::new(),
                    }
                }

                pub fn load(&self, ordering: Ordering) -> $value {
                    self.turn.notify_one();
                    self.word.load(ordering)
                }
            }

            impl std::ops::Deref for $name {
                type Target = atomic::$name;

                fn deref(&self) -> &atomic::$name {
                    &self.word
                }
            }
        };
    }

    word!(AtomicU32, u32);
    word!(AtomicU64, u64);
}

#[cfg(loom)]
mod weak {
    use super::{Label, Ordering};
    use loom::sync::Condvar;
    use std::cell::Cell;

    loom::lazy_static! {
        /// The turn that every SeqCst fence takes. To loom a fence is no point
        /// where another thread may come in between, though it orders them all.
        static ref FENCES: Condvar = Condvar::new();
    }

    thread_local! {
        /// All threads of a model run on the thread of their test.
        static WEAKENED: Cell<Option<(Label, Ordering)>> = const { Cell::new(None) };
    }

    /// Runs models in which those edges of `label` that are written with
    /// `ordering` order nothing.
    pub fn weaken<R>(label: Label, ordering: Ordering, models: impl FnOnce() -> R) -> R {
        struct Restore;
        impl Drop for Restore {
            fn drop(&mut self) {
                WEAKENED.set(None);
            }
        }
        WEAKENED.set(Some((label, ordering)));
        let _restore = Restore;
        models()
    }

    impl Label {
        /// `ordering`, or `Relaxed` in a model that weakened it.
        pub fn at(self, ordering: Ordering) -> Ordering {
            if WEAKENED.get() == Some((self, ordering)) {
                Ordering::Relaxed
            } else {
                ordering
            }
        }

        /// A fence that belongs to this label, or none in a model that weakened it.
        pub fn fence(self, ordering: Ordering) {
            if self.at(ordering) == Ordering::Relaxed {
                return;
            }
            if ordering == Ordering::SeqCst {
                FENCES.notify_one();
            }
            loom::sync::atomic::fence(ordering);
        }
    }
}
