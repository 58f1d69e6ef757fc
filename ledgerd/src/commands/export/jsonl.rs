//! Entries as `get -o jsonl` prints them.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use ledger_client::Entry;

use super::Rows;
use crate::commands::print::Line;

pub(super) struct Lines(BufWriter<File>);

impl Lines {
    pub(super) fn begin(file: File) -> Lines {
        Lines(BufWriter::new(file))
    }
}

impl Rows for Lines {
    fn push(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, &Line::of(entry))?;
        self.0.write_all(b"\n")
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.0.flush()
    }
}
