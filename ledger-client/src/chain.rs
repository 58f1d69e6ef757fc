//! The chain of segments that are in memory, as one process has mapped it for
//! reading: finds the segment that holds a seq.

use std::sync::{Arc, PoisonError, RwLock};

use ledger_shm::format::SEQ_MAX;
use ledger_shm::read::{End, Link};
use ledger_shm::slot::Slot;
use ledger_shm::{Control, Corrupt, Segment};

use crate::error::{ObjectError, ReadError};
use crate::ledger::Core;

/// How often somebody starts again because segments retired while it looked.
pub(crate) const RETRIES_MAX: usize = 64;

/// Where a seq is, or why it is nowhere.
#[derive(Debug)]
pub(crate) enum Located {
    /// In this segment, or not yet anywhere and then next in this one.
    In(Link),
    /// The log is closed before it.
    Closed(Link),
}

/// Links in order: each one's base seq follows from the one before.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    links: RwLock<Vec<Link>>,
    /// In place of links: the last file of a context that is in files only.
    last_file: Option<Link>,
}

impl Chain {
    /// That of a context that is in files only: nothing follows its last file, nor
    /// leaves it.
    pub(crate) fn of_file(last_file: Link) -> Chain {
        Chain {
            links: RwLock::default(),
            last_file: Some(last_file),
        }
    }

    /// Whether it is one of a context that is in files only.
    pub(crate) fn is_file(&self) -> bool {
        self.last_file.is_some()
    }

    /// The segment in which `seq` is, or will be if nothing else happens.
    pub(crate) fn locate(
        &self,
        core: &Core,
        control: &Control,
        seq: u64,
    ) -> Result<Located, ReadError> {
        if let Some(file) = &self.last_file {
            return match file.base_seq {
                first_available if seq < first_available => Err(ReadError::Evicted {
                    seq,
                    first_available,
                }),
                _ if holds(file, seq) => Ok(Located::In(file.clone())),
                _ => Ok(Located::Closed(file.clone())),
            };
        }
        let links = self.links.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = known(&links, seq) {
            return Ok(Located::In(link));
        }
        // What has left memory stays out of it, so nothing has to be mapped to know.
        let first_part = control.first_part();
        let is_first = |link: &&Link| link.segment.part() == first_part;
        if let Some(first) = links.iter().find(is_first)
            && seq < first.base_seq
            && !control.state()?.is_gone()
        {
            return Err(ReadError::Evicted {
                seq,
                first_available: first.base_seq,
            });
        }
        drop(links);
        for _ in 0..RETRIES_MAX {
            match self.search(core, control, seq) {
                Err(ReadError::Map(error)) if error.is_not_found() => self.forget(),
                outcome => return outcome,
            }
        }
        if control.state()?.is_gone() {
            return Err(ReadError::Closed);
        }
        Err(Corrupt::new("chain of parts", control.first_part(), 0).into())
    }

    /// The last segment of the log, and how many entries it has.
    pub(crate) fn last(&self, core: &Core, control: &Control) -> Result<(Link, u64), ReadError> {
        let (Located::In(link) | Located::Closed(link)) = self.locate(core, control, u64::MAX)?;
        let entries = link.segment.frontier()? as u64;
        Ok((link, entries))
    }

    /// The first seq that is in memory.
    pub(crate) fn first_available(&self, core: &Core, control: &Control) -> Result<u64, ReadError> {
        match self.locate(core, control, 0) {
            Err(ReadError::Evicted {
                first_available, ..
            }) => Ok(first_available),
            Ok(Located::In(link) | Located::Closed(link)) => Ok(link.base_seq),
            Err(error) => Err(error),
        }
    }

    /// Drops the segments that the daemon has retired. Unmapping is slow, so
    /// this is for the background thread.
    pub(crate) fn trim(&self, first_part: u64) {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        // The links are a run of the chain that begins with what once was the
        // first part: without today's in it, all of them are retired.
        let retired_count = links
            .iter()
            .position(|link| link.segment.part() == first_part)
            .unwrap_or(links.len());
        let retired: Vec<Link> = links.drain(..retired_count).collect();
        drop(links);
        drop(retired);
    }

