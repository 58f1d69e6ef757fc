//! One run as its entries tell it: attempts, what each came to, and what is missing.

use std::collections::{BTreeMap, HashMap, HashSet};

use ledger_shm::Entry;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::context::Context;
use crate::converge::parts::Parts;
use crate::converge::record::{self, Tags};
use crate::error::ReadError;

use super::HistoryError;
use super::gates::{self, Gate};

/// All attempts at one run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) id: String,
    /// In the order in which they began. Two processes may be at the same one.
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) gates: Vec<Gate>,
    pub(crate) gaps: Vec<Gap>,
}

/// What an attempt begins with.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    /// `WireProposedFact`s, and where each is.
    pub(crate) inputs: Vec<(u64, String)>,
    /// A `WireContextSnapshot`.
    checkpoint: Parts,
    /// The facts in it, which the context held before.
    pub(crate) held: Vec<FactEntry>,
}

/// From one `run_started` to the next.
#[derive(Debug, Default)]
pub(crate) struct Attempt {
    pub(crate) number: u32,
    /// Tells it from another of the same number.
    start: String,
    /// Whether it has come further than to what is staged.
    pub(crate) is_begun: bool,
    pub(crate) started: Option<Started>,
    pub(crate) staged: Staged,
    pub(crate) facts: Vec<FactEntry>,
    pub(crate) rejections: Vec<Rejection>,
    /// What comes after this `cycle_end`, or the run's end, is of a cycle that never ended.
    /// Some diagnostic facts are only recorded between the two.
    pub(crate) cut: Option<u64>,
    /// A `cycle_end` and its cycle, after which the engine has yet to check its invariants:
    /// it counts when the run goes on.
    unchecked: Option<(u64, u32)>,
    /// Behind a gap a cycle may be without some of its facts: it does not count.
    is_gapped: bool,
    /// How many cycles have ended.
    pub(crate) cycles: u32,
    pub(crate) outcome: Option<Outcome>,
}

/// What is known when an attempt starts.
#[derive(Debug, Deserialize)]
#[cfg_attr(not(feature = "converge"), expect(dead_code, reason = "for a rebuild"))]
pub(crate) struct Started {
    pub(crate) suggestors: Option<Vec<String>>,
    /// How many proposals were staged.
    pub(crate) inputs: usize,
    /// How many facts the context had.
    pub(crate) facts: usize,
}

/// Kinds of entries that tell that a run was started, even if that itself is missing.
const BEGUN: [&str; 8] = [
    record::RUN_STARTED,
    record::CYCLE_START,
    record::FACT,
    record::CYCLE_END,
    record::GATE_REQUESTED,
    record::GAP,
    record::RUN_ENDED,
    record::RUN_FAILED,
];

/// A fact as it was promoted.
#[derive(Debug)]
pub(crate) struct FactEntry {
    pub(crate) seq: u64,
    pub(crate) appended_at_ns: u64,
    pub(crate) lamport: u64,
    pub(crate) attempt: u32,
    pub(crate) cycle: u32,
    pub(crate) agent: Option<String>,
    pub(crate) key: String,
    pub(crate) id: String,
    pub(crate) family: String,
    /// A `WireContextFact`.
    pub(crate) json: String,
}

/// A human's no, as the engine was told.
#[derive(Clone, Debug)]
pub(crate) struct Rejection {
    pub(crate) seq: u64,
    pub(super) cycle: u32,
    pub(crate) proposal_id: String,
    pub(crate) decided_by: String,
    pub(crate) reason: Option<String>,
}

/// How an attempt came to its end.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Otherwise it failed.
    pub(crate) is_ended: bool,
    pub(crate) stop_reason: String,
    pub(crate) merkle_root: Option<String>,
}

/// Entries that did not fit.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) dropped: u64,
    pub(crate) since_cycle: u32,
}

/// What an outcome's payload says that is told here.
#[derive(Deserialize)]
struct WireOutcome {
    stop_reason: serde_json::Value,
    error: Option<String>,
    integrity: Option<WireIntegrity>,
    #[serde(default)]
    facts: Vec<Box<RawValue>>,
}

#[derive(Deserialize)]
struct WireIntegrity {
    merkle_root: String,
}

/// As `WireContextSnapshot` has it.
#[derive(Deserialize)]
struct WireSnapshot {
    facts: BTreeMap<String, Vec<Box<RawValue>>>,
}

