//! Facts and events as converge-core writes them, without copies of their own.
//!
//! What converge-core does itself copies every text of a fact first, and takes its hash's
//! digits one by one: twice the time, within the engine's loop. The JSON is the same, to the
//! byte.

use converge_core::{ContextFact, ContextKey, ExperienceEvent, Timestamp};
use converge_pack::{
    ContentHash, FactActor, FactEvidenceRef, FactId, FactTraceLink, FactValidationSummary, GateId,
    PayloadError, PayloadVersion, WireFactPayload,
};
use serde::{Serialize, Serializer};

/// A `WireContextFact`.
#[derive(Serialize)]
pub(super) struct Fact<'a> {
    key: ContextKey,
    id: &'a FactId,
    payload: Payload<'a>,
    promotion_record: Promotion<'a>,
    created_at: &'a Timestamp,
}

/// A `WireFactPayload`.
#[derive(Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Text {
        family: &'a str,
        version: PayloadVersion,
        payload: Text<'a>,
    },
    /// There is no other way to what it holds.
    Other(WireFactPayload),
}

#[derive(Serialize)]
struct Text<'a> {
    text: &'a str,
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

impl<'a> Fact<'a> {
    pub(super) fn of(fact: &'a ContextFact, family: &'a str) -> Result<Fact<'a>, PayloadError> {
        let payload = match fact.text() {
            Some(text) => Payload::Text {
                family,
                version: fact.payload_version(),
                payload: Text { text },
            },
            None => Payload::Other(fact.to_wire()?.payload),
        };
        let promotion = fact.promotion_record();
        Ok(Fact {
            key: fact.key(),
            id: fact.id(),
            payload,
            promotion_record: Promotion {
                gate_id: promotion.gate_id(),
                policy_version_hash: Digits(promotion.policy_version_hash()),
                approver: promotion.approver(),
                validation_summary: promotion.validation_summary(),
                evidence_refs: promotion.evidence_refs(),
                trace_link: promotion.trace_link(),
                promoted_at: promotion.promoted_at(),
            },
            created_at: fact.created_at(),
        })
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
