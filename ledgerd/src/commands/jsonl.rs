//! Entries as JSON, one object per line, with the fields that `get -o jsonl` prints:
//! what `ledgerd append --jsonl` and an import take.

use std::io::{self, BufRead, BufReader, Read};

use ledger_client::NewEntry;
use ledger_shm::entry::LIMIT_MAX;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::cli::{Failure, Kind};

/// Every byte of the largest payload may take six, as `\u0000`.
const LINE_LEN_MAX: u64 = 8 * LIMIT_MAX as u64;

/// One line. What the ledger has given the entry is an `N`: a number for who keeps it,
/// anything for who gives it anew.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line<N> {
    pub(super) key: String,
    payload: Option<String>,
    payload_hex: Option<String>,
    #[serde(default)]
    metadata: Vec<(String, String)>,
    #[serde(default)]
    pub(super) received_lamport: u64,
    pub(super) seq: Option<N>,
    pub(super) appended_at_ns: Option<N>,
    pub(super) lamport: Option<N>,
}

impl<N> Line<N> {
    pub(super) fn payload(&self) -> Result<Vec<u8>, String> {
        match (&self.payload, &self.payload_hex) {
            (None, None) => Ok(Vec::new()),
            (Some(text), None) => Ok(text.clone().into_bytes()),
            (None, Some(digits)) => bytes(digits).map_err(|why| format!("`payload_hex` {why}")),
            (Some(_), Some(_)) => Err("both `payload` and `payload_hex`".to_owned()),
        }
    }

    pub(super) fn metadata(&self) -> Vec<(&str, &str)> {
        let pairs = self.metadata.iter();
        pairs.map(|(key, value)| (&**key, &**value)).collect()
    }
}

/// Lines, read one by one; empty ones are none.
pub(super) struct Lines<R> {
    input: R,
    number: u64,
    text: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn of(input: R) -> Lines<R> {
        Lines {
            input,
            number: 0,
            text: Vec::new(),
        }
    }

    /// The number of the last line, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next line, or what is wrong with it.
    pub(super) fn next<N: DeserializeOwned>(
        &mut self,
    ) -> io::Result<Option<Result<Line<N>, String>>> {
        loop {
            self.text.clear();
            let len = (&mut self.input)
                .take(LINE_LEN_MAX)
                .read_until(b'\n', &mut self.text)?;
            if len == 0 {
                return Ok(None);
            }
            self.number += 1;
            let text = self.text.trim_ascii();
            if !text.is_empty() {
                return Ok(Some(parse(text)));
            }
        }
    }
}

impl<R: Read> Lines<BufReader<R>> {
    /// Whether another whole line lies ready: half a line is one to wait for.
    fn has_more(&self) -> bool {
        self.input.buffer().contains(&b'\n')
    }
}

fn parse<N: DeserializeOwned>(text: &[u8]) -> Result<Line<N>, String> {
    // serde takes the fields of a struct from an array, too, by their positions.
    if text.starts_with(b"[") {
        let why = "a line is an object and no array; `-o jsonl` prints such lines";
        return Err(why.to_owned());
    }
    serde_json::from_slice(text).map_err(|error| {
        let mut why = error.to_string();
        if let Some(end) = why.rfind(" at line 1 column ") {
            why.truncate(end);
        }
        format!("{why} at column {}", error.column())
    })
}

pub(super) fn bytes(digits: &str) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect::<Option<Vec<u8>>>()
        .filter(|_| rest.is_empty())
        .ok_or_else(|| format!("{digits:?} is no pairs of hexadecimal digits"))
}

/// Appends every line, telling `done` what came of each, and whether more lines
/// lie ready. What was appended before an error stays.
pub(super) fn append_all(
    mut append: impl FnMut(&NewEntry<'_>) -> Result<ledger_client::Appended, (Kind, String)>,
    input: impl Read,
    mut done: impl FnMut(&ledger_client::Appended, bool) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut lines = Lines::of(BufReader::new(input));
    while let Some(line) = lines.next::<IgnoredAny>()? {
        let number = lines.number();
        let failed = |kind, why: String| {
            let message = format!("line {number}: {why}; what comes before it is appended");
            Failure::Said(kind, message)
        };
        let wrong = |why| failed(Kind::Failed, why);
        let line = line.map_err(wrong)?;
        let payload = line.payload().map_err(wrong)?;
        let metadata = line.metadata();
        let entry = NewEntry::new(&line.key, &payload)
            .metadata(&metadata)
            .received_lamport(line.received_lamport);
        let appended = append(&entry).map_err(|(kind, why)| failed(kind, why))?;
        done(&appended, lines.has_more())?;
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
