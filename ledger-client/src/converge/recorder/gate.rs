//! What is asked of humans and what they answer, in converge-core's types.

use std::collections::HashSet;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use converge_core::gates::{GateDecision, GateRequest, GateVerdict};
use converge_core::integrity::ContentHash;
use converge_core::{Context as _, HitlPause, ProposedFact, Timestamp};
use converge_pack::WireProposedFact;
use ledger_shm::object::Instance;
use ledger_shm::{Appended, NewEntry};
use serde::Serialize;

use crate::context::Context;
use crate::converge::history::{Gate, HistoryError, Verdict, gates};
use crate::converge::record::{self, KEYS, VERSION, key_name};
use crate::error::AppendError;
use crate::ledger::Ledger;

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
        !hash.is_empty() && self.proposal_id == proposal_id && self.proposal_hash == hash
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

/// A proposal that a run of this process waits for a human with.
#[derive(PartialEq, Eq, Hash)]
struct Waiting {
    instance: Instance,
    scope: String,
    proposal_id: String,
    proposal_hash: String,
}

/// All of them: who saves a context in this process has to know, and there may have been no
/// room to record it. One that is never answered stays: its pause may be saved at any time.
static WAITING: LazyLock<Mutex<HashSet<Waiting>>> = LazyLock::new(Mutex::default);

fn waiting() -> MutexGuard<'static, HashSet<Waiting>> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a run of this process waits for a human with this proposal.
pub(crate) fn is_waiting(ledger: &Ledger, scope: &str, proposal_id: &str, hash: &str) -> bool {
    waiting().contains(&Waiting {
        instance: ledger.instance().clone(),
        scope: scope.to_owned(),
        proposal_id: proposal_id.to_owned(),
        proposal_hash: hash.to_owned(),
    })
}

/// What a proposal says, as a hash: what its fact would be in the engine's Merkle tree.
pub(crate) fn hash(wire: &WireProposedFact) -> String {
    let content = &wire.payload.payload;
    ContentHash::compute(&format!("{:?}|{}|{content}", wire.key, wire.id)).to_hex()
}

/// The proposal that a pause is about. The pause itself keeps it to itself, but has staged
/// it in its context.
fn proposal(pause: &HitlPause) -> Option<&ProposedFact> {
    let request = &pause.request;
    let proposals = KEYS
        .iter()
        .flat_map(|key| pause.context.get_proposals(*key));
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

/// What a pause is about, hashed. Without the proposal, which does not happen, it is empty, and
/// no answer is for that.
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
        let proposal = proposal(pause);
        let hash = proposal_hash(proposal);
        waiting().insert(self.waits_for(pause, hash.clone()));
        // Beside its summary, which is as long, it may be too much for one entry.
        let len_max = self.shared.payload_len_max();
        let is_long = pause.request.summary.len() > len_max / 4;
        let requested = Requested {
            request: &pause.request,
            proposal: proposal.filter(|_| !is_long),
            proposal_hash: &hash,
            merkle_root: pause.context.snapshot().merkle_root().to_hex(),
        };
        let family = proposal.map(ProposedFact::payload_family);
        let more = [
            ("agent", &*pause.request.agent_id),
            ("proposal_id", pause.request.proposal_id.as_str()),
            ("ckey", proposal.map_or("", |it| key_name(it.key()))),
            ("family", family.as_ref().map_or("", |it| it.as_str())),
        ];
        let what = What {
            key: record::GATES,
            kind: record::GATE_REQUESTED,
            cycle: pause.cycle,
            more: &more[..if proposal.is_some() { 4 } else { 2 }],
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
        let proposal = proposal(pause);
        let hash = proposal_hash(proposal);
        let decided = Decided {
            decision,
            is_told: true,
            proposal_id,
            proposal_hash: &hash,
        };
        let more = [
            ("proposal_id", proposal_id),
            ("ckey", proposal.map_or("", |it| key_name(it.key()))),
        ];
        let what = What {
            key: record::GATES,
            kind: record::GATE_DECIDED,
            cycle: pause.cycle,
            more: &more[..if proposal.is_some() { 2 } else { 1 }],
        };
        self.record(&what, &decided);
        self.ring();
        waiting().remove(&self.waits_for(pause, hash));
    }

    /// What a human has said of the same proposal in an earlier attempt at the run. Hosts that
    /// call the engine themselves ask here before they ask a human, and tell the engine;
    /// [`decided`](Self::decided) before that.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::{ContextState, Engine, RunResult};
    /// use ledger_client::converge::Recorder;
    ///
    /// let (mut engine, context) = (Engine::new(), ContextState::new());
    /// let recorder = Recorder::new(&ledger, "loan-7");
    /// recorder.started("run_with_hitl", &context);
    /// if let RunResult::HitlPause(pause) = pollster::block_on(engine.run_with_hitl(context)) {
    ///     recorder.paused(&pause);
    ///     if let Some(decision) = recorder.answered(&pause) {
    ///         recorder.decided(&pause, &decision);
    ///         pollster::block_on(engine.resume(*pause, decision));
    ///     }
    /// }
    /// # Ok(()) });
    /// ```
    pub fn answered(&self, pause: &HitlPause) -> Option<GateDecision> {
        if self.shared.state().answers.is_empty() {
            return None;
        }
        let hash = proposal_hash(proposal(pause));
        let answer = self.answer(pause.request.proposal_id.as_str(), &hash)?;
        Some(answer.to(&pause.request))
    }

    fn waits_for(&self, pause: &HitlPause, hash: String) -> Waiting {
        let opening = &self.shared.opening;
        Waiting {
            instance: opening.instance().clone(),
            scope: opening.scope.clone(),
            proposal_id: pause.request.proposal_id.to_string(),
            proposal_hash: hash,
        }
    }
}

