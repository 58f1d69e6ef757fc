//! Lines of JSON that are imported: those that an export could have written become the entries
//! that they say; others are refused, or do as well.
#![no_main]

use ledgerd::round_trip::{lines_of, snapshot};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value, json};

/// A whole entry, said in one of the ways there are.
#[derive(Arbitrary, Debug)]
struct Made {
    key: String,
    lamport_step: u32,
    appended_at_ns: u64,
    payload: Option<Payload>,
    metadata: Option<Vec<(String, String)>>,
    has_nulls: bool,
    ends: Ends,
}

#[derive(Arbitrary, Debug)]
enum Payload {
    Text(String),
    Bytes(Vec<u8>, bool),
}

/// What comes between one line and the next.
#[derive(Arbitrary, Debug)]
enum Ends {
    Newline,
    Windows,
    Blank,
}

#[derive(Arbitrary, Debug)]
struct Input {
    entries: Vec<Made>,
    /// Bytes that are exchanged, and some more at the end.
    changes: Vec<(u16, u8)>,
    more: Vec<u8>,
}

fuzz_target!(|input: Input| {
    let mut lines = Vec::new();
    let mut lamport = 0;
    for (made, seq) in input.entries.iter().zip(1_u64..) {
        lamport += 1 + u64::from(made.lamport_step);
        lines.extend(made.line(seq, lamport));
    }
    for (at, byte) in &input.changes {
        let at = usize::from(*at) % lines.len().max(1);
        if let Some(old) = lines.get_mut(at) {
            *old = *byte;
        }
    }
    lines.extend(&input.more);
    let is_as_made = input.changes.is_empty() && input.more.is_empty();
    match snapshot(&lines) {
        Ok(imported) => {
            let exported = lines_of(&imported);
            assert_eq!(said(&lines), said(exported.as_bytes()));
            let again = snapshot(exported.as_bytes());
            let again = again.unwrap_or_else(|why| panic!("{why}: {exported}"));
            assert_eq!(lines_of(&again), exported);
        }
        Err(why) => assert!(!is_as_made, "{why}: {}", String::from_utf8_lossy(&lines)),
    }
});

impl Made {
    fn line(&self, seq: u64, lamport: u64) -> Vec<u8> {
        // Of fewer bytes than a key may have, and of one at least.
        let key: String = self.key.chars().chain(['k']).take(200).collect();
        let mut line = Map::new();
        let mut set = |name: &str, value| line.insert(name.to_owned(), value);
        set("key", key.into());
        set("seq", seq.into());
        set("lamport", lamport.into());
        set("appended_at_ns", self.appended_at_ns.into());
        if self.has_nulls {
            set("payload", Value::Null);
            set("payload_hex", Value::Null);
        }
        match &self.payload {
            None => {}
            Some(Payload::Text(text)) => drop(set("payload", text.as_str().into())),
            Some(Payload::Bytes(bytes, is_upper)) => {
                let digits = hex(bytes);
                let digits = if *is_upper {
                    digits.to_uppercase()
                } else {
                    digits
                };
                set("payload_hex", digits.into());
            }
        }
        if let Some(metadata) = &self.metadata {
            set("metadata", json!(metadata));
        }
        let end = match self.ends {
            Ends::Newline => "\n",
            Ends::Windows => "\r\n",
            Ends::Blank => " \n\n",
        };
        let mut line = serde_json::to_vec(&line).expect("text");
        line.extend(end.as_bytes());
        line
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What lines say that were taken, each in the same words.
fn said(lines: &[u8]) -> Vec<Value> {
    let mut lamport = 0;
    let lines = lines.split(|byte| *byte == b'\n');
    let lines = lines
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty());
    let lines = lines.zip(1_u64..).map(|(line, seq)| {
        let line: Map<String, Value> = serde_json::from_slice(line).expect("it was taken");
        let got = |name: &str| line.get(name).filter(|value| !value.is_null());
        assert_eq!(line["seq"].as_u64(), Some(seq));
        let before = std::mem::replace(&mut lamport, line["lamport"].as_u64().expect("a number"));
        assert!(before < lamport, "{lamport} after {before}");
        assert!(got("received_lamport").is_none_or(|received| *received == 0));
        let payload = match (got("payload"), got("payload_hex")) {
            (None, None) => String::new(),
            (Some(text), None) => hex(text.as_str().expect("text").as_bytes()),
            (None, Some(digits)) => digits.as_str().expect("text").to_lowercase(),
            (Some(_), Some(_)) => panic!("two payloads in {line:?}"),
        };
        for name in line.keys() {
            assert!(NAMES.contains(&name.as_str()), "{name}");
        }
        json!({
            "seq": seq,
            "appended_at_ns": line["appended_at_ns"],
            "lamport": lamport,
            "key": line["key"],
            "payload": payload,
            "metadata": got("metadata").cloned().unwrap_or(json!([])),
        })
    });
    lines.collect()
}

const NAMES: [&str; 8] = [
    "seq",
    "appended_at_ns",
    "lamport",
    "received_lamport",
    "key",
    "payload",
    "payload_hex",
    "metadata",
];
