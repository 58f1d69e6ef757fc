//! A run's context, made again from what was recorded of it.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use converge_core::integrity::{ContentHash, MerkleRoot};
use converge_core::{ContextFact, ContextKey, ContextSnapshot, ContextState, Engine, RunResult};
use converge_pack::{
    PayloadError, PayloadRegistry, ProposedFact, WireContextFact, WireProposedFact,
};
use serde::Serialize;

use crate::context::Context;

use super::gate::Answer;
use super::history::{Attempt, FactEntry, Gap, Gate, HistoryError, Rejection, Run, gates_of};
use super::recorder::Recorder;
use super::{checkpoint, record, rejection};

/// A run as far as it came.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use converge_core::{ContextState, Engine};
/// use ledger_client::converge::{PayloadRegistry, Rebuilt, Recorder, rebuild};
///
/// let recorder = Recorder::new(&ledger, "loan-7").with_run_id("run-1");
/// pollster::block_on(recorder.run(&mut Engine::new(), ContextState::new()))?;
///
/// let context = ledger.context("loan-7").open()?;
/// let rebuilt: Rebuilt = rebuild(&context, &PayloadRegistry::with_pack_payloads())?;
/// assert_eq!((&*rebuilt.run_id, rebuilt.attempt), ("run-1", 1));
/// assert!(rebuilt.is_complete() && rebuilt.has_ended);
/// # Ok(()) });
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub struct Rebuilt {
    /// The ledger's context that the run is in.
    pub scope: String,
    /// The run that was started last.
    pub run_id: String,
    /// How often it was started.
    pub attempt: u32,
    /// The facts of every cycle that ended, as the engine had them then. If none has, the
    /// inputs are staged again. What waits for a human is not in it.
    pub context: ContextState,
    /// What was not recorded, or is not kept any more: the context may be without it.
    pub missing: Vec<Missing>,
    /// What waits for a human.
    pub open_gates: Vec<Gate>,
    /// Whether the run came to its end: then there is nothing to resume.
    pub has_ended: bool,
    /// Why it stopped, if that is recorded.
    pub stop_reason: Option<String>,
    /// What humans have said already.
    pub(super) answers: Vec<Answer>,
}

/// Something that a run did and that its entries do not tell.
///
/// ```
/// use ledger_client::converge::Missing;
///
/// let missing = Missing::Entries { dropped: 3, since_cycle: 2 };
/// assert_eq!(missing.to_string(), "3 entries since cycle 2 did not fit into the ledger");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Missing {
    /// Entries that did not fit.
    Entries {
        /// How many.
        dropped: u64,
        /// Since which cycle.
        since_cycle: u32,
    },
    /// Some of what was staged.
    Inputs {
        /// How many were.
        staged: usize,
        /// How many are recorded.
        recorded: usize,
    },
    /// Earlier attempts, or their beginning.
    Attempts {
        /// The first one that is whole, if one is.
        first: Option<u32>,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Missing::Entries {
                dropped,
                since_cycle,
            } => write!(
                f,
                "{dropped} entries since cycle {since_cycle} did not fit into the ledger"
            ),
            Missing::Inputs { staged, recorded } => {
                write!(f, "of {staged} inputs {recorded} are there")
            }
            Missing::Attempts { first: Some(first) } => {
                write!(f, "what came before attempt {first} is not there any more")
            }
            Missing::Attempts { first: None } => f.write_str("the beginning is not there any more"),
        }
    }
}

