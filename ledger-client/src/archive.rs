//! What has left memory, in files that are read in place.
//!
//! The daemon unlinks a part only once its entries are in finished files, so what is
//! before the first part in memory is here, unless retention has removed it.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ledger_shm::control::Facts;
use ledger_shm::file::{FileName, Head, Scan, Trailer, finished_in};
use ledger_shm::object::{Epoch, Instance, MapError, Name, Object};
use ledger_shm::read::Link;
use ledger_shm::{Control, Corrupt, Segment, uninterrupted};

use nix::fcntl::OFlag;

use crate::error::{ObjectError, ReadError};
use crate::ledger::Core;
use crate::place;
use crate::wire::{Refusal, Reply, Request};

/// Files that stay mapped after they were read; what is read holds its own longer.
const MAPPED_MAX: usize = 8;

/// Bytes of what a daemon says in the object that it locks: the longest path, and more.
const SAID_LEN_MAX: u64 = 8192;

/// The files of one context, as one process knows them.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// Where they are, once that was asked.
    dir: Option<PathBuf>,
    /// First seqs of finished files, in order.
    first_seqs: Vec<u64>,
    /// The last ones used, latest last, and the seq behind each.
    mapped: Vec<(Link, u64)>,
}

impl Archive {
    /// The file that holds this entry, if there is one.
    pub(crate) fn locate(
        &self,
        core: &Core,
        control: &Control,
        seq: u64,
    ) -> Result<Option<Link>, ReadError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let holds = |(link, end): &(Link, u64)| (link.base_seq..*end).contains(&seq);
        if let Some(index) = known.mapped.iter().position(holds) {
            let used = known.mapped.remove(index);
            known.mapped.push(used.clone());
            return Ok(Some(used.0));
        }
        let Some((first_seq, object)) = known.open(core, control, seq)? else {
            return Ok(None);
        };
        let (segment, head, trailer) = Segment::map_file(&object)?;
        let (base_seq, end) = (trailer.first_seq, trailer.last_seq() + 1);
        Corrupt::check("first seq of a file", base_seq, first_seq)?;
        // The epoch may be another one, see `ledgerd/src/revive.rs`.
        let ours = control.facts();
        if head.facts.name != ours.name || head.facts.created_at_ns != ours.created_at_ns {
            let found = head.facts.created_at_ns;
            return Err(Corrupt::new("file of another context", found, ours.created_at_ns).into());
        }
        // The next file, or memory, begins behind it.
        if seq >= end {
            return Err(ReadError::Missing { seq });
        }
        let link = Link {
            segment: Arc::new(segment),
            base_seq,
        };
        if known.mapped.len() == MAPPED_MAX {
            known.mapped.remove(0);
        }
        known.mapped.push((link.clone(), end));
        Ok(Some(link))
    }

    /// The seq of the first entry that is in a file.
    pub(crate) fn first_seq(
        &self,
        core: &Core,
        control: &Control,
    ) -> Result<Option<u64>, ReadError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if !core.instance.may_open_by_name() {
            let file = ask(core, control.epoch(), 0)?;
            return Ok(file.map(|(first_seq, _)| first_seq));
        }
        known.list(core, control).map_err(ObjectError::from)?;
        Ok(known.first_seqs.first().copied())
    }
}

impl Known {
    /// The finished file that begins at or last before a seq.
    fn open(
        &mut self,
        core: &Core,
        control: &Control,
        seq: u64,
    ) -> Result<Option<(u64, Object)>, ObjectError> {
        if core.instance.may_open_by_name() {
            let mut is_there = self.is_before_last(seq) || self.list(core, control)?;
            // What retention has removed since is not there.
            for _ in 0..2 {
                let Some(dir) = self.dir.as_ref().filter(|_| is_there) else {
                    break;
                };
                let after = self.first_seqs.partition_point(|first| *first <= seq);
                let Some(index) = after.checked_sub(1) else {
                    return Ok(None);
                };
                let first_seq = self.first_seqs[index];
                let name = FileName::Finished(first_seq).to_string();
                match own_file(&core.instance, &dir.join(name)) {
                    Ok((_, object)) => return Ok(Some((first_seq, object))),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        is_there = self.list(core, control)?;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if is_there {
                return Ok(None);
            }
            // The daemon may see a disk that this process does not.
        }
        match ask(core, control.epoch(), seq) {
            // Who finds contexts by name need not have them open.
            Err(ObjectError::Refused(Refusal::UnknownContext))
                if core.instance.may_open_by_name() =>
            {
                Ok(None)
            }
            found => Ok(found?),
        }
    }

    /// Whether a file that is known holds this entry for sure.
    fn is_before_last(&self, seq: u64) -> bool {
        self.first_seqs.last().is_some_and(|last| seq < *last)
    }

    /// Looks which files there are; false if there is no such directory here.
    fn list(&mut self, core: &Core, control: &Control) -> io::Result<bool> {
        self.first_seqs.clear();
        let Some(home) = control.home() else {
            return Ok(false);
        };
        // Another daemon may keep them elsewhere.
        self.dir = archive_dir(&core.instance)?.map(|dir| dir.join(home.to_string()));
        let Some(dir) = &self.dir else {
            return Ok(false);
        };
        match finished_in(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            first_seqs => self.first_seqs = first_seqs?,
        }
        Ok(true)
    }
}

/// Where the instance's files are, as its daemon said in the object that it locks; the
/// default if none has since memory was lost.
pub(crate) fn archive_dir(instance: &Instance) -> io::Result<Option<PathBuf>> {
    let lock = Name::Lock.path_in(instance);
    match own_file(instance, &lock) {
        Ok((file, _)) => {
            let mut said = Vec::new();
            file.take(SAID_LEN_MAX).read_to_end(&mut said)?;
            Ok(place::archive_dir_said(&said))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Ok(Some(place::archive_dir(&place::state_dir(), instance)))
        }
        Err(error) => Err(error),
    }
}

/// Opens a file of the instance's owner that nobody else can change, whatever others
/// may have put in its place.
pub(crate) fn own_file(instance: &Instance, path: &Path) -> io::Result<(File, Object)> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)?;
    let object = Object::received(instance, file.try_clone()?.into())?;
    Ok((file, object))
}

