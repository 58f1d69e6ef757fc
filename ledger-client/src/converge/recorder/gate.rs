//! What is asked of humans and what they answer, in converge-core's types.

use converge_core::gates::{GateDecision, GateRequest, GateVerdict};
use converge_core::integrity::ContentHash;
use converge_core::{ContextSnapshot, HitlPause, ProposedFact, Timestamp};
use converge_pack::WireProposedFact;
use ledger_shm::{Appended, NewEntry};
use serde::Serialize;

use crate::context::Context;
use crate::converge::history::{Gate, Verdict};
use crate::converge::record::{self, VERSION, key_name};
use crate::error::AppendError;

use super::Recorder;
use super::output::What;

/// What the ledger keeps of a pause.
#[derive(Serialize)]
struct Requested<'a> {
    request: &'a GateRequest,
    #[serde(skip_serializing_if = "Option::is_none")]
    proposal: Option<&'a ProposedFact>,
    proposal_hash: &'a str,
    merkle_root: String,
}

/// What the ledger keeps of an answer.
#[derive(Serialize)]
struct Decided<'a> {
    decision: &'a GateDecision,
    /// Whether the engine is told now.
    is_told: bool,
    proposal_id: &'a str,
    proposal_hash: &'a str,
}

/// What a human said of a proposal of this content.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    proposal_id: String,
    proposal_hash: String,
    verdict: GateVerdict,
    decided_by: String,
    decided_at: Timestamp,
}

impl Answer {
    /// None as long as nobody has answered.
    pub(crate) fn of(gate: &Gate) -> Option<Answer> {
        let decision = gate.decision.as_ref()?;
        Some(Answer {
            proposal_id: gate.proposal_id.clone(),
            proposal_hash: gate.proposal_hash.clone(),
            verdict: match decision.verdict {
                Verdict::Approved => GateVerdict::Approve,
                Verdict::Rejected => GateVerdict::Reject {
                    reason: decision.reason.clone(),
                },
            },
            decided_by: decision.decided_by.clone(),
            decided_at: Timestamp::new(decision.decided_at.clone()),
        })
    }

    pub(super) fn is_for(&self, proposal_id: &str, hash: &str) -> bool {
        self.proposal_id == proposal_id && self.proposal_hash == hash
    }

    /// The same answer to a gate of another name: the engine gives new ones in every run.
    pub(super) fn to(self, request: &GateRequest) -> GateDecision {
        GateDecision {
            gate_id: request.gate_id.clone(),
            verdict: self.verdict,
            decided_by: self.decided_by,
            decided_at: self.decided_at,
        }
    }
}

/// What a proposal says, as a hash: what its fact would be in the engine's Merkle tree.
pub(crate) fn hash(wire: &WireProposedFact) -> String {
    let content = &wire.payload.payload;
    ContentHash::compute(&format!("{:?}|{}|{content}", wire.key, wire.id)).to_hex()
}

/// The proposal that a pause is about. The pause itself keeps it to itself, but has staged
/// it in its context.
fn proposal<'s>(snapshot: &'s ContextSnapshot, request: &GateRequest) -> Option<&'s ProposedFact> {
    let proposals = snapshot.proposals().values().flatten();
    let mut same: Vec<_> = proposals
        .filter(|proposal| proposal.id() == &request.proposal_id)
        .collect();
    // Several keys may each have one of this id.
    let says = |proposal: &&ProposedFact| match proposal.text() {
        Some(text) => text == request.summary,
        None => proposal.to_wire().is_ok_and(|wire| {
            // The text, not the value: of a string that has quotes.
            let text = wire.payload.payload.to_string();
            text == request.summary
        }),
    };
    let exact = same.iter().position(says);
    exact
        .map(|place| same[place])
        .or_else(|| (same.len() == 1).then(|| same.remove(0)))
}

/// What a pause is about, hashed. Without the proposal, which does not happen, nothing has
/// this hash.
fn proposal_hash(proposal: Option<&ProposedFact>) -> String {
    let wire = proposal.and_then(|proposal| proposal.to_wire().ok());
    wire.as_ref().map_or_else(String::new, hash)
}

