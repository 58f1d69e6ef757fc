//! Snapshots: a context's entries, up to one of them, as bytes that can be kept
//! anywhere.

use std::fmt;
use std::io::{self, Write};
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use ledger_shm::file::{Head, SectionPlan, SnapshotWriter};
use ledger_shm::merkle::{CHUNK_COUNT, Frontier, Hash};
use ledger_shm::object::Epoch;
use ledger_shm::read::Link;
use ledger_shm::segment::StoredNodes;
use ledger_shm::{Corrupt, Entry};

use crate::chain::Located;
use crate::context::Context;
use crate::error::{ReadError, SnapshotError};

/// Bytes that are written at once, and how many such may wait to be.
const BUFFER_LEN: usize = 1 << 20;
const BUFFERS: usize = 3;

/// How far writing a snapshot, or loading one, has come.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// let context = ledger.context("loan-7").open_or_create()?;
/// context
///     .snapshot_to(std::io::sink())
///     .on_progress(|progress| println!("{} of {:?}", progress.done_len, progress.total_len))
///     .run()?;
/// # Ok(()) });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Bytes of the snapshot so far.
    pub done_len: u64,
    /// Bytes of it in all, where that is known.
    pub total_len: Option<u64>,
}

/// What a snapshot is of.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # let context = ledger.context("loan-7").open_or_create()?;
/// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
/// let snapshot = context.snapshot_to(std::io::sink()).run()?;
/// assert_eq!((snapshot.first_seq, snapshot.last_seq), (1, 1));
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The context's name.
    pub name: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// Seq of the first entry, also if there is none.
    pub first_seq: u64,
    /// Seq of the last entry; that before the first if there is none.
    pub last_seq: u64,
    /// Root of the tree over all entries up to that one (RFC 6962, SHA-256).
    pub root: Hash,
    /// Bytes of the snapshot.
    pub len: u64,
}

/// A snapshot that is about to be written.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # let context = ledger.context("loan-7").open_or_create()?;
/// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
/// let mut bytes = Vec::new();
/// context.snapshot_to(&mut bytes).run()?;
/// # Ok(()) });
/// ```
#[must_use = "nothing is written before `run`"]
pub struct SnapshotTo<'a, W> {
    context: &'a Context,
    writer: W,
    last_seq: Option<u64>,
    planned: Option<Planned>,
    on_progress: Option<Box<dyn FnMut(Progress) + 'a>>,
}

/// Which entries a snapshot will be of.
#[derive(Debug)]
struct Planned {
    head: Head,
    sections: SectionPlan,
    last_seq: u64,
}

impl<W: fmt::Debug> fmt::Debug for SnapshotTo<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotTo")
            .field("context", self.context)
            .field("writer", &self.writer)
            .field("last_seq", &self.last_seq)
            .finish_non_exhaustive()
    }
}

impl Context {
    /// Writes a snapshot: all entries there are, up to the latest or one that is named,
    /// in memory and in the archive, while others go on appending and reading. It is the
    /// exact prefix up to that entry. The same entries make the same bytes, but for the
    /// time at which they were written, which the snapshot says.
    ///
    /// Nobody is asked or stopped; what is in finished files of the archive is copied
    /// with the hashes that these store.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # let mut appender = context.appender()?;
    /// # for _ in 0..9 { appender.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?; }
    /// let mut bytes = Vec::new();
    /// let snapshot = context.snapshot_to(&mut bytes).up_to(7).run()?;
    /// assert_eq!((snapshot.last_seq, snapshot.len), (7, bytes.len() as u64));
    /// # Ok(()) });
    /// ```
    pub fn snapshot_to<W: Write>(&self, writer: W) -> SnapshotTo<'_, W> {
        SnapshotTo {
            context: self,
            writer,
            last_seq: None,
            planned: None,
            on_progress: None,
        }
    }
}

impl<'a, W: Write> SnapshotTo<'a, W> {
    /// Only entries up to this one; 0 for none. Default: up to the latest.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// let error = context.snapshot_to(std::io::sink()).up_to(1).run().unwrap_err();
    /// assert!(error.to_string().contains("no entry 1 yet"));
    /// # Ok(()) });
    /// ```
    pub fn up_to(mut self, last_seq: u64) -> Self {
        self.last_seq = Some(last_seq);
        self
    }