/// What identifies a fact.
#[derive(Deserialize)]
struct WireFact {
    key: String,
    id: String,
    payload: WirePayload,
}

#[derive(Deserialize)]
struct WirePayload {
    family: String,
}

/// An entry's payload as what its kind says.
pub(super) fn payload<T: DeserializeOwned>(
    entry: &Entry<'_>,
    tags: &Tags<'_>,
) -> Result<T, HistoryError> {
    serde_json::from_slice(entry.payload())
        .map_err(|error| unreadable(entry, tags, &error.to_string()))
}

fn text(entry: &Entry<'_>, tags: &Tags<'_>) -> Result<String, HistoryError> {
    let text = std::str::from_utf8(entry.payload());
    text.map(str::to_owned)
        .map_err(|error| unreadable(entry, tags, &error.to_string()))
}

fn unreadable(entry: &Entry<'_>, tags: &Tags<'_>, why: &str) -> HistoryError {
    HistoryError::Unreadable {
        seq: entry.seq(),
        kind: tags.kind.to_owned(),
        why: why.to_owned(),
    }
}

impl Run {
    /// The runs of a context that are wanted, in the order in which they began.
    pub(crate) fn all(
        context: &Context,
        is_wanted: impl Fn(&Tags<'_>) -> bool,
    ) -> Result<Vec<Run>, HistoryError> {
        let mut runs: Vec<Run> = Vec::new();
        // Where the newest run of an id is, and where each start.
        let mut newest: HashMap<String, usize> = HashMap::new();
        let mut starts: HashMap<(String, String), usize> = HashMap::new();
        let mut range = context.range(context.first_available()?);
        while let Some(entry) = range.next_entry()? {
            entry.verify().map_err(ReadError::from)?;
            let Some(tags) = Tags::of(&entry).filter(&is_wanted) else {
                continue;
            };
            let known = tags
                .start
                .map(|start| (tags.run_id.to_owned(), start.to_owned()));
            let of_start = known.as_ref().and_then(|known| starts.get(known)).copied();
            let of_id = newest.get(tags.run_id).copied();
            // A first attempt that begins once more is of another run with the same id.
            let is_other = |place: &usize| tags.attempt == 1 && runs[*place].has_begun();
            let of_id = of_id.filter(|place| tags.start.is_none() || !is_other(place));
            let place = of_start.or(of_id).unwrap_or_else(|| {
                runs.push(Run::new(tags.run_id));
                runs.len() - 1
            });
            newest.insert(tags.run_id.to_owned(), place);
            starts.extend(known.map(|known| (known, place)));
            runs[place].add(&entry, &tags)?;
        }
        Ok(runs)
    }

    /// Whether its first attempt has.
    fn has_begun(&self) -> bool {
        let mut attempts = self.attempts.iter();
        attempts.any(|attempt| attempt.number == 1 && attempt.is_begun)
    }

    /// One run; without an id the last one that was started, which its first entry tells:
    /// that of its start may be missing.
    pub(crate) fn find(
        context: &Context,
        run_id: Option<&str>,
    ) -> Result<Option<Run>, HistoryError> {
        let mut last = run_id.map(str::to_owned);
        if last.is_none() {
            let mut begun = HashSet::new();
            let mut range = context.range(context.first_available()?);
            while let Some(entry) = range.next_entry()? {
                entry.verify().map_err(ReadError::from)?;
                let tags = Tags::of(&entry).filter(|tags| BEGUN.contains(&tags.kind));
                let Some((tags, start)) = tags.and_then(|tags| tags.start.map(|it| (tags, it)))
                else {
                    continue;
                };
                if begun.insert((tags.run_id.to_owned(), start.to_owned())) {
                    last = Some(tags.run_id.to_owned());
                }
            }
        }
        let Some(last) = last else { return Ok(None) };
        let mut runs = Run::all(context, |tags| tags.run_id == last)?;
        Ok(runs.pop())
    }

    fn new(id: &str) -> Run {
        Run {
            id: id.to_owned(),
            attempts: Vec::new(),
            gates: Vec::new(),
            gaps: Vec::new(),
        }
    }

    fn add(&mut self, entry: &Entry<'_>, tags: &Tags<'_>) -> Result<(), HistoryError> {
        let is_decided = (entry.key(), tags.kind) == (record::GATES, record::GATE_DECIDED);
        let answered = is_decided
            .then(|| gates::answered(entry, tags))
            .transpose()?;
        let rejection = answered.as_ref().and_then(|it| it.rejection(tags.cycle));
        if let Some(answered) = answered {
            gates::decide(&mut self.gates, answered);
        }
        // What others store beside a run begins no attempt.
        let Some(start) = tags.start else {
            return Ok(());
        };
        let attempt = self.attempt(tags.attempt, start);
        attempt.is_begun |= BEGUN.contains(&tags.kind);
        attempt.rejections.extend(rejection);
        match (entry.key(), tags.kind) {
            (record::PROPOSALS, record::INPUT) => {
                let input = text(entry, tags)?;
                attempt.staged.inputs.push((entry.seq(), input));
            }
            // What a host saves is not what an attempt begins with.
            (record::SNAPSHOTS, record::CHECKPOINT) if tags.checkpoint == Some(record::START) => {
                let part = text(entry, tags)?;
                let number = tags.part.unwrap_or_default();
                attempt.staged.hold(number, &part, entry, tags)?;
            }
            (record::INTENTS, record::RUN_STARTED) => {
                attempt.started = Some(payload(entry, tags)?);
            }
            (record::FACTS, record::FACT) => {
                let fact = FactEntry::of(entry, tags, text(entry, tags)?);
                attempt.facts.push(fact);
            }
            (record::TRACES, record::CYCLE_START) => attempt.pass(),
            (record::TRACES, record::CYCLE_END) if !attempt.is_gapped => {
                attempt.unchecked = Some((entry.seq(), tags.cycle));
            }
            (record::TRACES, record::GAP) => {
                attempt.is_gapped = true;
                self.gaps.push(payload(entry, tags)?);
            }
            (record::GATES, record::GATE_REQUESTED) => {
                let gate = gates::requested(entry, tags)?;
                gates::ask(&mut self.gates, gate);
            }
            (record::OUTCOMES, record::RUN_ENDED | record::RUN_FAILED) => {
                attempt.end(entry, tags)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn attempt(&mut self, number: u32, start: &str) -> &mut Attempt {
        let is_it = |it: &Attempt| it.number == number && it.start == start;
        let place = self.attempts.iter().rposition(is_it);
        let place = place.unwrap_or_else(|| {
            self.attempts.push(Attempt {
                number,
                start: start.to_owned(),
                ..Attempt::default()
            });
            self.attempts.len() - 1
        });
        &mut self.attempts[place]
    }

    /// The last attempt that has begun.
    pub(crate) fn last_attempt(&self) -> Option<&Attempt> {
        self.attempts.iter().rfind(|attempt| attempt.is_begun)
    }

    /// A number that no attempt has, not even one that has only staged something.
    #[cfg(feature = "converge")]
    pub(crate) fn next_attempt(&self) -> u32 {
        let numbers = self.attempts.iter().map(|attempt| attempt.number);
        numbers.max().map_or(1, |last| last.saturating_add(1))
    }

    /// What the run came to, if it is over: at its end in any attempt, of two that may have
    /// been at it at once, or else as the last one failed.
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        let mut outcomes = self.attempts.iter().filter_map(|it| it.outcome.as_ref());
        let ended = outcomes.rfind(|outcome| outcome.is_ended);
        ended.or_else(|| self.last_attempt()?.outcome.as_ref())
    }

    /// The facts of all cycles that ended, in the order of their promotion: of those of
    /// one key and id the first.
    pub(crate) fn facts(&self) -> Vec<&FactEntry> {
        let mut seen = HashSet::new();
        let mut facts: Vec<&FactEntry> = Vec::new();
        for attempt in &self.attempts {
            let committed = attempt.facts.iter().filter(|fact| attempt.has(fact.seq));
            facts.extend(committed.filter(|fact| seen.insert((&*fact.key, &*fact.id))));
        }
        facts
    }

    /// The name of a suggestor, where the run's start says it; else what the engine calls it.
    pub(crate) fn agent(&self, attempt: u32, agent: &str) -> String {
        let mut attempts = self.attempts.iter().filter(|it| it.number == attempt);
        let started = attempts.find_map(|attempt| attempt.started.as_ref());
        let suggestors = started.and_then(|started| started.suggestors.as_deref());
        name_of(agent, suggestors.unwrap_or_default())
    }
}

/// `agent-3`, or `suggestor-3` where a human approved, is the fourth of the names.
pub(super) fn name_of(agent: &str, suggestors: &[String]) -> String {
    let index = agent
        .strip_prefix("agent-")
        .or(agent.strip_prefix("suggestor-"));
    let index: Option<usize> = index.and_then(|index| index.parse().ok());
    let name = index.and_then(|index| suggestors.get(index));
    name.map_or_else(|| agent.to_owned(), Clone::clone)
}

impl Attempt {
    /// Whether an entry is of a cycle that ended, or from before the end of a run that did.
    pub(crate) fn has(&self, seq: u64) -> bool {
        self.cut.is_some_and(|cut| seq < cut)
    }

    /// The engine's invariants held after the last cycle.
    fn pass(&mut self) {
        if let Some((seq, cycle)) = self.unchecked.take() {
            self.cut = Some(seq);
            self.cycles = cycle;
        }
    }

    fn end(&mut self, entry: &Entry<'_>, tags: &Tags<'_>) -> Result<(), HistoryError> {
        let outcome: WireOutcome = payload(entry, tags)?;
        for fact in outcome.facts {
            self.facts.push(FactEntry::within(entry, tags, fact)?);
        }
        let is_violated = outcome.stop_reason.get("InvariantViolated").is_some();
        let stop_reason = match outcome.stop_reason {
            serde_json::Value::String(name) => name,
            other => other.to_string(),
        };
        if !is_violated {
            self.pass();
        }
        let is_ended = tags.kind == record::RUN_ENDED;
        if is_ended && !self.is_gapped {
            self.cut = Some(entry.seq());
        }
        self.outcome = Some(Outcome {
            is_ended,
            stop_reason: outcome.error.unwrap_or(stop_reason),
            merkle_root: outcome.integrity.map(|proof| proof.merkle_root),
        });
        Ok(())
    }
}

impl Staged {
    /// Takes a part of the checkpoint, and its facts with the last one.
    fn hold(
        &mut self,
        number: &str,
        part: &str,
        entry: &Entry<'_>,
        tags: &Tags<'_>,
    ) -> Result<(), HistoryError> {
        self.checkpoint.take(number, part);
        self.held.clear();
        if let Some(whole) = self.checkpoint.whole() {
            let wire: WireSnapshot = serde_json::from_str(whole)
                .map_err(|error| unreadable(entry, tags, &error.to_string()))?;
            let facts = wire.facts.into_values().flatten();
            let facts = facts.map(|fact| FactEntry::within(entry, tags, fact));
            self.held = facts.collect::<Result<_, _>>()?;
        }
        Ok(())
    }
}

impl FactEntry {
    /// Its payload.
    pub(super) fn object(&self) -> Result<serde_json::Map<String, Value>, HistoryError> {
        serde_json::from_str(&self.json).map_err(|error| HistoryError::Unreadable {
            seq: self.seq,
            kind: record::FACT.to_owned(),
            why: error.to_string(),
        })
    }

    /// One of several in an entry's payload, whose tags are not the fact's.
    fn within(
        entry: &Entry<'_>,
        tags: &Tags<'_>,
        fact: Box<RawValue>,
    ) -> Result<FactEntry, HistoryError> {
        let json: String = Box::<str>::from(fact).into();
        let wire: WireFact = serde_json::from_str(&json)
            .map_err(|error| unreadable(entry, tags, &error.to_string()))?;
        Ok(FactEntry {
            key: wire.key,
            id: wire.id,
            family: wire.payload.family,
            ..FactEntry::of(entry, tags, json)
        })
    }

    fn of(entry: &Entry<'_>, tags: &Tags<'_>, json: String) -> FactEntry {
        FactEntry {
            seq: entry.seq(),
            appended_at_ns: entry.appended_at_ns(),
            lamport: entry.lamport(),
            attempt: tags.attempt,
            cycle: tags.cycle,
            agent: tags.agent.map(str::to_owned),
            key: tags.ckey.unwrap_or_default().to_owned(),
            id: tags.fact_id.unwrap_or_default().to_owned(),
            family: tags.family.unwrap_or_default().to_owned(),
            json,
        }
    }
}

/// The place of a context key in the engine's order; unknown ones come last.
pub(crate) fn in_context_order(key: &str) -> usize {
    let place = record::CONTEXT_KEYS.iter().position(|known| *known == key);
    place.unwrap_or(record::CONTEXT_KEYS.len())
}
