//! What happened, one line per entry.

use std::collections::HashMap;

use ledger_shm::Entry;
use serde::Serialize;
use serde_json::Value;

use crate::context::Context;
use crate::error::ReadError;
use crate::range::Range;

use super::super::record::{self, Tags};
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

/// What happened in a context, in order. An entry whose payload is not what it should be
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
        range: context.range(context.first_available()?),
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
            Ok(payload) => says(tags, payload),
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

fn says(tags: &Tags<'_>, payload: &Value) -> String {
    match tags.kind {
        record::RUN_STARTED => {
            let inputs = &payload["inputs"];
            format!("{}, {inputs} staged", plain(&payload["entry_point"]))
        }
        record::INPUT | record::FACT => {
            let content = &payload["payload"]["payload"];
            format!(
                "{}/{}: {content}",
                plain(&payload["key"]),
                plain(&payload["id"])
            )
        }
        record::CYCLE_START => String::new(),
        record::CYCLE_END => format!("{} facts", payload["facts_added"]),
        record::GATE_REQUESTED => {
            let request = &payload["request"];
            format!(
                "{}: {}",
                plain(&request["proposal_id"]),
                plain(&request["summary"])
            )
        }
        record::GATE_DECIDED => {
            let decision = &payload["decision"];
            let (what, by) = (
                plain(&payload["proposal_id"]),
                plain(&decision["decided_by"]),
            );
            match decision["verdict"].get("Reject") {
                None => format!("{what}: approved by {by}"),
                Some(rejection) => match rejection["reason"].as_str() {
                    None => format!("{what}: rejected by {by}"),
                    Some(reason) => format!("{what}: rejected by {by}: {reason}"),
                },
            }
        }
        record::RUN_ENDED => {
            let (why, cycles) = (plain(&payload["stop_reason"]), &payload["cycles"]);
            format!("{why} after {cycles} cycles")
        }
        record::RUN_FAILED => plain(&payload["error"]),
        record::GAP => {
            let (dropped, cycle) = (&payload["dropped"], &payload["since_cycle"]);
            format!("{dropped} entries are missing since cycle {cycle}")
        }
        // An event of the engine's or of a user's: its type is the kind already.
        _ => payload["event"]["data"].to_string(),
    }
}

/// Text without its quotes.
fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
