//! Who looks after one context: begins, tries again what could not be done, and says
//! what cannot.

use std::any::Any;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_shm::object::{Epoch, Instance, MapError};
use ledger_shm::{Control, Corrupt};

use super::Marks;
use super::behind::Behind;
use super::disk::Disk;
use super::home::Home;
use super::synced_file::Syncer;

/// How soon what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why a context does not come further into its files.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// Its memory cannot be read, because it is damaged or for now.
    #[error(transparent)]
    Memory(#[from] MapError),
    /// Its files cannot be written. It is tried again.
    #[error("cannot write the archive: {0}")]
    Disk(io::Error),
    /// The files that there are do not go with what is in memory: somebody has put
    /// others there, or none.
    #[error("{dir} does not hold what was written: {what}; put the files back, or see that the right file system is mounted", dir = dir.display())]
    Files {
        /// Where they should be.
        dir: PathBuf,
        /// What is not as it should be.
        what: String,
    },
    /// A mistake of ours, which is nobody else's trouble. It is begun again from the files.
    #[error("the archiver panicked: {0}; the log has where, please report it")]
    Panicked(String),
}

impl From<Corrupt> for Trouble {
    fn from(corrupt: Corrupt) -> Trouble {
        Trouble::Memory(corrupt.into())
    }
}

impl Trouble {
    /// Whether trying again is of no use.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Trouble::Memory(MapError::Corrupt(_)))
    }
}

/// Looks after one context.
pub(super) struct Keeper {
    instance: Instance,
    epoch: Epoch,
    archive_dir: PathBuf,
    disk: Disk,
    marks: Arc<Marks>,
    file_len: usize,
    syncer: Syncer,
    /// Where its files are, once that is known.
    home: Option<Home>,
    /// None before it has begun, and after it could not go on.
    behind: Option<Behind>,
    retry_at: Option<Instant>,
    /// A file that could not be written, and has not got another name yet.
    failed: Option<(Home, u64)>,
}

impl Keeper {
    /// Of a context that has a home, below this directory.
    pub(super) fn new(
        instance: &Instance,
        epoch: Epoch,
        (archive_dir, disk): (&Path, &Disk),
        marks: Arc<Marks>,
        file_len: usize,
        syncer: Syncer,
    ) -> Keeper {
        Keeper {
            instance: instance.clone(),
            epoch,
            archive_dir: archive_dir.to_owned(),
            disk: disk.clone(),
            marks,
            file_len,
            syncer,
            home: None,
            behind: None,
            retry_at: None,
            failed: None,
        }
    }

    pub(super) fn home(&self) -> Option<&Home> {
        self.home.as_ref()
    }

    /// Copies what is new, and has it on stable storage if it is time, or at once.
    /// Whether there is more to copy.
    pub(super) fn advance(&mut self, at_once: bool) -> Result<bool, Trouble> {
        self.attempt(|behind| behind.advance(at_once))
            .map(|has_more| has_more.unwrap_or(false))
    }

    /// Has everything up to a seq in finished files.
    pub(super) fn finish(&mut self, seq: u64) -> Result<(), Trouble> {
        self.attempt(|behind| {
            while behind.finished_seq() < seq && behind.advance(false)? {}
            if behind.finished_seq() < seq {
                behind.finish_open(false)?;
            }
            Ok(())
        })
        .map(drop)
    }

    /// The last appender has left: copies the rest, and lets go of memory and file.
    pub(super) fn leave(&mut self) -> Result<(), Trouble> {
        let outcome = self.attempt(|behind| {
            while behind.advance(true)? {}
            behind.finish_if_long()
        })?;
        if outcome.is_some() {
            self.behind = None;
        }
        Ok(())
    }

    /// Ends the files of a log that is closed, and says in the last one that nothing was
    /// ever appended behind it. False if that cannot be said.
    pub(super) fn complete(&mut self) -> Result<bool, Trouble> {
        self.attempt(|behind| {
            while behind.advance(true)? {}
            behind.complete()
        })
        .map(|is_complete| is_complete.unwrap_or(false))
    }

