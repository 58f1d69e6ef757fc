//! Snapshot and Load, of which one message has all, and what they have in common with those
//! that come in pieces.

use std::io::{Cursor, Read, Seek, Write};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ledger_client::remote::proto::{
    LoadRequest, LoadResponse, SnapshotMetadata, SnapshotRequest, SnapshotResponse,
};
use ledger_client::{Limits, LoadError, Sizes, SnapshotError};
use ledger_shm::control::Facts;
use ledger_shm::file::{self, Head, SectionPlan, SnapshotReader, SnapshotWriter};
use ledger_shm::format::FORMAT_VERSION;
use ledger_shm::merkle::{Frontier, Hash};
use ledger_shm::object::Epoch;
use prost::Message;
use tonic::Status;

use super::codec::write_message;
use super::contexts::{Contexts, Open, waiting};
use super::service::MESSAGE_LEN_MAX;
use super::status::{of_load, of_read, of_snapshot, of_snapshot_bytes};
use crate::registry::now_ns;

/// Bytes of a snapshot that one message has: it has a few more around it.
const SNAPSHOT_LEN_MAX: usize = MESSAGE_LEN_MAX - (1 << 10);
/// How often, and how soon, a context is loaded again that its appender here was let go of
/// for that just now.
const TRIES: usize = 20;
const LET_GO_FOR: Duration = Duration::from_millis(10);

/// What was made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) last_seq: u64,
    entry_count: u64,
    root: Hash,
    created_at_ns: u64,
}

impl Made {
    pub(super) fn metadata(&self) -> SnapshotMetadata {
        SnapshotMetadata {
            created_at_ns: self.created_at_ns,
            entry_count: self.entry_count,
            version: FORMAT_VERSION,
            merkle_root: Bytes::copy_from_slice(&self.root),
        }
    }
}

pub(super) async fn snapshot(
    contexts: &Contexts,
    request: SnapshotRequest,
) -> Result<Bytes, Status> {
    let open = contexts.to_read(&request.context_id).await?;
    let made = waiting(move || {
        let mut bytes = Limited(Vec::new());
        made_from(open.as_deref(), request.context_id, &mut bytes).map(|made| (bytes.0, made))
    });
    let (bytes, made) = made.await??;
    Ok(framed(&SnapshotResponse {
        snapshot: bytes.into(),
        sequence: made.last_seq,
        metadata: Some(made.metadata()),
    }))
}

/// Takes no more than one message has.
struct Limited(Vec<u8>);

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > SNAPSHOT_LEN_MAX {
            return Err(std::io::ErrorKind::FileTooLarge.into());
        }
        self.0.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes the snapshot of a context; of one that does not exist, one without entries.
pub(super) fn made_from(
    open: Option<&Open>,
    name: String,
    target: impl Write,
) -> Result<Made, Status> {
    let created_at_ns = now_ns();
    let Some(open) = open else {
        let root = empty(name, created_at_ns, target).map_err(SnapshotError::Write);
        return Ok(Made {
            last_seq: 0,
            entry_count: 0,
            root: root.map_err(|error| of_snapshot(&error))?,
            created_at_ns,
        });
    };
    let made = open.context.snapshot_to(target).run();
    let made = made.map_err(|error| of_snapshot(&error))?;
    Ok(Made {
        last_seq: made.last_seq,
        entry_count: made.last_seq + 1 - made.first_seq,
        root: made.root,
        created_at_ns,
    })
}

fn empty(name: String, created_at_ns: u64, target: impl Write) -> std::io::Result<Hash> {
    let head = Head {
        facts: Facts {
            name,
            epoch: Epoch([0; 16]),
            limits: Limits::default(),
            sizes: Sizes::default(),
            has_foreign_writers: false,
            created_at_ns,
        },
        before: Frontier::default(),
        base_lamport: 0,
        begun_at_ns: created_at_ns,
        snapshot: None,
    };
    let finished = SnapshotWriter::begin(target, &head, &SectionPlan::new(1))?.finish()?;
    Ok(finished.trailer.root)
}

pub(super) async fn load(contexts: &Contexts, request: LoadRequest) -> Result<Bytes, Status> {
    let LoadRequest {
        context_id,
        snapshot,
        fail_if_exists,
    } = request;
    let source = Cursor::new(snapshot);
    let loaded = load_from(contexts, context_id, fail_if_exists, source).await?;
    Ok(framed(&loaded))
}

/// Loads what lies there, from its beginning.
pub(super) async fn load_from(
    contexts: &Contexts,
    name: String,
    fail_if_exists: bool,
    mut source: impl Read + Seek + Send + 'static,
) -> Result<LoadResponse, Status> {
    let checked = waiting(move || {
        let checked = source.rewind().map_err(file::SnapshotError::Read);
        checked.and_then(|()| check(&mut source)).map(|()| source)
    });
    let mut source = checked.await?.map_err(|error| of_snapshot_bytes(&error))?;
    if fail_if_exists
        && let Some(open) = contexts.to_read(&name).await?
        && let latest @ 1.. = open.context.latest().map_err(|error| of_read(&error))?
    {
        return Err(Status::already_exists(format!(
            "there is a context {name:?} with {latest} entries; load it without `fail_if_exists`, or under another name"
        )));
    }
    let has_let_go = contexts.let_go(&name);
    let mut tries = 1;
    loop {
        let (ledger, name) = (contexts.ledger(), name.clone());
        let outcome;
        (source, outcome) = waiting(move || {
            let rewound = source.rewind().map_err(file::SnapshotError::Read);
            let outcome = rewound
                .map_err(LoadError::from)
                .and_then(|()| ledger.load_from(&mut source).name(name).run());
            (source, outcome)
        })
        .await?;
        match outcome {
            Err(LoadError::NotLoaded(_)) if has_let_go && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(LET_GO_FOR).await;
            }
            Err(error) => return Err(of_load(&error)),
            Ok(loaded) => {
                return Ok(LoadResponse {
                    entries_restored: loaded.new_count,
                    latest_sequence: loaded.last_seq,
                    epoch: loaded.epoch.to_string(),
                    merkle_root: Bytes::copy_from_slice(&loaded.root),
                });
            }
        }
    }
}

/// Whether it is a whole one, and nothing else.
fn check(snapshot: impl Read) -> Result<(), file::SnapshotError> {
    let mut reader = SnapshotReader::new(snapshot);
    while reader.next_section()?.is_some() {
        reader.read_section(|_, _| Ok(()))?;
    }
    Ok(())
}

pub(super) fn framed(message: &impl Message) -> Bytes {
    let mut bytes = BytesMut::new();
    write_message(&mut bytes, |bytes| {
        bytes.reserve(message.encoded_len());
        message.encode(bytes).expect("there is room");
    });
    bytes.freeze()
}
