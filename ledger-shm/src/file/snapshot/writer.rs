//! Writing a snapshot front to back.

use std::io::{self, Write};

use crate::entry::Entry;
use crate::file::{FileWriter, Head, SectionPlan, Span, Trailer};
use crate::merkle::{CHUNK_COUNT, Hash};

/// A snapshot that is being written: the entries that were planned, in order.
#[derive(Debug)]
pub struct SnapshotWriter<W> {
    file: FileWriter<W>,
    /// What every file of it says.
    head: Head,
    span: Span,
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
            file: FileWriter::begin(target, &head)?,
            head,
            span,
            counts,
        })
    }

    /// The seq of the next entry.
    pub fn next_seq(&self) -> u64 {
        self.file.next_seq()
    }

    /// Whether the next entries are a whole chunk, and in one file.
    pub fn takes_chunk(&self) -> bool {
        // A file that is full gives way to the next one.
        let room = match self.span.section_count - self.file.count() {
            0 => self.counts.last().copied().unwrap_or(0),
            room => room,
        };
        self.file.tree().is_between_chunks() && room >= CHUNK_COUNT
    }

    /// Adds the next entry, which the caller has verified.
    ///
    /// # Errors
    ///
    /// The target's.
    ///
    /// # Panics
    ///
    /// If it is not the next entry, or was not planned.
    pub fn push(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.go_on()?;
        self.file.push(entry)
    }

    /// Adds the next [`CHUNK_COUNT`] entries and the root above them, which is not
    /// computed again.
    ///
    /// # Errors
    ///
    /// The target's.
    ///
    /// # Panics
    ///
    /// If they are not the next entries, or it does not take a chunk.
    pub fn push_chunk(&mut self, entries: &[Entry<'_>], root: Hash) -> io::Result<()> {
        self.go_on()?;
        self.file.push_chunk(entries, root)
    }

    /// Begins the next file where this one is full.
    fn go_on(&mut self) -> io::Result<()> {
        if self.file.count() < self.span.section_count {
            return Ok(());
        }
        self.span.section_count = self.counts.pop().expect("an entry that was planned");
        self.head.snapshot = Some(self.span);
        self.file.go_on(self.head.clone())
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
    pub fn finish(self) -> io::Result<(W, Trailer)> {
        assert_eq!(self.next_seq() - 1, self.span.last_seq, "the last entry");
        self.file.finish(false)
    }
}
