//! A whole context as JSON, and the last one that a host has saved.

use std::collections::HashMap;

use converge_core::{ContextSnapshot, ProposedFact};
use ledger_shm::Entry;
use serde_json::Value;

use super::parts::Parts;
use super::record::{self, key_name, of};

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

/// What hosts have saved, of which parts may be between those of others.
#[derive(Debug, Default)]
pub(super) struct Saved {
    open: HashMap<String, Parts>,
    /// The last one that is whole.
    pub(super) last: Option<String>,
}

impl Saved {
    /// Takes what may be a part of one.
    pub(super) fn add(&mut self, entry: &Entry<'_>) {
        let text = std::str::from_utf8(entry.payload());
        let (Some(id), Some(part), Ok(text)) = (of(entry, "checkpoint"), of(entry, "part"), text)
        else {
            return;
        };
        if of(entry, "kind") != Some(record::CHECKPOINT) || id == record::START {
            return;
        }
        let parts = self.open.entry(id.to_owned()).or_default();
        parts.take(part, text);
        if let Some(whole) = parts.whole() {
            self.last = Some(whole.to_owned());
            self.open.remove(id);
        }
    }
}
