//! Where a fact comes from.

use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::converge::record;

use super::HistoryError;
use super::gates::{self, Decision, Gate, Verdict};
use super::run::{Attempt, FactEntry, Run};

/// Everything that is recorded about one fact.
///
/// ```
/// use ledger_client::converge::history::Explanation;
///
/// fn line(fact: &Explanation) -> String {
///     format!("{} of {}, cycle {}", fact.id, fact.run_id, fact.cycle)
/// }
/// ```
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// Where the fact is.
    pub seq: u64,
    /// When it was recorded: wall clock, nanoseconds since 1970.
    pub appended_at_ns: u64,
    /// Its Lamport time in the ledger.
    pub lamport: u64,
    /// In which run.
    pub run_id: String,
    /// In which attempt.
    pub attempt: u32,
    /// In which cycle of it.
    pub cycle: u32,
    /// Whether that cycle ended and the run went on from it, or ended: the next attempt at the
    /// run keeps it.
    pub is_committed: bool,
    /// Whether the context held it before the run: the entry is the checkpoint that says so,
    /// and who proposed it is not known.
    pub is_held: bool,
    /// Its key in the engine's context.
    pub key: String,
    /// Its id there.
    pub id: String,
    /// What its payload is.
    pub family: String,
    /// Its payload.
    pub payload: Value,
    /// Who proposed it: a name, where the run's start says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What the proposal said of its origin, where that was recorded: of inputs, and of
    /// what went through a gate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provenance: Option<String>,
    /// How the engine promoted it: gate, approver, evidence and trace.
    pub promotion_record: Value,
    /// Its logical time in the run.
    pub created_at: Value,
    /// What a human was asked who has approved it, if one was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gate: Option<Gate>,
    /// Why the run stopped, if it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
}

/// Every fact of this id in a context, in the order in which they were recorded: of several
/// runs, of several keys, and of cycles that an attempt did not finish.
///
/// # Errors
///
/// [`HistoryError`]: the context or an entry in it cannot be read.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::converge::history::explain;
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// for fact in explain(&context, "decision")? {
///     println!("cycle {}, by {:?}: {}", fact.cycle, fact.agent, fact.payload);
/// }
/// # Ok(()) });
/// ```
pub fn explain(context: &Context, fact_id: &str) -> Result<Vec<Explanation>, HistoryError> {
    let runs = Run::all(context, |tags| {
        tags.kind != record::FACT || tags.fact_id == Some(fact_id)
    })?;
    let mut found = Vec::new();
    for run in &runs {
        let gates = gates::of_run(run);
        for attempt in run.attempts.iter().filter(|attempt| attempt.is_begun) {
            let held = attempt.staged.held.iter();
            for fact in held.filter(|fact| fact.id == fact_id) {
                found.push(Explanation {
                    is_committed: true,
                    is_held: true,
                    ..one(run, attempt, fact, &gates)?
                });
            }
            for fact in attempt.facts.iter().filter(|fact| fact.id == fact_id) {
                found.push(one(run, attempt, fact, &gates)?);
            }
        }
    }
    found.sort_by_key(|fact| fact.seq);
    Ok(found)
}

fn one(
    run: &Run,
    attempt: &Attempt,
    fact: &FactEntry,
    gates: &[Gate],
) -> Result<Explanation, HistoryError> {
    let mut wire = fact.object()?;
    let mut part = |name| wire.get_mut(name).map(Value::take).unwrap_or_default();
    let mut payload = part("payload");
    let gate = gates.iter().rfind(|gate| has_let_through(gate, fact));
    let gate = gate.cloned();
    let inputs = attempt.staged.inputs.iter().filter(|_| fact.cycle == 0);
    let mut proposals = inputs.filter_map(|(_, input)| serde_json::from_str(input).ok());
    let is_it = |input: &Value| input["id"] == *fact.id && input["key"] == *fact.key;
    let proposal = proposals.find(is_it);
    let provenance = proposal.and_then(|input| Some(input["provenance"].as_str()?.to_owned()));
    Ok(Explanation {
        seq: fact.seq,
        appended_at_ns: fact.appended_at_ns,
        lamport: fact.lamport,
        run_id: run.id.clone(),
        attempt: fact.attempt,
        cycle: fact.cycle,
        is_committed: attempt.has(fact.seq),
        is_held: false,
        key: fact.key.clone(),
        id: fact.id.clone(),
        family: fact.family.clone(),
        payload: payload
            .get_mut("payload")
            .map(Value::take)
            .unwrap_or_default(),
        agent: fact
            .agent
            .as_deref()
            .map(|agent| run.agent(fact.attempt, agent)),
        provenance: provenance.or_else(|| gate.as_ref()?.rationale.clone()),
        promotion_record: part("promotion_record"),
        created_at: part("created_at"),
        gate,
        stop_reason: run.outcome().map(|outcome| outcome.stop_reason.clone()),
    })
}

/// Whether a human has approved this fact there: before it became one.
fn has_let_through(gate: &Gate, fact: &FactEntry) -> bool {
    let is_it = gate.proposal_id == fact.id && gate.key.as_ref().is_none_or(|key| *key == fact.key);
    let decision = gate.decision.as_ref();
    let is_approved = |it: &Decision| it.verdict == Verdict::Approved && it.seq < fact.seq;
    is_it && decision.is_some_and(is_approved)
}
