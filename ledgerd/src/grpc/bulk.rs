//! SnapshotStream and LoadStream: of any length, in pieces, by way of a file that nobody
//! else sees. So a client that is slow keeps no context busy and no thread waiting.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use ledger_client::remote::proto::{LoadChunk, LoadResponse, SnapshotChunk, SnapshotRequest};
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;
use tonic::{Status, Streaming};

use super::contexts::{Contexts, waiting};
use super::service::next_of;
use super::snapshot::{Made, framed, load_from, made_from};
use super::status::trailers;

/// Bytes of a piece.
const PIECE_LEN: usize = 64 << 10;

/// A file for what is on its way, which goes with whoever has it open.
fn spool(dir: &Path) -> Result<File, Status> {
    tempfile::tempfile_in(dir).map_err(|error| unwritten(&error, dir))
}

fn unwritten(error: &io::Error, dir: &Path) -> Status {
    let text = format!("a snapshot on its way lies in {}: {error}", dir.display());
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Status::resource_exhausted(text)
        }
        _ => Status::internal(text),
    }
}

/// A snapshot that is handed out.
pub(super) struct Pieces {
    file: File,
    /// Said at its end.
    made: Option<Made>,
    _permit: OwnedSemaphorePermit,
}

pub(super) async fn snapshot(
    contexts: &Contexts,
    request: SnapshotRequest,
    dir: Arc<Path>,
    permit: OwnedSemaphorePermit,
) -> Result<Pieces, Status> {
    let open = contexts.to_read(&request.context_id).await?;
    let made = waiting(move || {
        let mut file = spool(&dir)?;
        let mut writer = BufWriter::new(&mut file);
        let made = made_from(open.as_deref(), request.context_id, &mut writer)?;
        let flushed = writer.flush();
        drop(writer);
        let ready = flushed.and_then(|()| file.rewind());
        ready.map_err(|error| unwritten(&error, &dir))?;
        Ok::<_, Status>((file, made))
    });
    let (file, made) = made.await??;
    Ok(Pieces {
        file,
        made: Some(made),
        _permit: permit,
    })
}

impl Pieces {
    /// The next one, as it is sent; none behind the last.
    fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let mut piece = Vec::with_capacity(PIECE_LEN);
        let read = (&self.file).take(PIECE_LEN as u64).read_to_end(&mut piece);
        let len = read.map_err(|error| Status::internal(format!("it cannot be read: {error}")))?;
        let chunk = match len {
            0 => match self.made.take() {
                Some(made) => SnapshotChunk {
                    data: Bytes::new(),
                    sequence: made.last_seq,
                    metadata: Some(made.metadata()),
                },
                None => return Ok(None),
            },
            _ => SnapshotChunk {
                data: piece.into(),
                ..SnapshotChunk::default()
            },
        };
        Ok(Some(framed(&chunk)))
    }
}

/// Pieces, as they are sent: each is read when there is room for it.
pub(super) struct Sending(Stage);

enum Stage {
    Reading(JoinHandle<(Pieces, Result<Option<Bytes>, Status>)>),
    Ended,
}

impl Stage {
    fn of(mut pieces: Pieces) -> Stage {
        Stage::Reading(tokio::task::spawn_blocking(move || {
            let next = pieces.next();
            (pieces, next)
        }))
    }
}

impl Sending {
    pub(super) fn of(pieces: Pieces) -> Sending {
        Sending(Stage::of(pieces))
    }
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Stage::Reading(reading) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let status = match ready!(Pin::new(reading).poll(task)) {
            Ok((pieces, Ok(Some(piece)))) => {
                self.0 = Stage::of(pieces);
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            Ok((_, Ok(None))) => Status::ok(""),
            Ok((_, Err(status))) => status,
            Err(error) => Status::unavailable(format!("it was not read: {error}")),
        };
        self.0 = Stage::Ended;
        Poll::Ready(Some(Ok(Frame::trailers(trailers(&status)))))
    }
}

/// Takes the pieces behind the first one, and loads what they are.
pub(super) async fn load(
    contexts: &Contexts,
    first: LoadChunk,
    mut pieces: Streaming<LoadChunk>,
    dir: Arc<Path>,
) -> Result<LoadResponse, Status> {
    let mut file = spool(&dir)?;
    let mut data = first.data;
    loop {
        let dir = Arc::clone(&dir);
        file = waiting(move || {
            let written = file.write_all(&data);
            written.map_err(|error| unwritten(&error, &dir))?;
            Ok::<_, Status>(file)
        })
        .await??;
        match next_of(&mut pieces).await? {
            Some(piece) => data = piece.data,
            None => break,
        }
    }
    load_from(contexts, first.context_id, first.fail_if_exists, file).await
}