    /// Calls this from time to time, and at the end.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// let mut done = None;
    /// let snapshot = context.snapshot_to(std::io::sink());
    /// let snapshot = snapshot.on_progress(|now| done = Some(now.done_len)).run()?;
    /// assert_eq!(done, Some(snapshot.len));
    /// # Ok(()) });
    /// ```
    pub fn on_progress(mut self, call: impl FnMut(Progress) + 'a) -> Self {
        self.on_progress = Some(Box::new(call));
        self
    }

    /// Bytes that the whole snapshot will have. From now on it is clear which entries
    /// these are, whatever is appended.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// let mut snapshot = context.snapshot_to(Vec::new());
    /// let len = snapshot.total_len()?;
    /// snapshot.writer().reserve(len as usize);
    /// assert_eq!(snapshot.run()?.len, len);
    /// # Ok(()) });
    /// ```
    pub fn total_len(&mut self) -> Result<u64, SnapshotError> {
        let planned = match self.planned.take() {
            Some(planned) => planned,
            None => self.plan()?,
        };
        let name_len = planned.head.facts.name.len();
        let planned = self.planned.insert(planned);
        Ok(planned.sections.total_len(name_len))
    }

    /// What it will be written to.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// let mut snapshot = context.snapshot_to(Vec::new());
    /// assert!(snapshot.writer().is_empty());
    /// # Ok(()) });
    /// ```
    pub fn writer(&mut self) -> &mut W {
        &mut self.writer
    }

    /// Writes it, and flushes the writer. What was written before an error is no
    /// snapshot.
    ///
    /// # Errors
    ///
    /// [`SnapshotError::NotThere`] if there is no such entry yet,
    /// [`SnapshotError::Beginning`] if the first ones are gone and left no trace, the
    /// writer's, or what keeps an entry from being read.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// let snapshot = context.snapshot_to(std::io::sink()).run()?;
    /// assert_eq!(snapshot.last_seq, 0); // an empty one is one
    /// # Ok(()) });
    /// ```
    pub fn run(mut self) -> Result<Snapshot, SnapshotError> {
        let len = self.total_len()?;
        let planned = self.planned.take().expect("planned just now");
        let facts = planned.head.facts.clone();
        let (first_seq, last_seq) = (planned.head.first_seq(), planned.last_seq);
        let root = self.write(&planned)?;
        Ok(Snapshot {
            name: facts.name,
            epoch: facts.epoch,
            first_seq,
            last_seq,
            root,
            len,
        })
    }

    fn plan(&self) -> Result<Planned, SnapshotError> {
        let latest = self.context.latest()?;
        let last_seq = self.last_seq.unwrap_or(latest);
        if last_seq > latest {
            return Err(SnapshotError::NotThere { last_seq, latest });
        }
        let first_seq = self.context.first_available()?;
        let mut head = Head {
            facts: self.context.shared().control.facts().clone(),
            before: Frontier::default(),
            base_lamport: 0,
            begun_at_ns: now_ns(),
            snapshot: None,
        };
        if first_seq > 1 {
            let first = self.context.shared().oldest_head(first_seq)?;
            let first = first.ok_or(SnapshotError::Beginning { first_seq })?;
            (head.before, head.base_lamport) = (first.before, first.base_lamport);
        }
        // Retention may have removed more since.
        let (first_seq, seq) = (head.first_seq(), last_seq);
        if seq < first_seq - 1 {
            let first_available = first_seq;
            let evicted = ReadError::Evicted {
                seq,
                first_available,
            };
            return Err(evicted.into());
        }
        Ok(Planned {
            sections: self.sections(first_seq, last_seq)?,
            head,
            last_seq,
        })
    }

    /// Where this entry lies.
    fn link(&self, seq: u64) -> Result<Link, ReadError> {
        let (Located::In(link) | Located::Closed(link)) = self.context.shared().locate(seq)?;
        Ok(link)
    }

    fn sections(&self, first_seq: u64, last_seq: u64) -> Result<SectionPlan, ReadError> {
        let mut plan = SectionPlan::new(first_seq);
        let mut next_seq = first_seq;
        while next_seq <= last_seq {
            let link = self.link(next_seq)?;
            let begin = next_seq;
            while next_seq <= last_seq
                && let index = (next_seq - link.base_seq) as usize
                && index < link.segment.geometry().slot_capacity
                && let Some(extent) = link.segment.extent(index)?
            {
                plan.add(extent.len);
                next_seq += 1;
            }
            check_moved(begin, next_seq)?;
        }
        Ok(plan)
    }

