//! What was asked of humans, and what they answered.

use ledger_shm::Entry;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::Context;
use crate::converge::record::{self, Tags};

use super::HistoryError;
use super::run::{Rejection, Run, payload};

/// A proposal that a human has to approve or reject.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::converge::history::{Gate, gates};
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// let open: Vec<Gate> = gates(&context)?.into_iter().filter(|gate| gate.is_open).collect();
/// assert_eq!(open, []);
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Gate {
    /// Where it was asked first.
    pub seq: u64,
    /// When: wall clock, nanoseconds since 1970.
    pub appended_at_ns: u64,
    /// In which run.
    pub run_id: String,
    /// The attempt that asked last.
    pub attempt: u32,
    /// The cycle that this interrupted.
    pub cycle: u32,
    /// What the engine called it last; it is another one in every attempt.
    pub gate_id: String,
    /// Which proposal.
    pub proposal_id: String,
    /// The key in the engine's context under which it would be, where that was recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// What the proposal says, as a hash: an answer is for this and for nothing else.
    pub proposal_hash: String,
    /// What the proposal says, for humans.
    pub summary: String,
    /// Who proposed it: a name, where the run's start says it.
    pub agent: String,
    /// Why, in the suggestor's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rationale: Option<String>,
    /// What was answered, if anything; the first answer counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Whether the run waits for an answer.
    pub is_open: bool,
}

/// A human's answer.
///
/// ```
/// use ledger_client::converge::history::Decision;
///
/// let who = |decision: &Decision| decision.decided_by.clone();
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Decision {
    /// Where it is.
    pub seq: u64,
    /// When it was recorded: wall clock, nanoseconds since 1970.
    pub appended_at_ns: u64,
    /// What was decided.
    pub verdict: Verdict,
    /// By whom.
    pub decided_by: String,
    /// When, as who decided says it.
    pub decided_at: String,
    /// Whether the run's engine was told: then it has taken effect.
    pub is_told: bool,
    /// Why, where a rejection says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Yes or no.
///
/// ```
/// use ledger_client::converge::history::Verdict;
///
/// assert_eq!(Verdict::Approved.as_str(), "approved");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The proposal becomes a fact.
    Approved,
    /// It does not.
    Rejected,
}

impl Verdict {
    /// As text.
    ///
    /// ```
    /// use ledger_client::converge::history::Verdict;
    ///
    /// assert_eq!(Verdict::Rejected.as_str(), "rejected");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Approved => "approved",
            Verdict::Rejected => "rejected",
        }
    }
}

/// Every gate of every run in a context, in the order in which they were asked.
///
/// A proposal that asks again with the same content, in the next attempt, is the same gate.
///
/// # Errors
///
/// [`HistoryError`]: the context or an entry in it cannot be read.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::converge::history::gates;
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// for gate in gates(&context)? {
///     println!("{}: {}", gate.agent, gate.summary);
/// }
/// # Ok(()) });
/// ```
pub fn gates(context: &Context) -> Result<Vec<Gate>, HistoryError> {
    let runs = Run::all(context, |tags| {
        [
            record::RUN_STARTED,
            record::GATE_REQUESTED,
            record::GATE_DECIDED,
            record::RUN_ENDED,
            record::RUN_FAILED,
        ]
        .contains(&tags.kind)
    })?;
    let mut found: Vec<Gate> = runs.iter().flat_map(of_run).collect();
    found.sort_by_key(|gate| gate.seq);
    Ok(found)
}

/// The gates of one run, with what only the whole run tells.
pub(crate) fn of_run(run: &Run) -> Vec<Gate> {
    let is_over = run.outcome().is_some_and(|outcome| outcome.is_ended);
    let mut found = run.gates.clone();
    for place in 0..found.len() {
        let (gate, later) = found[place..].split_first_mut().expect("it is within");
        // What its suggestor has replaced is not waited for any more.
        let is_replaced = later
            .iter()
            .any(|other| (&other.key, &other.proposal_id) == (&gate.key, &gate.proposal_id));
        gate.is_open = !is_over && !is_replaced && gate.decision.is_none();
        gate.agent = run.agent(gate.attempt, &gate.agent);
    }
    found
}

#[derive(Deserialize)]
struct WireRequested {
    request: WireRequest,
    proposal_hash: String,
}

#[derive(Deserialize)]
struct WireRequest {
    gate_id: String,
    proposal_id: String,
    summary: String,
    agent_id: String,
    rationale: Option<String>,
}

