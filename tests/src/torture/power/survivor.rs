//! A daemon that finds what a loss of power has left.

use std::fs::File;
use std::sync::Arc;

use ledger_client::{Context, Ledger, NewEntry, ReadError};
use ledger_shm::file::{FileName, verify};
use ledger_shm::record::crc32c;

use super::diary::{Diary, Event, Said, Told};
use super::story::{History, KEPT_ENTRIES, Stage, Story, entry};
use crate::power::{Image, Trace};
use crate::torture::Verdicts;
use crate::torture::promises::{DENSE, DURABLE, KEPT, LOADED, TOLD, UNCHANGED, VALID};
use crate::{Instance, PATIENCE, Programs};

/// What is to be known of a loss of power, for the next one.
pub(super) struct Survived {
    /// What was done to the disk since.
    pub(super) trace: Trace,
    /// What was said since.
    pub(super) diary: Arc<Diary>,
    /// What there is now.
    pub(super) history: History,
}

/// Checks what there is of every context, and that it goes on; what was done to the disk
/// for that, and what was said.
pub(super) fn check(
    programs: Programs,
    story: &Story,
    image: &Image,
    told: &Told,
    history: &History,
    verdicts: &mut Verdicts,
    case: &str,
) -> Survived {
    let stage = Stage::on(programs, image);
    let ledger = stage.instance.connect();
    let mut found = Vec::new();
    let unreadable = ledger.contexts().expect("a list").unreadable;
    verdicts.check(DURABLE, unreadable.is_empty(), || {
        format!("{case}: {unreadable:?}")
    });
    for (name, said) in &told.0 {
        let case = format!("{case}: {name}");
        let context = opened(&ledger, name, said, verdicts, &case);
        if let Some(context) = &context {
            stage.diary.watch(&stage.instance.objects(), name, context);
        }
        let entries = context.as_ref().map_or(Ok((1, Vec::new())), entries);
        let (first_seq, entries) = match entries {
            Ok(entries) => entries,
            Err(why) => {
                verdicts.check(DENSE, false, || format!("{case}: {why}"));
                continue;
            }
        };
        let last_seq = first_seq - 1 + entries.len() as u64;
        let all = history.get(name).map_or(&[][..], Vec::as_slice);
        let is_same = all
            .get(first_seq as usize - 1..last_seq as usize)
            .is_some_and(|same| same == entries);
        verdicts.check(UNCHANGED, is_same, || {
            format!("{case}: {first_seq} to {last_seq} are others")
        });
        check_last(last_seq, said, verdicts, &case);
        let is_enough = first_seq == 1 || (*name == "kept" && entries.len() as u64 >= KEPT_ENTRIES);
        verdicts.check(KEPT, is_enough, || {
            format!("{case}: from {first_seq} to {last_seq}")
        });
        if let Some(context) = context {
            let is_new = said.epoch.is_some_and(|epoch| epoch != context.epoch());
            let is_whole = last_seq >= said.appended_seq;
            verdicts.check(TOLD, is_whole || is_new, || {
                format!("{case}: {last_seq} of {} in one epoch", said.appended_seq)
            });
            if let Some(whole) = said.whole {
                let found = (last_seq, context.epoch());
                verdicts.check(TOLD, found == whole, || {
                    format!("{case}: {found:?}, not {whole:?}")
                });
                verdicts.count("whole_contexts", 1);
            }
            found.push((*name, context, last_seq));
        }
    }
    check_files(&stage.instance, verdicts, case);
    let mut history = history.clone();
    for (name, context, last_seq) in found {
        let case = format!("{case}: {name}");
        let entries = history.entry(name).or_default();
        entries.truncate(last_seq as usize);
        let is_told = |count| story.entries[name].get(..count) == Some(entries);
        let whole = story.roots.get(name);
        let whole = whole.filter(|(count, _)| *count == last_seq && is_told(last_seq as usize));
        if let Some((_, root)) = whole {
            let found = context.root(last_seq);
            verdicts.check(UNCHANGED, found.as_ref().ok() == Some(root), || {
                format!("{case}: {found:?}")
            });
        }
        entries.extend(go_on(&stage, name, &context, last_seq + 1, verdicts, &case));
    }
    Survived {
        trace: stage.recorded.trace(),
        diary: Arc::clone(&stage.diary),
        history,
    }
}