/// Why a run cannot be rebuilt. Its entries stay readable.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::converge::{PayloadRegistry, RebuildError, rebuild};
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// let error = rebuild(&context, &PayloadRegistry::new()).unwrap_err();
/// assert!(matches!(error, RebuildError::NotStarted { .. }));
/// # Ok(()) });
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RebuildError {
    /// No run was started in this context.
    #[error("no run was started in context {scope:?}: start one with a Recorder")]
    NotStarted {
        /// Which context.
        scope: String,
    },
    /// An entry cannot be read, or is not what it should be.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A payload is of a family that the registry does not have.
    #[error(
        "entry {seq}, {id:?}, is of payload family {family} version {version}, which is not registered; register its type in the PayloadRegistry"
    )]
    UnknownFamily {
        /// Which entry.
        seq: u64,
        /// Which fact or proposal.
        id: String,
        /// Its family.
        family: String,
        /// The family's version.
        version: String,
    },
    /// A payload is not what its family says.
    #[error(
        "{id:?} cannot be read as its payload's type: {source}; was the type changed without a new version?"
    )]
    Payload {
        /// Which fact or proposal.
        id: String,
        /// What is wrong.
        source: PayloadError,
    },
    /// The engine does not take it.
    #[error("run {run_id:?}: {why}")]
    Rejected {
        /// Which run.
        run_id: String,
        /// Why not.
        why: String,
    },
}

/// A run has ended, and there is nothing to resume.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use converge_core::{ContextState, Engine};
/// use ledger_client::converge::{AlreadyEnded, PayloadRegistry, Recorder, rebuild};
///
/// let mut engine = Engine::new();
/// let recorder = Recorder::new(&ledger, "loan-7");
/// pollster::block_on(recorder.run(&mut engine, ContextState::new()))?;
///
/// let context = ledger.context("loan-7").open()?;
/// let rebuilt = rebuild(&context, &PayloadRegistry::with_pack_payloads())?;
/// let recorder = Recorder::continuing(&ledger, &rebuilt);
/// let error: AlreadyEnded = pollster::block_on(rebuilt.resume(&recorder, &mut engine)).unwrap_err();
/// assert!(error.to_string().contains("has ended"));
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "run {run_id:?} has ended, there is nothing to resume; start another one with a new Recorder"
)]
#[non_exhaustive]
pub struct AlreadyEnded {
    /// Which run.
    pub run_id: String,
}

impl Rebuilt {
    /// Whether nothing is missing.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::ContextState;
    /// use ledger_client::converge::{PayloadRegistry, Recorder, rebuild};
    ///
    /// Recorder::new(&ledger, "loan-7").started("run", &ContextState::new());
    /// let context = ledger.context("loan-7").open()?;
    /// let rebuilt = rebuild(&context, &PayloadRegistry::with_pack_payloads())?;
    /// assert!(rebuilt.is_complete());
    /// # Ok(()) });
    /// ```
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty()
    }

    /// Runs the engine from here on, recorded as the run's next attempt: with the same
    /// suggestors as before. Where a human has answered, the answer is taken; where nobody
    /// has, the run pauses, and [`Recorder::resume`] goes on from there.
    ///
    /// # Errors
    ///
    /// [`AlreadyEnded`]: there is nothing to resume.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::{ContextState, Engine, RunResult};
    /// use ledger_client::converge::{PayloadRegistry, Recorder, rebuild};
    ///
    /// // A run that was killed right after its start.
    /// Recorder::new(&ledger, "loan-7").started("run_with_hitl", &ContextState::new());
    ///
    /// let context = ledger.context("loan-7").open()?;
    /// let rebuilt = rebuild(&context, &PayloadRegistry::with_pack_payloads())?;
    /// let recorder = Recorder::continuing(&ledger, &rebuilt);
    /// match pollster::block_on(rebuilt.resume(&recorder, &mut Engine::new()))? {
    ///     RunResult::Complete(result) => println!("{} cycles", result?.cycles),
    ///     RunResult::HitlPause(pause) => println!("{}?", pause.request.summary),
    /// }
    /// # Ok(()) });
    /// ```
    pub async fn resume(
        self,
        recorder: &Recorder,
        engine: &mut Engine,
    ) -> Result<RunResult, AlreadyEnded> {
        if self.has_ended {
            return Err(AlreadyEnded {
                run_id: self.run_id,
            });
        }
        Ok(recorder.run_with_hitl(engine, self.context).await)
    }
}

