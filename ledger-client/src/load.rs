//! Loading a snapshot: the daemon makes a context of it, or has one go on with it.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use ledger_shm::control::InvalidName;
use ledger_shm::file::{HEAD_LEN_MAX, Head, SnapshotError, SnapshotReader};
use ledger_shm::merkle::Hash;
use ledger_shm::object::Epoch;

use crate::error::{LoadError, OpenError};
use crate::ledger::Ledger;
use crate::snapshot::Progress;
use crate::wire::{LoadOutcome, Refusal, Reply, Request};

/// Bytes that are passed on at once.
const BUFFER_LEN: usize = 256 << 10;
/// More than what the daemon says at the end.
const OUTCOME_LEN_MAX: u64 = 64 << 10;

/// What was loaded.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # let context = ledger.context("loan-7").open_or_create()?;
/// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
/// let mut bytes = Vec::new();
/// context.snapshot_to(&mut bytes).run()?;
/// let loaded = ledger.load_from(&bytes[..]).name("loan-8").run()?;
/// assert_eq!((loaded.name.as_str(), loaded.new_count), ("loan-8", 1));
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loaded {
    /// The context's name.
    pub name: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// Seq of the snapshot's first entry, also if there is none.
    pub first_seq: u64,
    /// Seq of its last entry; that before the first if there is none.
    pub last_seq: u64,
    /// Entries that the context did not have before.
    pub new_count: u64,
    /// Root of the tree over all entries up to the last one.
    pub root: Hash,
}

/// A snapshot that is about to be loaded.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # let mut bytes = Vec::new();
/// # ledger.context("loan-7").open_or_create()?.snapshot_to(&mut bytes).run()?;
/// let error = ledger.load_from(&bytes[..]).only_new().run().unwrap_err();
/// assert!(error.to_string().contains("there is a context"));
/// # Ok(()) });
/// ```
#[must_use = "nothing is loaded before `run`"]
pub struct LoadFrom<'a, R> {
    ledger: &'a Ledger,
    reader: R,
    name: Option<String>,
    is_only_new: bool,
    on_progress: Option<Box<dyn FnMut(Progress) + 'a>>,
}

impl<R: fmt::Debug> fmt::Debug for LoadFrom<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadFrom")
            .field("reader", &self.reader)
            .field("name", &self.name)
            .field("is_only_new", &self.is_only_new)
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// Loads a snapshot, which the daemon verifies to its last byte before anything
    /// changes. Where there is no context of its name there is one then, with every
    /// entry as it was: its seq, its time, its Lamport time; the next append goes on
    /// behind them. Where there is one, the snapshot has to begin with the same entries,
    /// which the roots of both prove; what it has more is there then, for those who
    /// watch, too. Either all of it is there and on stable storage, or nothing has
    /// changed, whoever dies meanwhile.
    ///
    /// It takes the right `admin` and a daemon that keeps an archive.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let mut bytes = Vec::new();
    /// context.snapshot_to(&mut bytes).run()?;
    /// ledger.load_from(&bytes[..]).name("loan-8").run()?;
    /// let copy = ledger.context("loan-8").open()?;
    /// assert_eq!(copy.appender()?.append(&ledger_client::NewEntry::new("facts", "more"))?.seq, 2);
    /// # Ok(()) });
    /// ```
    pub fn load_from<R: Read>(&self, reader: R) -> LoadFrom<'_, R> {
        LoadFrom {
            ledger: self,
            reader,
            name: None,
            is_only_new: false,
            on_progress: None,
        }
    }
}

impl<'a, R: Read> LoadFrom<'a, R> {
    /// What the context is called. Default: what it was called.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let mut bytes = Vec::new();
    /// # ledger.context("loan-7").open_or_create()?.snapshot_to(&mut bytes).run()?;
    /// let error = ledger.load_from(&bytes[..]).name("").run().unwrap_err();
    /// assert!(error.to_string().contains("name is empty"));
    /// # Ok(()) });
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Not if there is a context of that name, whatever it holds.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let mut bytes = Vec::new();
    /// # ledger.context("loan-7").open_or_create()?.snapshot_to(&mut bytes).run()?;
    /// assert!(ledger.load_from(&bytes[..]).only_new().run().is_err());
    /// # Ok(()) });
    /// ```
    pub fn only_new(mut self) -> Self {
        self.is_only_new = true;
        self
    }

