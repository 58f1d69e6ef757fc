//! A context that is in files only, opened without a daemon: as far as they went then.
//!
//! Nothing here changes a file. What is finished is read in place; what is valid of an
//! unfinished one is read from a copy in memory, finished as the daemon would do it.

use std::collections::HashSet;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use ledger_shm::Control;
use ledger_shm::Segment;
use ledger_shm::control::Facts;
use ledger_shm::file::{FileName, Head, Scan};
use ledger_shm::object::{Epoch, Instance, MapError};
use ledger_shm::read::Link;

use crate::archive::{archive_dir, file_names, homes, own_file};

/// How often it is looked again because a daemon that begins renames files.
const RETRIES_MAX: usize = 8;

/// The newest context of this name that is in files only, and the last of them.
pub(crate) fn find(
    instance: &Instance,
    name: &str,
    in_memory: &HashSet<Epoch>,
) -> Result<Option<(Control, Link)>, MapError> {
    let Some(dir) = archive_dir(instance)? else {
        return Ok(None);
    };
    let mut newest: Option<(Epoch, Facts)> = None;
    for home in homes(&dir, in_memory)? {
        let facts = facts(instance, &dir.join(home.to_string()));
        let Some(facts) = facts.filter(|facts| facts.name == name) else {
            continue;
        };
        let before = newest.as_ref().map(|(_, newest)| newest.created_at_ns);
        if before < Some(facts.created_at_ns) {
            newest = Some((home, facts));
        }
    }
    let Some((home, facts)) = newest else {
        return Ok(None);
    };
    let dir = dir.join(home.to_string());
    let mut tries = 0;
    let last = loop {
        tries += 1;
        match Last::of(instance, &dir) {
            Err(error) if error.is_not_found() && tries < RETRIES_MAX => {}
            last => break last?,
        }
    };
    let control = Control::in_files(facts, home, last.archived_seq, last.finished_seq)?;
    Ok(Some((control, last.link)))
}

/// What the last file says that says anything; one that does not is not what is looked
/// for, or holds nothing.
fn facts(instance: &Instance, home: &Path) -> Option<Facts> {
    let names = file_names(home).ok()?.into_iter().rev();
    let mut heads = names.filter_map(|name| {
        let (file, _) = own_file(instance, &home.join(name.to_string())).ok()?;
        Head::read(&file).ok()
    });
    heads.next().map(|head| head.facts)
}

/// The last file of a context.
struct Last {
    link: Link,
    archived_seq: u64,
    /// What is in finished files is on stable storage.
    finished_seq: u64,
}

impl Last {
    fn of(instance: &Instance, home: &Path) -> Result<Last, MapError> {
        let names = file_names(home)?;
        let is_finished = |name: &&FileName| matches!(name, FileName::Finished(_));
        let finished = names.iter().rfind(is_finished).map(|name| {
            let (_, object) = own_file(instance, &home.join(name.to_string()))?;
            Segment::map_file(&object)
        });
        let finished = finished.transpose()?;
        let next_seq = match (&finished, names.first()) {
            (Some((_, _, trailer)), _) => trailer.last_seq() + 1,
            (None, name) => name.ok_or(MapError::Unfinished)?.first_seq(),
        };
        let finished_seq = next_seq - 1;
        let unfinished = unfinished(instance, home, &names, next_seq);
        let is_wanted = |scan: &Scan| finished.is_none() || scan.count() > 0;
        let last = match (unfinished.filter(|(scan, _)| is_wanted(scan)), finished) {
            (Some((scan, file)), _) => Segment::map_file(&scan.image(&file)?)?,
            (None, Some(finished)) => finished,
            (None, None) => return Err(MapError::Unfinished),
        };
        let (segment, _, trailer) = last;
        Ok(Last {
            link: Link {
                segment: Arc::new(segment),
                base_seq: trailer.first_seq,
            },
            archived_seq: trailer.last_seq(),
            finished_seq,
        })
    }
}

/// The unfinished file that begins with a seq, or the better one of two. One that
/// cannot be read has nothing to offer.
fn unfinished(
    instance: &Instance,
    home: &Path,
    names: &[FileName],
    next_seq: u64,
) -> Option<(Scan, File)> {
    let candidates = [FileName::Failed(next_seq), FileName::Open(next_seq)];
    let scanned = candidates.into_iter().filter_map(|name| {
        let path = names.contains(&name).then(|| home.join(name.to_string()))?;
        let (file, _) = own_file(instance, &path).ok()?;
        Some((Scan::of(&file).ok()?, file))
    });
    let follows = scanned.filter(|(scan, _)| scan.head.first_seq() == next_seq);
    // Of two that hold the same the later one.
    follows.max_by_key(|(scan, _)| scan.last_seq())
}
