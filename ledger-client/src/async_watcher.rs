//! A watcher for async code: a future for each entry, or a stream of them. It
//! needs no runtime's reactor, so it works in every one.

use std::future::poll_fn;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use ledger_shm::Entry;

use crate::error::ReadError;
use crate::watcher::Watcher;

/// A [`Watcher`] that is awaited, see [`Watcher::into_async`].
///
/// As a [`Stream`] it yields entries that keep the memory they lie in mapped,
/// and ends after an error; [`seek`](Self::seek) has it go on.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # let context = ledger.context("loan-7").open_or_create()?;
/// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
/// # runtime.block_on(async {
/// use ledger_client::NewEntry;
///
/// let mut appender = context.appender()?;
/// let mut watcher = context.watch(1).into_async();
/// let (entry, appended) = tokio::join!(
///     async { watcher.next().await.map(|entry| entry.seq()) },
///     async { appender.append(&NewEntry::new("facts", "income: 4200")) },
/// );
/// assert_eq!(entry?, appended?.seq);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct AsyncWatcher {
    watcher: Watcher,
    has_failed: bool,
}

impl AsyncWatcher {
    pub(crate) fn new(watcher: Watcher) -> AsyncWatcher {
        AsyncWatcher {
            watcher,
            has_failed: false,
        }
    }

    /// The next entry.
    ///
    /// Cancel safe: whenever the future is dropped, no entry is lost, and the
    /// next call returns what this one would have.
    ///
    /// # Errors
    ///
    /// As [`Watcher::next`].
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    /// # runtime.block_on(async {
    /// use std::time::Duration;
    ///
    /// let mut watcher = context.watch(1).into_async();
    /// // Giving up costs no entry.
    /// let waited = tokio::time::timeout(Duration::from_millis(5), watcher.next()).await;
    /// assert!(waited.is_err());
    /// # Ok::<_, ledger_client::ReadError>(())
    /// # })?;
    /// # Ok(()) });
    /// ```
    pub async fn next(&mut self) -> Result<Entry<'_>, ReadError> {
        poll_fn(|context| self.watcher.poll_advance(context)).await?;
        let entry = self.watcher.current()?;
        Ok(entry.expect("an advance that is done stopped at an entry"))
    }

    /// The next entry, if there is one already.
    ///
    /// # Errors
    ///
    /// As [`Watcher::try_next`].
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let mut watcher = context.watch(1).into_async();
    /// assert_eq!(watcher.try_next()?.expect("it is there").seq(), 1);
    /// assert!(watcher.try_next()?.is_none());
    /// # Ok(()) });
    /// ```
    pub fn try_next(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        self.watcher.try_next()
    }

    /// Whether a look for the next entry may wait for a disk: it lies in a file, or where it
    /// lies is not known yet. Whoever keeps a runtime's thread from others by that may look
    /// in another one.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// let mut watcher = context.watch(1).into_async();
    /// assert!(watcher.may_wait());
    /// assert!(watcher.try_next()?.is_none());
    /// assert!(!watcher.may_wait());
    /// # Ok(()) });
    /// ```
    pub fn may_wait(&self) -> bool {
        self.watcher.may_wait()
    }

    /// The seq of the first entry that has not been looked at.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// assert_eq!(context.watch(17).into_async().next_seq(), 17);
    /// # Ok(()) });
    /// ```
    pub fn next_seq(&self) -> u64 {
        self.watcher.next_seq()
    }

    /// Goes on from another seq.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// let mut watcher = context.watch(17).into_async();
    /// watcher.seek(1);
    /// assert_eq!(watcher.next().await?.seq(), 1);
    /// # Ok::<_, ledger_client::ReadError>(())
    /// # })?;
    /// # Ok(()) });
    /// ```
    pub fn seek(&mut self, next_seq: u64) {
        self.has_failed = false;
        self.watcher.seek(next_seq);
    }
}

/// As [`Watcher::as_fd`], for an event loop that is not a runtime's: readable when it
/// is worth calling [`try_next`](AsyncWatcher::try_next).
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # let context = ledger.context("loan-7").open_or_create()?;
/// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
/// use std::os::fd::AsFd;
///
/// let mut watcher = context.watch(1).into_async();
/// watcher.as_fd();
/// assert!(watcher.try_next()?.is_none());
/// context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
/// poll(&mut [PollFd::new(watcher.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
/// assert_eq!(watcher.try_next()?.expect("it said so").seq(), 1);
/// # Ok(()) });
/// ```
///
/// # Panics
///
/// If the process has no descriptor left.
impl AsFd for AsyncWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.watcher.as_fd()
    }
}

impl Stream for AsyncWatcher {
    type Item = Result<Entry<'static>, ReadError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_failed {
            return Poll::Ready(None);
        }
        let item = match self.watcher.poll_advance(context) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => self.watcher.held_current().transpose(),
            Poll::Ready(Err(error)) => Some(Err(error)),
        };
        self.has_failed = matches!(item, Some(Err(_)));
        Poll::Ready(item)
    }
}
