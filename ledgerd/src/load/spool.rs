//! Reading a snapshot into files of an archive, which differ in their heads only.

use std::io::Write;

use ledger_client::wire::{LoadOutcome, Refusal};
use ledger_shm::control::Facts;
use ledger_shm::file::{Head, SnapshotError, SnapshotReader};

use crate::archive::{Loading, SyncedFile, Syncer};
use crate::registry::now_ns;

use super::stream::Stream;
use super::{Order, Spooled};

/// Bytes that are brought to stable storage at once: nobody waits for less than all.
const PIECE_LEN: usize = 16 << 20;

/// Reads one; none if it cannot be, which the client is told.
pub(super) fn run(files: Loading, order: Order, stream: Stream) -> Option<Spooled> {
    let outcome = files
        .make()
        .map_err(SnapshotError::Write)
        .and_then(|()| read(&files, &order, &stream));
    match outcome {
        Ok(read) => Some(Spooled {
            files,
            facts: read.facts,
            is_only_new: order.is_only_new,
            first_seq: read.first_seq,
            tree: read.tree,
            last_lamport: read.last_lamport,
            stream,
        }),
        Err(error) => {
            // Before it is told: who has made room tries again.
            files.remove();
            let why = match error {
                SnapshotError::Write(error) => {
                    format!("cannot write it to {}: {error}", files.dir().display())
                }
                error => error.to_string(),
            };
            tracing::warn!(context = order.name, why, "a snapshot is not loaded");
            stream.say(&LoadOutcome::Refused(Refusal::NotLoaded(why)));
            None
        }
    }
}

struct Read {
    facts: Facts,
    first_seq: u64,
    tree: ledger_shm::merkle::Frontier,
    last_lamport: u64,
}

fn read(files: &Loading, order: &Order, stream: &Stream) -> Result<Read, SnapshotError> {
    let write = SnapshotError::Write;
    let syncer = Syncer::start().map_err(write)?;
    let mut snapshot = SnapshotReader::new(stream);
    let mut first: Option<(Facts, u64)> = None;
    let mut last_lamport = 0;
    while let Some(head) = snapshot.next_section()? {
        let ours = Head {
            facts: Facts {
                name: order.name.clone(),
                epoch: order.epoch,
                has_foreign_writers: order.has_foreign_writers,
                created_at_ns: order.created_at_ns,
                ..head.facts.clone()
            },
            begun_at_ns: now_ns(),
            snapshot: None,
            ..head.clone()
        };
        let from = head.data_offset();
        let last_seq = head.snapshot.map_or(0, |span| span.last_seq);
        let file = files.create(ours.first_seq()).map_err(write)?;
        let mut target = SyncedFile::new(file, syncer.clone(), PIECE_LEN, ours.first_seq() - 1);
        target.write_all(&ours.encode()).map_err(write)?;
        let (tables, trailer) = snapshot.read_section(|entry, padded| {
            target.write_all(padded)?;
            target.sync_beside(entry.seq())
        })?;
        let mut trailer = trailer.moved(from, ours.data_offset());
        // Nobody ever appended behind that.
        trailer.is_complete = trailer.last_seq() == last_seq;
        last_lamport = trailer.last_lamport;
        target.write_all(&tables).map_err(write)?;
        target.write_all(&trailer.encode()).map_err(write)?;
        target.sync(trailer.last_seq()).map_err(write)?;
        first.get_or_insert((ours.facts.clone(), ours.first_seq()));
    }
    files.sync().map_err(write)?;
    let (facts, first_seq) = first.expect("a snapshot has a file");
    Ok(Read {
        facts,
        first_seq,
        tree: snapshot.tree().expect("a file was read").clone(),
        last_lamport,
    })
}
