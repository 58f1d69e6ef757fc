//! Writing a file front to back.

use std::io::{self, Write};

use crate::entry::Entry;
use crate::format::{FILE_COUNT_MAX, RECORD_ALIGN};
use crate::merkle::{CHUNK_COUNT, Frontier, Hash};

use super::records::Records;
use super::{Head, Scan, Trailer};

/// A file that was written.
#[derive(Debug)]
pub struct Finished<W> {
    /// What it was written to.
    pub target: W,
    /// What it says at its end.
    pub trailer: Trailer,
    /// The tree over all entries up to its last one.
    pub tree: Frontier,
}

/// A file that is being written, from its head to its trailer.
///
/// Its target gets every byte once, in order, in pieces that may be small.
#[derive(Debug)]
pub struct FileWriter<W> {
    target: W,
    data_offset: usize,
    records: Records,
}

impl<W: Write> FileWriter<W> {
    /// Begins a file.
    ///
    /// # Errors
    ///
    /// The target's.
    pub fn begin(mut target: W, head: &Head) -> io::Result<FileWriter<W>> {
        target.write_all(&head.encode())?;
        Ok(FileWriter {
            target,
            data_offset: head.data_offset(),
            records: Records::behind(head),
        })
    }

    /// Goes on behind the valid prefix of an unfinished file, where the target
    /// stands.
    pub fn resume(target: W, scan: Scan) -> FileWriter<W> {
        FileWriter {
            target,
            data_offset: scan.head.data_offset(),
            records: scan.records,
        }
    }

    /// The seq of the next entry.
    pub fn next_seq(&self) -> u64 {
        self.records.next_seq()
    }

    /// Entries so far.
    pub fn count(&self) -> u64 {
        self.records.count()
    }

    /// Lamport time of the last entry; without one, of the one before.
    pub fn last_lamport(&self) -> u64 {
        self.records.last_lamport
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.data_offset + self.records.data_len
    }

    /// Whether there is no entry yet.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    /// Whether it has as many entries as a file can have.
    pub fn is_full(&self) -> bool {
        self.count() == FILE_COUNT_MAX
    }

    /// Adds the next entry, which the caller has verified.
    ///
    /// # Errors
    ///
    /// The target's; the file is worth nothing behind the last whole record then.
    ///
    /// # Panics
    ///
    /// If it is not the next entry, or there is no room for it.
    pub fn push(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.check(entry);
        let padding_len = self.records.add(entry);
        self.write(entry, padding_len)
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
    /// If these are not the next entries or not a chunk, or there is no room for them.
    pub fn push_chunk(&mut self, entries: &[Entry<'_>], root: Hash) -> io::Result<()> {
        assert_eq!(entries.len() as u64, CHUNK_COUNT, "entries of a chunk");
        for entry in entries {
            self.check(entry);
            let padding_len = self.records.place(entry);
            self.write(entry, padding_len)?;
        }
        self.records.add_chunk(root);
        Ok(())
    }

    fn check(&self, entry: &Entry<'_>) {
        if let Err(wrong) = self.records.check(entry) {
            panic!("not the next entry: {wrong}");
        }
    }

    fn write(&mut self, entry: &Entry<'_>, padding_len: usize) -> io::Result<()> {
        const ZEROS: [u8; RECORD_ALIGN] = [0; RECORD_ALIGN];
        self.target.write_all(entry.record_bytes())?;
        self.target.write_all(&ZEROS[..padding_len])
    }

    /// Ends the file: nothing can be added any more. `is_complete` if the log was
    /// closed behind the last entry.
    ///
    /// # Errors
    ///
    /// The target's.
    pub fn finish(mut self, is_complete: bool) -> io::Result<Finished<W>> {
        let (trailer, tree) = self
            .records
            .end(self.data_offset, is_complete, &mut self.target)?;
        Ok(Finished {
            target: self.target,
            trailer,
            tree,
        })
    }

    /// Begins one of many entries, which are hashed by a thread beside.
    pub(super) fn begin_many(mut target: W, head: &Head) -> io::Result<FileWriter<W>> {
        target.write_all(&head.encode())?;
        Ok(FileWriter {
            target,
            data_offset: head.data_offset(),
            records: Records::many_behind(head),
        })
    }

    /// Ends the file and begins the next one behind it in the same target, with a head
    /// that follows what is here.
    pub(super) fn go_on(self, mut head: Head) -> io::Result<FileWriter<W>> {
        head.base_lamport = self.records.last_lamport;
        let Finished { target, tree, .. } = self.finish(false)?;
        head.before = tree;
        FileWriter::begin_many(target, &head)
    }

    /// What it writes to, unfinished as it is.
    pub fn into_target(self) -> W {
        self.target
    }

    /// What it writes to.
    pub fn target(&self) -> &W {
        &self.target
    }

    /// What it writes to, for what does not write.
    pub fn target_mut(&mut self) -> &mut W {
        &mut self.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::{head, record};

    #[test]
    fn a_chunk_at_once_makes_the_same_file() {
        let records: Vec<_> = (1..=CHUNK_COUNT + 1)
            .map(|seq| record(seq, seq as usize))
            .collect();
        let entries: Vec<_> = records
            .iter()
            .map(|record| Entry::from_bytes(record).expect("just made"))
            .collect();
        let (chunk, rest) = entries.split_at(CHUNK_COUNT as usize);
        let mut one_by_one = FileWriter::begin(Vec::new(), &head(1)).expect("memory");
        let mut tree = Frontier::default();
        for entry in chunk {
            one_by_one.push(entry).expect("memory");
            tree.push(crate::merkle::leaf_hash(entry), |_| {});
        }
        let mut at_once = FileWriter::begin(Vec::new(), &head(1)).expect("memory");
        at_once.push_chunk(chunk, tree.root()).expect("memory");
        let finish = |mut writer: FileWriter<Vec<u8>>| {
            assert_eq!(writer.last_lamport(), CHUNK_COUNT);
            writer.push(&rest[0]).expect("memory");
            assert_eq!(
                (writer.count(), writer.is_empty()),
                (CHUNK_COUNT + 1, false)
            );
            assert_eq!(writer.len(), writer.target().len());
            writer.finish(true).expect("memory")
        };
        let (one_by_one, at_once) = (finish(one_by_one), finish(at_once));
        assert_eq!(one_by_one.tree, at_once.tree);
        assert_eq!(one_by_one.trailer, at_once.trailer);
        assert_eq!(one_by_one.target, at_once.target);
    }

    #[test]
    fn a_file_is_full_with_so_many_entries() {
        let mut writer = FileWriter::begin(Vec::new(), &head(1)).expect("memory");
        for (count, is_full) in [
            (0, false),
            (FILE_COUNT_MAX - 1, false),
            (FILE_COUNT_MAX, true),
        ] {
            writer.records = Records::after(&head(1), count);
            assert_eq!(writer.is_full(), is_full, "{count} entries");
        }
    }

    #[test]
    #[should_panic(expected = "not the next entry: record seq")]
    fn no_entry_is_left_out() {
        let mut writer = FileWriter::begin(Vec::new(), &head(1)).expect("memory");
        assert!(writer.is_empty());
        let record = record(2, 1);
        let _ = writer.push(&Entry::from_bytes(&record).expect("just made"));
    }
}
