//! How an entry looks.

use std::io::{self, Write};

use ledger_client::Entry;
use serde::Serialize;

use crate::cli::{Failure, Output};

/// One entry as a JSON object. The payload is text where it is UTF-8, and hex
/// where it is not.
#[derive(Serialize)]
struct Line<'a> {
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

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("a string takes everything");
            text
        })
}

/// Verifies one entry and prints it.
pub(super) fn entry(
    out: &mut impl Write,
    output: Output,
    entry: &Entry<'_>,
) -> Result<(), Failure> {
    if let Err(corrupt) = entry.verify() {
        return Err(format!("entry {}: {corrupt}", entry.seq()).into());
    }
    Ok(write(out, output, entry)?)
}

fn write(out: &mut impl Write, output: Output, entry: &Entry<'_>) -> io::Result<()> {
    let text = std::str::from_utf8(entry.payload()).ok();
    match output {
        Output::Raw => out.write_all(entry.payload()),
        Output::Jsonl => {
            let line = Line {
                seq: entry.seq(),
                appended_at_ns: entry.appended_at_ns(),
                lamport: entry.lamport(),
                key: entry.key(),
                payload: text,
                payload_hex: text.is_none().then(|| hex(entry.payload())),
                metadata: entry.metadata().collect(),
            };
            serde_json::to_writer(&mut *out, &line)?;
            writeln!(out)
        }
        Output::Short => {
            let payload = match text {
                Some(text) => text.escape_debug().to_string(),
                None => format!("0x{}", hex(entry.payload())),
            };
            write!(
                out,
                "{:>6}  {:<12} {payload}",
                entry.seq(),
                entry.key().escape_debug().to_string()
            )?;
            for (key, value) in entry.metadata() {
                write!(out, "  {}={}", key.escape_debug(), value.escape_debug())?;
            }
            writeln!(out)
        }
    }
}
