//! What one process knows of one context, shared by its appenders, watchers
//! and the thread that provisions them.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam_utils::CachePadded;
use ledger_shm::bell::roster::{ClientId, Listed};
use ledger_shm::control::State;
use ledger_shm::file::Head;
use ledger_shm::format::WITHDRAWN;
use ledger_shm::read::{Found, Link};
use ledger_shm::segment::StoredNodes;
use ledger_shm::slot::Slot;
use ledger_shm::{Bell, Control, Full, Parts, Segment};

use crate::appender::LOOK_AGAIN;
use crate::archive::Archive;
use crate::chain::{Chain, Located};
use crate::error::{DurableError, OpenError, ReadError};
use crate::ledger::{Core, Released};

/// One context as this process sees it.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    pub(crate) control: Control,
    pub(crate) chain: Chain,
    archive: Archive,
    /// What may be appended to; empty in a context opened for reading.
    pub(crate) parts: WritableParts,
    pub(crate) is_appendable: bool,
    /// Mapped for writing, but not faulted in.
    unpopulated: Mutex<Option<Arc<Segment>>>,
    /// The connection over which the daemon was told that we have it open;
    /// 0: none.
    attached_to: AtomicU64,
    bell: ArcSwapOption<Bell>,
    /// Who we are to the daemon; 0: nobody yet.
    client: AtomicU64,
    /// Changes with the bell. Read on every append, written hardly ever.
    bell_version: CachePadded<AtomicU64>,
    /// The first part in memory when retired ones were last let go.
    trimmed_to: AtomicU64,
    wanted: Wanted,
    /// Somebody awaits stable storage, and the daemon has not been told.
    is_sync_wanted: AtomicBool,
    arrivals: Arrivals,
}

impl Shared {
    pub(crate) fn new(core: Arc<Core>, control: Control, is_appendable: bool) -> Shared {
        Shared {
            core,
            control,
            chain: Chain::default(),
            archive: Archive::default(),
            parts: WritableParts::default(),
            is_appendable,
            unpopulated: Mutex::default(),
            attached_to: AtomicU64::new(0),
            bell: ArcSwapOption::empty(),
            client: AtomicU64::new(0),
            bell_version: CachePadded::new(AtomicU64::new(0)),
            trimmed_to: AtomicU64::new(0),
            wanted: Wanted::default(),
            is_sync_wanted: AtomicBool::new(false),
            arrivals: Arrivals::default(),
        }
    }

    /// Of a context that is in files only, of which this is the last.
    pub(crate) fn in_files(core: Arc<Core>, control: Control, last_file: Link) -> Shared {
        let mut shared = Shared::new(core, control, false);
        shared.chain = Chain::of_file(last_file);
        shared
    }

    /// Where a seq is, in memory or in a file.
    pub(crate) fn locate(&self, seq: u64) -> Result<Located, ReadError> {
        let (core, control) = (&self.core, &self.control);
        match self.chain.locate(core, control, seq) {
            Err(ReadError::Evicted {
                first_available, ..
            }) if control.home().is_some() => {
                self.notice_retired();
                if let Some(link) = self.archive.locate(core, control, seq)? {
                    return Ok(Located::In(link));
                }
                let first_seq = self.archive.first_seq(core, control)?;
                Err(ReadError::Evicted {
                    seq,
                    // What retention has removed may be in memory yet.
                    first_available: first_seq.unwrap_or(first_available).min(first_available),
                })
            }
            outcome => outcome,
        }
    }

    /// The first seq that there is, in a file or in memory.
    pub(crate) fn first_available(&self) -> Result<u64, ReadError> {
        let in_memory = self.chain.first_available(&self.core, &self.control)?;
        if in_memory == 1 || self.control.home().is_none() {
            return Ok(in_memory);
        }
        let first_seq = self.archive.first_seq(&self.core, &self.control)?;
        Ok(first_seq.unwrap_or(in_memory).min(in_memory))
    }

