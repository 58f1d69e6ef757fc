//! What is given up of the archive: the oldest finished files of a context, whole.
//!
//! A reader that has one mapped keeps it; everybody else is told `Evicted`, with the
//! first seq of the oldest file that is left. Each removal is on stable storage before
//! the next one begins, so that whatever fails in between leaves files without a gap.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_shm::file::{FileName, Trailer};
use ledger_shm::object::{Instance, MapError, Object};
use ledger_shm::read::Link;
use ledger_shm::{Corrupt, Segment};

use super::disk::{Disk, open_to_read};
use super::home::Home;
use crate::options::Options;
use crate::registry::now_ns;

/// How often everything is looked at for its age: this many times in the shortest one,
/// within these bounds.
const SWEEPS_PER_AGE: u32 = 4;
const SWEEP_PAUSE_MIN: Duration = Duration::from_millis(100);
const SWEEP_PAUSE_MAX: Duration = Duration::from_secs(600);

/// Who removes what need not be kept, a little at a time.
#[derive(Debug)]
pub(super) struct Cleaner {
    instance: Instance,
    archive_dir: PathBuf,
    disk: Disk,
    options: Options,
    /// Contexts that are to be looked at.
    homes: VecDeque<Home>,
    /// What was found to be removed, all of one context, and the directory in which it
    /// was found: a load may put another one in its place.
    outdated: VecDeque<(Arc<File>, Home, FileName)>,
    /// When all contexts are looked at again, if ever.
    next_sweep: Option<Instant>,
    /// What was last reported of each.
    said: HashMap<PathBuf, String>,
}

impl Cleaner {
    pub(super) fn new(instance: Instance, archive_dir: PathBuf, options: Options) -> Cleaner {
        let mut cleaner = Cleaner {
            instance,
            archive_dir,
            disk: Disk::new(Arc::clone(&options.file_system)),
            options: options.clone(),
            homes: VecDeque::new(),
            outdated: VecDeque::new(),
            next_sweep: None,
            said: HashMap::new(),
        };
        cleaner.go_on_with(options);
        cleaner
    }

    /// Looks at everything at once, and from now on with these limits.
    pub(super) fn go_on_with(&mut self, options: Options) {
        self.options = options;
        self.outdated.clear();
        let has_limits = self.options.retentions().any(|of| of.is_limited());
        self.next_sweep = has_limits.then(Instant::now);
    }

    /// When there is something to do by itself, if ever.
    pub(super) fn due(&self) -> Option<Instant> {
        self.next_sweep
    }

    /// A file of this context was finished.
    pub(super) fn look_at(&mut self, home: &Home) {
        if self.options.retentions().any(|of| of.is_limited()) {
            self.homes.push_back(home.clone());
        }
    }

    /// Works until then, or until nothing is left to do; whether there is more.
    /// Nothing is removed of contexts that are in trouble.
    pub(super) fn work(&mut self, until: Instant, is_in_trouble: impl Fn(&Path) -> bool) -> bool {
        loop {
            if let Some((dir, home, name)) = self.outdated.pop_front() {
                if let Err(error) = home.disk.remove_oldest(&dir, name) {
                    // The ones behind it wait for this one.
                    self.outdated.clear();
                    self.say(&home.dir, &error.into());
                }
            } else if let Some(home) = self.homes.pop_front() {
                if !is_in_trouble(&home.dir) {
                    match self.find(&home) {
                        Ok(()) => drop(self.said.remove(&home.dir)),
                        Err(error) => self.say(&home.dir, &error),
                    }
                }
            } else if self.next_sweep.is_some_and(|at| at <= Instant::now()) {
                self.sweep();
            } else {
                return false;
            }
            if Instant::now() >= until {
                return true;
            }
        }
    }

    /// Finds what need not be kept of a context.
    fn find(&mut self, home: &Home) -> Result<(), MapError> {
        let dir = match File::open(&home.dir) {
            // Nothing was ever written, or it was dropped.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            dir => Arc::new(dir?),
        };
        let names = self.outdated(home)?.into_iter();
        let of_it = names.map(|name| (Arc::clone(&dir), home.clone(), name));
        self.outdated.extend(of_it);
        Ok(())
    }

