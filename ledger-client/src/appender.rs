//! Appending: the fast path is a few lines, what goes wrong is elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_shm::append::Stop;
use ledger_shm::clock::WallClock;
use ledger_shm::record::Payload;
use ledger_shm::{Appended, Bell, Corrupt, Full, NewEntry, Refused, Tail};

use crate::context::Context;
use crate::error::AppendError;
use crate::provision;
use crate::shared::Shared;

/// How long [`Appender::append`] waits for room unless told otherwise.
const WAIT_DEFAULT: Duration = Duration::from_secs(1);
/// How often a waiting append looks whether another process made room.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How many entries of a batch share one look at the bell.
const BATCH_PER_RING: usize = 64;

/// Appends to one context. Belongs to one thread (`Send`, not `Sync`).
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::NewEntry;
///
/// let mut appender = ledger.context("loan-7").open_or_create()?.appender()?;
/// let first = appender.append(&NewEntry::new("facts", "income: 4200"))?;
/// let second = appender.append(&NewEntry::new("facts", "income: 4300"))?;
/// assert_eq!((first.seq, second.seq), (1, 2));
/// assert!(second.lamport > first.lamport);
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct Appender {
    tail: Tail,
    clock: WallClock,
    bell: Option<Arc<Bell>>,
    bell_version: u64,
    wait: Duration,
    context: Context,
    /// Not `Sync`: two threads would share one block.
    _one_thread: std::marker::PhantomData<std::cell::Cell<()>>,
}

/// How far a batch came.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::NewEntry;
///
/// let mut appender = ledger.context("loan-7").open_or_create()?.appender()?;
/// let entries = [NewEntry::new("facts", "good"), NewEntry::new("", "without a key")];
/// let error = appender.append_batch(entries).unwrap_err();
/// assert_eq!(error.appended, 1);
/// assert!(error.error.is_invalid());
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{appended} entries of the batch were appended, then: {error}")]
#[non_exhaustive]
pub struct BatchError {
    /// Entries that are in the log.
    pub appended: usize,
    /// Why the next one is not.
    pub error: AppendError,
}

impl Appender {
    pub(crate) fn new(context: Context) -> Result<Appender, AppendError> {
        let shared = context.shared();
        if !shared.is_appendable {
            return Err(AppendError::ReadOnly);
        }
        let made_in = shared.core.made_in;
        if !made_in.is_current() {
            return Err(Refused::Forked.into());
        }
        let newest = shared
            .parts
            .newest()
            .ok_or_else(|| Refused::Corrupt(Corrupt::new("mapped parts", 0, 1)))?;
        let tail = Tail::new(newest, made_in).map_err(Refused::Corrupt)?;
        let bell_version = shared.bell_version();
        let bell = shared.bell();
        Ok(Appender {
            tail,
            clock: WallClock::new(),
            bell,
            bell_version,
            wait: WAIT_DEFAULT,
            context,
            _one_thread: std::marker::PhantomData,
        })
    }

    /// How long [`append`](Self::append) waits for room. Default: 1 s.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// let mut appender = context.appender()?;
    /// appender.set_wait(std::time::Duration::from_millis(50));
    /// # Ok(()) });
    /// ```
    pub fn set_wait(&mut self, wait: Duration) {
        self.wait = wait;
    }

    /// The context it appends to.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// assert_eq!(context.appender()?.context().name(), "loan-7");
    /// # Ok(()) });
    /// ```
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Waits until memory beyond the current segment is there, at most `timeout`;
    /// says whether it is. A context begins with a small segment: who then
    /// appends a burst with [`try_append`](Self::try_append) waits here first.
    /// False in a fork's child.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use std::time::Duration;
    /// use ledger_client::NewEntry;
    ///
    /// let mut appender = ledger.context("loan-7").open_or_create()?.appender()?;
    /// assert!(appender.wait_ready(Duration::from_secs(1)));
    /// for _ in 0..1000 {
    ///     appender.try_append(&NewEntry::new("facts", "one of a burst"))?;
    /// }
    /// # Ok(()) });
    /// ```
    pub fn wait_ready(&self, timeout: Duration) -> bool {
        self.context.shared().wait_ready(timeout)
    }

