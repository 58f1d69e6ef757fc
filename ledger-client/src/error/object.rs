//! Why an object of a context cannot be had: what that means depends on who needs it.

use std::io;

use ledger_shm::Corrupt;
use ledger_shm::object::MapError;

use super::{ConnectError, Held, OpenError, ReadError};
use crate::wire::Refusal;

/// What could not be had by name is not there.
pub(super) fn not_found() -> MapError {
    MapError::Io(io::ErrorKind::NotFound.into())
}

/// Why an object of a context could not be had.
#[derive(Debug)]
pub(crate) enum ObjectError {
    Map(MapError),
    Connect(ConnectError),
    Refused(Refusal),
}

impl From<MapError> for ObjectError {
    fn from(error: MapError) -> ObjectError {
        ObjectError::Map(error)
    }
}

impl From<io::Error> for ObjectError {
    fn from(error: io::Error) -> ObjectError {
        ObjectError::Map(error.into())
    }
}

impl From<Corrupt> for ObjectError {
    fn from(corrupt: Corrupt) -> ObjectError {
        ObjectError::Map(corrupt.into())
    }
}

impl From<ObjectError> for ReadError {
    fn from(error: ObjectError) -> ReadError {
        match error {
            ObjectError::Map(error) => ReadError::Map(error),
            ObjectError::Connect(error) => ReadError::Connect(error),
            ObjectError::Refused(Refusal::UnknownContext) => ReadError::Closed,
            ObjectError::Refused(Refusal::UnknownPart) => ReadError::Map(not_found()),
            ObjectError::Refused(Refusal::Held { len, max }) => ReadError::Held(Held { len, max }),
            ObjectError::Refused(refusal) => {
                ReadError::Map(MapError::Io(io::Error::other(format!("{refusal:?}"))))
            }
        }
    }
}

impl From<ObjectError> for OpenError {
    fn from(error: ObjectError) -> OpenError {
        match error {
            ObjectError::Map(error) => OpenError::Map(error),
            ObjectError::Connect(error) => OpenError::Connect(error),
            ObjectError::Refused(refusal) => OpenError::Daemon(format!("{refusal:?}")),
        }
    }
}