/// A context that is in files only.
#[derive(Debug)]
pub(crate) struct Archived {
    pub(crate) dir: PathBuf,
    pub(crate) facts: Facts,
    pub(crate) first_seq: u64,
    pub(crate) latest: u64,
}

/// The contexts that have files and are not in memory, and those whose files cannot be
/// read.
pub(crate) fn archived(
    instance: &Instance,
    dir: Option<&Path>,
    in_memory: &HashSet<Epoch>,
) -> io::Result<Vec<(Epoch, Result<Archived, MapError>)>> {
    let Some(dir) = dir else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for home in homes(dir, in_memory)? {
        let archived = look_at(instance, &dir.join(home.to_string())).transpose();
        found.extend(archived.map(|archived| (home, archived)));
    }
    Ok(found)
}

/// What the directories of contexts are called that are not in memory.
pub(crate) fn homes(dir: &Path, in_memory: &HashSet<Epoch>) -> io::Result<Vec<Epoch>> {
    let entries = match uninterrupted(|| std::fs::read_dir(dir)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut homes = Vec::new();
    for entry in entries {
        let name = entry?.file_name();
        let home = name.to_str().filter(|name| name.len() == 32);
        homes.extend(home.and_then(|name| name.parse::<Epoch>().ok()));
    }
    homes.retain(|home| !in_memory.contains(home));
    Ok(homes)
}

/// The files in the directory of a context, in the order of their entries.
pub(crate) fn file_names(home: &Path) -> io::Result<Vec<FileName>> {
    let mut names = Vec::new();
    for entry in uninterrupted(|| std::fs::read_dir(home))? {
        names.extend(entry?.file_name().to_str().and_then(FileName::parse));
    }
    names.sort_by_key(|name| name.first_seq());
    Ok(names)
}

/// What the files in a directory hold; none if there is nothing yet.
fn look_at(instance: &Instance, home: &Path) -> Result<Option<Archived>, MapError> {
    let names = file_names(home)?;
    let Some(first_seq) = names.first().map(|name| name.first_seq()) else {
        return Ok(None);
    };
    let mut archived = None;
    for name in names.into_iter().rev() {
        let (file, _) = own_file(instance, &home.join(name.to_string()))?;
        let last = match name {
            FileName::Finished(_) => {
                let head = Head::read(&file)?;
                Some((head.facts, Trailer::read(&file)?.last_seq()))
            }
            // Of one that has no head nothing is known.
            _ => {
                let scan = Scan::of(&file).ok();
                scan.map(|scan| (scan.head.facts.clone(), scan.last_seq()))
            }
        };
        if let Some((facts, latest)) = last {
            archived = Some(Archived {
                dir: home.to_owned(),
                facts,
                first_seq,
                latest,
            });
            break;
        }
    }
    Ok(archived)
}

/// The finished file that begins at or last before a seq, or the first one, from the
/// daemon.
fn ask(core: &Core, epoch: Epoch, seq: u64) -> Result<Option<(u64, Object)>, ObjectError> {
    let request = Request::File {
        epoch: epoch.0,
        seq,
    };
    let answer = core.ask(&request).map_err(ObjectError::Connect)?;
    match (answer.reply, answer.fd) {
        (Reply::File { first_seq }, Some(fd)) => {
            Ok(Some((first_seq, Object::received(&core.instance, fd)?)))
        }
        (Reply::NoFile, _) => Ok(None),
        (Reply::Refused(refusal), _) => Err(ObjectError::Refused(refusal)),
        _ => Err(io::Error::other("the daemon answered another question").into()),
    }
}
