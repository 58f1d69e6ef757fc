//! Lines of JSON that are imported: refused, or the entries that they say, and the same again
//! when those are exported and imported once more.
#![no_main]

use ledgerd::round_trip::{lines_of, snapshot};
use libfuzzer_sys::fuzz_target;
use serde_json::{Value, json};

fuzz_target!(|lines: &[u8]| {
    if let Ok(imported) = snapshot(lines) {
        let exported = lines_of(&imported);
        assert_eq!(said(lines), said(exported.as_bytes()));
        let again = snapshot(exported.as_bytes());
        let again = again.unwrap_or_else(|_| panic!("not what was exported: {exported}"));
        assert_eq!(lines_of(&again), exported);
    }
});

/// What lines say that were taken, each in the same words.
fn said(lines: &[u8]) -> Vec<Value> {
    let lines = lines.split(|byte| *byte == b'\n');
    let lines = lines
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty());
    lines.map(said_by).collect()
}

fn said_by(line: &[u8]) -> Value {
    let line: Value = serde_json::from_slice(line).expect("it was taken");
    assert!(line.is_object(), "{line}");
    let digits = line["payload_hex"].as_str().map(str::to_lowercase);
    let payload = digits.unwrap_or_else(|| {
        let text = line["payload"].as_str().unwrap_or_default();
        text.bytes().map(|byte| format!("{byte:02x}")).collect()
    });
    let metadata = line.get("metadata").cloned().unwrap_or(json!([]));
    json!({
        "seq": line["seq"],
        "appended_at_ns": line["appended_at_ns"],
        "lamport": line["lamport"],
        "key": line["key"],
        "payload": payload,
        "metadata": metadata,
    })
}
