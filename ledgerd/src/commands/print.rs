//! How entries and other things look. `docs/JSON.md` has every field.

use std::fmt::Write as _;
use std::io::{self, BufWriter, StdoutLock, Write};
use std::time::{Duration, UNIX_EPOCH};

use ledger_client::Entry;
use serde::Serialize;

use crate::cli::{Failure, Output};

/// One entry as a JSON object. The payload is text where it is UTF-8, and hex
/// where it is not.
#[derive(Serialize)]
pub(super) struct Line<'a> {
    seq: u64,
    appended_at_ns: u64,
    lamport: u64,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_hex: Option<String>,
    metadata: Vec<(&'a str, &'a str)>,
}

impl<'a> Line<'a> {
    pub(super) fn of(entry: &'a Entry<'_>) -> Line<'a> {
        let text = std::str::from_utf8(entry.payload()).ok();
        Line {
            seq: entry.seq(),
            appended_at_ns: entry.appended_at_ns(),
            lamport: entry.lamport(),
            key: entry.key(),
            payload: text,
            payload_hex: text.is_none().then(|| hex(entry.payload())),
            metadata: metadata(entry),
        }
    }
}

/// What becomes an array of pairs in JSON.
pub(super) fn metadata<'a>(entry: &'a Entry<'_>) -> Vec<(&'a str, &'a str)> {
    entry.metadata().collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes everything");
            text
        })
}

/// A wall clock's nanoseconds since 1970, in RFC 3339.
pub(super) fn time(at_ns: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_nanos(at_ns));
    humantime::format_rfc3339_micros(at.unwrap_or(UNIX_EPOCH)).to_string()
}

/// Text as a terminal cannot act on it; unlike `escape_debug`, which leaves no quote of JSON
/// as it is.
pub(super) fn inert(text: &str) -> String {
    let mut inert = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\'' | '\\' => inert.push(c),
            _ => inert.extend(c.escape_debug()),
        }
    }
    inert
}

/// Whether an entry is as it was appended.
pub(super) fn verify(entry: &Entry<'_>) -> Result<(), Failure> {
    let verified = entry.verify();
    verified.map_err(|corrupt| format!("entry {}: {corrupt}", entry.seq()).into())
}

/// Prints many things of a kind to standard output.
pub(super) struct Printer {
    out: BufWriter<StdoutLock<'static>>,
    output: Output,
    count: u64,
}

impl Printer {
    pub(super) fn new(output: Output) -> Printer {
        Printer {
            out: BufWriter::new(io::stdout().lock()),
            output,
            count: 0,
        }
    }

    pub(super) fn output(&self) -> Output {
        self.output
    }

    /// One thing as JSON, in a document of its own line or in the one array.
    pub(super) fn json(&mut self, thing: &impl Serialize) -> io::Result<()> {
        if self.output == Output::Json {
            let before: &[u8] = if self.count == 0 { b"[\n" } else { b",\n" };
            self.out.write_all(before)?;
        }
        serde_json::to_writer(&mut self.out, thing)?;
        self.count += 1;
        match self.output {
            Output::Json => Ok(()),
            _ => writeln!(self.out),
        }
    }

    /// One line as it is.
    pub(super) fn line(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.out, "{line}")
    }

    /// Verifies one entry and prints it.
    pub(super) fn entry(&mut self, entry: &Entry<'_>) -> Result<(), Failure> {
        verify(entry)?;
        match self.output {
            Output::Raw => self.out.write_all(entry.payload())?,
            Output::Hex => self.line(&hex(entry.payload()))?,
            Output::Json | Output::Jsonl => self.json(&Line::of(entry))?,
            Output::Short => {
                let payload = match std::str::from_utf8(entry.payload()) {
                    Ok(text) => text.escape_debug().to_string(),
                    Err(_) => format!("0x{}", hex(entry.payload())),
                };
                let key = entry.key().escape_debug().to_string();
                write!(self.out, "{:>6}  {key:<12} {payload}", entry.seq())?;
                for (key, value) in entry.metadata() {
                    write!(
                        self.out,
                        "  {}={}",
                        key.escape_debug(),
                        value.escape_debug()
                    )?;
                }
                writeln!(self.out)?;
            }
        }
        Ok(())
    }

    /// Has everything seen that was printed so far.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// Ends the array, if it is one, and has everything seen.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.output == Output::Json {
            let end: &[u8] = if self.count == 0 { b"[]\n" } else { b"\n]\n" };
            self.out.write_all(end)?;
        }
        self.out.flush()
    }
}