    /// Appends one entry, at once or not at all.
    ///
    /// Lock-free; no allocation for plain bytes (a typed payload's scratch memory
    /// is kept); no system call while nobody sleeps on the context (and once per
    /// segment, to ask for the next one). A crash anywhere leaves either nothing
    /// or the whole entry.
    ///
    /// # Errors
    ///
    /// [`Full`] if there is no room right now; other [`Refused`] if the entry
    /// can never be appended. Nothing was written.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # let mut appender = context.appender()?;
    /// # let (entry, mut dropped) = (ledger_client::NewEntry::new("traces", "cycle 1"), 0);
    /// match appender.try_append(&entry) {
    ///     Ok(appended) => println!("seq {}", appended.seq),
    ///     Err(error) if error.is_full() => dropped += 1,
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # assert_eq!(dropped, 0);
    /// # Ok(()) });
    /// ```
    #[inline]
    pub fn try_append<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
    ) -> Result<Appended, AppendError> {
        self.publish(entry, Appender::ring_now, |_, error| Err(error))
    }

    /// Appends one entry, waiting for room if there is none: at most
    /// [`set_wait`](Self::set_wait).
    ///
    /// # Errors
    ///
    /// As [`try_append`](Self::try_append), after the wait.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::NewEntry;
    ///
    /// let mut appender = ledger.context("loan-7").open_or_create()?.appender()?;
    /// let entry = NewEntry::new("facts", "income: 4200").metadata(&[("agent", "credit")]);
    /// let appended = appender.append(&entry)?;
    /// assert_eq!(appended.seq, 1);
    /// # Ok(()) });
    /// ```
    #[inline]
    pub fn append<P: Payload>(&mut self, entry: &NewEntry<'_, P>) -> Result<Appended, AppendError> {
        self.publish(entry, Appender::ring_now, |appender, error| {
            if error.is_full() {
                return appender.append_contended(entry);
            }
            Err(error)
        })
    }

    #[cold]
    fn append_contended<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
    ) -> Result<Appended, AppendError> {
        // Without a deadline it waits for ever.
        let deadline = Instant::now().checked_add(self.wait);
        loop {
            let seen = self.context.shared().arrivals();
            match self.try_append(entry) {
                Err(error) if error.is_full() => {
                    let left = deadline.map_or(LOOK_AGAIN, |deadline| {
                        deadline.saturating_duration_since(Instant::now())
                    });
                    if left.is_zero() {
                        return Err(error);
                    }
                    // The background thread may be waiting for the daemon.
                    provision::follow(self.context.shared());
                    self.context
                        .shared()
                        .wait_for_arrival(seen, left.min(LOOK_AGAIN));
                }
                outcome => return outcome,
            }
        }
    }

    /// Appends entries one after the other; others may append between them.
    /// Watchers are told once per 64 entries and at the end.
    ///
    /// # Errors
    ///
    /// [`BatchError`] says how many were appended before one was refused.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::NewEntry;
    ///
    /// let mut appender = ledger.context("loan-7").open_or_create()?.appender()?;
    /// let lines = ["income: 4200", "rent: 900"];
    /// let appended = appender.try_append_batch(lines.iter().map(|line| NewEntry::new("facts", line)))?;
    /// assert_eq!(appended, 2);
    /// # Ok(()) });
    /// ```
    pub fn try_append_batch<'e, P: Payload + 'e>(
        &mut self,
        entries: impl IntoIterator<Item = NewEntry<'e, P>>,
    ) -> Result<usize, BatchError> {
        self.batch(entries, Self::try_append_quietly)
    }

    /// As [`try_append_batch`](Self::try_append_batch), waiting for room as
    /// [`append`](Self::append) does.
    ///
    /// # Errors
    ///
    /// As [`try_append_batch`](Self::try_append_batch), after the wait.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::NewEntry;
    ///
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// let numbers: Vec<String> = (0..10_000).map(|n| n.to_string()).collect();
    /// context.appender()?.append_batch(numbers.iter().map(|n| NewEntry::new("numbers", n)))?;
    /// assert_eq!(context.latest()?, 10_000);
    /// # Ok(()) });
    /// ```
    pub fn append_batch<'e, P: Payload + 'e>(
        &mut self,
        entries: impl IntoIterator<Item = NewEntry<'e, P>>,
    ) -> Result<usize, BatchError> {
        self.batch(entries, |appender, entry| {
            match appender.try_append_quietly(entry) {
                Err(error) if error.is_full() => appender.append_contended(entry),
                outcome => outcome,
            }
        })
    }

    fn batch<'e, P: Payload + 'e>(
        &mut self,
        entries: impl IntoIterator<Item = NewEntry<'e, P>>,
        mut publish: impl FnMut(&mut Self, &NewEntry<'e, P>) -> Result<Appended, AppendError>,
    ) -> Result<usize, BatchError> {
        let mut appended = 0;
        for entry in entries {
            if let Err(error) = publish(self, &entry) {
                if appended > 0 {
                    self.ring_now();
                }
                return Err(BatchError { appended, error });
            }
            appended += 1;
            if appended % BATCH_PER_RING == 0 {
                self.ring_now();
            }
        }
        if appended > 0 {
            self.ring_now();
        }
        Ok(appended)
    }

    /// Appends like [`try_append`](Self::try_append) without telling parked
    /// watchers, who then see it within their sleep's bound of 40 ms or after
    /// [`ring`](Self::ring): for those who want another thread to pay for
    /// wake-ups.
    ///
    /// # Errors
    ///
    /// As [`try_append`](Self::try_append).
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # let entry = ledger_client::NewEntry::new("facts", "income: 4200");
    /// let mut appender = context.appender()?;
    /// let appended = appender.try_append_quietly(&entry)?;
    /// appender.ring();
    /// # Ok(()) });
    /// ```
    #[inline]
    pub fn try_append_quietly<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
    ) -> Result<Appended, AppendError> {
        self.publish(entry, |_| {}, |_, error| Err(error))
    }

    /// Tells parked watchers to look, if there are any. In a fork's child it
    /// does nothing.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # let mut appender = context.appender()?;
    /// # let entries = [ledger_client::NewEntry::new("facts", "income: 4200")];
    /// for entry in &entries {
    ///     appender.try_append_quietly(entry)?;
    /// }
    /// appender.ring();
    /// # Ok(()) });
    /// ```
    pub fn ring(&mut self) {
        if self.context.shared().core.made_in.is_current() {
            self.ring_now();
        }
    }

    /// After an append of this process, which has mapped the bell.
    #[inline]
    fn ring_now(&mut self) {
        if self.bell_version != self.context.shared().bell_version() {
            self.take_new_bell();
        }
        if let Some(bell) = &self.bell {
            bell.ring_if_parked();
        }
    }

    #[cold]
    fn take_new_bell(&mut self) {
        self.bell_version = self.context.shared().bell_version();
        self.bell = self.context.shared().bell();
    }

    /// Appends, then tells whom it concerns, or does what is to be done otherwise.
    /// What is returned where nothing went wrong shares no memory with what is
    /// returned otherwise, see [`Stop`]; inlined, so that it is not copied either.
    #[inline(always)]
    fn publish<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
        tell: impl FnOnce(&mut Appender),
        otherwise: impl FnOnce(&mut Appender, AppendError) -> Result<Appended, AppendError>,
    ) -> Result<Appended, AppendError> {
        let limits = self.context.shared().control.limits();
        match self.tail.try_here(entry, &limits, &mut self.clock) {
            Ok(appended) => {
                self.ask_ahead();
                tell(self);
                Ok(appended)
            }
            Err(stop) => match self.publish_elsewhere(stop, entry) {
                Ok(appended) => {
                    tell(self);
                    Ok(appended)
                }
                Err(error) => otherwise(self, error),
            },
        }
    }

    #[cold]
    fn publish_elsewhere<P: Payload>(
        &mut self,
        stop: Stop,
        entry: &NewEntry<'_, P>,
    ) -> Result<Appended, AppendError> {
        let shared: &Shared = self.context.shared();
        let limits = shared.control.limits();
        let outcome = self
            .tail
            .try_elsewhere(stop, entry, &limits, &shared.parts, &mut self.clock);
        let outcome = outcome.or_else(|refused| self.publish_refused(entry, refused));
        // Wherever it went on.
        self.ask_ahead();
        outcome
    }

    /// Has the next part made, if this one is coming to its end.
    #[inline]
    fn ask_ahead(&mut self) {
        if self.tail.take_wants_spare() {
            self.context.shared().want(0);
        }
    }

    /// Asks for what was missing, and goes to where the log went on if that is
    /// known already.
    #[cold]
    fn publish_refused<P: Payload>(
        &mut self,
        entry: &NewEntry<'_, P>,
        refused: Refused,
    ) -> Result<Appended, AppendError> {
        let shared = self.context.shared();
        let Refused::Full(mut why) = refused else {
            return Err(refused.into());
        };
        if matches!(why, Full::Rolling | Full::Reopening)
            && let Some(newest) = shared.parts.newest()
            && newest.part() != self.tail.segment().part()
        {
            self.tail = Tail::new(newest, shared.core.made_in).map_err(Refused::Corrupt)?;
            match self.tail.try_append(
                entry,
                &shared.control.limits(),
                &shared.parts,
                &mut self.clock,
            ) {
                Err(Refused::Full(now)) => why = now,
                outcome => return Ok(outcome?),
            }
        }
        if shared.control.state().map_err(Refused::Corrupt)?.is_gone() {
            return Err(Refused::Closed.into());
        }
        // What it is to follow the log into may be what it cannot have.
        if why == Full::Rolling
            && let refused @ Full::Kernel { .. } = shared.parts.why()
        {
            why = refused;
        }
        shared.want(self.tail.missing_len());
        Err(Refused::Full(why).into())
    }
}