    /// What the file that holds the first entry there is says before its records; none if
    /// no file does. Memory that is still mapped may hold that entry as well.
    pub(crate) fn oldest_head(&self, first_seq: u64) -> Result<Option<Head>, ReadError> {
        let (core, control) = (&self.core, &self.control);
        let link = match control.home() {
            Some(_) if !self.chain.is_file() => self.archive.locate(core, control, first_seq)?,
            _ => None,
        };
        let link = match link {
            Some(link) => link,
            None => match self.locate(first_seq)? {
                Located::In(link) | Located::Closed(link) => link,
            },
        };
        let stored = StoredNodes::of(&link.segment)?;
        Ok(stored.map(|stored| stored.head()).transpose()?)
    }

    /// The bell; none in a fork's child, which has not mapped it.
    pub(crate) fn bell(&self) -> Option<Arc<Bell>> {
        let is_mapped = self.core.made_in.is_current();
        is_mapped.then(|| self.bell.load_full()).flatten()
    }

    #[inline]
    pub(crate) fn bell_version(&self) -> u64 {
        self.bell_version.load(Ordering::Acquire)
    }

    /// Enters a watcher in the roster, if there is one and it has room.
    pub(crate) fn enlist(&self, next_seq: u64) -> Option<Listed> {
        let client = match self.client.load(Ordering::Relaxed) {
            0 => return None,
            word => ClientId::from_word(word),
        };
        Listed::new(&self.bell()?, client, next_seq, self.core.made_in)
    }

    pub(crate) fn attached_to(&self) -> u64 {
        self.attached_to.load(Ordering::Relaxed)
    }

    /// Takes note that the daemon does not have this context, or not as it is here: it is
    /// attached to nothing, and stays so for as long as there is this connection.
    pub(crate) fn settle(&self, connection: u64) {
        self.client.store(0, Ordering::Relaxed);
        self.attached_to.store(connection, Ordering::Relaxed);
    }

    /// Takes over the bell of a daemon that has attached us, and has whoever
    /// sleeps on the one before look up. If that fails we are not attached.
    pub(crate) fn attached(
        &self,
        bell: Option<OwnedFd>,
        client: u64,
        connection: u64,
    ) -> Result<(), OpenError> {
        let bell = bell.ok_or_else(|| OpenError::Daemon("an answer without a bell".into()));
        let bell = bell
            .and_then(|fd| Ok(Bell::map(fd)?))
            .inspect_err(|_| self.release(connection))?;
        self.attached_to.store(connection, Ordering::Relaxed);
        self.client.store(client, Ordering::Relaxed);
        let before = self.bell.swap(Some(Arc::new(bell)));
        self.bell_version.fetch_add(1, Ordering::Release);
        if let Some(before) = before {
            before.ring_all();
        }
        Ok(())
    }

    /// Has the daemon told that this is not used any more which was opened over a connection.
    pub(crate) fn release(&self, connection: u64) {
        self.core.release(Released {
            epoch: self.control.epoch(),
            append: self.is_appendable,
            connection,
        });
    }

    /// Whether there is something to look at where the log ended when it was
    /// last looked at.
    pub(crate) fn has_come(&self, link: &Link, seq: u64) -> bool {
        match link.peek(seq) {
            Ok(Found::Nothing) => false,
            // Continued, replaced, dropped, or damaged.
            Ok(Found::Closed) => {
                let is_gone = self.control.state().map_or(true, State::is_gone);
                // A snapshot was loaded that has more.
                let is_in_files = self.control.archived_seq() >= seq;
                link.segment.successor().is_some() || is_gone || is_in_files
            }
            _ => true,
        }
    }

    /// What became of waiting for stable storage; none if that goes on.
    pub(crate) fn durable_outcome(
        &self,
        seq: u64,
        deadline: Option<Instant>,
    ) -> Option<Result<(), DurableError>> {
        let durable_seq = self.control.durable_seq();
        if durable_seq >= seq {
            return Some(Ok(()));
        }
        if self.control.state().is_ok_and(State::is_gone) {
            return Some(Err(DurableError::Closed));
        }
        let is_over = deadline.is_some_and(|deadline| deadline <= Instant::now());
        is_over.then_some(Err(DurableError::TimedOut { seq, durable_seq }))
    }

    /// Has the background thread tell the daemon to hurry to stable storage.
    #[cfg(feature = "tokio")]
    pub(crate) fn want_sync(&self) {
        if !self.is_sync_wanted.swap(true, Ordering::AcqRel) {
            self.core.wake_provisioner();
        }
    }

