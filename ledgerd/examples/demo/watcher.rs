//! The process that watches: every context at once, each entry as it comes.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use ledger_client::{Context, Entry, Ledger};

use crate::Failure;
use crate::digest::{ContextDigest, Seen};
use crate::engines::END;
use crate::latency::{Percentiles, duration, histogram};
use crate::message::{Message, Report, end_with_the_coordinator};
use crate::plan::{Plan, Role};

pub fn play(plan: &Plan) -> Result<(), Failure> {
    end_with_the_coordinator()?;
    let ledger = Ledger::connect()?;
    let contexts = plan
        .contexts()
        .map(|name| ledger.context(&name).open_read_only())
        .collect::<Result<Vec<Context>, _>>()?;
    Message::Ready.say()?;

    let start = Instant::now();
    let watched = thread::scope(|scope| {
        let watchers: Vec<_> = (0..)
            .zip(&contexts)
            .map(|(run, context)| scope.spawn(move || watch(plan, run, context)))
            .collect();
        watchers
            .into_iter()
            .map(|watcher| {
                watcher
                    .join()
                    .unwrap_or_else(|_| Err("a watcher panicked".into()))
            })
            .collect::<Result<Vec<_>, Failure>>()
    })?;
    let elapsed = start.elapsed();

    let mut latency = histogram();
    let mut digests = BTreeMap::new();
    for (context, (digest, its_latency)) in contexts.iter().zip(watched) {
        digests.insert(context.name().to_owned(), digest);
        latency.add(&its_latency)?;
    }
    Message::Report(Report {
        seen: Seen::of(digests),
        elapsed_ns: u64::try_from(elapsed.as_nanos())?,
        latency: Some(Percentiles::of(&latency)),
        decided: None,
    })
    .say()?;
    Ok(())
}

/// Watches one context until its last entry.
fn watch(
    plan: &Plan,
    run: u32,
    context: &Context,
) -> Result<(ContextDigest, Histogram<u64>), Failure> {
    let printed = plan.run_id(run, plan.printed(run));
    let mut digest = ContextDigest::default();
    let mut latency = histogram();
    let mut watcher = context.watch(1);
    loop {
        let entry = watcher.next()?;
        // Both clocks are the wall clock of this machine, which may be set back.
        let age_ns = now_ns().saturating_sub(entry.appended_at_ns());
        latency.saturating_record(age_ns);
        entry.verify()?;
        if !plan.is_left_out(Role::Watcher, context.name(), entry.seq()) {
            digest.add_entry(&entry);
        }
        if plan.print_all || run_id(&entry) == Some(&printed) {
            Message::Line(line(context.name(), &entry, age_ns)).say()?;
        }
        if entry.key() == END {
            return Ok((digest, latency));
        }
    }
}

fn now_ns() -> u64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

fn find<'e>(entry: &'e Entry<'_>, wanted: &str) -> Option<&'e str> {
    entry
        .metadata()
        .find_map(|(name, value)| (name == wanted).then_some(value))
}

fn run_id<'e>(entry: &'e Entry<'_>) -> Option<&'e str> {
    find(entry, "run_id")
}

/// What stands above the lines.
pub const LIVE_HEADING: &str = "context   seq  after      run         key     what         payload";

/// An entry in one line: where, how long after its append, what.
fn line(context: &str, entry: &Entry<'_>, age_ns: u64) -> String {
    let what = find(entry, "fact_id")
        .or_else(|| find(entry, "kind"))
        .unwrap_or_default();
    format!(
        "{context:<7} {seq:>5}  {age:<9}  {run_id:<10}  {key:<7} {what:<12} {gist}",
        seq = entry.seq(),
        age = duration(age_ns),
        run_id = run_id(entry).unwrap_or_default(),
        key = entry.key(),
        gist = gist(entry.payload()),
    )
}

/// Characters of a payload that are printed.
const GIST_LEN: usize = 100;

/// The payload, of a fact without what surrounds it; its beginning is enough.
fn gist(payload: &[u8]) -> String {
    let whole = text(payload);
    match whole.char_indices().nth(GIST_LEN) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}

fn text(payload: &[u8]) -> String {
    match serde_json::from_slice::<serde_json::Value>(payload) {
        Ok(value) => value
            .pointer("/payload/payload")
            .unwrap_or(&value)
            .to_string(),
        Err(_) => String::from_utf8_lossy(payload).escape_debug().to_string(),
    }
}