    /// Has all contexts looked at, those in files only as well.
    fn sweep(&mut self) {
        match Home::all(&self.archive_dir, &self.disk) {
            Ok(homes) => self.homes.extend(homes.into_iter().map(|(_, home)| home)),
            Err(error) => self.say(&self.archive_dir.clone(), &error.into()),
        }
        let ages = self.options.retentions().filter_map(|of| of.age);
        let pause = ages.min().map(|age| {
            let pause = age / SWEEPS_PER_AGE;
            pause.clamp(SWEEP_PAUSE_MIN, SWEEP_PAUSE_MAX)
        });
        self.next_sweep = pause.map(|pause| Instant::now() + pause);
    }

    /// The files of a context that need not be kept, the oldest first.
    fn outdated(&self, home: &Home) -> Result<Vec<FileName>, MapError> {
        let first_seqs = home.finished()?;
        if first_seqs.len() < 2 {
            return Ok(Vec::new());
        }
        let Some(facts) = home.facts()? else {
            return Ok(Vec::new());
        };
        let retention = self.options.retention_of(&facts.name);
        let last_seq = home.finished_tree()?.count();
        // Where the next one begins, this one ends; and the last entry stays.
        let ends = first_seqs.iter().skip(1).map(|next| next - 1);
        let may_go = ends.take_while(|end| *end < last_seq).enumerate();
        let path = |index: usize| home.path(FileName::Finished(first_seqs[index]));

        let enough_behind = |end: u64| retention.entries.is_some_and(|of| last_seq - end >= of);
        let by_entries = may_go.clone().take_while(|(_, end)| enough_behind(*end));
        let mut count = by_entries.count();
        if let Some(bytes) = retention.bytes {
            let mut behind = 0;
            for index in 0..first_seqs.len() {
                behind += std::fs::metadata(path(index))?.len();
            }
            let mut by_bytes = 0;
            for (index, _) in may_go.clone() {
                behind -= std::fs::metadata(path(index))?.len();
                if behind < bytes {
                    break;
                }
                by_bytes = index + 1;
            }
            count = count.max(by_bytes);
        }
        if let Some(age) = retention.age {
            let age_ns = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
            let oldest_ns = now_ns().saturating_sub(age_ns);
            for (index, end) in may_go.skip(count) {
                if self.appended_at_ns(home, first_seqs[index], end)? >= oldest_ns {
                    break;
                }
                count = index + 1;
            }
        }
        if count > 0 {
            // A file that is missing may come back, and would not be read any more.
            for pair in first_seqs.windows(2) {
                let file = open_to_read(&home.dir, FileName::Finished(pair[0]))?;
                let found = pair[0] + Trailer::read(&file)?.count;
                Corrupt::check("the seq behind a file", found, pair[1])?;
            }
        }
        let outdated = first_seqs.into_iter().take(count);
        Ok(outdated.map(FileName::Finished).collect())
    }

    /// When an entry of a file was appended.
    fn appended_at_ns(&self, home: &Home, first_seq: u64, seq: u64) -> Result<u64, MapError> {
        let file = open_to_read(&home.dir, FileName::Finished(first_seq))?;
        let object = Object::received(&self.instance, file.into())?;
        let (segment, head, _) = Segment::map_file(&object)?;
        let link = Link {
            segment: Arc::new(segment),
            base_seq: head.first_seq(),
        };
        let Ok(entry) = link.get(seq)? else {
            return Err(Corrupt::new("the last seq of a file", 0, seq).into());
        };
        entry.verify()?;
        Ok(entry.appended_at_ns())
    }

    /// Says it once, however often it is tried.
    fn say(&mut self, dir: &Path, error: &MapError) {
        let said = error.to_string();
        if self.said.get(dir) != Some(&said) {
            tracing::error!(dir = %dir.display(), %error, "old files cannot be removed; it is tried again");
            self.said.insert(dir.to_owned(), said);
        }
    }
}

#[cfg(test)]
mod tests;
