//! One context, written behind.
//!
//! ```text
//! archived ─ copied into the open file
//! durable  ─ and on stable storage: fdatasync(2) has returned
//! finished ─ in files that have their trailer, their name, and are served
//! ```
//!
//! Memory holds everything behind `finished`, so a file that could not be written is
//! begun again from there, in a new file. `durable` stays where it was meanwhile: what
//! it tells of is in the file that failed, which is kept until it is elsewhere.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use ledger_shm::file::{FileName, FileWriter, Finished, Head};
use ledger_shm::format::SEQ_MAX;
use ledger_shm::merkle::Frontier;
use ledger_shm::object::{Instance, MapError, Name, Object};
use ledger_shm::read::{Cursor, End, Filter, Found, Link};
use ledger_shm::{Control, Corrupt, Segment};

use super::Marks;
use super::home::{Home, Unfinished};
use super::keeper::Trouble;
use super::synced_file::{SyncedFile, Syncer};
use crate::registry::now_ns;

/// Bytes of a file that is finished when the last appender leaves, so that the next
/// one's beginning scans no more.
const FILE_LEN_LEFT: usize = 1 << 20;
/// Bytes that are brought to stable storage at once, if there are so many.
const PIECE_LEN: usize = 1 << 20;
/// Bytes copied before other contexts have their turn.
const TURN_LEN: usize = 8 << 20;
/// How often a part may retire while it is looked for.
const RETRIES_MAX: usize = 64;

/// One context, from memory into its files.
pub(super) struct Behind {
    instance: Instance,
    control: Control,
    home: Home,
    marks: Arc<Marks>,
    /// Bytes of a file after which the next one is begun.
    file_len: usize,
    cursor: Cursor,
    open: Option<FileWriter<SyncedFile>>,
    syncer: Syncer,
    /// Up to where the files had everything when it began.
    begun_seq: u64,
    archived_seq: u64,
    /// Up to where the files that are being written are on stable storage: one that failed
    /// may hold more.
    synced_seq: u64,
    durable_seq: u64,
    /// The tree over all entries in finished files.
    finished: Frontier,
    /// There is more to copy, as far as it was looked at.
    has_more: bool,
}

impl Behind {
    /// Finds out what the files hold, and goes on in memory behind that.
    pub(super) fn begin(
        instance: Instance,
        control: Control,
        home: Home,
        marks: Arc<Marks>,
        file_len: usize,
        syncer: Syncer,
    ) -> Result<Behind, Trouble> {
        // Names that an earlier daemon could not sync any more.
        home.disk.sync_home(&home.dir).map_err(Trouble::Disk)?;
        let unusable = |error| match error {
            MapError::Io(error) => Trouble::Disk(error),
            error => files(&home, error.to_string()),
        };
        let finished = home.finished_tree().map_err(unusable)?;
        let finished_seq = finished.count();
        let mut unfinished = home
            .unfinished(FileName::Open(finished_seq + 1))
            .map_err(unusable)?;
        let reached = unfinished.as_ref().map(|open| open.scan.last_seq());
        let failed = home
            .unfinished(FileName::Failed(finished_seq + 1))
            .map_err(unusable)?;
        let reached_before = failed.map_or(0, |failed| failed.scan.last_seq());
        let durable_seq = control.durable_seq();
        if finished_seq.max(reached.unwrap_or(0)).max(reached_before) < durable_seq {
            // It is damaged if it is there, and memory has all of it, if that reaches so
            // far back.
            let names = home.files().map_err(Trouble::Disk)?;
            let ours = [FileName::Open, FileName::Failed].map(|name| name(finished_seq + 1));
            if !ours.iter().any(|name| names.contains(name)) {
                let what = format!("entries up to {durable_seq} were on stable storage");
                return Err(files(&home, what));
            }
            find(&instance, &control, &home, finished_seq + 1)?;
            super::say_damaged(control.name(), &home.dir, finished_seq + 1);
            home.give_up(finished_seq + 1).map_err(Trouble::Disk)?;
            unfinished = None;
        }
        let (open, archived_seq) = match unfinished {
            // A file that failed is not gone on with: memory has all that is in it.
            Some(unfinished) => {
                let archived_seq = unfinished.scan.last_seq();
                let open =
                    resume(&home, &control, unfinished, syncer.clone()).map_err(|error| {
                        // Where one has failed before it is not known which holds more.
                        if reached_before < durable_seq {
                            let _ = home.give_up(finished_seq + 1);
                        }
                        Trouble::Disk(error)
                    })?;
                if archived_seq >= durable_seq {
                    // All that a file held that failed is here as well.
                    let _ = home
                        .disk
                        .remove(&home.dir, FileName::Failed(finished_seq + 1));
                }
                (Some(open), archived_seq)
            }
            None => (None, finished_seq),
        };
        let cursor = find(&instance, &control, &home, archived_seq + 1)?;
        marks.set_finished_seq(finished_seq);
        let behind = Behind {
            instance,
            control,
            home,
            marks,
            file_len,
            cursor,
            open,
            syncer,
            begun_seq: archived_seq,
            archived_seq,
            synced_seq: archived_seq,
            durable_seq: durable_seq.max(archived_seq),
            finished,
            has_more: true,
        };
        behind.tell();
        Ok(behind)
    }