impl Recorder {
    /// The run has paused: records what a human is asked.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::{ContextState, Engine, RunResult};
    /// use ledger_client::converge::Recorder;
    ///
    /// let (mut engine, context) = (Engine::new(), ContextState::new());
    /// let recorder = Recorder::new(&ledger, "loan-7");
    /// recorder.started("run_with_hitl", &context);
    /// match pollster::block_on(engine.run_with_hitl(context)) {
    ///     RunResult::HitlPause(pause) => recorder.paused(&pause),
    ///     RunResult::Complete(result) => recorder.ended(&result),
    /// }
    /// # Ok(()) });
    /// ```
    pub fn paused(&self, pause: &HitlPause) {
        self.reconcile(&pause.context, pause.cycle);
        let snapshot = pause.context.snapshot();
        let proposal = proposal(&snapshot, &pause.request);
        // Beside its summary, which is as long, it may be too much for one entry.
        let len_max = self.shared.payload_len_max();
        let is_long = pause.request.summary.len() > len_max / 4;
        let requested = Requested {
            request: &pause.request,
            proposal: proposal.filter(|_| !is_long),
            proposal_hash: &proposal_hash(proposal),
            merkle_root: snapshot.merkle_root().to_hex(),
        };
        let more = [
            ("agent", &*pause.request.agent_id),
            ("proposal_id", pause.request.proposal_id.as_str()),
            (
                "ckey",
                proposal.map_or("", |proposal| key_name(proposal.key())),
            ),
        ];
        let what = What {
            key: record::GATES,
            kind: record::GATE_REQUESTED,
            cycle: pause.cycle,
            more: &more[..if proposal.is_some() { 3 } else { 2 }],
        };
        self.record(&what, &requested);
        self.ring();
    }

    /// A human has answered: records what, before the engine is told. An answer to another
    /// pause, which the engine refuses, is not recorded.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::gates::GateDecision;
    /// use converge_core::{ContextState, Engine, RunResult};
    /// use ledger_client::converge::Recorder;
    ///
    /// let (mut engine, context) = (Engine::new(), ContextState::new());
    /// let recorder = Recorder::new(&ledger, "loan-7");
    /// recorder.started("run_with_hitl", &context);
    /// if let RunResult::HitlPause(pause) = pollster::block_on(engine.run_with_hitl(context)) {
    ///     recorder.paused(&pause);
    ///     let decision = GateDecision::approve(pause.request.gate_id.clone(), "kari");
    ///     recorder.decided(&pause, &decision);
    ///     pollster::block_on(engine.resume(*pause, decision));
    /// }
    /// # Ok(()) });
    /// ```
    pub fn decided(&self, pause: &HitlPause, decision: &GateDecision) {
        if decision.gate_id != pause.request.gate_id {
            return;
        }
        let proposal_id = pause.request.proposal_id.as_str();
        let decided = Decided {
            decision,
            is_told: true,
            proposal_id,
            proposal_hash: &self.hash(pause),
        };
        let what = What {
            key: record::GATES,
            kind: record::GATE_DECIDED,
            cycle: pause.cycle,
            more: &[("proposal_id", proposal_id)],
        };
        self.record(&what, &decided);
        self.ring();
    }

    /// What a human said of the same proposal in an earlier attempt.
    pub(super) fn answered(&self, pause: &HitlPause) -> Option<GateDecision> {
        if self.shared.state().answers.is_empty() {
            return None;
        }
        let answer = self.answer(pause.request.proposal_id.as_str(), &self.hash(pause))?;
        Some(answer.to(&pause.request))
    }

    fn hash(&self, pause: &HitlPause) -> String {
        let snapshot = pause.context.snapshot();
        proposal_hash(proposal(&snapshot, &pause.request))
    }
}

/// Records a human's answer to a gate that [`gates`](crate::converge::history::gates) has, from any
/// process: the run's next attempt takes it. It waits for room, and says where the answer is.
///
/// # Errors
///
/// [`AppendError`]: it is not recorded.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use converge_core::gates::GateDecision;
/// use ledger_client::converge::{decide, history::gates};
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// for gate in gates(&context)?.iter().filter(|gate| gate.is_open) {
///     let decision = GateDecision::approve(gate.gate_id.clone().into(), "kari");
///     decide(&context, gate, &decision)?;
/// }
/// # Ok(()) });
/// ```
pub fn decide(
    context: &Context,
    gate: &Gate,
    decision: &GateDecision,
) -> Result<Appended, AppendError> {
    let decided = Decided {
        decision,
        is_told: false,
        proposal_id: &gate.proposal_id,
        proposal_hash: &gate.proposal_hash,
    };
    let payload = serde_json::to_vec(&decided).expect("texts are JSON");
    let (attempt, cycle) = (gate.attempt.to_string(), gate.cycle.to_string());
    let metadata = [
        ("v", VERSION),
        ("run_id", &*gate.run_id),
        ("attempt", &*attempt),
        ("cycle", &*cycle),
        ("kind", record::GATE_DECIDED),
        ("proposal_id", &*gate.proposal_id),
    ];
    let entry = NewEntry::new(record::GATES, &payload[..]).metadata(&metadata);
    context.appender()?.append(&entry)
}
