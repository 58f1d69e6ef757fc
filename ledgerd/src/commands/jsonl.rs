//! `ledgerd append --jsonl`: many entries, one JSON object per line, with the
//! fields that `get -o jsonl` prints.

use std::io::{BufRead, BufReader, Read};

use ledger_client::{AppendError, Appender, NewEntry};
use ledger_shm::entry::LIMIT_MAX;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::cli::{Failure, Kind};

/// Every byte of the largest payload may take six, as `\u0000`.
const LINE_LEN_MAX: u64 = 8 * LIMIT_MAX as u64;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    key: String,
    payload: Option<String>,
    payload_hex: Option<String>,
    #[serde(default)]
    metadata: Vec<(String, String)>,
    #[serde(default)]
    received_lamport: u64,
    /// What an entry is given anew.
    #[serde(default, rename = "seq")]
    _seq: IgnoredAny,
    #[serde(default, rename = "appended_at_ns")]
    _appended_at_ns: IgnoredAny,
    #[serde(default, rename = "lamport")]
    _lamport: IgnoredAny,
}

impl Line {
    fn payload(&self) -> Result<Vec<u8>, String> {
        match (&self.payload, &self.payload_hex) {
            (None, None) => Ok(Vec::new()),
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(digits)) => bytes(digits),
            (Some(_), Some(_)) => Err("both `payload` and `payload_hex`".to_owned()),
        }
    }
}

fn bytes(digits: &str) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect::<Option<Vec<u8>>>()
        .filter(|_| rest.is_empty())
        .ok_or_else(|| format!("`payload_hex` {digits:?} is no pairs of hexadecimal digits"))
}

/// Appends every line, telling `done` what came of each, and whether more lines
/// lie ready. What was appended before an error stays.
pub(super) fn append_all(
    appender: &mut Appender,
    input: impl Read,
    kind_of: impl Fn(&AppendError) -> Kind,
    mut done: impl FnMut(&ledger_client::Appended, bool) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    for number in 1_u64.. {
        line.clear();
        let len = (&mut input)
            .take(LINE_LEN_MAX)
            .read_until(b'\n', &mut line)?;
        if len == 0 {
            break;
        }
        let text = line.trim_ascii();
        if text.is_empty() {
            continue;
        }
        let failed = |kind, why: String| {
            let message = format!("line {number}: {why}; what comes before it is appended");
            Failure::Said(kind, message)
        };
        let wrong = |why| failed(Kind::Failed, why);
        let line: Line = serde_json::from_slice(text).map_err(|error| {
            let mut why = error.to_string();
            if let Some(end) = why.rfind(" at line 1 column ") {
                why.truncate(end);
            }
            match text {
                [b'[', ..] => wrong(format!(
                    "{why}; an array is no line, `-o jsonl` prints some"
                )),
                _ => wrong(format!("{why} at column {}", error.column())),
            }
        })?;
        let payload = line.payload().map_err(wrong)?;
        let pairs = line.metadata.iter();
        let metadata: Vec<_> = pairs.map(|(key, value)| (&**key, &**value)).collect();
        let entry = NewEntry::new(&line.key, &payload)
            .metadata(&metadata)
            .received_lamport(line.received_lamport);
        let appended = appender.append(&entry);
        let appended = appended.map_err(|error| failed(kind_of(&error), error.to_string()))?;
        // Half a line is one to wait for.
        done(&appended, input.buffer().contains(&b'\n'))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn hexadecimal_digits_come_in_pairs() {
        assert_eq!(bytes("00fF"), Ok(vec![0, 255]));
        assert_eq!(bytes(""), Ok(vec![]));
        for wrong in ["0", "0g", "é"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
