//! Entries as messages, and messages as entries.

use ledger_shm::entry::{LIMIT_MAX, Limits};
use ledger_shm::record::Payload;
use ledger_shm::{Appended, Entry, NewEntry};

use super::error::RemoteError;
use super::proto::{self, AppendRequest};

/// What any context may take: which of it this one does is its ledger's to say.
const LIMITS: Limits = Limits {
    payload_len_max: LIMIT_MAX,
    metadata_len_max: LIMIT_MAX,
};

fn appended(message: &proto::Entry) -> Appended {
    Appended {
        seq: message.sequence,
        lamport: message.lamport,
        appended_at_ns: message.appended_at_ns,
    }
}

/// What an append was given.
pub(super) fn numbers(message: Option<proto::Entry>) -> Result<Appended, RemoteError> {
    let message = message.as_ref();
    message.map(appended).ok_or_else(|| {
        RemoteError::Invalid("it has appended an entry, and does not say which".to_owned())
    })
}

/// The entry that a message says: the same type, with the same methods, as one in memory.
pub(super) fn entry(message: proto::Entry) -> Result<Entry<'static>, RemoteError> {
    let pairs = message.metadata.iter();
    let metadata: Vec<(&str, &str)> = pairs.map(|(name, value)| (&**name, &**value)).collect();
    let new = NewEntry::new(&message.key, &message.payload).metadata(&metadata);
    let record = new.record(&appended(&message), &LIMITS);
    let record = record.map_err(|error| RemoteError::Invalid(error.to_string()))?;
    Entry::copied_from(&record).map_err(|error| RemoteError::corrupt(&error))
}

/// What asks for an append of this entry.
pub(super) fn request<P: Payload>(
    context: &str,
    entry: &NewEntry<'_, P>,
) -> Result<AppendRequest, RemoteError> {
    // Whatever its payload is, a record of it has it as bytes.
    let as_first = Appended {
        seq: 1,
        lamport: 1,
        appended_at_ns: 0,
    };
    let record = entry.record(&as_first, &LIMITS)?;
    let written = Entry::from_bytes(&record).map_err(|error| RemoteError::corrupt(&error))?;
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    Ok(AppendRequest {
        context_id: context.to_owned(),
        key: written.key().to_owned(),
        payload: written.payload().to_vec().into(),
        metadata: written.metadata().map(owned).collect(),
        received_lamport: entry.received(),
    })
}
