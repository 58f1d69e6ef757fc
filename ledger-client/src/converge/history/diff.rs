//! Where two runs part.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

use crate::context::Context;

use super::super::record;
use super::HistoryError;
use super::run::{FactEntry, Run, in_context_order};

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
    /// How many facts it has, of the cycles that ended.
    pub facts: usize,
    /// The Merkle root with which it ended, if it has.
    pub merkle_root: Option<String>,
    /// Why it stopped, if it has.
    pub stop_reason: Option<String>,
}

/// The first fact that two runs do not share.
///
/// ```
/// use ledger_client::converge::history::Differing;
///
/// let line = |fact: &Differing| format!("{}/{} of cycle {}", fact.key, fact.id, fact.cycle);
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Differing {
    /// The cycle, counted from the start of the first attempt.
    pub cycle: u32,
    /// Its key in the engine's context.
    pub key: String,
    /// Its id there.
    pub id: String,
    /// What the first run has there.
    pub a: Option<Value>,
    /// What the second one has.
    pub b: Option<Value>,
}

/// The first fact of two runs that differs: by key, id and payload, in the order of cycles,
/// and within a cycle in the order in which the engine's Merkle root takes them. Without an
/// id it is the run that was started last.
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
    let first = place.and_then(|place| parted(ones.get(place), others.get(place)));
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
    /// What makes a fact the same in another run; its cycle does, too.
    fn content(&self) -> (u32, &str, &str, &Value) {
        (self.cycle, &self.key, &self.id, &self.payload)
    }

    fn order(&self) -> (u32, usize) {
        (self.cycle, in_context_order(&self.key))
    }
}

fn in_order(run: &Run) -> Result<Vec<Placed>, HistoryError> {
    let mut before = 0;
    let mut begins = HashMap::new();
    for (number, attempt) in &run.attempts {
        begins.insert(*number, before);
        before += attempt.cycles;
    }
    let place = |fact: &FactEntry| -> Result<Placed, HistoryError> {
        let mut wire: Value =
            serde_json::from_str(&fact.json).map_err(|error| HistoryError::Unreadable {
                seq: fact.seq,
                kind: record::FACT.to_owned(),
                why: error.to_string(),
            })?;
        Ok(Placed {
            cycle: begins.get(&fact.attempt).copied().unwrap_or_default() + fact.cycle,
            key: fact.key.clone(),
            id: fact.id.clone(),
            payload: wire["payload"].take(),
        })
    };
    let placed: Result<Vec<Placed>, _> = run.facts().into_iter().map(place).collect();
    let mut placed = placed?;
    // Stable: those of one cycle and key stay as they are.
    placed.sort_by_key(Placed::order);
    Ok(placed)
}

/// What is at the place where they part: of two different facts the one that comes first.
fn parted(a: Option<&Placed>, b: Option<&Placed>) -> Option<Differing> {
    let first = match (a, b) {
        (Some(a), Some(b)) if b.order() < a.order() => b,
        (Some(a), _) => a,
        (None, b) => b?,
    };
    let is_it = |fact: &&Placed| (&fact.key, &fact.id) == (&first.key, &first.id);
    let payload = |fact: Option<&Placed>| fact.filter(is_it).map(|fact| fact.payload.clone());
    Some(Differing {
        cycle: first.cycle,
        key: first.key.clone(),
        id: first.id.clone(),
        a: payload(a),
        b: payload(b),
    })
}