    /// Whether the daemon is to be told.
    pub(crate) fn take_sync_wanted(&self) -> bool {
        self.is_sync_wanted.swap(false, Ordering::AcqRel)
    }

    /// Has the background thread let go of what was retired, if anything was
    /// since the last time.
    pub(crate) fn notice_retired(&self) {
        let first_part = self.control.first_part();
        if self.trimmed_to.swap(first_part, Ordering::Relaxed) != first_part {
            self.core.wake_provisioner();
        }
    }

    /// Leaves a segment to the background thread to fault in, which has to be
    /// woken for it.
    pub(crate) fn populate_later(&self, segment: Arc<Segment>) {
        let mut unpopulated = self
            .unpopulated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *unpopulated = Some(segment);
    }

    pub(crate) fn take_unpopulated(&self) -> Option<Arc<Segment>> {
        self.unpopulated
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Lets go of segments that nobody here needs any more.
    pub(crate) fn trim(&self) {
        if self.control.state().is_ok_and(|state| !state.is_gone()) {
            self.chain.trim(self.control.first_part());
        }
        self.parts.trim();
    }

    /// Asks for memory for a record of this length. Wakes the provisioning
    /// thread once, however often it is asked before it looks.
    pub(crate) fn want(&self, record_len: usize) {
        self.wanted
            .record_len
            .fetch_max(record_len, Ordering::Relaxed);
        if !self.wanted.is_wanted.swap(true, Ordering::AcqRel) {
            self.core.wake_provisioner();
        }
    }

    /// Keeps a wish that could not be met, without waking anybody.
    pub(crate) fn want_again(&self, record_len: usize) {
        self.wanted
            .record_len
            .fetch_max(record_len, Ordering::Relaxed);
        self.wanted.is_wanted.store(true, Ordering::Release);
    }

    /// Whether something was asked for since the last time.
    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.is_wanted.load(Ordering::Acquire)
    }

    /// What was asked for since the last time, if anything was.
    pub(crate) fn take_wanted(&self) -> Option<usize> {
        let is_wanted = self.wanted.is_wanted.swap(false, Ordering::AcqRel);
        is_wanted.then(|| self.wanted.record_len.swap(0, Ordering::Relaxed))
    }

    /// Tells who waits that memory has arrived, or why it has not.
    pub(crate) fn arrived(&self, why_not: Option<Full>) {
        self.parts.set_why(why_not.unwrap_or(Full::NoSpare));
        self.announce();
    }

    /// Has those who wait for memory try again.
    pub(crate) fn announce(&self) {
        let mut count = self
            .arrivals
            .count
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        self.arrivals.changed.notify_all();
    }

    pub(crate) fn arrivals(&self) -> u64 {
        *self
            .arrivals
            .count
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until memory beyond the current segment is there; says whether it is.
    pub(crate) fn wait_ready(&self, timeout: Duration) -> bool {
        if !self.core.made_in.is_current() {
            return false;
        }
        let deadline = Instant::now().checked_add(timeout);
        loop {
            let seen = self.arrivals();
            if self.parts.spare(0).is_ok() {
                return true;
            }
            let left = deadline.map_or(LOOK_AGAIN, |deadline| {
                deadline.saturating_duration_since(Instant::now())
            });
            if left.is_zero() {
                return false;
            }
            self.want(0);
            self.wait_for_arrival(seen, left);
        }
    }

    /// Waits until something arrived after `seen`, at most `timeout`.
    pub(crate) fn wait_for_arrival(&self, seen: u64, timeout: Duration) {
        let count = self
            .arrivals
            .count
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        drop(
            self.arrivals
                .changed
                .wait_timeout_while(count, timeout, |count| *count == seen),
        );
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // What was let go of before may be open again, as another one's.
        let is_attached = *self.client.get_mut() != 0;
        if is_attached && self.core.made_in.is_current() {
            self.release(self.attached_to());
        }
    }
}

#[derive(Debug, Default)]
struct Wanted {
    is_wanted: AtomicBool,
    record_len: AtomicUsize,
}

#[derive(Debug, Default)]
struct Arrivals {
    count: Mutex<u64>,
    changed: Condvar,
}

/// The segments that this process has mapped for appending, by age.
#[derive(Debug)]
pub(crate) struct WritableParts {
    segments: ArcSwap<Vec<Arc<Segment>>>,
    /// Held while one is mapped. A `try_append` never waits for it.
    mapping: Mutex<()>,
    /// Why there is no spare, as it was when one was last asked for: a number of
    /// [`REASONS`], or behind those an error of the kernel's.
    why: AtomicUsize,
}

const REASONS: [Full; 7] = [
    Full::NoSpare,
    Full::Rolling,
    Full::Reopening,
    Full::Budget,
    Full::NoMemory,
    Full::DaemonDown,
    Full::Unwritten,
];

impl Default for WritableParts {
    fn default() -> WritableParts {
        WritableParts {
            segments: ArcSwap::default(),
            mapping: Mutex::default(),
            why: AtomicUsize::new(0),
        }
    }
}

impl WritableParts {
    pub(crate) fn set_why(&self, why: Full) {
        let of_kernel =
            |os_error: i32| usize::try_from(os_error).map(|error| REASONS.len() + error);
        let index = match why {
            Full::Kernel { os_error } => of_kernel(os_error).ok(),
            why => REASONS.iter().position(|reason| *reason == why),
        };
        self.why.store(index.unwrap_or(0), Ordering::Relaxed);
    }

