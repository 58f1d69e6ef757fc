//! Reading a snapshot, which is untrusted input, front to back.

use std::io::{self, Read};

use crate::control::Facts;
use crate::entry::{Entry, LAMPORT_RECEIVED_MAX};
use crate::error::Corrupt;
use crate::file::head::HEAD_LEN_MAX;
use crate::file::reader::{Next, Reader};
use crate::file::records::Records;
use crate::file::verify::check_end;
use crate::file::{Damage, Head, Span, Trailer};
use crate::format::{FILE_MAGIC, FILE_TRAILER_LEN, KEY_LEN_MAX, RecordHeader};
use crate::merkle::Frontier;
use crate::object::MapError;
use crate::record::crc32c;

/// Why a snapshot cannot be read to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// What it is read from fails.
    #[error("cannot read the snapshot: {0}")]
    Read(#[source] io::Error),
    /// What it is copied to fails.
    #[error("cannot write: {0}")]
    Write(#[source] io::Error),
    /// These are other bytes.
    #[error(
        "this is no snapshot: {}; make one with `ledgerd snapshot export`",
        begin(begins_with)
    )]
    NotOne {
        /// The first bytes, as escaped text; none of nothing.
        begins_with: String,
    },
    /// It is a file of an archive, or part of a snapshot.
    #[error("this is not a whole snapshot but {what}; make one with `ledgerd snapshot export`")]
    Part {
        /// What it is.
        what: &'static str,
    },
    /// It is shorter than it says.
    #[error(
        "the snapshot ends behind entry {last_seq}, before it is complete; get all of its bytes"
    )]
    Short {
        /// The last whole entry.
        last_seq: u64,
    },
    /// More bytes follow behind its end.
    #[error(
        "the snapshot ends with entry {last_seq}, and bytes follow that are none of it; cut them \
         off, or get it again"
    )]
    Long {
        /// Its last entry.
        last_seq: u64,
    },
    /// It is not as it was written.
    #[error("the snapshot is damaged: {0}")]
    Damaged(#[from] Damage),
}

fn begin(begins_with: &str) -> String {
    match begins_with {
        "" => "it is empty".to_owned(),
        _ => format!("it begins with \"{begins_with}\""),
    }
}

impl From<Corrupt> for SnapshotError {
    fn from(corrupt: Corrupt) -> SnapshotError {
        Damage::from(corrupt).into()
    }
}

/// Reads a snapshot from its first byte to its last one, and believes nothing of it
/// that it has not checked.
#[derive(Debug)]
pub struct SnapshotReader<R> {
    reader: Reader<R>,
    /// Up to what was read.
    behind: Option<Behind>,
    section: Option<Head>,
}

#[derive(Debug)]
struct Behind {
    span: Span,
    tree: Frontier,
    last_lamport: u64,
    facts: Facts,
}

impl<R: Read> SnapshotReader<R> {
    /// Of what these bytes are.
    pub fn new(input: R) -> SnapshotReader<R> {
        SnapshotReader {
            reader: Reader::new(input),
            behind: None,
            section: None,
        }
    }

    /// The tree over all entries, as far as it was read.
    pub fn tree(&self) -> Option<&Frontier> {
        self.behind.as_ref().map(|behind| &behind.tree)
    }