    /// Calls this from time to time while bytes are passed to the daemon.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let mut bytes = Vec::new();
    /// # ledger.context("loan-7").open_or_create()?.snapshot_to(&mut bytes).run()?;
    /// let mut done_len = 0;
    /// let load = ledger.load_from(&bytes[..]).name("loan-8");
    /// load.on_progress(|progress| done_len = progress.done_len).run()?;
    /// assert_eq!(done_len, bytes.len() as u64);
    /// # Ok(()) });
    /// ```
    pub fn on_progress(mut self, call: impl FnMut(Progress) + 'a) -> Self {
        self.on_progress = Some(Box::new(call));
        self
    }

    /// Loads it, and waits until it is on stable storage.
    ///
    /// # Errors
    ///
    /// [`LoadError`]
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let mut bytes = Vec::new();
    /// # ledger.context("loan-7").open_or_create()?.snapshot_to(&mut bytes).run()?;
    /// let loaded = ledger.load_from(&bytes[..]).name("loan-8").run()?;
    /// assert_eq!(loaded.last_seq, 0); // an empty one is one, too
    /// # Ok(()) });
    /// ```
    pub fn run(mut self) -> Result<Loaded, LoadError> {
        // Whose it is, and whether it is one, is clear without the daemon.
        let (begin, head) = begun(&mut self.reader)?;
        let of_snapshot = head.map_or_else(String::new, |head| head.facts.name.clone());
        let name = self.name.take().unwrap_or(of_snapshot);
        let name = InvalidName::check(name.as_bytes())
            .map_err(OpenError::from)?
            .to_owned();

        let core = self.ledger.core();
        let answer = core.ask(&Request::Load {
            name: name.clone(),
            only_new: self.is_only_new,
        })?;
        let refused = |refusal| match refusal {
            Refusal::NotLoaded(why) => LoadError::NotLoaded(why),
            refusal => OpenError::refused(&name, &core.instance, refusal).into(),
        };
        let stream = match (answer.reply, answer.fd) {
            (Reply::Load, Some(fd)) => UnixStream::from(fd),
            (Reply::Refused(refusal), _) => return Err(refused(refusal)),
            _ => return Err(core.line.protocol("an answer to another question").into()),
        };
        self.pass_on(&begin, &stream)?;
        match outcome(&stream).map_err(LoadError::Unanswered)? {
            LoadOutcome::Refused(refusal) => Err(refused(refusal)),
            LoadOutcome::Loaded {
                epoch,
                first_seq,
                last_seq,
                new_count,
                root,
            } => Ok(Loaded {
                name,
                epoch: Epoch(epoch),
                first_seq,
                last_seq,
                new_count,
                root,
            }),
        }
    }

    /// Passes all bytes on, unless the daemon has heard enough.
    fn pass_on(&mut self, begin: &[u8], mut stream: &UnixStream) -> Result<(), LoadError> {
        let mut buffer = vec![0; BUFFER_LEN];
        let mut done_len = 0;
        let mut next = begin;
        loop {
            match stream.write_all(next) {
                Ok(()) => {}
                Err(error) if is_unwanted(&error) => return Ok(()),
                // What the daemon has by then is no whole one.
                Err(error) => return Err(LoadError::NotPassedOn(error)),
            }
            done_len += next.len() as u64;
            if let Some(call) = &mut self.on_progress {
                call(Progress {
                    done_len,
                    total_len: None,
                });
            }
            let len = match self.reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                Err(error) => {
                    // One byte too many: what was read may be a whole one, and is not meant.
                    let _ = stream.write_all(&[0]);
                    return Err(SnapshotError::Read(error).into());
                }
            };
            next = &buffer[..len];
        }
        // If that fails, it has heard enough.
        let _ = stream.shutdown(Shutdown::Write);
        Ok(())
    }
}

/// The first bytes of a snapshot, and what they say.
pub(crate) fn begun(reader: &mut impl Read) -> Result<(Vec<u8>, Option<Head>), SnapshotError> {
    let mut begin = Vec::new();
    let first = reader.take(HEAD_LEN_MAX as u64).read_to_end(&mut begin);
    first.map_err(SnapshotError::Read)?;
    let head = SnapshotReader::new(&begin[..]).next_section()?.cloned();
    Ok((begin, head))
}

/// Whether the other side wants no more, and says why.
fn is_unwanted(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
    )
}

/// What the daemon says in the end.
fn outcome(stream: &UnixStream) -> io::Result<LoadOutcome> {
    let mut said = Vec::new();
    let end = stream.take(OUTCOME_LEN_MAX).read_to_end(&mut said);
    // A daemon that had not read everything resets the connection behind what it said.
    match (LoadOutcome::decode(&said), end) {
        (Some(outcome), _) => Ok(outcome),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(ErrorKind::UnexpectedEof.into()),
    }
}
