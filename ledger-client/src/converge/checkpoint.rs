//! A whole context as JSON, and the last one that a host has saved.

use std::collections::HashMap;

use converge_core::{ContextSnapshot, ProposedFact};
use serde_json::Value;

use crate::context::Context;
use crate::error::ReadError;

use super::parts::Parts;
use super::record::{self, VERSION, key_name, of};

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

/// The text that hosts have saved last and whole. Parts of several may lie between each other.
pub(super) fn last(context: &Context) -> Result<Option<String>, ReadError> {
    let first_seq = context.first_available()?;
    let mut ids: HashMap<String, Parts> = HashMap::new();
    let mut last = None;
    // Texts only of the one that is wanted: each may be large, and there may be many.
    each_part(context, first_seq, |id, part, _| {
        let parts = ids.entry(id.to_owned()).or_default();
        parts.take(part, "");
        if parts.whole().is_some() {
            last = ids.remove_entry(id).map(|(id, _)| id);
        }
    })?;
    let Some(last) = last else { return Ok(None) };
    let mut parts = Parts::default();
    each_part(context, first_seq, |id, part, text| {
        if id == last {
            parts.take(part, text);
        }
    })?;
    Ok(parts.whole().map(str::to_owned))
}

/// Parts of what hosts have saved: id, number and text.
fn each_part(
    context: &Context,
    first_seq: u64,
    mut found: impl FnMut(&str, &str, &str),
) -> Result<(), ReadError> {
    let mut range = context.range(first_seq).key(record::SNAPSHOTS);
    while let Some(entry) = range.next_entry()? {
        entry.verify()?;
        let tags = ["v", "kind", "checkpoint", "part"].map(|name| of(&entry, name));
        let [
            Some(VERSION),
            Some(record::CHECKPOINT),
            Some(id),
            Some(part),
        ] = tags
        else {
            continue;
        };
        if let (false, Ok(text)) = (id == record::START, str::from_utf8(entry.payload())) {
            found(id, part, text);
        }
    }
    Ok(())
}
