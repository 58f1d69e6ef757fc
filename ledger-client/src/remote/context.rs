//! One context of a ledger elsewhere.

use std::io::Write;

use ledger_shm::Entry;
use ledger_shm::control::InvalidName;

use super::append::Appender;
use super::entry::entry;
use super::error::RemoteError;
use super::ledger::{ContextSummary, RemoteLedger};
use super::proto::{GetRequest, GetResponse};
use super::range::Range;
use super::snapshot::SnapshotTo;
use super::watcher::Watcher;

/// A context that is about to be opened.
///
/// ```no_run
/// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
/// let options = ledger.context("loan-7");
/// let context = options.open()?;
/// # Ok::<(), ledger_client::remote::RemoteError>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[must_use = "nothing is opened before `open`"]
pub struct ContextOptions<'a> {
    pub(super) ledger: &'a RemoteLedger,
    pub(super) name: &'a str,
}

impl ContextOptions<'_> {
    /// The context of this name. If there is none, the first append makes one.
    ///
    /// # Errors
    ///
    /// [`RemoteError::InvalidName`]; nothing else is asked yet.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let appender = ledger.context("loan-7").open_or_create()?.appender()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn open_or_create(self) -> Result<Context, RemoteError> {
        InvalidName::check(self.name.as_bytes())?;
        Ok(self.ledger.opened(self.name))
    }

    /// The context of this name, which there is.
    ///
    /// # Errors
    ///
    /// [`RemoteError::Unknown`], or what the ledger says.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let latest = ledger.context("loan-7").open()?.latest()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn open(self) -> Result<Context, RemoteError> {
        let context = self.open_or_create()?;
        context.summary()?;
        Ok(context)
    }

    /// As [`open`](Self::open): what may be done with it is the ledger's to say.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let entry = ledger.context("loan-7").open_read_only()?.get(1)?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn open_read_only(self) -> Result<Context, RemoteError> {
        self.open()
    }
}

/// One log, elsewhere. Clones are of the same one.
///
/// ```no_run
/// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
/// let context = ledger.context("loan-7").open()?;
/// println!("{} has {}", context.name(), context.latest()?);
/// # Ok::<(), ledger_client::remote::RemoteError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Context {
    ledger: RemoteLedger,
    name: String,
}

impl Context {
    pub(super) fn new(ledger: RemoteLedger, name: &str) -> Context {
        let name = name.to_owned();
        Context { ledger, name }
    }

    /// Its name.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// assert_eq!(ledger.context("loan-7").open()?.name(), "loan-7");
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whose it is.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let others = ledger.context("loan-7").open()?.ledger().contexts()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn ledger(&self) -> &RemoteLedger {
        &self.ledger
    }

    /// What there is to say about it now.
    ///
    /// # Errors
    ///
    /// [`RemoteError::Unknown`], or what the ledger says.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// println!("{}", ledger.context("loan-7").open()?.summary()?.state);
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn summary(&self) -> Result<ContextSummary, RemoteError> {
        let mut found = self.ledger.listed(&self.name)?;
        found.pop().ok_or_else(|| RemoteError::Unknown {
            name: self.name.clone(),
        })
    }

    /// Appends to it.
    ///
    /// # Errors
    ///
    /// None: the first append says whether it may be done.
    ///
    /// ```no_run
    /// # use ledger_client::NewEntry;
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let mut appender = ledger.context("loan-7").open_or_create()?.appender()?;
    /// appender.append(&NewEntry::new("facts", "income: 4200"))?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn appender(&self) -> Result<Appender, RemoteError> {
        Ok(Appender::new(self.clone()))
    }

    /// One entry, if it is there yet.
    ///
    /// # Errors
    ///
    /// What the ledger says; [`is_evicted`](RemoteError::is_evicted) of an entry that is not
    /// there any more.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let first = ledger.context("loan-7").open()?.get(1)?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn get(&self, seq: u64) -> Result<Option<Entry<'static>>, RemoteError> {
        if seq == 0 {
            return Ok(None);
        }
        let page = self.page(None, seq - 1, 1)?;
        let Some(found) = page.entries.into_iter().next() else {
            return Ok(None);
        };
        // From the beginning is from the first one there is.
        if found.sequence != seq {
            let message = format!(
                "entry {seq} has gone; the oldest one there is {}, read on from it",
                found.sequence
            );
            let code = tonic::Code::OutOfRange;
            return Err(RemoteError::Status { code, message });
        }
        entry(found).map(Some)
    }

    /// The entries from this one up to the log's end. From 1 it is from the oldest one
    /// there is.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let mut facts = ledger.context("loan-7").open()?.range(1).key("facts");
    /// while let Some(fact) = facts.next_entry()? {
    ///     println!("{}", fact.seq());
    /// }
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn range(&self, first_seq: u64) -> Range {
        Range::new(self.clone(), first_seq)
    }

    /// The entries from this one, without an end. From 1 it is from the oldest one there is.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let mut watcher = ledger.context("loan-7").open()?.watch(1);
    /// loop {
    ///     println!("{}", watcher.next()?.key());
    /// }
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn watch(&self, first_seq: u64) -> Watcher {
        Watcher::new(self.clone(), first_seq)
    }

    /// The last entry's seq; 0 if there is none.
    ///
    /// # Errors
    ///
    /// What the ledger says.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// println!("{}", ledger.context("loan-7").open()?.latest()?);
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn latest(&self) -> Result<u64, RemoteError> {
        // Nothing is behind it, and the answer says what is the latest.
        Ok(self.page(None, u64::MAX, 1)?.latest_sequence)
    }

    /// The oldest entry's seq that can be read; the next one's if there is none.
    ///
    /// # Errors
    ///
    /// [`RemoteError::Unknown`], damage, or what the ledger says.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let context = ledger.context("loan-7").open()?;
    /// let oldest = context.get(context.first_available()?)?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn first_available(&self) -> Result<u64, RemoteError> {
        let summary = self.summary()?;
        summary.first_available.ok_or_else(|| RemoteError::Status {
            code: tonic::Code::DataLoss,
            message: summary.damage.unwrap_or_default(),
        })
    }

    /// Writes a snapshot of it.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let mut bytes = Vec::new();
    /// ledger.context("loan-7").open()?.snapshot_to(&mut bytes).run()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn snapshot_to<W: Write>(&self, writer: W) -> SnapshotTo<'_, W> {
        SnapshotTo::new(self, writer)
    }

    /// Entries behind one, as many as one answer has.
    pub(super) fn page(
        &self,
        key: Option<&str>,
        after_sequence: u64,
        limit: u32,
    ) -> Result<GetResponse, RemoteError> {
        let link = &self.ledger.link;
        let mut client = link.client();
        let asked = link.timed(GetRequest {
            context_id: self.name.clone(),
            key: key.unwrap_or_default().to_owned(),
            after_sequence,
            limit,
        });
        link.call(async move { client.get(asked).await })
    }
}
