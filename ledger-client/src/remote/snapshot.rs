//! Snapshots of a context elsewhere.

use std::fmt;
use std::io::Write;

use ledger_shm::file::{HEAD_LEN_MAX, SnapshotReader};
use ledger_shm::object::Epoch;

use super::context::Context;
use super::error::RemoteError;
use super::proto::{SnapshotChunk, SnapshotRequest};
use crate::snapshot::{Progress, Snapshot};

/// A snapshot that is about to be written.
///
/// ```no_run
/// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
/// let mut bytes = Vec::new();
/// let snapshot = ledger.context("loan-7").open()?.snapshot_to(&mut bytes).run()?;
/// # Ok::<(), ledger_client::remote::RemoteError>(())
/// ```
#[must_use = "nothing is written before `run`"]
pub struct SnapshotTo<'a, W> {
    context: &'a Context,
    writer: W,
    on_progress: Option<Box<dyn FnMut(Progress) + 'a>>,
}

impl<W: fmt::Debug> fmt::Debug for SnapshotTo<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotTo")
            .field("context", self.context)
            .field("writer", &self.writer)
            .finish_non_exhaustive()
    }
}

impl<'a, W: Write> SnapshotTo<'a, W> {
    pub(super) fn new(context: &'a Context, writer: W) -> Self {
        SnapshotTo {
            context,
            writer,
            on_progress: None,
        }
    }

    /// Calls this from time to time while it is written.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let context = ledger.context("loan-7").open()?;
    /// let snapshot = context.snapshot_to(std::io::sink());
    /// snapshot.on_progress(|progress| println!("{}", progress.done_len)).run()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn on_progress(mut self, call: impl FnMut(Progress) + 'a) -> Self {
        self.on_progress = Some(Box::new(call));
        self
    }

    /// Writes all entries there are. The ledger makes the snapshot before it sends the first
    /// byte of it.
    ///
    /// # Errors
    ///
    /// [`RemoteError::Write`], or what the ledger says; what was written then is none.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let snapshot = ledger.context("loan-7").open()?.snapshot_to(std::io::sink()).run()?;
    /// println!("{} entries", snapshot.last_seq + 1 - snapshot.first_seq);
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn run(mut self) -> Result<Snapshot, RemoteError> {
        let link = &self.context.ledger().link;
        let mut client = link.client();
        let asked = link.request(SnapshotRequest {
            context_id: self.context.name().to_owned(),
        });
        let mut stream = link.call(async move { client.snapshot_stream(asked).await })?;
        let (mut begin, mut len, mut last) = (Vec::new(), 0, None);
        loop {
            let piece;
            (stream, piece) = link.wait(async move {
                let piece = stream.message().await;
                (stream, piece)
            })?;
            let Some(piece) = piece.map_err(|status| RemoteError::of(&status))? else {
                break;
            };
            self.writer
                .write_all(&piece.data)
                .map_err(RemoteError::Write)?;
            let wanted = HEAD_LEN_MAX.saturating_sub(begin.len());
            begin.extend(piece.data.iter().take(wanted));
            len += piece.data.len() as u64;
            if let Some(call) = &mut self.on_progress {
                call(Progress {
                    done_len: len,
                    total_len: None,
                });
            }
            last = Some(piece);
        }
        self.writer.flush().map_err(RemoteError::Write)?;
        said(self.context.name(), &begin, len, last)
            .ok_or_else(|| RemoteError::Invalid("a snapshot without its end".to_owned()))
    }
}

/// What the last piece says, and the first bytes.
fn said(name: &str, begin: &[u8], len: u64, last: Option<SnapshotChunk>) -> Option<Snapshot> {
    let last = last?;
    let metadata = last.metadata?;
    let mut reader = SnapshotReader::new(begin);
    let head = reader.next_section().ok()??;
    Some(Snapshot {
        name: name.to_owned(),
        epoch: Epoch(head.facts.epoch.0),
        first_seq: (last.sequence + 1).checked_sub(metadata.entry_count)?,
        last_seq: last.sequence,
        root: metadata.merkle_root[..].try_into().ok()?,
        len,
    })
}