#[derive(Deserialize)]
struct WireDecided {
    decision: WireDecision,
    is_told: bool,
    proposal_id: String,
    proposal_hash: String,
}

#[derive(Deserialize)]
struct WireDecision {
    verdict: Value,
    decided_by: String,
    decided_at: String,
}

pub(super) fn requested(entry: &Entry<'_>, tags: &Tags<'_>) -> Result<Gate, HistoryError> {
    let WireRequested {
        request,
        proposal_hash,
    } = payload(entry, tags)?;
    Ok(Gate {
        seq: entry.seq(),
        appended_at_ns: entry.appended_at_ns(),
        run_id: tags.run_id.to_owned(),
        attempt: tags.attempt,
        cycle: tags.cycle,
        gate_id: request.gate_id,
        proposal_id: request.proposal_id,
        key: tags.ckey.map(str::to_owned),
        proposal_hash,
        summary: request.summary,
        agent: request.agent_id,
        rationale: request.rationale,
        decision: None,
        is_open: true,
    })
}

/// Adds a gate, which is asked last now, though it may have been asked before.
pub(super) fn ask(gates: &mut Vec<Gate>, gate: Gate) {
    let is_it = |known: &Gate| is_for(known, &gate.proposal_id, &gate.proposal_hash);
    let known = gates
        .iter()
        .position(is_it)
        .map(|place| gates.remove(place));
    gates.push(match known {
        Some(known) => Gate {
            attempt: gate.attempt,
            cycle: gate.cycle,
            gate_id: gate.gate_id,
            ..known
        },
        None => gate,
    });
}

/// An answer, and what it is to.
pub(super) struct Answered {
    pub(super) proposal_id: String,
    proposal_hash: String,
    pub(super) decision: Decision,
}

impl Answered {
    pub(super) fn rejection(&self, cycle: u32) -> Option<Rejection> {
        let decision = &self.decision;
        (decision.is_told && decision.verdict == Verdict::Rejected).then(|| Rejection {
            seq: decision.seq,
            cycle,
            proposal_id: self.proposal_id.clone(),
            decided_by: decision.decided_by.clone(),
            reason: decision.reason.clone(),
        })
    }
}

pub(super) fn answered(entry: &Entry<'_>, tags: &Tags<'_>) -> Result<Answered, HistoryError> {
    let WireDecided {
        decision,
        is_told,
        proposal_id,
        proposal_hash,
    } = payload(entry, tags)?;
    let rejection = decision.verdict.get("Reject");
    let reason = rejection.and_then(|rejection| rejection["reason"].as_str());
    let verdict = match rejection {
        Some(_) => Verdict::Rejected,
        None if decision.verdict == "Approve" => Verdict::Approved,
        None => {
            let (seq, kind) = (entry.seq(), tags.kind.to_owned());
            let why = "its verdict is neither Approve nor Reject".to_owned();
            return Err(HistoryError::Unreadable { seq, kind, why });
        }
    };
    Ok(Answered {
        proposal_id,
        proposal_hash,
        decision: Decision {
            seq: entry.seq(),
            appended_at_ns: entry.appended_at_ns(),
            verdict,
            is_told,
            reason: reason.map(str::to_owned),
            decided_by: decision.decided_by,
            decided_at: decision.decided_at,
        },
    })
}

/// What the engine was told counts; as long as it was told nothing, the first answer.
pub(super) fn decide(gates: &mut [Gate], answered: Answered) {
    let Answered {
        proposal_id,
        proposal_hash,
        decision,
    } = answered;
    let mut gates = gates.iter_mut();
    if let Some(gate) = gates.find(|gate| is_for(gate, &proposal_id, &proposal_hash)) {
        let is_told = |known: &Decision| known.is_told;
        if gate.decision.is_none()
            || (decision.is_told && !gate.decision.as_ref().is_some_and(is_told))
        {
            gate.decision = Some(decision);
        }
    }
}

/// Which proposal was asked about, by its id and its content's hash.
#[cfg(feature = "converge")]
pub(crate) fn asked(entry: &Entry<'_>, tags: &Tags<'_>) -> Result<(String, String), HistoryError> {
    let gate = requested(entry, tags)?;
    Ok((gate.proposal_id, gate.proposal_hash))
}

fn is_for(gate: &Gate, proposal_id: &str, hash: &str) -> bool {
    gate.proposal_id == proposal_id && gate.proposal_hash == hash
}
