//! What went wrong, as gRPC puts it.

use std::io::ErrorKind;

use http::HeaderMap;
use ledger_client::{AppendError, LoadError, OpenError, ReadError, Refused, SnapshotError};
use ledger_shm::file;
use ledger_shm::object::MapError;
use tonic::Status;

/// What says it, behind the messages.
pub(super) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let added = status.add_header(&mut trailers);
    added.expect("a status without metadata is text");
    trailers
}

pub(super) fn of_open(error: &OpenError) -> Status {
    let text = error.to_string();
    match error {
        OpenError::InvalidName(_) | OpenError::InvalidSizes(_) => Status::invalid_argument(text),
        OpenError::Unknown { .. } => Status::not_found(text),
        OpenError::NotAllowed { .. } => Status::permission_denied(text),
        OpenError::Limit { .. } | OpenError::Full(_) | OpenError::Held(_) => {
            Status::resource_exhausted(text)
        }
        OpenError::Quarantined { .. } => Status::data_loss(text),
        OpenError::Connect(_) => Status::unavailable(text),
        OpenError::InUse { .. } | OpenError::ReadInPlace => Status::failed_precondition(text),
        _ => Status::internal(text),
    }
}

pub(super) fn of_append(error: &AppendError) -> Status {
    let text = error.to_string();
    match error {
        AppendError::Refused(Refused::Full(_) | Refused::TooLarge { .. }) => {
            Status::resource_exhausted(text)
        }
        AppendError::Refused(Refused::EmptyKey | Refused::LamportTooLarge { .. }) => {
            Status::invalid_argument(text)
        }
        AppendError::Refused(Refused::Closed) => Status::unavailable(text),
        AppendError::Refused(Refused::Corrupt(_)) => Status::data_loss(text),
        _ => Status::internal(text),
    }
}

pub(super) fn of_read(error: &ReadError) -> Status {
    let text = error.to_string();
    match error {
        ReadError::Evicted { .. } => Status::out_of_range(text),
        error if error.is_corrupt() => Status::data_loss(text),
        ReadError::Closed | ReadError::Connect(_) => Status::unavailable(text),
        ReadError::Held(_) | ReadError::Wait(_) => Status::resource_exhausted(text),
        _ => Status::internal(text),
    }
}

pub(super) fn of_snapshot(error: &SnapshotError) -> Status {
    match error {
        SnapshotError::Read(error) => of_read(error),
        SnapshotError::Beginning { .. } => Status::out_of_range(error.to_string()),
        SnapshotError::Write(error) if error.kind() == ErrorKind::FileTooLarge => {
            Status::resource_exhausted(
                "the snapshot is larger than a message may be; SnapshotStream sends it in pieces",
            )
        }
        error => Status::internal(error.to_string()),
    }
}

pub(super) fn of_load(error: &LoadError) -> Status {
    let text = error.to_string();
    match error {
        LoadError::Snapshot(error) => of_snapshot_bytes(error),
        LoadError::Open(error) => of_open(error),
        LoadError::NotLoaded(_) => Status::failed_precondition(text),
        LoadError::NotPassedOn(_) | LoadError::Unanswered(_) => Status::unavailable(text),
        _ => Status::internal(text),
    }
}

/// Of a snapshot that cannot be loaded wherever it is.
pub(super) fn of_snapshot_bytes(error: &file::SnapshotError) -> Status {
    let text = error.to_string();
    match error {
        file::SnapshotError::NotOne { .. }
        | file::SnapshotError::Part { .. }
        | file::SnapshotError::Short { .. }
        | file::SnapshotError::Long { .. } => Status::invalid_argument(text),
        file::SnapshotError::Damaged(file::Damage::File(MapError::Version { .. })) => {
            Status::invalid_argument(text)
        }
        file::SnapshotError::Damaged(_) => Status::data_loss(text),
        _ => Status::internal(text),
    }
}