/// Why an answer is not recorded.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use converge_core::gates::GateDecision;
/// use ledger_client::converge::{DecideError, decide, history::gates};
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// for gate in &gates(&context)? {
///     let decision = GateDecision::approve("another".into(), "kari");
///     let error = decide(&context, gate, &decision).unwrap_err();
///     assert!(matches!(error, DecideError::OtherGate { .. }));
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecideError {
    /// It is an answer to another gate.
    #[error(
        "the decision is for gate {decision:?} and not for {gate:?}; make it with the gate's id"
    )]
    OtherGate {
        /// To which one.
        decision: String,
        /// Which one was asked.
        gate: String,
    },
    /// Nobody waits for it any more: it was answered, its proposal says something else now, or
    /// its run is over.
    #[error(
        "proposal {proposal_id:?} of run {run_id:?} does not wait for an answer any more; `ledgerd gates` shows what became of it"
    )]
    NotOpen {
        /// Of which run.
        run_id: String,
        /// Which proposal.
        proposal_id: String,
    },
    /// What was asked cannot be read.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// It cannot be recorded.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Records a human's answer to a gate that [`gates`](crate::converge::history::gates) has, from
/// any process: the run's next attempt takes it. It waits for room, and says where the answer
/// is. Of two that answer at once the first one counts.
///
/// # Errors
///
/// [`DecideError`]: it is not recorded.
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
) -> Result<Appended, DecideError> {
    if decision.gate_id.as_str() != gate.gate_id {
        return Err(DecideError::OtherGate {
            decision: decision.gate_id.to_string(),
            gate: gate.gate_id.clone(),
        });
    }
    let is_it = |other: &Gate| {
        other.is_open
            && (&other.run_id, &other.proposal_id) == (&gate.run_id, &gate.proposal_id)
            && other.proposal_hash == gate.proposal_hash
    };
    if !gates(context)?.iter().any(is_it) {
        return Err(DecideError::NotOpen {
            run_id: gate.run_id.clone(),
            proposal_id: gate.proposal_id.clone(),
        });
    }
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
    Ok(context.appender()?.append(&entry)?)
}
