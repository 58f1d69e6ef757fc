//! Where two runs part.

use std::collections::{HashMap, HashSet};

use serde::Serialize;
use serde_json::{Value, json};

use crate::context::Context;

use super::HistoryError;
use super::run::{FactEntry, Rejection, Run, in_context_order};

/// Two runs beside each other.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::converge::history::{Diff, diff};
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// let compare = || -> Result<Diff, _> { diff(&context, None, &context, None) };
/// assert!(compare().is_err());
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Diff {
    /// The first run.
    pub a: Side,
    /// The second one.
    pub b: Side,
    /// Where they part; none if all their facts are the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first: Option<Differing>,
}

/// One of two runs.
///
/// ```
/// use ledger_client::converge::history::Side;
///
/// let size = |side: &Side| format!("{}: {} facts", side.run_id, side.facts);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Side {
    /// The context that it is in.
    pub context: String,
    /// The run.
    pub run_id: String,
    /// How many facts it has: what its context held before, and those of cycles that ended.
    pub facts: usize,
    /// The Merkle root with which it ended, if it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merkle_root: Option<String>,
    /// Why it stopped, if it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<String>,
}

/// The first fact that two runs do not share.
///
/// ```
/// use ledger_client::converge::history::{Differing, Had};
///
/// let had = |it: &Option<Had>| it.as_ref().map(|it| format!("{} in cycle {}", it.payload, it.cycle));
/// let line = |fact: &Differing| format!("{}: {:?}, {:?}", fact.id, had(&fact.a), had(&fact.b));
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Differing {
    /// Its key in the engine's context.
    pub key: String,
    /// Its id there.
    pub id: String,
    /// What the first run has of this key and id. Where both have the same, its place among
    /// others of the cycle is not the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub a: Option<Had>,
    /// What the second one has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub b: Option<Had>,
}

/// What a run has of a fact.
///
/// ```
/// use ledger_client::converge::history::Had;
///
/// let line = |had: &Had| format!("cycle {}: {}", had.cycle, had.payload);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Had {
    /// The cycle, counted from the start of the first attempt; 0 is before the first one.
    pub cycle: u32,
    /// The payload, with its family and version; of what a human's no has left, who said it
    /// and why.
    pub payload: Value,
}

/// The first fact of two runs that differs: by cycle, key, id and payload, in the order of
/// cycles, and within a cycle in the order in which the engine's Merkle root takes them.
/// Without an id it is the run that was started last.
///
/// # Errors
///
/// [`HistoryError`]: there is no such run, or it cannot be read.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::converge::history::diff;
///
/// let [a, b] = [ledger.context("a").open_or_create()?, ledger.context("b").open_or_create()?];
/// match diff(&a, Some("run-1"), &b, Some("run-1")) {
///     Ok(found) => println!("{:?}", found.first),
///     Err(error) => println!("{error}"),
/// }
/// # Ok(()) });
/// ```
pub fn diff(
    a: &Context,
    a_run: Option<&str>,
    b: &Context,
    b_run: Option<&str>,
) -> Result<Diff, HistoryError> {
    let (one, other) = (find(a, a_run)?, find(b, b_run)?);
    let (ones, others) = (in_order(&one)?, in_order(&other)?);
    let longer = ones.len().max(others.len());
    let place = (0..longer).find(|place| {
        let [a, b] = [&ones, &others].map(|facts| facts.get(*place).map(Placed::content));
        a != b
    });
    let first = place.and_then(|place| parted(&ones, &others, place));
    Ok(Diff {
        a: side(a, &one, ones.len()),
        b: side(b, &other, others.len()),
        first,
    })
}

fn find(context: &Context, run_id: Option<&str>) -> Result<Run, HistoryError> {
    Run::find(context, run_id)?.ok_or_else(|| HistoryError::UnknownRun {
        context: context.name().to_owned(),
        run_id: run_id.map(str::to_owned),
    })
}

fn side(context: &Context, run: &Run, facts: usize) -> Side {
    let outcome = run.outcome();
    Side {
        context: context.name().to_owned(),
        run_id: run.id.clone(),
        facts,
        merkle_root: outcome.and_then(|outcome| outcome.merkle_root.clone()),
        stop_reason: outcome.map(|outcome| outcome.stop_reason.clone()),
    }
}