/// The context of the run that was started last: what its cycles have come to that ended, in
/// all its attempts. A cycle that was interrupted is not in it, the next attempt does it
/// again.
///
/// # Errors
///
/// [`RebuildError`]: there is no run, or it cannot be made again with this registry.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use converge_core::{ContextKey, ContextState, Engine};
/// use ledger_client::converge::{PayloadRegistry, Recorder, rebuild};
///
/// let mut context = ContextState::new();
/// context.add_input(ContextKey::Seeds, "term", "42 months")?;
/// let recorder = Recorder::new(&ledger, "loan-7");
/// let result = pollster::block_on(recorder.run(&mut Engine::new(), context))?;
///
/// let context = ledger.context("loan-7").open()?;
/// let rebuilt = rebuild(&context, &PayloadRegistry::with_pack_payloads())?;
/// let root = rebuilt.context.snapshot().merkle_root().clone();
/// assert_eq!(root, result.integrity.merkle_root);
/// # Ok(()) });
/// ```
pub fn rebuild(context: &Context, registry: &PayloadRegistry) -> Result<Rebuilt, RebuildError> {
    let not_started = || RebuildError::NotStarted {
        scope: context.name().to_owned(),
    };
    let run = Run::find(context, None)?.ok_or_else(not_started)?;
    let (attempt, last) = run.last_attempt().ok_or_else(not_started)?;
    let gates = gates_of(&run);
    let mut state = restored(&run, registry)?;
    if last.cut.is_none() {
        for input in &last.inputs {
            let input = input_of(&run, input, registry)?;
            let staged = state.add_proposal(input);
            staged.map_err(|error| refused(&run, error))?;
        }
    }
    let outcome = last.outcome.as_ref();
    Ok(Rebuilt {
        scope: context.name().to_owned(),
        run_id: run.id.clone(),
        attempt,
        context: state,
        missing: missing(&run),
        answers: gates.iter().filter_map(Answer::of).collect(),
        open_gates: gates.into_iter().filter(|gate| gate.is_open).collect(),
        has_ended: outcome.is_some_and(|outcome| outcome.is_ended),
        stop_reason: outcome.map(|outcome| outcome.stop_reason.clone()),
    })
}

fn missing(run: &Run) -> Vec<Missing> {
    let gap = |gap: &Gap| Missing::Entries {
        dropped: gap.dropped,
        since_cycle: gap.since_cycle,
    };
    let mut missing: Vec<Missing> = run.gaps.iter().map(gap).collect();
    let is_whole = |attempt: &Attempt| attempt.started.is_some();
    let mut whole = run.attempts.iter().filter(|(_, attempt)| is_whole(attempt));
    let first = whole.next().map(|(number, _)| *number);
    if first != Some(1) {
        missing.push(Missing::Attempts { first });
    }
    for attempt in run.attempts.values() {
        let recorded = attempt.inputs.len();
        let staged = attempt.started.as_ref().map_or(recorded, |it| it.inputs);
        if staged != recorded {
            missing.push(Missing::Inputs { staged, recorded });
        }
    }
    missing
}

/// Facts by key, each in the order in which they were added, without those that are there.
#[derive(Default)]
struct Facts {
    of_key: BTreeMap<ContextKey, Vec<WireContextFact>>,
    seen: HashSet<(ContextKey, String)>,
}

impl Facts {
    fn add(&mut self, fact: WireContextFact) {
        if self.seen.insert((fact.key, fact.id.to_string())) {
            self.of_key.entry(fact.key).or_default().push(fact);
        }
    }
}

/// As `WireContextSnapshot` has it, which only deserializes.
#[derive(Serialize)]
struct WireSnapshot {
    version: usize,
    merkle_root: MerkleRoot,
    facts: BTreeMap<ContextKey, Vec<WireContextFact>>,
    proposals: BTreeMap<ContextKey, Vec<WireProposedFact>>,
}

