//! Facts and events as converge-core writes them, to the byte.
//!
//! It would copy every text of a fact first, take a hash's digits one by one and look at
//! each byte of a text by itself, all that within the engine's loop.
//! `docs/decisions/recording.md` has the figures.

use converge_core::{ContextFact, ExperienceEvent, Timestamp};
use converge_pack::{
    ContentHash, FactActor, FactEvidenceRef, FactTraceLink, FactValidationSummary, GateId,
    PayloadError,
};
use json_escape_simd::escape_into;
use serde::{Serialize, Serializer};

use crate::converge::record::key_name;

/// Why something cannot be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("its text alone has {len} bytes, and an entry's payload may have {len_max}")]
    TooLong { len: usize, len_max: usize },
}

/// Writes a `WireContextFact` that fits into an entry.
pub(super) fn write_fact(
    json: &mut Vec<u8>,
    fact: &ContextFact,
    len_max: usize,
) -> Result<(), WriteError> {
    // Memory for the worst of escapes is taken before anything is known of them.
    let len = fact.text().map_or(0, str::len);
    if len > len_max {
        return Err(WriteError::TooLong { len, len_max });
    }
    json.extend_from_slice(b"{\"key\":");
    escape_into(key_name(fact.key()), json);
    json.extend_from_slice(b",\"id\":");
    escape_into(fact.id().as_str(), json);
    json.extend_from_slice(b",\"payload\":{\"family\":");
    escape_into(fact.payload_family().as_str(), json);
    json.extend_from_slice(b",\"version\":");
    serde_json::to_writer(&mut *json, &fact.payload_version())?;
    json.extend_from_slice(b",\"payload\":");
    match fact.text() {
        Some(text) => {
            json.extend_from_slice(b"{\"text\":");
            escape_into(text, json);
            json.push(b'}');
        }
        // There is no other way to what it holds.
        None => serde_json::to_writer(&mut *json, &fact.to_wire()?.payload.payload)?,
    }
    json.extend_from_slice(b"},\"promotion_record\":");
    serde_json::to_writer(&mut *json, &Promotion::of(fact))?;
    json.extend_from_slice(b",\"created_at\":");
    escape_into(fact.created_at().as_str(), json);
    json.push(b'}');
    Ok(())
}

/// A `FactPromotionRecord`.
#[derive(Serialize)]
struct Promotion<'a> {
    gate_id: &'a GateId,
    policy_version_hash: Digits<'a>,
    approver: &'a FactActor,
    validation_summary: &'a FactValidationSummary,
    evidence_refs: &'a [FactEvidenceRef],
    trace_link: &'a FactTraceLink,
    promoted_at: &'a Timestamp,
}

impl<'a> Promotion<'a> {
    fn of(fact: &'a ContextFact) -> Promotion<'a> {
        let promotion = fact.promotion_record();
        Promotion {
            gate_id: promotion.gate_id(),
            policy_version_hash: Digits(promotion.policy_version_hash()),
            approver: promotion.approver(),
            validation_summary: promotion.validation_summary(),
            evidence_refs: promotion.evidence_refs(),
            trace_link: promotion.trace_link(),
            promoted_at: promotion.promoted_at(),
        }
    }
}

/// A hash, in hex.
struct Digits<'a>(&'a ContentHash);

impl Serialize for Digits<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut digits = [0; 64];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0.as_bytes()) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        serializer.serialize_str(std::str::from_utf8(&digits).expect("digits are text"))
    }
}

/// An `ExperienceEventEnvelope`.
#[derive(Serialize)]
pub(super) struct Event<'a> {
    pub(super) event_id: &'a str,
    pub(super) occurred_at: &'a str,
    pub(super) tenant_id: Option<&'a str>,
    pub(super) correlation_id: Option<&'a str>,
    pub(super) event: &'a ExperienceEvent,
}
