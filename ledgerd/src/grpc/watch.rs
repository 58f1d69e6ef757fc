//! Watch: a cursor on the log that goes on when its client has taken what it was given.
//!
//! Nothing is queued: the body of the answer is asked for the next bytes when there is room
//! for them, and takes them from the log then, [`FRAME_LEN`] at a time and of a large entry
//! one part after the other. What lies in files is read in another thread.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use http_body::{Body, Frame};
use ledger_client::{AsyncWatcher, Entry, ReadError};
use tokio::sync::{OwnedSemaphorePermit, watch as told};
use tokio::task::JoinHandle;
use tonic::Status;

use super::codec::Entries;
use super::status::{of_read, trailers};
use super::told_to_close;

/// Bytes that are sent at once, and that a client which does not read costs.
const FRAME_LEN: usize = 16 << 10;

/// Where a stream is.
enum Stage {
    /// Entries are taken from memory, here.
    Here(AsyncWatcher),
    /// Some are taken from files, in another thread.
    Elsewhere(JoinHandle<(AsyncWatcher, Gathered)>),
    /// Of an entry not all has been taken.
    Within(AsyncWatcher, Rest),
    /// Nothing comes any more but what is said at the end.
    Failed(Status),
    /// It was said why.
    Over,
}

/// What was taken from a log at once.
struct Gathered {
    bytes: BytesMut,
    then: Then,
}

enum Then {
    /// There may be more.
    More,
    /// There is not, and the task is woken when there is.
    Nothing,
    Rest(Rest),
    Failed(ReadError),
}

/// The payload of an entry whose message has begun.
struct Rest {
    entry: Entry<'static>,
    taken_len: usize,
}

impl Rest {
    /// Takes as much as is sent at once; whether that was all.
    fn take(&mut self, target: &mut BytesMut) -> bool {
        let rest = &self.entry.payload()[self.taken_len..];
        let len = rest.len().min(FRAME_LEN.saturating_sub(target.len()));
        target.extend_from_slice(&rest[..len]);
        self.taken_len += len;
        len == rest.len()
    }
}

