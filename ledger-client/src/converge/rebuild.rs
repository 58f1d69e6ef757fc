//! A run's context, made again from what was recorded of it.

mod missing;
pub(super) mod rejection;

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use converge_core::integrity::{ContentHash, MerkleRoot};
use converge_core::{ContextFact, ContextKey, ContextSnapshot, ContextState, Engine, RunResult};
use converge_pack::{
    PayloadError, PayloadRegistry, ProposedFact, WireContextFact, WireProposedFact,
};
use serde::Serialize;

use crate::context::Context;

pub use missing::Missing;

use super::history::{Attempt, FactEntry, Gate, HistoryError, Rejection, Run, gates_of};
use super::record;
use super::recorder::Recorder;
use super::recorder::gate::Answer;

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
    /// What took effect in cycles that ended: the engine remembers it, and does not ask.
    pub(super) rejections: Vec<Rejection>,
    /// The number of the next attempt.
    pub(super) next_attempt: u32,
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

/// Why a run cannot be gone on with.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use converge_core::{ContextState, Engine};
/// use ledger_client::converge::{NotResumable, PayloadRegistry, Recorder, rebuild};
///
/// let mut engine = Engine::new();
/// let recorder = Recorder::new(&ledger, "loan-7");
/// pollster::block_on(recorder.run(&mut engine, ContextState::new()))?;
///
/// let context = ledger.context("loan-7").open()?;
/// let rebuilt = rebuild(&context, &PayloadRegistry::with_pack_payloads())?;
/// let recorder = Recorder::continuing(&ledger, &rebuilt);
/// let error = pollster::block_on(rebuilt.resume(&recorder, &mut engine)).unwrap_err();
/// assert!(matches!(error, NotResumable::Ended { .. }));
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotResumable {
    /// It has come to its end.
    #[error(
        "run {run_id:?} has ended, there is nothing to resume; start another one with a new Recorder"
    )]
    Ended {
        /// Which run.
        run_id: String,
    },
    /// What it began with is not there.
    #[error("run {run_id:?} cannot be resumed: {missing}; start another one with a new Recorder")]
    Incomplete {
        /// Which run.
        run_id: String,
        /// What is missing.
        missing: Missing,
    },
    /// The recorder is of another run.
    #[error(
        "the recorder is of run {recorder:?} and not of {run_id:?}; make one with Recorder::continuing"
    )]
    OtherRun {
        /// Which run.
        run_id: String,
        /// What the recorder records.
        recorder: String,
    },
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

    /// Runs the engine from here on as [`Recorder::run_with_hitl`] does, recorded as the
    /// run's next attempt: with the same suggestors as before, and a recorder that is
    /// [`continuing`](Recorder::continuing) this run. Where a human has answered, the answer
    /// is taken; where nobody has, the run pauses, and [`Recorder::resume`] goes on from
    /// there.
    ///
    /// A run that was started in another way can as well be gone on with by the recorder's
    /// method of that name, with [`context`](Self::context).
    ///
    /// # Errors
    ///
    /// [`NotResumable`]: it has ended, or what it began with is not there.
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
    ) -> Result<RunResult, NotResumable> {
        let run_id = self.run_id;
        if self.has_ended {
            return Err(NotResumable::Ended { run_id });
        }
        let mut missing = self.missing.into_iter();
        if let Some(missing) = missing.find(Missing::is_of_the_beginning) {
            return Err(NotResumable::Incomplete { run_id, missing });
        }
        let recorder_of = recorder.run_id();
        if recorder_of != run_id {
            return Err(NotResumable::OtherRun {
                run_id,
                recorder: recorder_of,
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
    let run = Run::find(context, None)?;
    run.and_then(|run| rebuilt(context, run, registry).transpose())
        .unwrap_or_else(|| {
            Err(RebuildError::NotStarted {
                scope: context.name().to_owned(),
            })
        })
}

/// As [`rebuild`], the context of one of several runs.
///
/// # Errors
///
/// [`RebuildError`]: there is no such run, or it cannot be made again with this registry.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use converge_core::ContextState;
/// use ledger_client::converge::{PayloadRegistry, Recorder, rebuild_run};
///
/// for run_id in ["loan-7", "loan-8"] {
///     let recorder = Recorder::new(&ledger, "loans").with_run_id(run_id);
///     recorder.started("run", &ContextState::new());
/// }
/// let context = ledger.context("loans").open()?;
/// let rebuilt = rebuild_run(&context, "loan-7", &PayloadRegistry::with_pack_payloads())?;
/// assert_eq!(rebuilt.run_id, "loan-7");
/// # Ok(()) });
/// ```
pub fn rebuild_run(
    context: &Context,
    run_id: &str,
    registry: &PayloadRegistry,
) -> Result<Rebuilt, RebuildError> {
    let run = Run::find(context, Some(run_id))?;
    run.and_then(|run| rebuilt(context, run, registry).transpose())
        .unwrap_or_else(|| {
            Err(RebuildError::History(HistoryError::UnknownRun {
                context: context.name().to_owned(),
                run_id: Some(run_id.to_owned()),
            }))
        })
}

/// None if the run has not begun.
fn rebuilt(
    context: &Context,
    run: Run,
    registry: &PayloadRegistry,
) -> Result<Option<Rebuilt>, RebuildError> {
    let Some(last) = run.last_attempt() else {
        return Ok(None);
    };
    let gates = gates_of(&run);
    let mut missing: Vec<Missing> = run.gaps.iter().map(Missing::from).collect();
    let mut state = restored(&run, registry, &mut missing)?;
    if last.cut.is_none() {
        stage(&run, last, registry, &mut state)?;
    }
    let outcome = run.outcome();
    let ended = outcome.and_then(|outcome| outcome.merkle_root.clone());
    let rebuilt = state.snapshot().merkle_root().to_hex();
    if let Some(ended) = ended.filter(|ended| missing.is_empty() && *ended != rebuilt) {
        missing.push(Missing::Root { ended, rebuilt });
    }
    Ok(Some(Rebuilt {
        scope: context.name().to_owned(),
        run_id: run.id.clone(),
        attempt: last.number,
        context: state,
        missing,
        answers: gates.iter().filter_map(Answer::of).collect(),
        open_gates: gates.into_iter().filter(|gate| gate.is_open).collect(),
        has_ended: outcome.is_some_and(|outcome| outcome.is_ended),
        stop_reason: outcome.map(|outcome| outcome.stop_reason.clone()),
        rejections: run.attempts.iter().flat_map(committed).cloned().collect(),
        next_attempt: run.next_attempt(),
    }))
}

/// What humans rejected in the cycles of an attempt that ended.
fn committed(attempt: &Attempt) -> impl Iterator<Item = &Rejection> {
    let rejections = attempt.rejections.iter();
    rejections.filter(|rejection| attempt.has(rejection.seq))
}

/// Stages again what an attempt was given that has come to nothing.
fn stage(
    run: &Run,
    attempt: &Attempt,
    registry: &PayloadRegistry,
    state: &mut ContextState,
) -> Result<(), RebuildError> {
    for (seq, input) in &attempt.staged.inputs {
        let input = input_of(*seq, input, registry)?;
        let mut facts = state.get(input.key()).iter();
        // An earlier attempt may have been given the same.
        if facts.all(|fact| fact.id().as_str() != input.id().as_str()) {
            let staged = state.add_proposal(input);
            staged.map_err(|error| refused(run, error))?;
        }
    }
    Ok(())
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

/// As `WireContextSnapshot` has it, which keeps its fields to itself.
#[derive(Serialize)]
struct WireSnapshot {
    version: usize,
    merkle_root: MerkleRoot,
    facts: BTreeMap<ContextKey, Vec<WireContextFact>>,
    proposals: BTreeMap<ContextKey, Vec<WireProposedFact>>,
}

fn restored(
    run: &Run,
    registry: &PayloadRegistry,
    missing: &mut Vec<Missing>,
) -> Result<ContextState, RebuildError> {
    let mut facts = Facts::default();
    for attempt in run.attempts.iter().filter(|attempt| attempt.is_begun) {
        // If it is not whole, what it held is missing, and that is said below.
        for fact in &attempt.staged.held {
            facts.add(wire_of(fact, registry)?);
        }
        missing.extend(Missing::of_beginning(attempt, facts.seen.len()));
        // In the log's order: what a human rejected left a fact there, of which the engine
        // has not told.
        let mut rejections = committed(attempt).peekable();
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
    // Fact by fact, so that the error can name one.
    ContextFact::from_wire(wire.clone(), registry)
        .map_err(|error| unreadable(fact.seq, wire.id.as_str(), error))?;
    Ok(wire)
}

fn input_of(
    seq: u64,
    input: &str,
    registry: &PayloadRegistry,
) -> Result<ProposedFact, RebuildError> {
    let wire: WireProposedFact =
        serde_json::from_str(input).map_err(|error| HistoryError::Unreadable {
            seq,
            kind: record::INPUT.to_owned(),
            why: error.to_string(),
        })?;
    let id = wire.id.to_string();
    ProposedFact::from_wire(wire, registry).map_err(|error| unreadable(seq, &id, error))
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
