//! What happened, one line per entry.

use std::collections::HashMap;

use ledger_shm::Entry;
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::converge::record::{self, Tags};
use crate::error::ReadError;
use crate::range::Range;

use super::gates::{self, Decision};
use super::run::name_of;

/// One entry of a run.
///
/// ```
/// use ledger_client::converge::history::Event;
///
/// fn line(event: &Event) -> String {
///     format!("{} {} {}", event.cycle, event.kind, event.says)
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Event {
    /// Which entry.
    pub seq: u64,
    /// When: wall clock, nanoseconds since 1970.
    pub appended_at_ns: u64,
    /// In which run.
    pub run_id: String,
    /// In which attempt at it.
    pub attempt: u32,
    /// In which cycle; 0 is before the first one.
    pub cycle: u32,
    /// What kind of entry it is.
    pub kind: String,
    /// Who did it: a name, where the run's start says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// What there is to say, for humans.
    pub says: String,
}

/// The entries of runs in a context, in the order of the log, up to what is the end then.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::converge::history::{Timeline, timeline};
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// let mut events: Timeline = timeline(&context)?;
/// assert!(events.next().is_none());
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct Timeline {
    range: Range,
    /// Suggestors of the attempts that were started so far.
    suggestors: HashMap<(String, u32), Vec<String>>,
}

/// What has happened in a context so far, in order. An entry whose payload is not what it should be
/// says so.
///
/// # Errors
///
/// [`ReadError`]: the context cannot be read.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::converge::history::timeline;
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// for event in timeline(&context)? {
///     let event = event?;
///     println!("{:>5}  cycle {}  {}  {}", event.seq, event.cycle, event.kind, event.says);
/// }
/// # Ok(()) });
/// ```
pub fn timeline(context: &Context) -> Result<Timeline, ReadError> {
    Ok(Timeline {
        range: context.range(context.first_available()?).until_now(),
        suggestors: HashMap::new(),
    })
}

impl Iterator for Timeline {
    type Item = Result<Event, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.range.next_entry() {
                Ok(Some(entry)) => entry,
                Ok(None) => return None,
                Err(error) => return Some(Err(error)),
            };
            if let Err(corrupt) = entry.verify() {
                return Some(Err(corrupt.into()));
            }
            if let Some(tags) = Tags::of(&entry) {
                return Some(Ok(event(&mut self.suggestors, &entry, &tags)));
            }
        }
    }
}

fn event(
    suggestors: &mut HashMap<(String, u32), Vec<String>>,
    entry: &Entry<'_>,
    tags: &Tags<'_>,
) -> Event {
    let attempt = (tags.run_id.to_owned(), tags.attempt);
    let payload = serde_json::from_slice(entry.payload());
    if tags.kind == record::RUN_STARTED
        && let Ok(started) = &payload
        && let Some(names) = names(started)
    {
        suggestors.insert(attempt.clone(), names);
    }
    let names = suggestors.get(&attempt).map_or(&[][..], Vec::as_slice);
    let says = match tags.kind {
        // Only part of a text, whose other parts are in other entries.
        record::CHECKPOINT => format!("{} bytes of the context", entry.payload().len()),
        _ => match &payload {
            Ok(payload) => says(entry, tags, payload)
                .unwrap_or_else(|| format!("unreadable: no {} of a recorder", tags.kind)),
            Err(error) => format!("unreadable: {error}"),
        },
    };
    Event {
        seq: entry.seq(),
        appended_at_ns: entry.appended_at_ns(),
        run_id: tags.run_id.to_owned(),
        attempt: tags.attempt,
        cycle: tags.cycle,
        kind: tags.kind.to_owned(),
        agent: tags.agent.map(|agent| name_of(agent, names)),
        says,
    }
}

fn names(started: &Value) -> Option<Vec<String>> {
    let names = started["suggestors"].as_array()?.iter();
    names.map(|name| Some(name.as_str()?.to_owned())).collect()
}

/// None if the payload is not what its kind says.
fn says(entry: &Entry<'_>, tags: &Tags<'_>, payload: &Value) -> Option<String> {
    let text = |name: &str| payload[name].as_str();
    let number = |name: &str| payload[name].as_u64();
    Some(match tags.kind {
        record::RUN_STARTED => {
            let (entry_point, inputs) = (text("entry_point")?, number("inputs")?);
            format!("{entry_point}, {inputs} staged")
        }
        record::INPUT | record::FACT => {
            let content = payload["payload"].get("payload")?;
            format!("{}/{}: {content}", text("key")?, text("id")?)
        }
        record::CYCLE_START => String::new(),
        record::CYCLE_END => format!("{} facts", number("facts_added")?),
        record::GATE_REQUESTED => {
            let gate = gates::requested(entry, tags).ok()?;
            format!("{}: {}", gate.proposal_id, gate.summary)
        }
        record::GATE_DECIDED => {
            let answered = gates::answered(entry, tags).ok()?;
            let Decision {
                verdict,
                decided_by,
                reason,
                ..
            } = answered.decision;
            let said = format!(
                "{}: {} by {decided_by}",
                answered.proposal_id,
                verdict.as_str()
            );
            match reason {
                Some(reason) => format!("{said}: {reason}"),
                None => said,
            }
        }
        record::RUN_ENDED => {
            let why = plain(payload.get("stop_reason")?);
            format!("{why} after {} cycles", number("cycles")?)
        }
        record::RUN_FAILED => text("error")?.to_owned(),
        record::GAP => {
            let (dropped, cycle) = (number("dropped")?, number("since_cycle")?);
            format!("{dropped} entries are missing since cycle {cycle}")
        }
        // An event of the engine's or of a user's: its type is the kind already.
        _ => payload["event"].get("data").unwrap_or(payload).to_string(),
    })
}

/// Text without its quotes.
fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
