//! What is written of runs: under which keys, as which kinds, with which metadata.

#[cfg(feature = "converge")]
use converge_core::ContextKey;
use ledger_shm::Entry;

/// Version of what is recorded, in the metadata as `v`.
pub(super) const VERSION: &str = "1";

pub(super) const INTENTS: &str = "intents";
pub(super) const PROPOSALS: &str = "proposals";
pub(super) const TRACES: &str = "traces";
pub(super) const FACTS: &str = "facts";
#[cfg(feature = "converge")]
pub(super) const EVENTS: &str = "events";
#[cfg(feature = "converge")]
pub(super) const USER_EVENTS: &str = "user_events";
pub(super) const GATES: &str = "gates";
pub(super) const SNAPSHOTS: &str = "snapshots";
pub(super) const OUTCOMES: &str = "outcomes";

pub(super) const RUN_STARTED: &str = "run_started";
pub(super) const INPUT: &str = "input";
pub(super) const CYCLE_START: &str = "cycle_start";
pub(super) const FACT: &str = "fact";
pub(super) const CYCLE_END: &str = "cycle_end";
pub(super) const GATE_REQUESTED: &str = "gate_requested";
pub(super) const GATE_DECIDED: &str = "gate_decided";
pub(super) const CHECKPOINT: &str = "checkpoint";
pub(super) const RUN_ENDED: &str = "run_ended";
pub(super) const RUN_FAILED: &str = "run_failed";
pub(super) const GAP: &str = "gap";

/// The checkpoint that a run begins with; those that hosts save have random ids.
pub(super) const START: &str = "start";

/// Context keys in the engine's order, in which its Merkle root takes them.
pub(super) const CONTEXT_KEYS: [&str; 12] = [
    "Seeds",
    "Hypotheses",
    "Strategies",
    "Constraints",
    "Signals",
    "Competitors",
    "Evaluations",
    "Proposals",
    "Diagnostic",
    "Votes",
    "Disagreements",
    "ConsensusOutcomes",
];

/// The same in its type.
#[cfg(feature = "converge")]
pub(super) const KEYS: [ContextKey; 12] = [
    ContextKey::Seeds,
    ContextKey::Hypotheses,
    ContextKey::Strategies,
    ContextKey::Constraints,
    ContextKey::Signals,
    ContextKey::Competitors,
    ContextKey::Evaluations,
    ContextKey::Proposals,
    ContextKey::Diagnostic,
    ContextKey::Votes,
    ContextKey::Disagreements,
    ContextKey::ConsensusOutcomes,
];

/// A context key as its JSON has it.
#[cfg(feature = "converge")]
pub(super) fn key_name(key: ContextKey) -> &'static str {
    CONTEXT_KEYS[key as usize]
}

/// The metadata of an entry of a run.
#[derive(Debug, Default)]
pub(super) struct Tags<'e> {
    pub(super) run_id: &'e str,
    pub(super) attempt: u32,
    /// Which start of it; none is of no recorder.
    pub(super) start: Option<&'e str>,
    pub(super) cycle: u32,
    pub(super) kind: &'e str,
    pub(super) agent: Option<&'e str>,
    pub(super) fact_id: Option<&'e str>,
    pub(super) proposal_id: Option<&'e str>,
    pub(super) ckey: Option<&'e str>,
    pub(super) family: Option<&'e str>,
    pub(super) checkpoint: Option<&'e str>,
    pub(super) part: Option<&'e str>,
}

impl<'e> Tags<'e> {
    /// None if the entry is not of a run, or of a version that is not this one.
    pub(super) fn of(entry: &'e Entry<'_>) -> Option<Tags<'e>> {
        let mut tags = Tags::default();
        let mut version = "";
        for (name, value) in entry.metadata() {
            match name {
                "v" => version = value,
                "run_id" => tags.run_id = value,
                "attempt" => tags.attempt = value.parse().ok()?,
                "start" => tags.start = Some(value),
                "cycle" => tags.cycle = value.parse().ok()?,
                "kind" => tags.kind = value,
                "agent" => tags.agent = Some(value),
                "fact_id" => tags.fact_id = Some(value),
                "proposal_id" => tags.proposal_id = Some(value),
                "ckey" => tags.ckey = Some(value),
                "family" => tags.family = Some(value),
                "checkpoint" => tags.checkpoint = Some(value),
                "part" => tags.part = Some(value),
                _ => {}
            }
        }
        (version == VERSION && !tags.run_id.is_empty() && !tags.kind.is_empty()).then_some(tags)
    }
}

/// One pair of an entry's metadata.
#[cfg(feature = "converge")]
pub(super) fn of<'e>(entry: &'e Entry<'_>, name: &str) -> Option<&'e str> {
    let mut pairs = entry.metadata();
    pairs.find_map(|(key, value)| (key == name).then_some(value))
}

#[cfg(all(test, feature = "converge"))]
mod tests {
    use super::*;

    #[test]
    fn context_keys_have_the_names_and_the_order_that_the_engine_has() {
        for (name, key) in CONTEXT_KEYS.iter().zip(KEYS) {
            assert_eq!(format!("{name:?}"), serde_json::to_string(&key).unwrap());
            assert_eq!(key_name(key), *name);
        }
        assert!(KEYS.is_sorted());
    }
}
