//! Noticing a fork: a child must not use what its parent mapped for writing.
//!
//! Writable mappings are not inherited (`MADV_DONTFORK`), so in a child their
//! addresses may belong to something else by the time a `Drop` runs there. One
//! page of the process is wiped in children (`MADV_WIPEONFORK`); the word in it
//! is this process's [`Generation`], and whatever was made under another one
//! is not touched any more.
#![allow(unsafe_code, reason = "the word lies in a mapping of its own")]

/// Which process image made an object. Changes in a fork's child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

#[cfg(not(loom))]
mod real {
    use super::Generation;
    use crate::format::PAGE_LEN;
    use crate::sys;
    use std::io;
    use std::num::NonZeroUsize;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Inherited by children, unlike the page: the next generation to give out.
    static NEXT: AtomicU64 = AtomicU64::new(1);
    static PAGE: OnceLock<&'static AtomicU64> = OnceLock::new();

    fn page() -> io::Result<&'static AtomicU64> {
        if let Some(word) = PAGE.get() {
            return Ok(word);
        }
        let len = NonZeroUsize::new(PAGE_LEN).expect("a page has bytes");
        let address = sys::map_wiped_on_fork(len)?;
        // SAFETY: the page is aligned, zeroed, never unmapped, and from here on
        // only ever touched through this atomic.
        let word = unsafe { AtomicU64::from_ptr(address.as_ptr().cast()) };
        Ok(PAGE.get_or_init(|| word))
    }

    impl Generation {
        /// This process's generation; a child gets its own when it first asks.
        ///
        /// # Errors
        ///
        /// When the kernel refuses the one page that this needs.
        pub fn current() -> io::Result<Generation> {
            let word = page()?;
            let found = word.load(Ordering::Relaxed);
            if found != 0 {
                return Ok(Generation(found));
            }
            let fresh = NEXT.fetch_add(1, Ordering::Relaxed);
            match word.compare_exchange(0, fresh, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => Ok(Generation(fresh)),
                Err(found) => Ok(Generation(found)),
            }
        }

        /// Whether this process is still the one that asked for it. One load.
        #[inline]
        pub fn is_current(self) -> bool {
            PAGE.get()
                .is_some_and(|word| word.load(Ordering::Relaxed) == self.0)
        }
    }
}

#[cfg(loom)]
impl Generation {
    /// Models do not fork.
    pub fn current() -> std::io::Result<Generation> {
        Ok(Generation(1))
    }

    /// Models do not fork.
    pub fn is_current(self) -> bool {
        true
    }
}