    pub(super) fn finished_seq(&self) -> u64 {
        self.finished.count()
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    /// Whether nothing waits for being written, as far as it was looked at.
    pub(super) fn is_settled(&self) -> bool {
        !self.has_more && self.is_synced()
    }

    /// Whether the disk has kept something since it began, as far as there was something.
    pub(super) fn is_proven(&self) -> bool {
        self.synced_seq > self.begun_seq || self.is_settled()
    }

    fn is_synced(&self) -> bool {
        let target = self.open.as_ref().map(FileWriter::target);
        target.is_none_or(SyncedFile::is_synced)
    }

    /// Copies what is new, a turn of it at most, and has it on stable storage if it is
    /// time, or at once. Whether there is more to copy.
    pub(super) fn advance(&mut self, at_once: bool) -> Result<bool, Trouble> {
        let mut copied_len = 0;
        self.has_more = loop {
            // What does not validate is read once more before it is believed.
            let len = match self.copy_next() {
                Err(Trouble::Memory(_)) => {
                    let link = self.cursor.link().clone();
                    self.cursor = Cursor::new(link, self.archived_seq + 1);
                    self.copy_next()
                }
                outcome => outcome,
            }?;
            let Some(len) = len else { break false };
            copied_len += len;
            if let Some(open) = &mut self.open {
                let beside = open.target_mut().sync_beside(self.archived_seq);
                beside.map_err(Trouble::Disk)?;
            }
            if copied_len >= TURN_LEN {
                break true;
            }
        };
        if let Some(target) = self.open.as_mut().map(FileWriter::target_mut) {
            if at_once && !target.is_synced() {
                self.sync()?;
            } else {
                let begun = match target.is_due() {
                    true => target.begin_sync(self.archived_seq),
                    false => Ok(()),
                };
                let seq = begun.and_then(|()| target.synced_seq());
                self.synced(seq.map_err(Trouble::Disk)?);
            }
        }
        self.tell();
        Ok(self.has_more)
    }

    /// Copies the next entry, and returns its length; none if there is none yet.
    fn copy_next(&mut self) -> Result<Option<usize>, Trouble> {
        let mut passed = HashSet::new();
        loop {
            match self.cursor.step(&Filter::default())? {
                Found::Entry => break,
                Found::Nothing => return Ok(None),
                Found::Elsewhere => {
                    let (at, base_seq) = (self.cursor.next_seq(), self.cursor.link().base_seq);
                    return Err(Corrupt::new("base seq of a part", base_seq, at).into());
                }
                Found::Seal(_) | Found::Closed => {
                    let Some(next) = next_link(&self.instance, &self.control, self.cursor.link())?
                    else {
                        return Ok(None);
                    };
                    not_passed(&mut passed, &next)?;
                    self.cursor.follow(next);
                }
            }
        }
        if self.open.as_ref().is_some_and(FileWriter::is_full) {
            self.finish_open(false)?;
        }
        if self.open.is_none() {
            self.create()?;
        }
        let open = self.open.as_mut().expect("made above");
        let Some(entry) = self.cursor.entry()? else {
            return Ok(None);
        };
        Corrupt::check("record seq", entry.seq(), open.next_seq())?;
        if entry.lamport() <= open.last_lamport() {
            let least = open.last_lamport().saturating_add(1);
            return Err(Corrupt::new("record lamport", entry.lamport(), least).into());
        }
        open.push(&entry).map_err(Trouble::Disk)?;
        let len = entry.record_bytes().len();
        self.archived_seq = entry.seq();
        if open.len() >= self.file_len {
            self.finish_open(false)?;
        }
        Ok(Some(len))
    }

    /// Begins the next file, at what the cursor stands at.
    fn create(&mut self) -> Result<(), Trouble> {
        let link = self.cursor.link();
        let first_seq = self.archived_seq + 1;
        let index = (first_seq - link.base_seq) as usize;
        let head = Head {
            facts: self.control.facts().clone(),
            before: self.finished.clone(),
            base_lamport: link.segment.lamport_before(index)?,
            begun_at_ns: now_ns(),
            snapshot: None,
        };
        let Home { dir, disk } = &self.home;
        let create = || {
            disk.make_home(dir)?;
            let name = FileName::Open(first_seq);
            let file = match disk.create(dir, name) {
                // A creation that was cut short, or one that says that entries may be lost:
                // it is there until this one says so.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    self.home.reopen(&head)?;
                    let unfinished = self.home.unfinished(name).map_err(io::Error::other)?;
                    let unfinished = unfinished.ok_or(io::ErrorKind::NotFound)?;
                    return resume(&self.home, &self.control, unfinished, self.syncer.clone());
                }
                file => file?,
            };
            let target = SyncedFile::new(file, self.syncer.clone(), PIECE_LEN, first_seq - 1);
            let open = FileWriter::begin(target, &head)?;
            disk.sync_dir(dir)?;
            Ok(open)
        };
        self.open = Some(create().map_err(Trouble::Disk)?);
        Ok(())
    }