    /// Reads and verifies in a thread beside, and writes here.
    fn write(mut self, planned: &Planned) -> Result<Hash, SnapshotError> {
        let total_len = planned.sections.total_len(planned.head.facts.name.len());
        let context = self.context;
        thread::scope(|scope| {
            let (buffers, filled) = mpsc::sync_channel(BUFFERS);
            let pipe = Pipe {
                buffers,
                buffer: Vec::with_capacity(BUFFER_LEN),
            };
            let produced = thread::Builder::new()
                .name("ledger-snapshot".into())
                .spawn_scoped(scope, || produce(context, planned, pipe))
                .map_err(ReadError::Wait)?;
            let mut done_len = 0;
            let mut outcome = Ok(());
            // Whoever fills them ends when nobody takes them any more.
            for buffer in filled {
                outcome = self.writer.write_all(&buffer);
                if outcome.is_err() {
                    break;
                }
                done_len += buffer.len() as u64;
                if let Some(call) = &mut self.on_progress {
                    call(Progress {
                        done_len,
                        total_len: Some(total_len),
                    });
                }
            }
            let joined = produced.join();
            let produced = joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome.map_err(SnapshotError::Write)?;
            let root = produced?;
            self.writer.flush().map_err(SnapshotError::Write)?;
            Ok(root)
        })
    }
}

/// Reads what is planned, and returns its root.
fn produce(context: &Context, planned: &Planned, pipe: Pipe) -> Result<Hash, SnapshotError> {
    let Planned { head, sections, .. } = planned;
    let last_seq = planned.last_seq;
    let mut writer = SnapshotWriter::begin(pipe, head, sections).map_err(SnapshotError::Write)?;
    let mut chunk = Vec::with_capacity(CHUNK_COUNT as usize);
    while writer.next_seq() <= last_seq {
        let begin = writer.next_seq();
        let (Located::In(link) | Located::Closed(link)) = context.shared().locate(begin)?;
        let stored = StoredNodes::of(&link.segment).map_err(ReadError::from)?;
        loop {
            let seq = writer.next_seq();
            let root = stored.as_ref().and_then(|stored| stored.chunk(seq));
            let root = root.filter(|_| writer.takes_chunk() && seq + CHUNK_COUNT - 1 <= last_seq);
            if let Some(root) = root {
                chunk.clear();
                let mut last_lamport = writer.last_lamport();
                for seq in seq..seq + CHUNK_COUNT {
                    let entry = entry(&link, seq)?.ok_or_else(|| missing(seq))?;
                    check_rises(last_lamport, &entry)?;
                    last_lamport = entry.lamport();
                    chunk.push(entry);
                }
                writer
                    .push_chunk(&chunk, root)
                    .map_err(SnapshotError::Write)?;
                continue;
            }
            let here = if seq <= last_seq {
                entry(&link, seq)?
            } else {
                None
            };
            let Some(entry) = here else {
                break;
            };
            check_rises(writer.last_lamport(), &entry)?;
            writer.push(&entry).map_err(SnapshotError::Write)?;
        }
        chunk.clear();
        check_moved(begin, writer.next_seq())?;
    }
    let mut finished = writer.finish().map_err(SnapshotError::Write)?;
    finished.target.flush().map_err(SnapshotError::Write)?;
    Ok(finished.trailer.root)
}

/// Hands bytes over to whoever writes them.
struct Pipe {
    buffers: SyncSender<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER_LEN {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let buffer = std::mem::replace(&mut self.buffer, Vec::with_capacity(BUFFER_LEN));
        let sent = self.buffers.send(buffer);
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// The entry of this seq, if it is in this part, with its checksums verified.
fn entry(link: &Link, seq: u64) -> Result<Option<Entry<'static>>, ReadError> {
    match link.clone().get(seq)? {
        Ok(entry) => {
            entry.verify()?;
            Ok(Some(entry))
        }
        Err(_) => Ok(None),
    }
}

/// Entries are written by processes that may be wrong.
fn check_rises(last_lamport: u64, entry: &Entry<'_>) -> Result<(), ReadError> {
    let least = last_lamport.saturating_add(1);
    match entry.lamport() >= least {
        true => Ok(()),
        false => Err(Corrupt::new("record lamport", entry.lamport(), least).into()),
    }
}

/// A part that was said to hold an entry, and does not, would be asked for ever.
fn check_moved(before: u64, now: u64) -> Result<(), ReadError> {
    match now > before {
        true => Ok(()),
        false => Err(missing(before)),
    }
}

fn missing(seq: u64) -> ReadError {
    Corrupt::new("part that should hold an entry", seq, 0).into()
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}
