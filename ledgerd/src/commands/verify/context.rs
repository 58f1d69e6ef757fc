//! Whether a context is as it was appended: its files, and behind them its memory.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use ledger_client::{Context, ContextSummary, Ledger, OpenError, ProveError, ReadError, State};
use ledger_shm::file::{Damage, FileName, Scan, Trailer, finished_in};
use ledger_shm::object::MapError;

use crate::archive::open_to_read;
use crate::cli::Failure;

use super::found::{Found, Verdict};

pub(super) fn context(
    ledger: &Ledger,
    summary: &ContextSummary,
    is_quick: bool,
) -> Result<Verdict, Failure> {
    let mut found = Found::new(is_quick);
    let mut next_seq = 1;
    if let Some(dir) = summary.files_dir() {
        next_seq = files(dir, &mut found)?;
    }
    let is_in_memory = !matches!(summary.state(), Ok(State::Archived));
    if let Some(dir) = summary.files_dir().filter(|_| found.bad.is_none()) {
        unfinished(dir, next_seq, is_in_memory, &mut found)?;
    }
    if found.bad.is_none() && is_in_memory {
        match summary.open(ledger) {
            Ok(context) => memory(&context, summary.files_dir(), next_seq, &mut found),
            // It has left memory meanwhile, and all of it is in files.
            Err(OpenError::Map(error)) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found.verdict(summary.name().to_owned()))
}

/// First seqs of the finished files that there are now, in order.
fn first_seqs(dir: &Path) -> io::Result<Vec<u64>> {
    match finished_in(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        first_seqs => first_seqs,
    }
}

/// Whether what is left begins behind this entry: what is older was not to be kept.
fn begins_behind(dir: &Path, seq: u64) -> io::Result<bool> {
    let oldest = first_seqs(dir)?.first().copied();
    Ok(oldest.is_some_and(|oldest| oldest > seq))
}

/// Verifies finished files, and that each begins where the one before ended. Returns
/// the seq that follows.
fn files(dir: &Path, found: &mut Found) -> Result<u64, Failure> {
    let mut next_seq = None;
    let mut before: Option<(String, Trailer)> = None;
    for first_seq in first_seqs(dir)? {
        let path: PathBuf = dir.join(FileName::Finished(first_seq).to_string());
        let bad = |seq, damage: String| Some((seq, format!("{}: {damage}", path.display())));
        let file = match open_to_read(dir, FileName::Finished(first_seq)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Or the context was dropped.
                if begins_behind(dir, first_seq)? || !dir.exists() {
                    (next_seq, before) = (None, None);
                    continue;
                }
                found.bad = bad(Some(first_seq), format!("entry {first_seq} is in no file"));
                break;
            }
            Err(error) => {
                found.bad = bad(Some(first_seq), error.to_string());
                break;
            }
            Ok(file) => file,
        };
        match found.check(&file) {
            Ok((head, trailer)) => {
                let expected = next_seq.unwrap_or(first_seq);
                if trailer.first_seq != first_seq || first_seq != expected {
                    found.bad = bad(Some(expected), format!("entry {expected} is in no file"));
                    break;
                }
                let follows = |(name, before): &(String, Trailer)| {
                    *name == head.facts.name
                        && before.last_lamport == head.base_lamport
                        && before.root == head.before.root()
                };
                if !before.as_ref().is_none_or(follows) {
                    let what = "it does not follow the file before".to_owned();
                    found.bad = bad(Some(first_seq), what);
                    break;
                }
                before = Some((head.facts.name, trailer));
                found.entries += trailer.count;
                found.tree = Some((trailer.last_seq(), trailer.root));
                next_seq = Some(first_seq + trailer.count);
            }
            Err(Damage::Entry { seq, damage }) => {
                found.bad = bad(Some(seq), format!("entry {seq}: {damage}"));
                break;
            }
            Err(damage) => {
                found.bad = bad(Some(first_seq), damage.to_string());
                break;
            }
        }
    }
    Ok(next_seq.unwrap_or(1))
}

/// Verifies the file that is not finished. Where there is memory it may be behind, and
/// only what is damaged in it is of interest.
fn unfinished(
    dir: &Path,
    first_seq: u64,
    is_in_memory: bool,
    found: &mut Found,
) -> Result<(), Failure> {
    let mut best: Option<(PathBuf, File, Scan)> = None;
    for name in [FileName::Open(first_seq), FileName::Failed(first_seq)] {
        let path = dir.join(name.to_string());
        let file = match open_to_read(dir, name) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            file => file?,
        };
        let scan = match Scan::of(&file) {
            // It has only just been begun.
            Err(MapError::Unfinished) => continue,
            Err(error) => {
                found.bad = Some((Some(first_seq), format!("{}: {error}", path.display())));
                return Ok(());
            }
            Ok(scan) => scan,
        };
        let reaches = |(_, _, best): &(_, _, Scan)| best.last_seq() >= scan.last_seq();
        if !best.as_ref().is_some_and(reaches) {
            best = Some((path, file, scan));
        }
    }
    let Some((path, file, scan)) = best else {
        return Ok(());
    };
    let mut here = Found::new(found.is_quick);
    here.take(&file, &scan)?;
    if let Some((seq, damage)) = here.bad {
        found.bad = Some((seq, format!("{}: {damage}", path.display())));
    } else if !is_in_memory {
        found.entries += here.entries;
        (found.tree, found.torn) = (here.tree, here.torn);
    }
    Ok(())
}

/// Verifies what is in memory from a seq on, or from the oldest there is.
fn memory(context: &Context, dir: Option<&Path>, next_seq: u64, found: &mut Found) {
    // What is kept in memory only and has left it is not there to be verified.
    let has_gone = |seq| dir.is_none_or(|dir| begins_behind(dir, seq).unwrap_or(false));
    let mut seq = next_seq;
    let mut range = context.range(seq).until_now();
    loop {
        match range.next_entry() {
            Ok(None) => {
                match context.root(seq - 1) {
                    Ok(root) => found.tree = Some((seq - 1, root)),
                    // It has none where the beginning is gone and in no file.
                    Err(ProveError::Beginning { .. } | ProveError::Read(ReadError::Closed)) => {
                        found.tree = None;
                    }
                    Err(damage) => found.bad = Some((None, damage.to_string())),
                }
                return;
            }
            Ok(Some(entry)) => {
                seq = entry.seq();
                if let Err(damage) = entry.verify() {
                    found.bad = Some((Some(seq), format!("entry {seq}: {damage}")));
                    return;
                }
                found.entries += 1;
                seq += 1;
            }
            // It has left memory meanwhile.
            Err(ReadError::Closed) => return,
            Err(ReadError::Evicted {
                first_available, ..
            }) if seq < first_available && has_gone(seq) => {
                seq = first_available;
                range = context.range(seq).until_now();
            }
            Err(damage) => {
                found.bad = Some((Some(seq), format!("entry {seq}: {damage}")));
                return;
            }
        }
    }
}
