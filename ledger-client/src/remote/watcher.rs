//! Entries of a context elsewhere as they come, through interruptions.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::mem;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use ledger_shm::Entry;
use tokio::task::JoinHandle;
use tonic::{Code, Status, Streaming};

use super::context::Context;
use super::entry::entry;
use super::error::RemoteError;
use super::proto::{self, WatchEvent, WatchRequest};

/// Bytes of payloads that are taken at once, where they have come already.
const TAKEN_AT_ONCE: usize = 256 << 10;
/// After what pause somebody who does not answer is asked again, growing.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// A wait without an end, a part of it.
const LONG: Duration = Duration::from_secs(3600);

/// Entries of one context in order, and then each one that is appended. While the ledger does
/// not answer it waits, and goes on behind the last entry that came.
///
/// ```no_run
/// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
/// let mut facts = ledger.context("loan-7").open()?.watch(1).key("facts");
/// loop {
///     println!("{}", facts.next()?.seq());
/// }
/// # Ok::<(), ledger_client::remote::RemoteError>(())
/// ```
#[derive(Debug)]
pub struct Watcher {
    context: Context,
    key: Option<String>,
    next_seq: u64,
    coming: Coming,
    /// What has come, and was not asked for yet.
    entries: VecDeque<proto::Entry>,
    pause: Duration,
}

type Stream = Streaming<WatchEvent>;

/// What events come by.
#[derive(Debug)]
enum Coming {
    Nothing,
    /// It is asked for.
    Asked(JoinHandle<Result<Stream, Status>>),
    Here(Box<Stream>),
}

impl Drop for Coming {
    fn drop(&mut self) {
        if let Coming::Asked(asked) = self {
            asked.abort();
        }
    }
}

/// What came within some time.
struct Came {
    coming: Coming,
    events: Vec<WatchEvent>,
    ended: Option<Result<(), Status>>,
}

impl Watcher {
    pub(super) fn new(context: Context, first_seq: u64) -> Watcher {
        Watcher {
            context,
            key: None,
            next_seq: first_seq.max(1),
            coming: Coming::Nothing,
            entries: VecDeque::new(),
            pause: PAUSE_MIN,
        }
    }

    /// Only entries with exactly this key.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let facts = ledger.context("loan-7").open()?.watch(1).key("facts");
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn key(mut self, key: impl Into<String>) -> Watcher {
        self.key = Some(key.into());
        self
    }

    /// The seq from which on entries are still to come.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let mut watcher = ledger.context("loan-7").open()?.watch(1);
    /// let seq = watcher.next()?.seq();
    /// assert_eq!(watcher.next_seq(), seq + 1);
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Goes on from this seq.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let context = ledger.context("loan-7").open()?;
    /// let mut watcher = context.watch(1);
    /// watcher.seek(context.latest()? + 1);
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn seek(&mut self, next_seq: u64) {
        self.next_seq = next_seq.max(1);
        self.coming = Coming::Nothing;
        self.entries.clear();
    }

