//! Get: a page of entries.

use bytes::{Bytes, BytesMut};
use ledger_client::remote::proto::GetRequest;
use ledger_client::{Context, ReadError};
use tonic::Status;

use super::codec::{Entries, write_message, write_number};
use super::contexts::{Contexts, waiting};
use super::status::of_read;

/// Bytes of entries in one answer, below what a client takes that says nothing else (4 MiB),
/// unless one entry alone has more.
const PAGE_LEN_MAX: usize = (4 << 20) - (64 << 10);
/// How often a context is opened again that has left memory just now.
const TRIES: usize = 3;

/// Numbers of fields, as `context.proto` has them.
const LATEST_SEQUENCE: u32 = 2;
const NEXT_AFTER_SEQUENCE: u32 = 3;

pub(super) async fn get(contexts: &Contexts, request: GetRequest) -> Result<Bytes, Status> {
    let name = request.context_id.clone();
    let mut tries = 1;
    loop {
        let Some(open) = contexts.to_read(&name).await? else {
            let mut empty = BytesMut::new();
            write_message(&mut empty, |_| {});
            return Ok(empty.freeze());
        };
        let (context, asked) = (open.context.clone(), request.clone());
        match waiting(move || answer(&context, &asked)).await? {
            Err(ReadError::Closed) if tries < TRIES => {
                contexts.forget(&name, &open);
                tries += 1;
            }
            outcome => return outcome.map_err(|error| of_read(&error)),
        }
    }
}

fn answer(context: &Context, request: &GetRequest) -> Result<Bytes, ReadError> {
    loop {
        let mut bytes = BytesMut::new();
        let mut outcome = Ok(());
        write_message(&mut bytes, |bytes| outcome = page(context, request, bytes));
        match outcome {
            // What was the first entry has gone meanwhile, and another one is.
            Err(ReadError::Evicted { .. }) if request.after_sequence == 0 => {}
            outcome => return outcome.map(|()| bytes.freeze()),
        }
    }
}

fn page(context: &Context, request: &GetRequest, bytes: &mut BytesMut) -> Result<(), ReadError> {
    let latest = context.latest()?;
    let after = request.after_sequence;
    let mut next_after = 0;
    if after < latest {
        let first = match after {
            0 => context.first_available()?,
            after => after + 1,
        };
        let mut range = context.range(first).until_now();
        if !request.key.is_empty() {
            range = range.key(request.key.as_str());
        }
        if request.limit > 0 {
            range = range.limit(u64::from(request.limit));
        }
        let entries = Entries::of(context);
        let mut last_seq = 0;
        while let Some(entry) = range.next_entry()? {
            let is_first = last_seq == 0;
            if !is_first && bytes.len() + entries.field_len(&entry) > PAGE_LEN_MAX {
                next_after = last_seq;
                break;
            }
            entries.write_field(&entry, bytes);
            last_seq = entry.seq();
        }
    }
    write_number(LATEST_SEQUENCE, latest, bytes);
    write_number(NEXT_AFTER_SEQUENCE, next_after, bytes);
    Ok(())
}
