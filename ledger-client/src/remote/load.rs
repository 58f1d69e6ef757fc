//! Loading a snapshot elsewhere.

use std::fmt;
use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use ledger_shm::control::InvalidName;
use ledger_shm::file::SnapshotError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinError;
use tonic::Status;

use super::error::RemoteError;
use super::ledger::RemoteLedger;
use super::proto::LoadChunk;
use crate::load::{Loaded, begun};
use crate::snapshot::Progress;

/// Bytes of a piece, and how many such may wait to be sent.
const PIECE_LEN: usize = 64 << 10;
const PIECES: usize = 16;

/// A snapshot that is about to be loaded.
///
/// ```no_run
/// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
/// # let snapshot = Vec::new();
/// let loaded = ledger.load_from(&snapshot[..]).name("loan-8").run()?;
/// # Ok::<(), ledger_client::remote::RemoteError>(())
/// ```
#[must_use = "nothing is loaded before `run`"]
pub struct LoadFrom<'a, R> {
    ledger: &'a RemoteLedger,
    reader: R,
    name: Option<String>,
    is_only_new: bool,
    on_progress: Option<Box<dyn FnMut(Progress) + 'a>>,
}

impl<R: fmt::Debug> fmt::Debug for LoadFrom<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadFrom")
            .field("reader", &self.reader)
            .field("name", &self.name)
            .field("is_only_new", &self.is_only_new)
            .finish_non_exhaustive()
    }
}

/// What is to be sent, as it comes.
struct Pieces(Receiver<LoadChunk>);

impl Stream for Pieces {
    type Item = LoadChunk;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<LoadChunk>> {
        self.0.poll_recv(task)
    }
}

impl<'a, R: Read> LoadFrom<'a, R> {
    pub(super) fn new(ledger: &'a RemoteLedger, reader: R) -> Self {
        LoadFrom {
            ledger,
            reader,
            name: None,
            is_only_new: false,
            on_progress: None,
        }
    }

    /// What the context is called. Default: what it was called.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// # let snapshot = Vec::new();
    /// ledger.load_from(&snapshot[..]).name("loan-8").run()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Not if there is a context of that name with entries.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// # let snapshot = Vec::new();
    /// ledger.load_from(&snapshot[..]).only_new().run()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn only_new(mut self) -> Self {
        self.is_only_new = true;
        self
    }

    /// Calls this from time to time while it is sent.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// # let snapshot = Vec::new();
    /// let load = ledger.load_from(&snapshot[..]);
    /// load.on_progress(|progress| println!("{}", progress.done_len)).run()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn on_progress(mut self, call: impl FnMut(Progress) + 'a) -> Self {
        self.on_progress = Some(Box::new(call));
        self
    }

    /// Loads it, and waits until it is on stable storage there.
    ///
    /// # Errors
    ///
    /// [`RemoteError::Snapshot`], or what the ledger says; nothing has changed then, unless it
    /// could not be reached any more.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// # let snapshot = Vec::new();
    /// println!("{} entries more", ledger.load_from(&snapshot[..]).run()?.new_count);
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn run(mut self) -> Result<Loaded, RemoteError> {
        let (begin, head) = begun(&mut self.reader)?;
        let of_snapshot = head.as_ref().map(|head| head.facts.name.clone());
        let name = self.name.take().or(of_snapshot).unwrap_or_default();
        InvalidName::check(name.as_bytes())?;
        let span = head.and_then(|head| head.snapshot);

        let link = &self.ledger.link;
        let (sender, pieces) = channel(PIECES);
        let mut client = link.client();
        let asked = link.request(Pieces(pieces));
        let answer = link
            .handle()
            .spawn(async move { client.load_stream(asked).await });
        if let Err(error) = self.send(&name, begin, sender) {
            // What was sent may be a whole one, and is not meant.
            answer.abort();
            return Err(error);
        }
        let loaded = link.call(async move {
            let internal = |error: JoinError| Err(Status::internal(error.to_string()));
            answer.await.unwrap_or_else(internal)
        })?;
        let unsaid = |what| RemoteError::Invalid(format!("it has loaded, and says no {what}"));
        Ok(Loaded {
            name,
            epoch: loaded.epoch.parse().map_err(|_| unsaid("epoch"))?,
            first_seq: span.map_or(1, |span| span.first_seq),
            last_seq: loaded.latest_sequence,
            new_count: loaded.entries_restored,
            root: loaded.merkle_root[..]
                .try_into()
                .map_err(|_| unsaid("root"))?,
        })
    }

    /// Sends all there is, unless the ledger has heard enough.
    fn send(
        &mut self,
        name: &str,
        begin: Vec<u8>,
        sender: Sender<LoadChunk>,
    ) -> Result<(), RemoteError> {
        let link = Arc::clone(&self.ledger.link);
        let (mut data, mut done_len) = (begin, 0);
        loop {
            done_len += data.len() as u64;
            let chunk = LoadChunk {
                context_id: name.to_owned(),
                data: data.into(),
                fail_if_exists: self.is_only_new,
            };
            let sender = sender.clone();
            let sent = link.wait(async move { sender.send(chunk).await })?;
            if sent.is_err() {
                return Ok(());
            }
            if let Some(call) = &mut self.on_progress {
                call(Progress {
                    done_len,
                    total_len: None,
                });
            }
            data = Vec::with_capacity(PIECE_LEN);
            let piece = (&mut self.reader).take(PIECE_LEN as u64);
            { piece }
                .read_to_end(&mut data)
                .map_err(SnapshotError::Read)?;
            if data.is_empty() {
                return Ok(());
            }
        }
    }
}