/// A fact, and the cycle since the start of the first attempt.
struct Placed {
    cycle: u32,
    key: String,
    id: String,
    payload: Value,
}

impl Placed {
    fn of(fact: &FactEntry, cycle: u32) -> Result<Placed, HistoryError> {
        Ok(Placed {
            cycle,
            key: fact.key.clone(),
            id: fact.id.clone(),
            payload: fact.object()?.remove("payload").unwrap_or_default(),
        })
    }

    /// What makes a fact the same in another run; its cycle does, too.
    fn content(&self) -> (u32, &str, &str, &Value) {
        (self.cycle, &self.key, &self.id, &self.payload)
    }

    fn order(&self) -> (u32, usize) {
        (self.cycle, in_context_order(&self.key))
    }
}

fn in_order(run: &Run) -> Result<Vec<Placed>, HistoryError> {
    let mut placed = Vec::new();
    let mut begins = HashMap::new();
    let mut seen = HashSet::new();
    let mut reached = 0;
    for attempt in run.attempts.iter().filter(|attempt| attempt.is_begun) {
        let before = *begins.entry(attempt.number).or_insert(reached);
        for fact in &attempt.staged.held {
            placed.push(Placed::of(fact, 0)?);
        }
        let rejections = attempt.rejections.iter().filter(|it| attempt.has(it.seq));
        for rejection in rejections.filter(|it| seen.insert(&*it.proposal_id)) {
            placed.push(rejected(before, rejection));
        }
        // Two processes at one attempt have begun at the same cycle.
        reached = reached.max(attempt.cycles.saturating_add(before));
    }
    let is_rejection = |id: &str| id.starts_with(REJECTED);
    let facts = run.facts().into_iter();
    for fact in facts.filter(|fact| fact.key != DIAGNOSTIC || !is_rejection(&fact.id)) {
        let before = begins.get(&fact.attempt).copied().unwrap_or_default();
        placed.push(Placed::of(fact, fact.cycle.saturating_add(before))?);
    }
    // Stable: those of one cycle and key stay as they are.
    placed.sort_by_key(Placed::order);
    Ok(placed)
}

/// Where the engine keeps what it has to say of a run, and how it begins the id of a no.
const DIAGNOSTIC: &str = "Diagnostic";
const REJECTED: &str = "hitl-rejected:";

/// The fact that a human's no leaves. It is recorded late, in which cycle depends on when the
/// run paused next, and in a run that is resumed not at all: so the answer stands for it.
fn rejected(cycles_before: u32, rejection: &Rejection) -> Placed {
    let Rejection {
        cycle,
        proposal_id,
        decided_by,
        reason,
        ..
    } = rejection;
    Placed {
        cycle: cycles_before.saturating_add(*cycle),
        key: DIAGNOSTIC.to_owned(),
        id: format!("{REJECTED}{proposal_id}"),
        payload: json!({ "rejected_by": decided_by, "reason": reason }),
    }
}

/// What is at the place where they part: the fact that comes first and that they do not
/// share, else one that comes in another order.
fn parted(ones: &[Placed], others: &[Placed], place: usize) -> Option<Differing> {
    let here = [ones, others].map(|facts| facts.get(place));
    let mut here: Vec<&Placed> = here.into_iter().flatten().collect();
    here.sort_by_key(|fact| fact.order());
    let differing = here.into_iter().map(|fact| Differing {
        key: fact.key.clone(),
        id: fact.id.clone(),
        a: had(ones, fact),
        b: had(others, fact),
    });
    let mut differing: Vec<Differing> = differing.collect();
    let unshared = differing.iter().position(|fact| fact.a != fact.b);
    (!differing.is_empty()).then(|| differing.swap_remove(unshared.unwrap_or(0)))
}

fn had(facts: &[Placed], fact: &Placed) -> Option<Had> {
    let is_it = |other: &&Placed| (&other.key, &other.id) == (&fact.key, &fact.id);
    facts.iter().find(is_it).map(|found| Had {
        cycle: found.cycle,
        payload: found.payload.clone(),
    })
}
