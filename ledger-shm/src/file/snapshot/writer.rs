//! Writing a snapshot front to back.

use std::io::{self, Write};

use crate::entry::Entry;
use crate::file::{FileWriter, Finished, Head, SectionPlan, Span};
use crate::merkle::{CHUNK_COUNT, Hash};

/// A snapshot that is being written: the entries that were planned, in order.
#[derive(Debug)]
pub struct SnapshotWriter<W> {
    /// None where the target has failed.
    file: Option<FileWriter<W>>,
    next_seq: u64,
    last_lamport: u64,
    /// What every file of it says.
    head: Head,
    span: Span,
    /// The first seq that is not in the file that is being written.
    section_end: u64,
    /// Entries of the files after this one, the next one last.
    counts: Vec<u64>,
}

impl<W: Write> SnapshotWriter<W> {
    /// Begins one of the context, and behind the entries, that this head tells of.
    ///
    /// # Errors
    ///
    /// The target's.
    pub fn begin(target: W, head: &Head, plan: &SectionPlan) -> io::Result<SnapshotWriter<W>> {
        let mut counts: Vec<u64> = plan.counts().iter().rev().copied().collect();
        let span = Span {
            first_seq: head.first_seq(),
            last_seq: head.before.count() + counts.iter().sum::<u64>(),
            section_count: counts.pop().expect("a snapshot has a file"),
        };
        let mut head = head.clone();
        head.snapshot = Some(span);
        Ok(SnapshotWriter {
            file: Some(FileWriter::begin_many(target, &head)?),
            next_seq: head.first_seq(),
            last_lamport: head.base_lamport,
            section_end: head.first_seq() + span.section_count,
            head,
            span,
            counts,
        })
    }

    /// The seq of the next entry.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Whether the next entries are a whole chunk, and in one file.
    pub fn takes_chunk(&self) -> bool {
        // A file that is full gives way to the next one.
        let room = match self.section_end - self.next_seq {
            0 => self.counts.last().copied().unwrap_or(0),
            room => room,
        };
        (self.next_seq - 1).is_multiple_of(CHUNK_COUNT) && room >= CHUNK_COUNT
    }

    /// Lamport time of the last entry; without one, of the one before.
    pub fn last_lamport(&self) -> u64 {
        self.last_lamport
    }

    /// Adds the next entry, which the caller has verified.
    ///
    /// # Errors
    ///
    /// The target's; nothing can be added then.
    ///
    /// # Panics
    ///
    /// If it is not the next entry, with a greater Lamport time, or was not planned.
    pub fn push(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.file()?.push(entry)?;
        self.next_seq += 1;
        self.last_lamport = entry.lamport();
        Ok(())
    }

    /// Adds the next [`CHUNK_COUNT`] entries and the root above them, which is not
    /// computed again.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    ///
    /// # Panics
    ///
    /// If they are not the next entries, with rising Lamport times, or it does not take
    /// a chunk.
    pub fn push_chunk(&mut self, entries: &[Entry<'_>], root: Hash) -> io::Result<()> {
        self.file()?.push_chunk(entries, root)?;
        self.next_seq += CHUNK_COUNT;
        self.last_lamport = entries.last().map_or(self.last_lamport, Entry::lamport);
        Ok(())
    }

    /// The file for the next entry: another one where the last is full.
    fn file(&mut self) -> io::Result<&mut FileWriter<W>> {
        let failed = || io::Error::other("writing a snapshot goes on behind an error");
        let mut file = self.file.take().ok_or_else(failed)?;
        if self.next_seq == self.section_end {
            self.span.section_count = self.counts.pop().expect("an entry that was planned");
            self.section_end += self.span.section_count;
            self.head.snapshot = Some(self.span);
            file = file.go_on(self.head.clone())?;
        }
        Ok(self.file.insert(file))
    }

    /// Ends the snapshot.
    ///
    /// # Errors
    ///
    /// The target's.
    ///
    /// # Panics
    ///
    /// If there are fewer entries than were planned.
    pub fn finish(self) -> io::Result<Finished<W>> {
        assert_eq!(self.next_seq - 1, self.span.last_seq, "the last entry");
        let failed = || io::Error::other("writing a snapshot goes on behind an error");
        self.file.ok_or_else(failed)?.finish(false)
    }
}
