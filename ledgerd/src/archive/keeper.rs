//! One context's way into its files.
//!
//! ```text
//! archived ─ copied into the open file
//! durable  ─ and on stable storage: fdatasync(2) has returned
//! finished ─ in files that have their trailer, their name, and are served
//! ```
//!
//! Each is never above the one before. Memory holds everything behind `finished`,
//! so a file that could not be written is begun again from there, in a new file: what
//! the kernel has failed to write it may not try to write again (fsync(2), EIO).

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ledger_shm::file::{FileName, FileWriter, Head};
use ledger_shm::format::SEQ_MAX;
use ledger_shm::object::{Epoch, Instance, MapError, Name, Object};
use ledger_shm::read::{Cursor, Filter, Found, Link};
use ledger_shm::{Control, Corrupt, Segment};

use super::home::{Home, Unfinished};
use super::{Marks, disk};

/// Bytes of a file after which the next one is begun.
const FILE_LEN: usize = 64 << 20;
/// Bytes of a file that is finished when the last appender leaves, so that the next
/// one's beginning scans no more.
const FILE_LEN_LEFT: usize = 1 << 20;
/// Bytes that may wait for stable storage, and for how long.
const UNSYNCED_LEN_MAX: usize = 1 << 20;
const UNSYNCED_FOR_MAX: Duration = Duration::from_millis(25);
/// Bytes copied before other contexts have their turn.
const TURN_LEN: usize = 8 << 20;
/// How soon what could not be written is tried again.
const RETRY: Duration = Duration::from_secs(1);
const BUFFER_LEN: usize = 256 << 10;
/// How often a part may retire while it is looked for.
const RETRIES_MAX: usize = 64;

/// Why a context does not come further into its files.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    /// Its memory cannot be read, because it is damaged or for now.
    #[error(transparent)]
    Memory(#[from] MapError),
    /// Its files cannot be written. It is tried again.
    #[error("cannot write the archive: {0}")]
    Disk(io::Error),
}

impl Trouble {
    /// Whether trying again is of no use.
    pub(super) fn is_damage(&self) -> bool {
        matches!(self, Trouble::Memory(MapError::Corrupt(_)))
    }
}

impl From<Corrupt> for Trouble {
    fn from(corrupt: Corrupt) -> Trouble {
        Trouble::Memory(corrupt.into())
    }
}

pub(super) struct Keeper {
    instance: Instance,
    control: Control,
    home: Home,
    marks: Arc<Marks>,
    /// None before it has begun.
    cursor: Option<Cursor>,
    open: Option<FileWriter<BufWriter<File>>>,
    archived_seq: u64,
    durable_seq: u64,
    finished_seq: u64,
    unsynced_len: usize,
    unsynced_since: Option<Instant>,
    retry_at: Option<Instant>,
}

impl Keeper {
    /// Of a context that has a home, below this directory.
    pub(super) fn new(
        instance: &Instance,
        epoch: Epoch,
        archive_dir: &std::path::Path,
        marks: Arc<Marks>,
    ) -> Result<Keeper, MapError> {
        let control = Control::open(instance, epoch, true)?;
        let home = control.home().ok_or_else(|| {
            io::Error::new(io::ErrorKind::NotFound, "the context is in memory only")
        })?;
        Ok(Keeper {
            instance: instance.clone(),
            home: Home::new(archive_dir.join(home.to_string())),
            marks,
            cursor: None,
            open: None,
            archived_seq: control.archived_seq(),
            durable_seq: control.durable_seq(),
            control,
            finished_seq: 0,
            unsynced_len: 0,
            unsynced_since: None,
            retry_at: None,
        })
    }

