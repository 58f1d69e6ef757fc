//! A finite read: entries in order until the log's end.

use ledger_shm::Entry;

use crate::error::ReadError;
use crate::watcher::Watcher;

/// Entries of one context in order, up to its end.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let context = ledger_client::Ledger::connect()?.context("run").open_read_only()?;
/// let mut facts = context.range(1).key("facts").limit(10);
/// while let Some(entry) = facts.next_entry()? {
///     println!("{} {}", entry.seq(), entry.key());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Range {
    watcher: Watcher,
    left: u64,
}

impl Range {
    pub(crate) fn new(watcher: Watcher) -> Range {
        Range {
            watcher,
            left: u64::MAX,
        }
    }

    /// Only entries with exactly this key.
    pub fn key(mut self, key: impl Into<String>) -> Range {
        self.watcher = self.watcher.key(key);
        self
    }

    /// Only entries after this seq.
    pub fn after(mut self, seq: u64) -> Range {
        if seq >= self.watcher.next_seq() {
            self.watcher.seek(seq.saturating_add(1));
        }
        self
    }

    /// At most this many entries, counted after the other filters.
    pub fn limit(mut self, limit: u64) -> Range {
        self.left = limit;
        self
    }

    /// The next entry; `None` at the end of the log or of the limit.
    ///
    /// # Errors
    ///
    /// As [`Watcher::try_next`].
    #[inline]
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        if self.left == 0 {
            return Ok(None);
        }
        let entry = self.watcher.try_next()?;
        if entry.is_some() {
            self.left -= 1;
        }
        Ok(entry)
    }
}