    fn forget(&self) {
        self.links
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }

    fn search(&self, core: &Core, control: &Control, seq: u64) -> Result<Located, ReadError> {
        let mut links = self.links.write().unwrap_or_else(PoisonError::into_inner);
        loop {
            if links.first().is_none_or(|link| seq < link.base_seq) {
                *links = vec![first_link(core, control)?];
            }
            let first_available = links[0].base_seq;
            if seq < first_available {
                return Err(ReadError::Evicted {
                    seq,
                    first_available,
                });
            }
            // Somebody else may have come further than we had seen; and damage
            // further on is for those to meet who go there.
            if let Some(link) = known(&links, seq) {
                return Ok(Located::In(link));
            }
            let last = links.last().expect("a chain has a first link").clone();
            match successor(core, control, &last)? {
                Next::Link(link) => {
                    let part = link.segment.part();
                    // A chain that leads back would be followed for ever.
                    if links.iter().any(|known| known.segment.part() == part) {
                        return Err(
                            Corrupt::new("a seal that names an earlier part", part, 0).into()
                        );
                    }
                    links.push(link);
                }
                Next::Open => return Ok(Located::In(last)),
                Next::Closed => {
                    let first_part = control.first_part();
                    if links.iter().any(|link| link.segment.part() == first_part) {
                        return Ok(Located::Closed(last));
                    }
                    // A snapshot was loaded that has more: it is in files, and the log goes
                    // on behind them.
                    links.clear();
                }
            }
        }
    }
}

/// The link that a seq belongs to, if these tell.
fn known(links: &[Link], seq: u64) -> Option<Link> {
    let after = links.partition_point(|link| link.base_seq <= seq);
    let link = links.get(after.checked_sub(1)?)?;
    // Where the last one ends is not known, but what it holds is its own.
    (after < links.len() || holds(link, seq)).then(|| link.clone())
}

/// Whether the entry of this seq is in this segment.
fn holds(link: &Link, seq: u64) -> bool {
    let index = seq
        .checked_sub(link.base_seq)
        .and_then(|index| usize::try_from(index).ok())
        .filter(|index| *index < link.segment.geometry().slot_capacity);
    index.is_some_and(|index| matches!(link.segment.look(index), Ok(Slot::Entry(_))))
}

enum Next {
    Link(Link),
    Open,
    Closed,
}

fn successor(core: &Core, control: &Control, link: &Link) -> Result<Next, ReadError> {
    let (part, base_seq) = match link.end()? {
        End::Open => return Ok(Next::Open),
        End::Closed => return Ok(Next::Closed),
        End::Continued { part, base_seq } => (part, base_seq),
    };
    let segment = map_part(core, control, part, false)?;
    match segment.base_seq() {
        // Whoever sealed has not come so far yet.
        0 => {}
        found if found == base_seq => {}
        found => return Err(Corrupt::new("base seq", found, base_seq).into()),
    }
    Ok(Next::Link(Link { segment, base_seq }))
}

/// Maps one part of a context.
pub(crate) fn map_part(
    core: &Core,
    control: &Control,
    part: u64,
    writable: bool,
) -> Result<Arc<Segment>, ObjectError> {
    let epoch = control.epoch();
    let mut object = core.object(epoch, Some(part), writable)?;
    if control.facts().has_foreign_writers {
        object.distrust();
    }
    let segment = Segment::map(&object, writable)?;
    segment.check_is(epoch.0, part)?;
    Ok(Arc::new(segment))
}

fn first_link(core: &Core, control: &Control) -> Result<Link, ReadError> {
    if control.state()?.is_gone() {
        return Err(ReadError::Closed);
    }
    let segment = map_part(core, control, control.first_part(), false)?;
    match segment.base_seq() {
        base_seq @ 1..=SEQ_MAX => Ok(Link { segment, base_seq }),
        base => Err(Corrupt::new("base seq of the first part", base, 1).into()),
    }
}