    /// Whether nothing waits for being written, as far as it was looked at.
    pub(super) fn is_settled(&self) -> bool {
        self.retry_at.is_none() && self.behind.as_ref().is_none_or(Behind::is_settled)
    }

    /// Whether it waits for trying again.
    pub(super) fn is_waiting(&self) -> bool {
        self.retry_at.is_some()
    }

    /// Whether it does not wait for trying again, and where it has tried that went well up
    /// to stable storage.
    pub(super) fn is_well(&self) -> bool {
        self.retry_at.is_none() && self.behind.as_ref().is_none_or(Behind::is_proven)
    }

    /// What could not be written is tried again when it is next asked for.
    #[cfg(test)]
    pub(super) fn set_due(&mut self) {
        assert!(self.is_waiting());
        self.retry_at = Some(Instant::now());
    }

    /// Something panicked on the way: what it knew of the files may be wrong.
    pub(super) fn panicked(&mut self, panic: &(dyn Any + Send)) -> Trouble {
        self.let_go(true);
        self.retry_at = Some(Instant::now() + RETRY);
        let said = panic.downcast_ref::<&str>().copied();
        let said = said.or(panic.downcast_ref::<String>().map(String::as_str));
        Trouble::Panicked(said.unwrap_or("without a word").to_owned())
    }

    /// Does something, having begun if need be; nothing while it waits.
    fn attempt<R>(
        &mut self,
        act: impl FnOnce(&mut Behind) -> Result<R, Trouble>,
    ) -> Result<Option<R>, Trouble> {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(None);
        }
        let outcome = self.begun().and_then(act);
        self.retry_at = match &outcome {
            Ok(_) => None,
            Err(trouble) => {
                let is_failed = matches!(trouble, Trouble::Disk(_));
                self.let_go(is_failed);
                // What is damaged does not mend; what came before it is sound.
                (!trouble.is_damage()).then(|| Instant::now() + RETRY)
            }
        };
        outcome.map(Some)
    }

    /// Lets go of the open file. It is given up if it has failed, and if it fails now: the
    /// kernel tells of that once.
    fn let_go(&mut self, is_failed: bool) {
        let Some(mut behind) = self.behind.take() else {
            return;
        };
        if is_failed || behind.sync().is_err() {
            self.failed = Some((behind.home().clone(), behind.finished_seq() + 1));
            drop(behind);
            // At once: this process may not live to try it again.
            let _ = self.give_up();
        }
    }

    /// Sees to it that a file that could not be written is not gone on with: the kernel
    /// may not try again to write what it has failed to, and then says that all is well
    /// (fsync(2), EIO).
    fn give_up(&mut self) -> io::Result<()> {
        if let Some((home, first_seq)) = &self.failed {
            home.give_up(*first_seq)?;
            self.failed = None;
        }
        Ok(())
    }

    fn begun(&mut self) -> Result<&mut Behind, Trouble> {
        self.give_up().map_err(Trouble::Disk)?;
        if self.behind.is_none() {
            let control = Control::open(&self.instance, self.epoch, true)?;
            let home = control.home().ok_or_else(|| {
                io::Error::new(io::ErrorKind::NotFound, "the context is in memory only")
            });
            let dir = self
                .archive_dir
                .join(home.map_err(MapError::Io)?.to_string());
            let marks = Arc::clone(&self.marks);
            let instance = self.instance.clone();
            let home = self.home.insert(Home::new(dir, self.disk.clone())).clone();
            let syncer = self.syncer.clone();
            let behind = Behind::begin(instance, control, home, marks, self.file_len, syncer)?;
            self.behind = Some(behind);
        }
        Ok(self.behind.as_mut().expect("begun above"))
    }
}

#[cfg(test)]
mod tests;
