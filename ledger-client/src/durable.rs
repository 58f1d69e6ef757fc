//! How far a context has come into its files, and waiting for that.

#[cfg(feature = "tokio")]
use std::future::poll_fn;
#[cfg(feature = "tokio")]
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::context::Context;
#[cfg(feature = "tokio")]
use crate::dispatch::{Registered, Wanted};
use crate::error::DurableError;
use crate::wire::Request;

/// No sleep is longer: a daemon may have died that would have ended it.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

impl Context {
    /// Every entry up to this one is in a file, though the host may lose it with its
    /// power; none if the context is kept in memory only.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// assert_eq!(context.archived_seq(), Some(0));
    /// # Ok(()) });
    /// ```
    pub fn archived_seq(&self) -> Option<u64> {
        let control = &self.shared().control;
        control.home().map(|_| control.archived_seq())
    }

    /// Every entry up to this one is on stable storage; none if the context is kept in
    /// memory only.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// assert!(context.durable_seq() <= context.archived_seq());
    /// # Ok(()) });
    /// ```
    pub fn durable_seq(&self) -> Option<u64> {
        let control = &self.shared().control;
        control.home().map(|_| control.durable_seq())
    }

    /// Waits until every entry up to this one is on stable storage, at most for
    /// `timeout`. The daemon is asked to hurry, and this sleeps until it has; what is
    /// on stable storage already is told without asking.
    ///
    /// # Errors
    ///
    /// [`DurableError::MemoryOnly`] if that can never be; [`DurableError::TimedOut`]
    /// if it is not in time, because no daemon runs, because the disk is full or slow,
    /// or because there is no such entry yet; [`DurableError::Closed`] if the context
    /// was dropped.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use std::time::Duration;
    /// use ledger_client::{DurableError, NewEntry};
    ///
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// let appended = context.appender()?.append(&NewEntry::new("facts", "income: 4200"))?;
    /// match context.wait_durable(appended.seq, Duration::from_secs(1)) {
    ///     Ok(()) => println!("it survives a loss of power"),
    ///     Err(DurableError::MemoryOnly) => println!("it is kept in memory only"),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(()) });
    /// ```
    pub fn wait_durable(&self, seq: u64, timeout: Duration) -> Result<(), DurableError> {
        let shared = self.shared();
        let control = &shared.control;
        if control.home().is_none() {
            return Err(DurableError::MemoryOnly);
        }
        let deadline = Instant::now().checked_add(timeout);
        let mut is_asked = false;
        loop {
            let durable_seq = control.durable_seq();
            if let Some(outcome) = shared.durable_outcome(seq, deadline) {
                return outcome;
            }
            if !is_asked {
                // It comes to it by itself, only later.
                let epoch = control.epoch().0;
                is_asked = shared.core.ask(&Request::Sync { epoch }).is_ok();
                continue;
            }
            let left = deadline.map_or(LOOK_AGAIN, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            control.wait_durable(durable_seq, left.min(LOOK_AGAIN));
        }
    }

    /// As [`wait_durable`](Self::wait_durable), for async code, in any runtime: a thread
    /// that this process has anyway for all who wait in futures sleeps in its place. It
    /// blocks nowhere; `timeout` may be passed by up to 40 ms.
    ///
    /// Cancel safe: whenever the future is dropped, nothing is lost, and what becomes
    /// durable does so all the same.
    ///
    /// # Errors
    ///
    /// As there, and [`DurableError::Wait`] if this process has no thread left, or is the
    /// child of a fork.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// use std::time::Duration;
    /// use ledger_client::NewEntry;
    ///
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// let appended = context.appender()?.append(&NewEntry::new("facts", "income: 4200"))?;
    /// context.durable(appended.seq, Duration::from_secs(10)).await?;
    /// assert!(context.durable_seq() >= Some(appended.seq));
    /// # Ok::<_, Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok(()) });
    /// ```
    #[cfg(feature = "tokio")]
    pub async fn durable(&self, seq: u64, timeout: Duration) -> Result<(), DurableError> {
        let shared = self.shared();
        if shared.control.home().is_none() {
            return Err(DurableError::MemoryOnly);
        }
        let deadline = Instant::now().checked_add(timeout);
        if let Some(outcome) = shared.durable_outcome(seq, deadline) {
            return outcome;
        }
        let registered = Registered::for_disk(shared);
        let registered = registered.map_err(|error| DurableError::Wait(error.to_string()))?;
        shared.want_sync();
        poll_fn(|task| {
            loop {
                if let Some(outcome) = shared.durable_outcome(seq, deadline) {
                    return Poll::Ready(outcome);
                }
                if !registered.is_alive() {
                    let forked = "this context belongs to the parent process".to_owned();
                    return Poll::Ready(Err(DurableError::Wait(forked)));
                }
                if registered.wait_for(Wanted::Durable(seq, deadline), Some(task.waker())) {
                    return Poll::Pending;
                }
            }
        })
        .await
    }
}
