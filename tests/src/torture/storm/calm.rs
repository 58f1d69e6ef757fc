//! What is there after a storm.

use std::collections::BTreeMap;

use ledger_client::Context;

use super::super::observed::{Lateness, another};
use super::super::promises::{DENSE, KEPT, WATCHED, WHOLE};
use super::super::{Effort, Verdicts};
use super::crew::Crew;
use crate::{Instance, eventually, now_ns, worker};

/// Entries that are appended in the end, each of which all watchers have to see.
const AFTERWARDS: u64 = 5;

/// Lets those who are left go on, and looks at what is there.
pub(super) fn check(
    instance: &Instance,
    mut crew: Crew,
    effort: &Effort,
    verdicts: &mut Verdicts,
    case: &str,
) {
    crew.calm(instance, verdicts, case);
    let total = check_log(&crew, verdicts, case);
    verdicts.count("entries", total);
    // Those who came late have much to read first.
    let seq = crew.other.append(&another()).map(|appended| appended.seq);
    verdicts.check(DENSE, seq == Ok(total + 1), || {
        format!("{case}: {seq:?} after {total}")
    });
    check_seen(&crew, total + 1, verdicts, case);
    // A suite has more to do at the same time than a machine can be on time for.
    let lateness = effort.is_all().then(Lateness::watched);
    for seq in total + 2..total + 2 + AFTERWARDS {
        let since_ns = now_ns().expect("a clock");
        let appended = crew.other.append(&another()).map(|appended| appended.seq);
        verdicts.check(DENSE, appended == Ok(seq), || {
            format!("{case}: {appended:?}, not {seq}")
        });
        let seen_ns = check_seen(&crew, seq, verdicts, case);
        if let Some(lateness) = &lateness {
            lateness.check_woken(since_ns, seen_ns, verdicts, case);
        }
    }
    if let Some(lateness) = &lateness {
        lateness.tell(verdicts);
    }
}

/// Every watcher sees this entry; when the last one did.
fn check_seen(crew: &Crew, seq: u64, verdicts: &mut Verdicts, case: &str) -> u64 {
    let mut latest_ns = 0;
    for watcher in crew.watchers() {
        let seen = eventually("it has seen all", || match watcher.told_last() {
            Ok(Some((seen, at_ns))) if seen >= seq => Some(Ok((seen, at_ns))),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        let is_seen = matches!(seen, Ok((last, _)) if last == seq);
        verdicts.check(WATCHED, is_seen, || format!("{case}: {seen:?}, not {seq}"));
        latest_ns = latest_ns.max(seen.map_or(0, |(_, at_ns)| at_ns));
    }
    latest_ns
}

/// Of each appender its entries are there in its order, as it appended them: those that
/// were acknowledged under the seqs that it was told, and at most one more. How many
/// there are in all.
fn check_log(crew: &Crew, verdicts: &mut Verdicts, case: &str) -> u64 {
    let there = match found(&crew.context) {
        Ok(there) => there,
        Err(error) => {
            verdicts.check(DENSE, false, || format!("{case}: {error}"));
            return crew.context.latest().expect("readable");
        }
    };
    let nothing = Vec::new();
    for (who, told) in &crew.acknowledged {
        let seqs = there.get(who).unwrap_or(&nothing);
        verdicts.check(KEPT, seqs.starts_with(told), || {
            format!("{case}: {who} was told {told:?}, and there is {seqs:?}")
        });
        let more = seqs.len().saturating_sub(told.len());
        verdicts.check(WHOLE, more <= 1, || {
            format!("{case}: {who} was killed in one append, and {more} are there")
        });
        verdicts.count("acknowledged", told.len() as u64);
        verdicts.count("appended_when_killed", more as u64);
    }
    let total: u64 = there.values().map(|seqs| seqs.len() as u64).sum();
    let latest = crew.context.latest().expect("readable");
    verdicts.check(DENSE, total == latest, || {
        format!("{case}: {total} of {latest}")
    });
    latest
}

/// Of each appender, the seqs of its entries; or what is wrong with one.
fn found(context: &Context) -> Result<BTreeMap<u64, Vec<u64>>, String> {
    let mut found: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    let mut range = context.range(1);
    let mut expected = 1;
    while let Some(entry) = range.next_entry().map_err(|error| error.to_string())? {
        let seq = entry.seq();
        if seq != expected {
            return Err(format!("{seq} follows {}", expected - 1));
        }
        entry.verify().map_err(|error| format!("{seq}: {error}"))?;
        let (who, n) = worker::whose(&entry).ok_or(format!("{seq}: nobody's"))?;
        let seqs = found.entry(who).or_default();
        if n != seqs.len() as u64 {
            return Err(format!("{seq}: {n} of {who} follows {}", seqs.len()));
        }
        seqs.push(seq);
        expected += 1;
    }
    Ok(found)
}
