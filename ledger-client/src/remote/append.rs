//! Appending to a context elsewhere.

use ledger_shm::record::Payload;
use ledger_shm::{Appended, NewEntry};

use super::context::Context;
use super::entry::{numbers, request};
use super::error::RemoteError;

/// The metadata of a request that names an append.
const IDEMPOTENCY_KEY: &str = "ledger-idempotency-key";

/// Appends to one context, one entry after the other.
///
/// ```no_run
/// # use ledger_client::NewEntry;
/// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
/// let mut appender = ledger.context("loan-7").open_or_create()?.appender()?;
/// let seq = appender.append(&NewEntry::new("facts", "income: 4200"))?.seq;
/// # Ok::<(), ledger_client::remote::RemoteError>(())
/// ```
#[derive(Debug)]
pub struct Appender {
    context: Context,
}

impl Appender {
    pub(super) fn new(context: Context) -> Appender {
        Appender { context }
    }

    /// What it appends to.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let appender = ledger.context("loan-7").open_or_create()?.appender()?;
    /// assert_eq!(appender.context().name(), "loan-7");
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Appends an entry. Of metadata that has a name more than once the last value is kept,
    /// and it is sorted: the protocol has no more.
    ///
    /// # Errors
    ///
    /// [`RemoteError::Refused`], or what the ledger says. After an error that
    /// [`is_unreachable`](RemoteError::is_unreachable) it is not known whether the entry is
    /// there: [`append_once`](Self::append_once) can be asked again.
    ///
    /// ```no_run
    /// # use ledger_client::NewEntry;
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let mut appender = ledger.context("loan-7").open_or_create()?.appender()?;
    /// let appended = appender.append(&NewEntry::new("facts", "income: 4200"))?;
    /// assert!(appended.seq > 0);
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn append<P: Payload>(&mut self, entry: &NewEntry<'_, P>) -> Result<Appended, RemoteError> {
        self.ask(entry, None)
    }

    /// Appends an entry once, however often it is asked for by the same client with the same
    /// key, 1 to 256 characters of visible ASCII: then the answer is the first one. The ledger
    /// knows keys of the last ten minutes, and of no more than 100 000 appends, until its daemon
    /// ends.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append).
    ///
    /// ```no_run
    /// # use ledger_client::NewEntry;
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let mut appender = ledger.context("loan-7").open_or_create()?.appender()?;
    /// let entry = NewEntry::new("facts", "income: 4200");
    /// let appended = match appender.append_once(&entry, "loan-7/income") {
    ///     Err(error) if error.is_unreachable() => appender.append_once(&entry, "loan-7/income"),
    ///     outcome => outcome,
    /// };
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn append_once<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
        idempotency_key: &str,
    ) -> Result<Appended, RemoteError> {
        self.ask(entry, Some(idempotency_key))
    }

    fn ask<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
        idempotency_key: Option<&str>,
    ) -> Result<Appended, RemoteError> {
        let link = &self.context.ledger().link;
        let mut client = link.client();
        let mut asked = link.timed(request(self.context.name(), entry)?);
        if let Some(key) = idempotency_key {
            let key = key.parse().map_err(|_| RemoteError::InvalidKey)?;
            asked.metadata_mut().insert(IDEMPOTENCY_KEY, key);
        }
        let answer = link.call(async move { client.append(asked).await })?;
        numbers(answer.entry)
    }
}
