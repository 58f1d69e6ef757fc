//! Append: the entry, as it is in the log.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ledger_client::remote::proto::AppendRequest;
use ledger_client::{AppendError, Appended, Entry, NewEntry};
use tonic::Status;

use super::codec::{Entries, write_message};
use super::contexts::{Contexts, Open};
use super::status::of_append;

/// How long an append waits for room, and how often it looks whether there is some: as one
/// through shared memory does.
const WAIT_FOR_ROOM: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// How often a context is opened again that has left memory just now.
const TRIES: usize = 3;

pub(super) async fn append(contexts: &Contexts, request: &AppendRequest) -> Result<Bytes, Status> {
    let pairs = request.metadata.iter();
    let metadata: Vec<(&str, &str)> = pairs.map(|(key, value)| (&**key, &**value)).collect();
    let entry = NewEntry::new(&request.key, &request.payload)
        .metadata(&metadata)
        .received_lamport(request.received_lamport);
    let name = &request.context_id;
    let mut tries = 1;
    loop {
        let open = contexts.to_append(name).await?;
        match append_to(&open, &entry).await {
            Ok(appended) => return answer(&open, &entry, &appended),
            Err(error) if error.is_closed() && tries < TRIES => {
                contexts.forget(name, &open);
                tries += 1;
            }
            Err(error) => return Err(of_append(&error)),
        }
    }
}

async fn append_to(open: &Open, entry: &NewEntry<'_>) -> Result<Appended, AppendError> {
    let deadline = Instant::now() + WAIT_FOR_ROOM;
    loop {
        let outcome = match open.appender() {
            Some(mut appender) => appender.try_append(entry),
            None => Err(AppendError::ReadOnly),
        };
        match outcome {
            Err(error) if error.is_full() && Instant::now() < deadline => {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            outcome => return outcome,
        }
    }
}

fn answer(open: &Open, entry: &NewEntry<'_>, appended: &Appended) -> Result<Bytes, Status> {
    let internal = |why: String| Status::internal(format!("it was appended, but {why}"));
    let record = entry.record(appended, &open.context.limits());
    let record = record.map_err(|error| internal(error.to_string()))?;
    let entry = Entry::from_bytes(&record).map_err(|error| internal(error.to_string()))?;
    let mut bytes = BytesMut::new();
    let entries = Entries::of(&open.context);
    write_message(&mut bytes, |bytes| entries.write_field(&entry, bytes));
    Ok(bytes.freeze())
}
