//! A watcher for async code: a future for each entry, or a stream of them. It
//! needs no runtime's reactor, so it works in every one.

use std::future::poll_fn;
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
    pub fn try_next(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        self.watcher.try_next()
    }

    /// The seq of the first entry that has not been looked at.
    pub fn next_seq(&self) -> u64 {
        self.watcher.next_seq()
    }

    /// Goes on from another seq.
    pub fn seek(&mut self, next_seq: u64) {
        self.has_failed = false;
        self.watcher.seek(next_seq);
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
