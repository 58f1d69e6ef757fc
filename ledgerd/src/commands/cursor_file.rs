//! Where `ledgerd tail` ended the last time, in a file.

use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use ledger_client::ReadError;
use ledger_shm::object::Epoch;
use serde::{Deserialize, Serialize};

use crate::cli::Failure;

#[derive(Deserialize, Serialize)]
struct Place {
    epoch: String,
    next_seq: u64,
}

pub(super) struct CursorFile(PathBuf);

impl CursorFile {
    pub(super) fn new(path: PathBuf) -> CursorFile {
        CursorFile(path)
    }

    /// The seq to begin with, if the file is there and means this epoch.
    pub(super) fn read(&self, epoch: Epoch) -> Result<Option<u64>, Failure> {
        let path = self.0.display();
        let text = match std::fs::read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot read {path}: {error}").into()),
        };
        let place: Place = serde_json::from_slice(&text)
            .map_err(|error| format!("{path} is no cursor file: {error}; remove it"))?;
        if place.epoch == epoch.to_string() {
            return Ok(Some(place.next_seq));
        }
        let message = format!(
            "{path} belongs to epoch {}, and the context has {epoch}: it is another one, or was \
             made anew since; remove the file to begin with what there is",
            place.epoch
        );
        Err(message.into())
    }

    /// What to say when what follows the remembered place is not there any more.
    pub(super) fn is_behind(&self, error: &ReadError) -> Failure {
        let path = self.0.display();
        format!("{error}; {path} says to go on there, remove it to begin with what there is").into()
    }

    /// Remembers a place: whole or not at all, whenever this process dies.
    pub(super) fn write(&self, epoch: Epoch, next_seq: u64) -> Result<(), Failure> {
        let place = Place {
            epoch: epoch.to_string(),
            next_seq,
        };
        let text = serde_json::to_vec(&place)?;
        replace(&self.0, &text)
            .map_err(|error| format!("cannot write {}: {error}", self.0.display()).into())
    }
}

fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}.new", std::process::id()));
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}
