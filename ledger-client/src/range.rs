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
    /// The last seq that may be in it.
    last: u64,
}

impl Range {
    pub(crate) fn new(watcher: Watcher) -> Range {
        Range {
            watcher,
            left: u64::MAX,
            last: u64::MAX,
        }
    }

    /// Only entries with exactly this key.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// assert!(context.range(1).key("traces").next_entry()?.is_none());
    /// # Ok(()) });
    /// ```
    pub fn key(mut self, key: impl Into<String>) -> Range {
        self.watcher = self.watcher.key(key);
        self
    }

    /// Only entries after this seq.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// assert!(context.range(1).after(1).next_entry()?.is_none());
    /// # Ok(()) });
    /// ```
    pub fn after(mut self, seq: u64) -> Range {
        if seq >= self.watcher.next_seq() {
            self.watcher.seek(seq.saturating_add(1));
        }
        self
    }

    /// At most this many entries, counted after the other filters.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let mut range = context.range(1).limit(1);
    /// assert!(range.next_entry()?.is_some());
    /// assert!(range.next_entry()?.is_none());
    /// # Ok(()) });
    /// ```
    pub fn limit(mut self, limit: u64) -> Range {
        self.left = limit;
        self
    }

    /// Only entries that are there now: whoever reads an entry slower than others append
    /// one would come to no end.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// let mut appender = context.appender()?;
    /// appender.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let mut range = context.range(1).until_now();
    /// while let Some(entry) = range.next_entry()? {
    ///     appender.append(&ledger_client::NewEntry::new("echo", entry.payload()))?;
    /// }
    /// assert_eq!(context.latest()?, 2);
    /// # Ok(()) });
    /// ```
    #[must_use]
    pub fn until_now(mut self) -> Range {
        // Damage that hides the end is met on the way there.
        self.last = self.watcher.context().latest().unwrap_or(u64::MAX);
        self
    }

    /// The next entry; `None` at the end of the log or of what the range may have.
    ///
    /// # Errors
    ///
    /// As [`Watcher::try_next`].
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let mut range = context.range(1);
    /// let mut bytes = 0;
    /// while let Some(entry) = range.next_entry()? {
    ///     bytes += entry.payload().len();
    /// }
    /// assert_eq!(bytes, 12);
    /// # Ok(()) });
    /// ```
    #[inline]
    pub fn next_entry(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        if self.left == 0 {
            return Ok(None);
        }
        let entry = self.watcher.try_next()?;
        let entry = entry.filter(|entry| entry.seq() <= self.last);
        if entry.is_some() {
            self.left -= 1;
        }
        Ok(entry)
    }
}