/// Events, until the door is closed.
pub(super) struct Watch {
    stage: Stage,
    entries: Entries,
    /// It begins with the first entry there is, wherever that is by then.
    is_from_first: bool,
    closing: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Watch {
    /// Everything that this watcher comes to.
    pub(super) fn new(
        watcher: AsyncWatcher,
        entries: Entries,
        is_from_first: bool,
        closing: told::Receiver<bool>,
    ) -> Watch {
        Watch {
            // Where it begins may have to be looked for in files.
            stage: elsewhere(watcher, entries.clone()),
            entries,
            is_from_first,
            closing: Box::pin(told_to_close(closing)),
        }
    }

    /// The next bytes, or why there are none any more.
    fn poll_bytes(&mut self, task: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        if self.closing.as_mut().poll(task).is_ready() {
            return Poll::Ready(Err(closes()));
        }
        loop {
            let (mut watcher, gathered) = match std::mem::replace(&mut self.stage, Stage::Over) {
                Stage::Here(mut watcher) => {
                    let gathered = gather(&mut watcher, &self.entries, task);
                    if matches!(gathered.then, Then::Nothing) && gathered.bytes.is_empty() {
                        self.stage = Stage::Here(watcher);
                        return Poll::Pending;
                    }
                    (watcher, gathered)
                }
                Stage::Elsewhere(mut reading) => match Pin::new(&mut reading).poll(task) {
                    Poll::Ready(Ok(read)) => read,
                    Poll::Ready(Err(error)) => {
                        let status = Status::unavailable(format!("it was not read: {error}"));
                        return Poll::Ready(Err(status));
                    }
                    Poll::Pending => {
                        self.stage = Stage::Elsewhere(reading);
                        return Poll::Pending;
                    }
                },
                Stage::Within(watcher, mut rest) => {
                    let mut bytes = BytesMut::with_capacity(FRAME_LEN);
                    let then = match rest.take(&mut bytes) {
                        true => Then::More,
                        false => Then::Rest(rest),
                    };
                    (watcher, Gathered { bytes, then })
                }
                Stage::Failed(status) => return Poll::Ready(Err(status)),
                Stage::Over => return Poll::Ready(Err(Status::internal("it is over"))),
            };
            self.stage = match gathered.then {
                Then::Rest(rest) => Stage::Within(watcher, rest),
                Then::Failed(ReadError::Evicted {
                    first_available, ..
                }) if self.is_from_first && gathered.bytes.is_empty() => {
                    watcher.seek(first_available);
                    elsewhere(watcher, self.entries.clone())
                }
                Then::Failed(error) => Stage::Failed(of_read(&error)),
                Then::More | Then::Nothing if watcher.may_wait() => {
                    elsewhere(watcher, self.entries.clone())
                }
                Then::More | Then::Nothing => Stage::Here(watcher),
            };
            if !gathered.bytes.is_empty() {
                self.is_from_first = false;
                return Poll::Ready(Ok(gathered.bytes.freeze()));
            }
        }
    }
}

/// What those who watch are told when the door closes.
pub(super) fn closes() -> Status {
    Status::unavailable("the daemon stops; ask again, from the last sequence that came")
}

/// Takes what comes next in another thread.
fn elsewhere(mut watcher: AsyncWatcher, entries: Entries) -> Stage {
    Stage::Elsewhere(tokio::task::spawn_blocking(move || {
        // If there is nothing, the stream has a look itself, and is woken.
        let mut task = Context::from_waker(Waker::noop());
        let gathered = gather(&mut watcher, &entries, &mut task);
        (watcher, gathered)
    }))
}

/// Takes what there is, as much as is sent at once.
fn gather(watcher: &mut AsyncWatcher, entries: &Entries, task: &mut Context<'_>) -> Gathered {
    let mut bytes = BytesMut::new();
    let then = loop {
        if bytes.len() >= FRAME_LEN {
            break Then::More;
        }
        match Pin::new(&mut *watcher).poll_next(task) {
            Poll::Pending => break Then::Nothing,
            Poll::Ready(Some(Ok(entry))) => {
                entries.begin_message(&entry, &mut bytes);
                let mut rest = Rest {
                    entry,
                    taken_len: 0,
                };
                if !rest.take(&mut bytes) {
                    break Then::Rest(rest);
                }
            }
            Poll::Ready(Some(Err(error))) => break Then::Failed(error),
            Poll::Ready(None) => break Then::Failed(ReadError::Closed),
        }
    };
    Gathered { bytes, then }
}

/// The answer, from its beginning to its end.
pub(super) struct Watching {
    at: At,
    _permit: OwnedSemaphorePermit,
}

/// How far it is.
enum At {
    /// The context is opened, or waited for.
    Opening(Pin<Box<dyn Future<Output = Result<Watch, Status>> + Send>>),
    Open(Box<Watch>),
    Over,
}

impl Watching {
    pub(super) fn opened_by(
        opening: impl Future<Output = Result<Watch, Status>> + Send + 'static,
        permit: OwnedSemaphorePermit,
    ) -> Watching {
        Watching {
            at: At::Opening(Box::pin(opening)),
            _permit: permit,
        }
    }

    fn ended(&mut self, status: &Status) -> Frame<Bytes> {
        self.at = At::Over;
        Frame::trailers(trailers(status))
    }
}

impl Body for Watching {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let At::Opening(opening) = &mut self.at {
            match ready!(opening.as_mut().poll(task)) {
                Ok(watch) => self.at = At::Open(Box::new(watch)),
                Err(status) => return Poll::Ready(Some(Ok(self.ended(&status)))),
            }
        }
        let At::Open(watch) = &mut self.at else {
            return Poll::Ready(None);
        };
        let frame = match ready!(watch.poll_bytes(task)) {
            Ok(bytes) => Frame::data(bytes),
            Err(status) => self.ended(&status),
        };
        Poll::Ready(Some(Ok(frame)))
    }
}
