//! One context: read it, make appenders and watchers of it.

use std::sync::Arc;

use ledger_shm::bell::roster::Roster;
use ledger_shm::control::State;
use ledger_shm::entry::Limits;
use ledger_shm::object::Epoch;
use ledger_shm::read::{Found, Link};
use ledger_shm::{Control, Corrupt, Entry};

use crate::appender::Appender;
use crate::chain::Located;
use crate::error::{AppendError, ReadError};
use crate::ledger::Ledger;
use crate::range::Range;
use crate::shared::Shared;
use crate::watcher::Watcher;

/// One append-only log.
///
/// Cheap to clone; clones share what is mapped.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::NewEntry;
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// let mut appender = context.appender()?;
/// appender.append(&NewEntry::new("facts", "income: 4200"))?;
/// let entry = context.get(1)?.expect("just appended");
/// assert_eq!(entry.payload(), b"income: 4200");
/// # Ok(()) });
/// ```
#[derive(Clone, Debug)]
pub struct Context {
    shared: Arc<Shared>,
    ledger: Ledger,
}

impl Context {
    pub(crate) fn new(ledger: &Ledger, shared: Arc<Shared>) -> Context {
        Context {
            shared,
            ledger: ledger.clone(),
        }
    }

    /// A context found by its control object, for reading.
    pub(crate) fn in_memory(ledger: &Ledger, control: Control) -> Context {
        let shared = Shared::new(Arc::clone(ledger.core()), control, false);
        Context::new(ledger, Arc::new(shared))
    }

    /// One that is in files only, of which this is the last, for reading.
    pub(crate) fn in_files(ledger: &Ledger, control: Control, last_file: Link) -> Context {
        let shared = Shared::in_files(Arc::clone(ledger.core()), control, last_file);
        Context::new(ledger, Arc::new(shared))
    }

    /// Its name.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// assert_eq!(context.name(), "loan-7");
    /// # Ok(()) });
    /// ```
    pub fn name(&self) -> &str {
        self.shared.control.name()
    }

    /// Its epoch: tells two contexts of one name apart.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// println!("{}", context.epoch()); // 32 hexadecimal digits
    /// # assert_eq!(context.epoch().to_string().len(), 32);
    /// # Ok(()) });
    /// ```
    pub fn epoch(&self) -> Epoch {
        self.shared.control.epoch()
    }

    /// What its entries may weigh.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// assert_eq!(context.limits().payload_len_max, 4 << 20);
    /// # Ok(()) });
    /// ```
    pub fn limits(&self) -> Limits {
        self.shared.control.limits()
    }

    /// Whether and how it can be used right now.
    ///
    /// # Errors
    ///
    /// [`ReadError::Corrupt`] on damage.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::State;
    ///
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// assert_eq!(context.state()?, State::Open);
    /// # Ok(()) });
    /// ```
    pub fn state(&self) -> Result<State, ReadError> {
        Ok(self.shared.control.state()?)
    }

    /// The connection it was opened over.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// let next = context.ledger().context("loan-8").open_or_create()?;
    /// # Ok(()) });
    /// ```
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Tells parked watchers to look, on behalf of an appender that has appended quietly.
    #[cfg(feature = "converge")]
    pub(crate) fn ring(&self) {
        if let Some(bell) = self.shared.bell() {
            bell.ring_if_parked();
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// An appender. Make one per thread: it is `Send`, not `Sync`.
    ///
    /// # Errors
    ///
    /// [`AppendError::ReadOnly`] on a context opened for reading.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::NewEntry;
    ///
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// std::thread::scope(|scope| {
    ///     for _ in 0..2 {
    ///         let mut appender = context.appender()?;
    ///         scope.spawn(move || appender.append(&NewEntry::new("facts", "in parallel")));
    ///     }
    ///     Ok::<_, ledger_client::AppendError>(())
    /// })?;
    /// assert_eq!(context.latest()?, 2);
    /// # Ok(()) });
    /// ```
    pub fn appender(&self) -> Result<Appender, AppendError> {
        Appender::new(self.clone())
    }

    /// The entry at `seq`; `None` if there is none yet, and for 0: the first one
    /// is 1. O(1).
    ///
    /// # Errors
    ///
    /// [`ReadError::Evicted`] if it has left memory; others on damage.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let entry = context.get(1)?.expect("it was appended");
    /// assert_eq!((entry.seq(), entry.key()), (1, "facts"));
    /// assert!(context.get(2)?.is_none());
    /// # Ok(()) });
    /// ```
    pub fn get(&self, seq: u64) -> Result<Option<Entry<'static>>, ReadError> {
        if seq == 0 {
            return Ok(None);
        }
        let mut sealed = None;
        loop {
            let (Located::In(link) | Located::Closed(link)) = self.shared.locate(seq)?;
            let part = link.segment.part();
            match link.get(seq)? {
                Ok(entry) => return Ok(Some(entry)),
                // It was the last segment when it was located: look again, and
                // go on behind the seal.
                Err(Found::Seal(to)) if sealed == Some(part) => {
                    return Err(Corrupt::new("a seal before the frontier", to, 0).into());
                }
                Err(Found::Seal(_)) => sealed = Some(part),
                Err(_) => return Ok(None),
            }
        }
    }

    /// Entries from `first_seq` on, in order, up to the end of the log as it
    /// is when it is reached. 0 and 1 both mean the first one ever.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let mut range = context.range(1);
    /// while let Some(entry) = range.next_entry()? {
    ///     println!("{} {}", entry.seq(), entry.key());
    /// }
    /// # Ok(()) });
    /// ```
    pub fn range(&self, first_seq: u64) -> Range {
        Range::new(Watcher::new(self.clone(), first_seq.max(1)))
    }

    /// Entries from `first_seq` on, in order, and then every new one. 0 and 1
    /// both mean the first one ever.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// let mut watcher = context.watch(1);
    /// context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// assert_eq!(watcher.next()?.seq(), 1);
    /// # Ok(()) });
    /// ```
    pub fn watch(&self, first_seq: u64) -> Watcher {
        Watcher::listed(self.clone(), first_seq.max(1))
    }

    /// Who watches this context and how far each has come, as the watchers say
    /// themselves; none if no daemon has answered yet. A [`Range`] is not listed.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// let mut watcher = context.watch(1);
    /// watcher.try_next()?;
    /// let roster = context.watchers().expect("a daemon answered");
    /// assert_eq!(roster.watching[0].client.pid, std::process::id());
    /// assert_eq!(roster.watching[0].next_seq, 1);
    /// # Ok(()) });
    /// ```
    pub fn watchers(&self) -> Option<Roster> {
        self.shared.bell().map(|bell| bell.roster())
    }

    /// The seq of the last entry; 0 if there is none.
    ///
    /// # Errors
    ///
    /// [`ReadError`] on damage.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// assert_eq!(context.latest()?, 0);
    /// # Ok(()) });
    /// ```
    pub fn latest(&self) -> Result<u64, ReadError> {
        let (link, entries) = self
            .shared
            .chain
            .last(&self.shared.core, &self.shared.control)?;
        Ok(link.base_seq + entries - 1)
    }

    /// The seq of the oldest entry there is, in memory or in the archive, or of the
    /// next one if there is none.
    ///
    /// # Errors
    ///
    /// [`ReadError`] on damage.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// let mut range = context.range(context.first_available()?);
    /// # Ok(()) });
    /// ```
    pub fn first_available(&self) -> Result<u64, ReadError> {
        self.shared.first_available()
    }
}
