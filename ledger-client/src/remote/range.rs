//! A finite read of a context elsewhere: page by page.

use std::vec;

use ledger_shm::Entry;

use super::context::Context;
use super::entry::entry;
use super::error::RemoteError;
use super::proto;

/// Entries of one context in order, up to its end.
///
/// ```no_run
/// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
/// let mut facts = ledger.context("loan-7").open()?.range(1).key("facts").limit(10);
/// while let Some(fact) = facts.next_entry()? {
///     println!("{} {}", fact.seq(), fact.key());
/// }
/// # Ok::<(), ledger_client::remote::RemoteError>(())
/// ```
#[derive(Debug)]
pub struct Range {
    context: Context,
    key: Option<String>,
    page: vec::IntoIter<proto::Entry>,
    /// Whether nothing is behind the page.
    is_last: bool,
    /// What is asked for next is behind this one.
    after: u64,
    left: u64,
    /// The last seq that may be in it.
    last: u64,
}

impl Range {
    pub(super) fn new(context: Context, first_seq: u64) -> Range {
        Range {
            context,
            key: None,
            page: Vec::new().into_iter(),
            is_last: false,
            after: first_seq.saturating_sub(1),
            left: u64::MAX,
            last: u64::MAX,
        }
    }

    /// Only entries with exactly this key.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let mut facts = ledger.context("loan-7").open()?.range(1).key("facts");
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn key(mut self, key: impl Into<String>) -> Range {
        self.key = Some(key.into());
        self
    }

    /// Only entries after this seq.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let mut rest = ledger.context("loan-7").open()?.range(1).after(100);
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn after(mut self, seq: u64) -> Range {
        self.after = self.after.max(seq);
        self
    }

    /// At most this many entries, counted after the other filters.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let mut ten = ledger.context("loan-7").open()?.range(1).limit(10);
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn limit(mut self, limit: u64) -> Range {
        self.left = limit;
        self
    }

    /// Only entries that are there now.
    ///
    /// # Errors
    ///
    /// What the ledger says.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let mut range = ledger.context("loan-7").open()?.range(1).until_now()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn until_now(mut self) -> Result<Range, RemoteError> {
        self.last = self.context.latest()?;
        Ok(self)
    }

    /// The next entry; `None` at the end of the log or of what the range may have.
    ///
    /// # Errors
    ///
    /// What the ledger says.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let first = ledger.context("loan-7").open()?.range(1).next_entry()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn next_entry(&mut self) -> Result<Option<Entry<'static>>, RemoteError> {
        if self.left == 0 || self.after >= self.last {
            return Ok(None);
        }
        if self.page.as_slice().is_empty() {
            let limit = u32::try_from(self.left).unwrap_or(0);
            let page = self.context.page(self.key.as_deref(), self.after, limit)?;
            self.is_last = page.next_after_sequence == 0;
            self.page = page.entries.into_iter();
        }
        let Some(found) = self.page.next() else {
            return Ok(None);
        };
        if found.sequence <= self.after {
            let message = format!("entry {} again, behind {}", found.sequence, self.after);
            return Err(RemoteError::Invalid(message));
        }
        if found.sequence > self.last {
            return Ok(None);
        }
        self.after = found.sequence;
        self.left -= 1;
        entry(found).map(Some)
    }
}