fn opened(
    ledger: &Ledger,
    name: &str,
    said: &Said,
    verdicts: &mut Verdicts,
    case: &str,
) -> Option<Context> {
    match ledger.context(name).open() {
        Ok(context) => {
            verdicts.check(LOADED, !said.is_dropped, || format!("{case}: it is back"));
            Some(context)
        }
        Err(error) => {
            let may_be_gone = said.durable_seq == 0 || said.is_dropping;
            let is_gone = error.is_unknown() && may_be_gone;
            verdicts.check(DURABLE, is_gone, || format!("{case}: {error}"));
            None
        }
    }
}

/// The first seq, and what is there from there on.
fn entries(context: &Context) -> Result<(u64, Vec<u32>), String> {
    let first_seq = context.first_available();
    let first_seq = first_seq.map_err(|error| error.to_string())?;
    let mut range = context.range(first_seq);
    let mut entries = Vec::new();
    loop {
        let entry = match range.next_entry() {
            Ok(Some(entry)) => entry,
            Ok(None) => return Ok((first_seq, entries)),
            // More of it need not be kept.
            Err(ReadError::Evicted { .. }) => return self::entries(context),
            Err(error) => return Err(error.to_string()),
        };
        let seq = first_seq + entries.len() as u64;
        if entry.seq() != seq {
            return Err(format!("{} instead of {seq}", entry.seq()));
        }
        entry.verify().map_err(|error| format!("{seq}: {error}"))?;
        entries.push(crc32c(entry.record_bytes()));
    }
}

/// Every finished file is what its trailer says, to the last byte.
fn check_files(instance: &Instance, verdicts: &mut Verdicts, case: &str) {
    let archive = instance.state_dir().join(instance.name());
    let homes = std::fs::read_dir(archive).expect("an archive");
    let homes = homes.map(|home| home.expect("an entry").path());
    for home in homes.filter(|home| home.is_dir()) {
        // One that was dropped goes meanwhile.
        let Ok(names) = std::fs::read_dir(&home) else {
            continue;
        };
        for name in names.map(|name| name.expect("an entry").file_name()) {
            let name = name.to_str().and_then(FileName::parse);
            let Some(name @ FileName::Finished(_)) = name else {
                continue;
            };
            // It need not be kept for ever.
            let Ok(file) = File::open(home.join(name.to_string())) else {
                continue;
            };
            let found = verify(&file);
            verdicts.check(VALID, found.is_ok(), || {
                format!("{case}: {}/{name}: {found:?}", home.display())
            });
        }
    }
}

fn check_last(last_seq: u64, said: &Said, verdicts: &mut Verdicts, case: &str) {
    let least = if said.is_dropping {
        0
    } else {
        said.durable_seq
    };
    verdicts.check(DURABLE, last_seq >= least, || {
        format!("{case}: {last_seq} of {least}")
    });
    // One may have been appended that was not told yet.
    let is_loaded = said.loading == Some(last_seq) || said.durable_seq == last_seq;
    let is_appended = said.appended_seq > 0 && last_seq <= said.appended_seq + 1;
    verdicts.check(LOADED, is_loaded || is_appended || last_seq == 0, || {
        format!("{case}: {last_seq}, but {said:?}")
    });
}

/// What is appended from now on is durable, too; the entry, as it is there.
fn go_on(
    stage: &Stage,
    name: &'static str,
    context: &Context,
    seq: u64,
    verdicts: &mut Verdicts,
    case: &str,
) -> Option<u32> {
    stage.note(name, Event::Opening);
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(PATIENCE);
    let appended = appender.append(&NewEntry::new("k", &entry(seq)));
    let got = appended.map(|appended| appended.seq);
    verdicts.check(DENSE, got == Ok(seq), || format!("{case}: then {got:?}"));
    got.ok()?;
    stage.note(name, Event::Appended(seq, context.epoch()));
    let is_durable = context.wait_durable(seq, PATIENCE);
    verdicts.check(DURABLE, is_durable.is_ok(), || {
        format!("{case}: then {is_durable:?}")
    });
    if is_durable.is_ok() {
        stage.note(name, Event::Durable(seq));
    }
    let entry = context.get(seq).expect("readable").expect("there");
    Some(crc32c(entry.record_bytes()))
}