fn restored(run: &Run, registry: &PayloadRegistry) -> Result<ContextState, RebuildError> {
    let mut facts = Facts::default();
    for attempt in run.attempts.values() {
        if !attempt.checkpoint.is_empty() {
            let before = checkpoint::context(&attempt.checkpoint, registry);
            let before = before.map_err(|why| refused(run, why))?;
            for fact in before.snapshot().facts().values().flatten() {
                facts.add(to_wire(fact)?);
            }
        }
        // In the log's order: what a human rejected left a fact there, of which the engine
        // has not told.
        let rejections = attempt.rejections.iter();
        let mut rejections = rejections.filter(|it| attempt.has(it.seq)).peekable();
        for fact in attempt.facts.iter().filter(|fact| attempt.has(fact.seq)) {
            while let Some(rejection) = rejections.next_if(|it| it.seq < fact.seq) {
                facts.add(rejected_fact(run, rejection)?);
            }
            facts.add(wire_of(fact, registry)?);
        }
        for rejection in rejections {
            facts.add(rejected_fact(run, rejection)?);
        }
    }
    let wire = WireSnapshot {
        version: facts.seen.len(),
        merkle_root: merkle_root(&facts.of_key),
        facts: facts.of_key,
        proposals: BTreeMap::new(),
    };
    let wire = serde_json::to_value(&wire).and_then(serde_json::from_value);
    let wire = wire.map_err(|error| refused(run, error))?;
    let snapshot = ContextSnapshot::from_wire(wire, registry);
    let snapshot = snapshot.map_err(|error| refused(run, error))?;
    ContextState::from_snapshot(snapshot).map_err(|error| refused(run, error))
}

/// As the engine computes it: the payloads' text as it was recorded, so that a type that does
/// not give it back is found out.
fn merkle_root(facts: &BTreeMap<ContextKey, Vec<WireContextFact>>) -> MerkleRoot {
    let leaf = |fact: &WireContextFact| {
        let payload = fact.payload.payload.to_string();
        ContentHash::compute(&format!("{:?}|{}|{payload}", fact.key, fact.id))
    };
    let leaves: Vec<ContentHash> = facts.values().flatten().map(leaf).collect();
    MerkleRoot::compute(&leaves)
}

fn rejected_fact(run: &Run, rejection: &Rejection) -> Result<WireContextFact, RebuildError> {
    let fact = rejection::fact(rejection);
    to_wire(&fact.ok_or_else(|| refused(run, "the engine does not record rejections"))?)
}

fn to_wire(fact: &ContextFact) -> Result<WireContextFact, RebuildError> {
    fact.to_wire().map_err(|source| RebuildError::Payload {
        id: fact.id().to_string(),
        source,
    })
}

/// A fact as it was recorded, if its payload can be read.
fn wire_of(fact: &FactEntry, registry: &PayloadRegistry) -> Result<WireContextFact, RebuildError> {
    let wire: WireContextFact =
        serde_json::from_str(&fact.json).map_err(|error| HistoryError::Unreadable {
            seq: fact.seq,
            kind: record::FACT.to_owned(),
            why: error.to_string(),
        })?;
    match ContextFact::from_wire(wire.clone(), registry) {
        Ok(_) => Ok(wire),
        Err(error) => Err(unreadable(fact.seq, &fact.id, error)),
    }
}

fn input_of(
    run: &Run,
    input: &str,
    registry: &PayloadRegistry,
) -> Result<ProposedFact, RebuildError> {
    let wire: WireProposedFact =
        serde_json::from_str(input).map_err(|error| refused(run, error))?;
    let id = wire.id.to_string();
    ProposedFact::from_wire(wire, registry).map_err(|error| unreadable(0, &id, error))
}

fn unreadable(seq: u64, id: &str, error: PayloadError) -> RebuildError {
    match error {
        PayloadError::UnknownFamilyVersion { family, version } => RebuildError::UnknownFamily {
            seq,
            id: id.to_owned(),
            family: family.to_string(),
            version: version.to_string(),
        },
        source => RebuildError::Payload {
            id: id.to_owned(),
            source,
        },
    }
}

fn refused(run: &Run, why: impl fmt::Display) -> RebuildError {
    RebuildError::Rejected {
        run_id: run.id.clone(),
        why: why.to_string(),
    }
}
