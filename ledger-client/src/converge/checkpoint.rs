//! A whole context as entries: JSON that may be larger than one of them.

use std::collections::HashMap;

use converge_core::{ContextSnapshot, ContextState, ProposedFact};
use converge_pack::PayloadRegistry;
use ledger_shm::Entry;
use serde_json::Value;

use super::hooks::key_name;
use super::record::{self, of};

/// Bytes of one part, at most.
const PART_LEN_MAX: usize = 1 << 20;
/// The least that a part holds, whatever the context's limit: else a character might not fit.
const PART_LEN_MIN: usize = 16;

/// What is written of a snapshot, without some of its proposals.
pub(super) fn text(
    snapshot: &ContextSnapshot,
    is_left_out: impl Fn(&ProposedFact) -> bool,
) -> serde_json::Result<String> {
    if !snapshot.proposals().values().flatten().any(&is_left_out) {
        return serde_json::to_string(snapshot);
    }
    let mut whole = serde_json::to_value(snapshot)?;
    let mut proposals = serde_json::Map::new();
    for (key, staged) in snapshot.proposals() {
        let kept: Vec<&ProposedFact> = staged.iter().filter(|it| !is_left_out(it)).collect();
        if !kept.is_empty() {
            proposals.insert(key_name(*key).to_owned(), serde_json::to_value(kept)?);
        }
    }
    whole["proposals"] = Value::Object(proposals);
    serde_json::to_string(&whole)
}

/// The parts of a text, none longer than an entry's payload may be.
pub(super) fn parts(text: &str, payload_len_max: usize) -> Vec<&str> {
    let len_max = payload_len_max.clamp(PART_LEN_MIN, PART_LEN_MAX);
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.floor_char_boundary(len_max));
        parts.push(part);
        rest = after;
    }
    parts
}

/// The context that a checkpoint's text holds.
pub(super) fn context(text: &str, registry: &PayloadRegistry) -> Result<ContextState, String> {
    let wire = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let snapshot = ContextSnapshot::from_wire(wire, registry).map_err(|error| error.to_string())?;
    ContextState::from_snapshot(snapshot).map_err(|error| error.to_string())
}

/// Puts saved checkpoints together from their parts, which may be between those of others.
#[derive(Debug, Default)]
pub(super) struct Saved {
    open: HashMap<String, String>,
    /// The last one that is whole.
    pub(super) last: Option<String>,
}

impl Saved {
    /// Takes what may be a part of one.
    pub(super) fn add(&mut self, entry: &Entry<'_>) {
        let is_one = of(entry, "kind") == Some(record::CHECKPOINT);
        let (Some(id), Some(part)) = (of(entry, "checkpoint"), of(entry, "part")) else {
            return;
        };
        let number = part.split_once('/');
        let number = number.and_then(|(n, of)| Some((n.parse().ok()?, of.parse().ok()?)));
        let text = std::str::from_utf8(entry.payload());
        let (Some((number, count)), Ok(text)): (Option<(u64, u64)>, _) = (number, text) else {
            return;
        };
        if !is_one {
            return;
        }
        if number == 1 {
            self.open.insert(id.to_owned(), String::new());
        }
        let Some(begun) = self.open.get_mut(id) else {
            return;
        };
        *begun += text;
        if number == count {
            self.last = self.open.remove(id);
        }
    }
}