    /// Copies what is new, and has it on stable storage if it is time, or at once.
    /// Whether there is more to copy.
    pub(super) fn advance(&mut self, at_once: bool) -> Result<bool, Trouble> {
        if self.retry_at.is_some_and(|at| Instant::now() < at) {
            return Ok(false);
        }
        let outcome = self.try_advance(at_once);
        self.retry_at = match &outcome {
            Err(trouble) if trouble.is_damage() => None,
            Err(trouble) => {
                if let Trouble::Disk(_) = trouble {
                    self.abandon();
                }
                Some(Instant::now() + RETRY)
            }
            Ok(_) => None,
        };
        outcome
    }

    fn try_advance(&mut self, at_once: bool) -> Result<bool, Trouble> {
        if self.cursor.is_none() {
            self.begin()?;
        }
        let mut copied_len = 0;
        let has_more = loop {
            // What does not validate is read once more before it is believed.
            let len = match self.copy_next() {
                Err(Trouble::Memory(_)) => self.copy_next(),
                outcome => outcome,
            }?;
            let Some(len) = len else { break false };
            copied_len += len;
            if self.unsynced_len >= UNSYNCED_LEN_MAX {
                self.sync()?;
            }
            if copied_len >= TURN_LEN {
                break true;
            }
        };
        let is_due = |since: Instant| since.elapsed() >= UNSYNCED_FOR_MAX;
        if self
            .unsynced_since
            .is_some_and(|since| at_once || is_due(since))
        {
            self.sync()?;
        }
        self.tell();
        Ok(has_more)
    }

    /// Ends the open file, so that what is in it may leave memory.
    pub(super) fn finish(&mut self, seq: u64) -> Result<(), Trouble> {
        while self.finished_seq < seq && self.advance(false)? {}
        if self.finished_seq < seq && self.archived_seq > self.finished_seq {
            self.finish_open(false).inspect_err(|_| self.abandon())?;
        }
        Ok(())
    }