    pub(crate) fn why(&self) -> Full {
        let index = self.why.load(Ordering::Relaxed);
        match index.checked_sub(REASONS.len()) {
            None => REASONS[index],
            Some(error) => Full::Kernel {
                os_error: i32::try_from(error).unwrap_or(i32::MAX),
            },
        }
    }

    /// Adds a part unless it is mapped; says whether it was not. One thread at a
    /// time, so that none is mapped twice.
    pub(crate) fn add_if_missing<E>(
        &self,
        part: u64,
        map: impl FnOnce() -> Result<Arc<Segment>, E>,
    ) -> Result<bool, E> {
        let _mapping = self.mapping.lock().unwrap_or_else(PoisonError::into_inner);
        let is_missing = self.mapped(part).is_none();
        if is_missing {
            self.add(map()?);
        }
        Ok(is_missing)
    }

    fn add(&self, segment: Arc<Segment>) {
        self.segments.rcu(|segments| {
            let mut segments = Vec::clone(segments);
            segments.push(Arc::clone(&segment));
            segments
        });
    }

    /// The part in which the log ended when last seen.
    pub(crate) fn newest(&self) -> Option<Arc<Segment>> {
        self.segments
            .load()
            .iter()
            .filter(|segment| !matches!(segment.base_seq(), 0 | WITHDRAWN))
            .max_by_key(|segment| (segment.base_seq(), !is_left_empty(segment)))
            .cloned()
    }

    /// Lets go of what neither is a spare nor comes after the newest part's
    /// predecessor. Unmapping is slow, so this is not for appenders to do.
    pub(crate) fn trim(&self) {
        let Some(newest) = self.newest() else { return };
        let is_old = |segment: &Arc<Segment>| match segment.base_seq() {
            // An appender that is still there would unmap it itself, later.
            _ if Arc::strong_count(segment) > 1 => false,
            0 => false,
            WITHDRAWN => true,
            // One that begins where the newest does was left empty.
            base_seq => base_seq <= newest.base_seq() && segment.part() != newest.part(),
        };
        if self.segments.load().iter().any(&is_old) {
            self.segments.rcu(|segments| {
                segments
                    .iter()
                    .filter(|segment| !is_old(segment))
                    .cloned()
                    .collect::<Vec<_>>()
            });
        }
    }
}

/// Whether a part ended before it had an entry: the one after it then begins
/// with the same seq.
fn is_left_empty(segment: &Segment) -> bool {
    matches!(segment.look(0), Ok(Slot::Seal(_) | Slot::Closed))
}

impl Parts for WritableParts {
    fn mapped(&self, part: u64) -> Option<Arc<Segment>> {
        self.segments
            .load()
            .iter()
            .find(|segment| segment.part() == part)
            .cloned()
    }

    fn spare(&self, record_len: usize) -> Result<Arc<Segment>, Full> {
        self.segments
            .load()
            .iter()
            .find(|segment| segment.is_spare() && segment.geometry().fits(record_len))
            .cloned()
            .ok_or_else(|| self.why())
    }
}