    /// What the next file of the snapshot says before its records; none behind the
    /// last one, where the input has to end.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]
    pub fn next_section(&mut self) -> Result<Option<&Head>, SnapshotError> {
        let last_seq = self.behind.as_ref().map_or(0, |behind| behind.tree.count());
        let is_behind_last = |behind: &Behind| behind.span.last_seq == behind.tree.count();
        let bytes = self
            .reader
            .peek(HEAD_LEN_MAX)
            .map_err(SnapshotError::Read)?;
        if self.behind.as_ref().is_some_and(is_behind_last) {
            return match bytes.is_empty() {
                true => Ok(None),
                false => Err(SnapshotError::Long { last_seq }),
            };
        }
        let is_first = self.behind.is_none();
        if is_first && !bytes.starts_with(&FILE_MAGIC.to_le_bytes()) {
            let begin = &bytes[..bytes.len().min(16)];
            let begins_with = begin.escape_ascii().to_string();
            return Err(SnapshotError::NotOne { begins_with });
        }
        let head = match Head::decode(bytes) {
            Err(MapError::Unfinished) => return Err(SnapshotError::Short { last_seq }),
            head => head.map_err(Damage::from)?,
        };
        let span = head.snapshot.ok_or(SnapshotError::Part {
            what: "a file of an archive",
        })?;
        if let Some(behind) = &self.behind {
            let before = behind.span;
            Corrupt::check("first seq of a snapshot", span.first_seq, before.first_seq)?;
            Corrupt::check("last seq of a snapshot", span.last_seq, before.last_seq)?;
            Corrupt::check("first seq of a file", head.first_seq(), last_seq + 1)?;
            Corrupt::check("base lamport", head.base_lamport, behind.last_lamport)?;
            let is_same = head.before == behind.tree && head.facts == behind.facts;
            Corrupt::check("file that follows", is_same.into(), 1)?;
            Corrupt::check("entries of a file", (span.section_count > 0).into(), 1)?;
        } else if span.first_seq != head.first_seq() {
            let what = "a part without the beginning";
            return Err(SnapshotError::Part { what });
        }
        check_lamport(head.base_lamport, head.before.count())?;
        self.reader.skip(head.data_offset());
        Ok(Some(self.section.insert(head)))
    }

    /// Reads the file whose head was read, handing out each entry and its record with
    /// the zeros behind it. Returns what lies between these and the trailer, and that.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]; what `take` says becomes [`SnapshotError::Write`].
    ///
    /// # Panics
    ///
    /// If no head was read since the last one.
    pub fn read_section(
        &mut self,
        mut take: impl FnMut(&Entry<'_>, &[u8]) -> io::Result<()>,
    ) -> Result<(Vec<u8>, Trailer), SnapshotError> {
        let head = self.section.take().expect("a head was read");
        let span = head.snapshot.expect("checked with the head");
        let mut records = Records::many_behind(&head);
        while records.count() < span.section_count {
            let seq = records.next_seq();
            match self.reader.next(&records).map_err(SnapshotError::Read)? {
                Next::Entry(entry, padded) => {
                    let possible = check_possible(&entry);
                    possible.map_err(|damage| Damage::Entry { seq, damage })?;
                    take(&entry, padded).map_err(SnapshotError::Write)?;
                    records.add(&entry);
                }
                Next::End { .. } => return Err(SnapshotError::Short { last_seq: seq - 1 }),
                Next::Wrong(damage) => return Err(Damage::Entry { seq, damage }.into()),
            }
        }
        let last_seq = records.next_seq() - 1;
        let last_lamport = records.last_lamport;
        let mut end = Vec::new();
        let ended = records.end(head.data_offset(), false, &mut end);
        let (trailer, tree) = ended.expect("memory takes what is written");
        let found = self.reader.peek(end.len()).map_err(SnapshotError::Read)?;
        if found.len() < end.len() {
            return Err(SnapshotError::Short { last_seq });
        }
        check_end(found, &end)?;
        self.reader.skip(end.len());
        end.truncate(end.len() - FILE_TRAILER_LEN);
        self.behind = Some(Behind {
            span,
            tree,
            last_lamport,
            facts: head.facts,
        });
        Ok((end, trailer))
    }
}

/// Whether a ledger can have given an entry this: what checksums do not tell.
fn check_possible(entry: &Entry<'_>) -> Result<(), Corrupt> {
    check_lamport(entry.lamport(), entry.seq())?;
    let key = entry.key();
    if !(1..=KEY_LEN_MAX).contains(&key.len()) {
        let len = key.len() as u64;
        return Err(Corrupt::new("length of a key", len, KEY_LEN_MAX as u64));
    }
    let header = entry.record_bytes().first_chunk().map(RecordHeader::decode);
    let found = header.map_or(0, |header| header.key_hash);
    let hash = crc32c(key.as_bytes());
    Corrupt::check("hash of a key", found.into(), hash.into())
}

/// Each of the entries so far may have received the largest time there is, at most.
fn check_lamport(lamport: u64, seq: u64) -> Result<(), Corrupt> {
    let max = (LAMPORT_RECEIVED_MAX - 1).saturating_add(seq);
    match lamport <= max {
        true => Ok(()),
        false => Err(Corrupt::new("record lamport", lamport, max)),
    }
}