    /// Has everything that was copied on stable storage.
    pub(super) fn sync(&mut self) -> Result<(), Trouble> {
        if let Some(open) = &mut self.open {
            let target = open.target_mut();
            target.sync(self.archived_seq).map_err(Trouble::Disk)?;
        }
        self.synced(self.archived_seq);
        Ok(())
    }

    /// Everything up to this seq is on stable storage, in the files that there are.
    fn synced(&mut self, seq: u64) {
        if seq == self.synced_seq {
            return;
        }
        self.synced_seq = seq;
        if seq >= self.durable_seq {
            self.durable_seq = seq;
            // Everything that a file held that failed is elsewhere now.
            self.remove_failed();
        }
        self.tell();
    }

    fn remove_failed(&mut self) {
        // One at a time, of which hardly ever there is one: no look at the directory.
        if let Some(first_seq) = self.first_seq() {
            let failed = FileName::Failed(first_seq);
            let _ = self.home.disk.remove(&self.home.dir, failed);
        }
    }

    /// The seq of the first entry of the open file, if there is one.
    fn first_seq(&self) -> Option<u64> {
        let open = self.open.as_ref();
        open.map(|open| open.next_seq() - open.count())
    }

    /// Ends the open file, if it is so long that another daemon should not have to scan
    /// it.
    pub(super) fn finish_if_long(&mut self) -> Result<(), Trouble> {
        let is_long = |open: &FileWriter<_>| open.len() >= FILE_LEN_LEFT;
        if self.open.as_ref().is_some_and(is_long) {
            self.finish_open(false)?;
        }
        Ok(())
    }

    /// Ends the files of a log that is closed; false if it has gone on.
    pub(super) fn complete(&mut self) -> Result<bool, Trouble> {
        let is_closed = self.cursor.step(&Filter::default())? == Found::Closed;
        if !is_closed || self.cursor.link().segment.successor().is_some() {
            return Ok(false);
        }
        if self.open.is_none() {
            // Without an entry, for what it says.
            self.create()?;
        }
        self.finish_open(true)?;
        Ok(true)
    }

