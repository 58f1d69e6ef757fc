//! Entries as a table in text.

use std::fs::File;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use ::csv::{Error, ErrorKind, Writer};
use ledger_client::Entry;

use super::Rows;
use crate::commands::print::{hex, metadata};

const HEADER: [&str; 7] = [
    "seq",
    "appended_at",
    "lamport",
    "key",
    "payload",
    "payload_hex",
    "metadata",
];

pub(super) struct Table(Writer<File>);

impl Table {
    pub(super) fn begin(file: File) -> io::Result<Table> {
        let mut writer = Writer::from_writer(file);
        writer.write_record(HEADER).map_err(cause)?;
        Ok(Table(writer))
    }
}

/// What the file said, which decides what the command says.
fn cause(error: Error) -> io::Error {
    match error.into_kind() {
        ErrorKind::Io(error) => error,
        other => io::Error::other(format!("{other:?}")),
    }
}

impl Rows for Table {
    fn push(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let at = UNIX_EPOCH + Duration::from_nanos(entry.appended_at_ns());
        let (text, digits) = match std::str::from_utf8(entry.payload()) {
            Ok(text) => (text, String::new()),
            Err(_) => ("", hex(entry.payload())),
        };
        let row = [
            &*entry.seq().to_string(),
            &*humantime::format_rfc3339_nanos(at).to_string(),
            &*entry.lamport().to_string(),
            entry.key(),
            text,
            &*digits,
            &*serde_json::to_string(&metadata(entry))?,
        ];
        self.0.write_record(row).map_err(cause)
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.0.flush()
    }
}