    /// The next entry, if it has come already.
    ///
    /// # Errors
    ///
    /// What the ledger says.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let mut watcher = ledger.context("loan-7").open()?.watch(1);
    /// if watcher.try_next()?.is_none() {
    ///     println!("nothing yet");
    /// }
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn try_next(&mut self) -> Result<Option<Entry<'static>>, RemoteError> {
        self.next_timeout(Duration::ZERO)
    }

    /// The next entry.
    ///
    /// # Errors
    ///
    /// What the ledger says, but for that it cannot be reached.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let seq = ledger.context("loan-7").open()?.watch(1).next()?.seq();
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    #[allow(clippy::should_implement_trait, reason = "as the local one has it")]
    pub fn next(&mut self) -> Result<Entry<'static>, RemoteError> {
        loop {
            if let Some(entry) = self.next_timeout(LONG)? {
                return Ok(entry);
            }
        }
    }

    /// The next entry, if it comes within this time.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next).
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// use std::time::Duration;
    ///
    /// let mut watcher = ledger.context("loan-7").open()?.watch(1);
    /// while let Some(entry) = watcher.next_timeout(Duration::from_secs(1))? {
    ///     println!("{}", entry.seq());
    /// }
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn next_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<Entry<'static>>, RemoteError> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(found) = self.entries.pop_front() {
                if found.sequence < self.next_seq {
                    let message = format!("entry {} again", found.sequence);
                    return Err(RemoteError::Invalid(message));
                }
                self.next_seq = found.sequence + 1;
                return entry(found).map(Some);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            self.await_more(left)?;
            if self.entries.is_empty() && Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    /// Waits until something comes.
    fn await_more(&mut self, timeout: Duration) -> Result<(), RemoteError> {
        let coming = match mem::replace(&mut self.coming, Coming::Nothing) {
            Coming::Nothing => self.ask(),
            coming => coming,
        };
        let link = &self.context.ledger().link;
        let came = link.wait(come(coming, timeout))?;
        self.coming = came.coming;
        let events = came.events.into_iter();
        self.entries.extend(events.filter_map(|event| event.entry));
        if !self.entries.is_empty() {
            self.pause = PAUSE_MIN;
        }
        match came.ended {
            None => Ok(()),
            Some(Err(status)) if !is_interruption(&status) => Err(RemoteError::of(&status)),
            Some(_) => {
                let pause = self.pause.min(timeout);
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                if self.entries.is_empty() {
                    std::thread::sleep(pause);
                }
                Ok(())
            }
        }
    }

    fn ask(&self) -> Coming {
        let link = &self.context.ledger().link;
        let mut client = link.client();
        let asked = link.request(WatchRequest {
            context_id: self.context.name().to_owned(),
            key: self.key.clone().unwrap_or_default(),
            from_sequence: self.next_seq - 1,
        });
        let asked = async move { Ok(client.watch(asked).await?.into_inner()) };
        Coming::Asked(link.handle().spawn(asked))
    }
}

/// Whether asking again may help.
fn is_interruption(status: &Status) -> bool {
    // A connection that broke says that it is not known why.
    let code = status.code();
    code == Code::Unavailable || code == Code::Unknown || code == Code::Cancelled
}

/// What comes within some time.
async fn come(coming: Coming, timeout: Duration) -> Came {
    let mut came = Came {
        coming,
        events: Vec::new(),
        ended: None,
    };
    // What has come is taken in any case.
    let _ = tokio::time::timeout(timeout, take(&mut came)).await;
    came
}

async fn take(came: &mut Came) {
    if let Coming::Asked(asked) = &mut came.coming {
        match asked.await {
            Ok(Ok(stream)) => came.coming = Coming::Here(Box::new(stream)),
            Ok(Err(status)) => return end(came, Err(status)),
            Err(_) => return end(came, Ok(())),
        }
    }
    let Coming::Here(stream) = &mut came.coming else {
        return;
    };
    let mut len = 0;
    let ended = loop {
        let mut next = pin!(stream.message());
        let is_first = came.events.is_empty();
        let message = poll_fn(|task| match next.as_mut().poll(task) {
            Poll::Ready(message) => Poll::Ready(Some(message)),
            Poll::Pending if is_first => Poll::Pending,
            Poll::Pending => Poll::Ready(None),
        });
        match message.await {
            Some(Ok(Some(event))) => {
                len += event.entry.as_ref().map_or(0, |entry| entry.payload.len());
                came.events.push(event);
                if len >= TAKEN_AT_ONCE {
                    return;
                }
            }
            Some(Ok(None)) => break Ok(()),
            Some(Err(status)) => break Err(status),
            None => return,
        }
    };
    end(came, ended);
}

fn end(came: &mut Came, outcome: Result<(), Status>) {
    came.coming = Coming::Nothing;
    came.ended = Some(outcome);
}