    /// The last appender has left: copies the rest, and lets go of memory and file.
    pub(super) fn leave(&mut self) -> Result<(), Trouble> {
        while self.advance(true)? {}
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.len() >= FILE_LEN_LEFT)
        {
            self.finish_open(false).inspect_err(|_| self.abandon())?;
        }
        self.open = None;
        self.cursor = None;
        Ok(())
    }

    /// Ends the files of a log that is closed, and says in the last one that nothing was
    /// ever appended behind it. False if the log has gone on.
    pub(super) fn complete(&mut self) -> Result<bool, Trouble> {
        while self.advance(true)? {}
        let Some(cursor) = &mut self.cursor else {
            return Ok(false);
        };
        if cursor.step(&Filter::default())? != Found::Closed
            || cursor.link().segment.successor().is_some()
        {
            return Ok(false);
        }
        if self.open.is_none() {
            // Without an entry, for what it says.
            self.create()?;
        }
        self.finish_open(true).inspect_err(|_| self.abandon())?;
        Ok(true)
    }

    /// Whether nothing that was copied waits for stable storage.
    pub(super) fn is_settled(&self) -> bool {
        self.unsynced_since.is_none() && self.retry_at.is_none()
    }

    /// Finds out what the files hold, and goes on in memory behind that.
    fn begin(&mut self) -> Result<(), Trouble> {
        let io = Trouble::Disk;
        self.finished_seq = self.home.finished_seq().map_err(|error| match error {
            MapError::Io(error) => Trouble::Disk(error),
            error => Trouble::Disk(io::Error::other(error)),
        })?;
        self.open = None;
        self.archived_seq = self.finished_seq;
        // A file that failed is not gone on with: memory has all that is in it.
        let name = FileName::Open(self.finished_seq + 1);
        if let Some(unfinished) = self.home.unfinished(name).map_err(io)? {
            self.resume(unfinished).map_err(io)?;
        }
        self.unsynced_len = 0;
        self.unsynced_since = None;
        self.cursor = Some(self.find(self.archived_seq + 1)?);
        self.marks.set_finished_seq(self.finished_seq);
        self.tell();
        Ok(())
    }

    /// Goes on in a file that an earlier daemon left open.
    fn resume(&mut self, unfinished: Unfinished) -> io::Result<()> {
        let Unfinished { name, scan, torn } = unfinished;
        if !torn.is_empty() {
            tracing::warn!(
                context = self.control.name(),
                file = %name,
                torn_len = torn.len(),
                "the end of a file is torn; it is kept beside it"
            );
            disk::cut(&self.home.dir, name, scan.valid_len, &torn)?;
        }
        let file = disk::append(&self.home.dir, name)?;
        // It may be in the kernel's memory only.
        disk::sync(&file)?;
        self.archived_seq = scan.last_seq();
        self.durable_seq = self.durable_seq.max(self.archived_seq);
        let target = BufWriter::with_capacity(BUFFER_LEN, file);
        self.open = Some(FileWriter::resume(target, scan));
        Ok(())
    }

    /// A cursor in memory at this seq.
    fn find(&self, seq: u64) -> Result<Cursor, MapError> {
        let mut tries = 0;
        loop {
            match self.try_find(seq) {
                Err(error) if error.is_not_found() && tries < RETRIES_MAX => tries += 1,
                outcome => return outcome,
            }
        }
    }

    fn try_find(&self, seq: u64) -> Result<Cursor, MapError> {
        let segment = self.map(self.control.first_part())?;
        let base_seq = segment.base_seq();
        if !(1..=SEQ_MAX).contains(&base_seq) {
            return Err(Corrupt::new("base seq of the first part", base_seq, 1).into());
        }
        if seq < base_seq {
            return Err(Corrupt::new("first seq in memory", base_seq, seq).into());
        }
        let mut link = Link { segment, base_seq };
        loop {
            let end = link.base_seq + link.segment.frontier()? as u64;
            match self.next_link(&link)? {
                Some(next) if seq >= end => link = next,
                None if seq > end => {
                    return Err(Corrupt::new("seq of the archive's end", seq, end).into());
                }
                _ => return Ok(Cursor::new(link, seq)),
            }
        }
    }

    /// The part that follows, if there is one.
    fn next_link(&self, link: &Link) -> Result<Option<Link>, MapError> {
        let frontier = link.segment.frontier()?;
        let part = match link.peek(link.base_seq + frontier as u64)? {
            Found::Seal(part) => part,
            Found::Closed => match link.segment.successor() {
                Some(part) => part,
                None => return Ok(None),
            },
            Found::Entry | Found::Nothing | Found::Elsewhere => return Ok(None),
        };
        Ok(Some(Link {
            segment: self.map(part)?,
            base_seq: link.base_seq + frontier as u64,
        }))
    }

    /// Maps a part so that everything in it is copied before it is believed.
    fn map(&self, part: u64) -> Result<Arc<Segment>, MapError> {
        let mut object = Object::open(
            &self.instance,
            Name::Part(self.control.epoch(), part),
            false,
        )?;
        object.distrust();
        Ok(Arc::new(Segment::map(&object, false)?))
    }

    /// Copies the next entry, and returns its length; none if there is none yet.
    fn copy_next(&mut self) -> Result<Option<usize>, Trouble> {
        loop {
            let Some(cursor) = &mut self.cursor else {
                return Ok(None);
            };
            match cursor.step(&Filter::default())? {
                Found::Entry => break,
                Found::Nothing => return Ok(None),
                Found::Seal(_) | Found::Closed | Found::Elsewhere => {
                    let link = cursor.link().clone();
                    let Some(next) = self.next_link(&link)? else {
                        return Ok(None);
                    };
                    if let Some(cursor) = &mut self.cursor {
                        cursor.follow(next);
                    }
                }
            }
        }
        if self.open.is_none() {
            self.create()?;
        }
        let (Some(cursor), Some(open)) = (&mut self.cursor, &mut self.open) else {
            return Ok(None);
        };
        let Some(entry) = cursor.entry()? else {
            return Ok(None);
        };
        let record = entry.record_bytes();
        Corrupt::check("record seq", entry.seq(), open.next_seq())?;
        open.push(record).map_err(Trouble::Disk)?;
        let len = record.len();
        self.archived_seq = entry.seq();
        self.unsynced_len += len;
        self.unsynced_since.get_or_insert_with(Instant::now);
        if open.len() >= FILE_LEN {
            self.finish_open(false)?;
        }
        Ok(Some(len))
    }

    /// Begins the next file, at what the cursor stands at.
    fn create(&mut self) -> Result<(), Trouble> {
        let Some(cursor) = &self.cursor else {
            return Ok(());
        };
        let first_seq = self.archived_seq + 1;
        let index = (first_seq - cursor.link().base_seq) as usize;
        let begun_at_ns = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_nanos() as u64);
        let head = Head {
            facts: self.control.facts().clone(),
            first_seq,
            base_lamport: cursor.link().segment.lamport_before(index)?,
            begun_at_ns,
        };
        let create = || {
            disk::make_home(&self.home.dir)?;
            let name = FileName::Open(first_seq);
            let file = match disk::create(&self.home.dir, name) {
                // A creation that was cut short: nothing in it is valid.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    disk::set_aside(&self.home.dir, name)?;
                    disk::create(&self.home.dir, name)?
                }
                file => file?,
            };
            let open = FileWriter::begin(BufWriter::with_capacity(BUFFER_LEN, file), &head)?;
            disk::sync_dir(&self.home.dir)?;
            Ok(open)
        };
        self.open = Some(create().map_err(Trouble::Disk)?);
        Ok(())
    }

    /// Has everything that was copied on stable storage.
    fn sync(&mut self) -> Result<(), Trouble> {
        if let Some(open) = &mut self.open {
            let target = open.target();
            target.flush().map_err(Trouble::Disk)?;
            disk::sync(target.get_ref()).map_err(Trouble::Disk)?;
        }
        self.synced();
        Ok(())
    }

    fn synced(&mut self) {
        if self.archived_seq >= self.durable_seq {
            self.durable_seq = self.archived_seq;
            // Everything that a file held that failed is elsewhere now.
            self.remove_failed();
        }
        self.unsynced_len = 0;
        self.unsynced_since = None;
        self.tell();
    }

    fn remove_failed(&self) {
        // What is left is removed the next time.
        for name in self.home.files().unwrap_or_default() {
            if let FileName::Failed(_) = name {
                let _ = disk::remove(&self.home.dir, name);
            }
        }
    }

    /// Ends the open file: its trailer, then stable storage, then its name.
    fn finish_open(&mut self, is_complete: bool) -> Result<(), Trouble> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        let first_seq = open.next_seq() - open.count();
        let finish = || {
            let target = open.finish(is_complete)?;
            let file = target
                .into_inner()
                .map_err(io::IntoInnerError::into_error)?;
            disk::sync(&file)?;
            disk::rename(
                &self.home.dir,
                FileName::Open(first_seq),
                FileName::Finished(first_seq),
            )
        };
        finish().map_err(Trouble::Disk)?;
        self.finished_seq = self.archived_seq;
        self.synced();
        self.marks.set_finished_seq(self.finished_seq);
        Ok(())
    }

    /// Leaves a file that could not be written: everything behind the finished ones
    /// is still in memory.
    fn abandon(&mut self) {
        self.open = None;
        self.cursor = None;
        let first_seq = self.finished_seq + 1;
        // Its valid entries are there if memory is lost before they are elsewhere.
        let _ = disk::rename(
            &self.home.dir,
            FileName::Open(first_seq),
            FileName::Failed(first_seq),
        );
        self.unsynced_since = None;
        self.unsynced_len = 0;
    }

    /// Tells everybody how far it has come: what was durable stays so.
    fn tell(&self) {
        let archived_seq = self.archived_seq.max(self.durable_seq);
        self.control.set_archived(archived_seq, self.durable_seq);
    }
}