    /// Ends the open file: its trailer, then stable storage, then its name.
    pub(super) fn finish_open(&mut self, is_complete: bool) -> Result<(), Trouble> {
        let Some((first_seq, open)) = self.first_seq().zip(self.open.take()) else {
            return Ok(());
        };
        let finish = || {
            let Finished {
                mut target, tree, ..
            } = open.finish(is_complete)?;
            target.sync(self.archived_seq)?;
            self.home.disk.rename(
                &self.home.dir,
                FileName::Open(first_seq),
                FileName::Finished(first_seq),
            )?;
            Ok(tree)
        };
        self.finished = finish().map_err(Trouble::Disk)?;
        if self.archived_seq >= self.durable_seq {
            let failed = FileName::Failed(first_seq);
            let _ = self.home.disk.remove(&self.home.dir, failed);
        }
        self.synced(self.archived_seq);
        self.marks.set_finished_seq(self.finished.count());
        Ok(())
    }

    /// Tells everybody how far it has come: what was durable stays so.
    fn tell(&self) {
        let archived_seq = self.archived_seq.max(self.durable_seq);
        self.control.set_archived(archived_seq, self.durable_seq);
    }
}

fn files(home: &Home, what: String) -> Trouble {
    Trouble::Files {
        dir: home.dir.clone(),
        what,
    }
}

/// Goes on in a file that an earlier daemon left open.
fn resume(
    home: &Home,
    control: &Control,
    unfinished: Unfinished,
    syncer: Syncer,
) -> io::Result<FileWriter<SyncedFile>> {
    let Unfinished { name, scan, torn } = unfinished;
    if !torn.is_empty() {
        home.disk.cut(&home.dir, name, scan.valid_len(), &torn)?;
        super::say_torn(control.name(), name, torn.len());
    }
    let file = home.disk.append(&home.dir, name)?;
    // It may be in the kernel's memory only.
    file.sync()?;
    let target = SyncedFile::new(file, syncer, PIECE_LEN, scan.last_seq());
    Ok(FileWriter::resume(target, scan))
}

/// A cursor in memory at this seq.
fn find(instance: &Instance, control: &Control, home: &Home, seq: u64) -> Result<Cursor, Trouble> {
    let mut tries = 0;
    loop {
        match try_find(instance, control, home, seq) {
            Err(Trouble::Memory(error)) if error.is_not_found() && tries < RETRIES_MAX => {
                tries += 1;
            }
            outcome => return outcome,
        }
    }
}

fn try_find(
    instance: &Instance,
    control: &Control,
    home: &Home,
    seq: u64,
) -> Result<Cursor, Trouble> {
    let segment = map(instance, control, control.first_part())?;
    let base_seq = segment.base_seq();
    if !(1..=SEQ_MAX).contains(&base_seq) {
        return Err(Corrupt::new("base seq of the first part", base_seq, 1).into());
    }
    if seq < base_seq {
        let what = format!(
            "entries from {seq} to {} are not in memory either",
            base_seq - 1
        );
        return Err(files(home, what));
    }
    let mut link = Link { segment, base_seq };
    let mut passed = HashSet::new();
    loop {
        let end = link.base_seq + link.segment.frontier()? as u64;
        match next_link(instance, control, &link)? {
            Some(next) if seq >= next.base_seq => {
                not_passed(&mut passed, &next)?;
                link = next;
            }
            None if seq > end => {
                let what = format!("they end with entry {}, and memory before", seq - 1);
                return Err(files(home, what));
            }
            _ => return Ok(Cursor::new(link, seq)),
        }
    }
}

/// A chain of parts that leads back would be followed for ever.
fn not_passed(passed: &mut HashSet<u64>, next: &Link) -> Result<(), Corrupt> {
    let part = next.segment.part();
    match passed.insert(part) {
        true => Ok(()),
        false => Err(Corrupt::new("a seal that names an earlier part", part, 0)),
    }
}

/// The part that follows, if there is one.
fn next_link(
    instance: &Instance,
    control: &Control,
    link: &Link,
) -> Result<Option<Link>, MapError> {
    let End::Continued { part, base_seq } = link.end()? else {
        return Ok(None);
    };
    Ok(Some(Link {
        segment: map(instance, control, part)?,
        base_seq,
    }))
}

/// Maps a part so that everything in it is copied before it is believed.
fn map(instance: &Instance, control: &Control, part: u64) -> Result<Arc<Segment>, MapError> {
    let name = Name::Part(control.epoch(), part);
    let mut object = Object::open(instance, name, false)?;
    object.distrust();
    let segment = Segment::map(&object, false)?;
    segment.check_is(control.epoch().0, part)?;
    Ok(Arc::new(segment))
}

#[cfg(test)]
mod tests;
