//! A watcher: a cursor that goes on for ever. History first, then live, no gap
//! and no duplicate, in order.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::sync::OnceLock;
#[cfg(feature = "tokio")]
use std::task::Poll;
use std::time::{Duration, Instant};

use crossbeam_utils::Backoff;
use ledger_shm::bell::SLEEP_MAX;
use ledger_shm::bell::roster::Listed;
use ledger_shm::read::{Cursor, Filter, Found, Link};
use ledger_shm::{Corrupt, Entry};

use crate::chain::Located;
use crate::context::Context;
use crate::dispatch::{Registered, Wanted};
use crate::error::ReadError;

/// How often a watcher looks, each time after a longer pause, before it
/// sleeps: some microseconds in all. It never yields instead: a yielding thread
/// waits until all others have had their turn, which no bell can end.
const LOOKS_BEFORE_SLEEP: u32 = 7;

/// Reads one context from some seq on and waits at its end.
///
/// It never slows an appender and is never dropped by one. If it falls so far
/// behind that what it wants has left memory, it says so and can be moved.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use std::thread;
/// use ledger_client::NewEntry;
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// let mut appender = context.appender()?;
/// let watching = thread::spawn(move || {
///     let mut watcher = context.watch(1).key("facts");
///     watcher.next().map(|entry| entry.seq())
/// });
/// appender.append(&NewEntry::new("traces", "cycle 1"))?;
/// appender.append(&NewEntry::new("facts", "income: 4200"))?;
/// assert_eq!(watching.join().expect("no panic")?, 2);
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct Watcher {
    context: Context,
    filter: Filter,
    /// Once it waits in an event loop or as a future.
    registered: OnceLock<Registered>,
    /// What others are told of it.
    listing: Listing,
    /// Where it begins. The cursor may be waiting before it.
    first_seq: u64,
    cursor: Option<Cursor>,
}

/// A watcher's line in the context's roster.
#[derive(Debug)]
enum Listing {
    /// It wants none.
    Unlisted,
    /// As of this version of the bell; none if that has no room.
    Listed(u64, Option<Listed>),
}

impl Watcher {
    pub(crate) fn new(context: Context, first_seq: u64) -> Watcher {
        Watcher {
            context,
            filter: Filter::default(),
            registered: OnceLock::new(),
            listing: Listing::Unlisted,
            first_seq,
            cursor: None,
        }
    }

    /// One that others are told of.
    pub(crate) fn listed(context: Context, first_seq: u64) -> Watcher {
        let mut watcher = Watcher::new(context, first_seq);
        watcher.listing = Listing::Listed(0, None);
        watcher
    }

    /// Whether nobody waits with it.
    fn is_range(&self) -> bool {
        matches!(self.listing, Listing::Unlisted)
    }

    /// Only entries with exactly this key.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # let mut appender = context.appender()?;
    /// # appender.append(&ledger_client::NewEntry::new("traces", "cycle 1"))?;
    /// # appender.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let mut facts = context.watch(1).key("facts");
    /// assert_eq!(facts.next()?.key(), "facts");
    /// # Ok(()) });
    /// ```
    pub fn key(mut self, key: impl Into<String>) -> Watcher {
        self.filter.set_key(key);
        self
    }

    pub(crate) fn context(&self) -> &Context {
        &self.context
    }

    /// Whether a look for the next entry may wait for a disk: it lies in a file, or where it
    /// lies is not known yet.
    #[cfg(feature = "tokio")]
    pub(crate) fn may_wait(&self) -> bool {
        let is_file = |cursor: &Cursor| cursor.link().segment.part() == 0;
        self.cursor.as_ref().is_none_or(is_file)
    }

    /// The seq of the first entry that has not been looked at.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let mut watcher = context.watch(1);
    /// watcher.next()?;
    /// let remembered = watcher.next_seq();
    /// assert_eq!(context.watch(remembered).next_seq(), 2);
    /// # Ok(()) });
    /// ```
    pub fn next_seq(&self) -> u64 {
        self.cursor.as_ref().map_or(self.first_seq, |cursor| {
            cursor.next_seq().max(self.first_seq)
        })
    }

    /// Goes on from another seq.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let mut watcher = context.watch(1);
    /// let seq = watcher.next()?.seq();
    /// watcher.seek(seq); // the same once more
    /// assert_eq!(watcher.next()?.seq(), seq);
    /// # Ok(()) });
    /// ```
    pub fn seek(&mut self, next_seq: u64) {
        self.first_seq = next_seq.max(1);
        self.cursor = None;
        if let Some(registered) = self.registered.get() {
            registered.signal();
        }
    }

    /// The next entry, if there is one already. Never waits.
    ///
    /// # Errors
    ///
    /// [`ReadError`]. The watcher does not move past what it could not read, and
    /// says the same again: only [`seek`](Self::seek) moves it, to the first
    /// seq there is after [`ReadError::Evicted`], behind
    /// [`next_seq`](Self::next_seq) after [`ReadError::Corrupt`].
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let mut watcher = context.watch(1);
    /// loop {
    ///     match watcher.try_next() {
    ///         Ok(Some(entry)) => println!("{}", entry.seq()),
    ///         Ok(None) => break,
    ///         Err(ledger_client::ReadError::Evicted { first_available, .. }) => {
    ///             watcher.seek(first_available);
    ///         }
    ///         Err(error) => return Err(error.into()),
    ///     }
    /// }
    /// # Ok(()) });
    /// ```
    #[inline(always)]
    pub fn try_next(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        if !self.advance()? && !self.arm()? {
            return Ok(None);
        }
        self.current()
    }

    /// The next entry, waiting for it if need be: spins briefly, then sleeps.
    ///
    /// # Errors
    ///
    /// As [`try_next`](Self::try_next).
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let mut watcher = context.watch(1);
    /// let entry = watcher.next()?;
    /// assert_eq!(entry.payload(), b"income: 4200");
    /// # Ok(()) });
    /// ```
    #[allow(
        clippy::should_implement_trait,
        reason = "what it returns borrows from it, which an Iterator cannot say"
    )]
    pub fn next(&mut self) -> Result<Entry<'_>, ReadError> {
        self.wait_until(None)?;
        let entry = self.current()?;
        Ok(entry.expect("an untimed wait ends with an entry"))
    }

    /// As [`next`](Self::next), but `None` after `timeout`.
    ///
    /// # Errors
    ///
    /// As [`try_next`](Self::try_next).
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// use std::time::Duration;
    ///
    /// let mut watcher = context.watch(1);
    /// assert!(watcher.next_timeout(Duration::from_millis(5))?.is_none());
    /// # Ok(()) });
    /// ```
    pub fn next_timeout(&mut self, timeout: Duration) -> Result<Option<Entry<'_>>, ReadError> {
        if !self.wait_until(Instant::now().checked_add(timeout))? {
            return Ok(None);
        }
        self.current()
    }

    /// For an event loop: a descriptor that is readable when it is worth
    /// looking. Call [`try_next`](Self::try_next) until it returns nothing; then
    /// the descriptor is reset, and becomes readable when an entry comes. Fit
    /// for poll(2), and for epoll(7), level-triggered and edge-triggered.
    ///
    /// Made at the first call. The same descriptor is what [`AsFd`] returns,
    /// which cannot say why there is none.
    ///
    /// # Errors
    ///
    /// The kernel's, when the process has no descriptor or thread left.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    ///
    /// let mut watcher = context.watch(1);
    /// assert!(watcher.try_next()?.is_none());
    /// context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// poll(&mut [PollFd::new(watcher.event_fd()?, PollFlags::POLLIN)], PollTimeout::NONE)?;
    /// assert_eq!(watcher.try_next()?.expect("it said so").seq(), 1);
    /// # Ok(()) });
    /// ```
    pub fn event_fd(&self) -> io::Result<BorrowedFd<'_>> {
        self.registered()?.event()
    }

    /// The same for async code.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// # runtime.block_on(async {
    /// let mut watcher = context.watch(1).into_async();
    /// assert_eq!(watcher.next().await?.seq(), 1);
    /// # Ok::<_, ledger_client::ReadError>(())
    /// # })?;
    /// # Ok(()) });
    /// ```
    #[cfg(feature = "tokio")]
    pub fn into_async(self) -> crate::AsyncWatcher {
        crate::AsyncWatcher::new(self)
    }

    fn registered(&self) -> io::Result<&Registered> {
        if let Some(registered) = self.registered.get() {
            return Ok(registered);
        }
        let registered = Registered::new(self.context.shared())?;
        Ok(self.registered.get_or_init(|| registered))
    }

    /// Has an event loop told when an entry comes, if this is in one; true if
    /// one has come meanwhile.
    #[cold]
    fn arm(&mut self) -> Result<bool, ReadError> {
        self.tell();
        let in_loop = |registered: &&Registered| registered.has_event();
        while let Some(registered) = self.registered.get().filter(in_loop)
            && let Some(cursor) = &self.cursor
            && registered.is_alive()
        {
            registered.reset();
            if registered.wait_for(
                Wanted::Entry(cursor.link().clone(), cursor.next_seq()),
                None,
            ) {
                return Ok(false);
            }
            // There may be more than one, or an error.
            registered.signal();
            if self.advance()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Advances, or has the task woken when it is worth trying again.
    #[cfg(feature = "tokio")]
    pub(crate) fn poll_advance(
        &mut self,
        task: &mut std::task::Context<'_>,
    ) -> Poll<Result<(), ReadError>> {
        loop {
            if self.advance()? {
                return Poll::Ready(Ok(()));
            }
            self.tell();
            let registered = self.registered().map_err(ReadError::Wait)?;
            if !registered.is_alive() {
                let forked = io::Error::other("this watcher belongs to the parent process");
                return Poll::Ready(Err(ReadError::Wait(forked)));
            }
            if let Some(cursor) = &self.cursor
                && registered.wait_for(
                    Wanted::Entry(cursor.link().clone(), cursor.next_seq()),
                    Some(task.waker()),
                )
            {
                return Poll::Pending;
            }
        }
    }

    /// As [`current`](Self::current), holding the memory.
    #[cfg(feature = "tokio")]
    pub(crate) fn held_current(&mut self) -> Result<Option<Entry<'static>>, ReadError> {
        match &mut self.cursor {
            Some(cursor) => Ok(cursor.held_entry()?),
            None => Ok(None),
        }
    }

    /// The entry that the last advance stopped at.
    #[inline(always)]
    pub(crate) fn current(&mut self) -> Result<Option<Entry<'_>>, ReadError> {
        match &mut self.cursor {
            Some(cursor) => Ok(cursor.entry()?),
            None => Ok(None),
        }
    }

    /// Moves behind the next entry that is wanted; false if there is none yet.
    #[inline(always)]
    fn advance(&mut self) -> Result<bool, ReadError> {
        loop {
            let Some(cursor) = &mut self.cursor else {
                self.locate()?;
                continue;
            };
            match cursor.step(&self.filter)? {
                Found::Entry => {
                    if let Listing::Listed(_, Some(listed)) = &self.listing {
                        listed.set_next_seq(cursor.next_seq());
                    }
                    return Ok(true);
                }
                Found::Nothing => return Ok(false),
                end @ (Found::Seal(_) | Found::Closed | Found::Elsewhere) => {
                    if !self.follow(end)? {
                        return Ok(false);
                    }
                }
            }
        }
    }

    #[cold]
    fn locate(&mut self) -> Result<(), ReadError> {
        let shared = self.context.shared();
        shared.notice_retired();
        let (Located::In(link) | Located::Closed(link)) = shared.locate(self.first_seq)?;
        self.filter.set_first_seq(self.first_seq);
        let frontier = link.base_seq + link.segment.frontier()? as u64;
        self.cursor = Some(Cursor::new(link, self.first_seq.min(frontier)));
        self.tell();
        Ok(())
    }

    /// Goes to the segment that follows this end; false if there is none yet.
    #[cold]
    fn follow(&mut self, end: Found) -> Result<bool, ReadError> {
        let shared = self.context.shared();
        shared.notice_retired();
        let at = self
            .cursor
            .as_ref()
            .map_or(self.first_seq, Cursor::next_seq);
        // Files have no part of their own, and one may take the place of another.
        let is_here =
            |cursor: &Cursor, link: &Link| Arc::ptr_eq(&cursor.link().segment, &link.segment);
        match shared.locate(at)? {
            Located::In(link) => {
                let cursor = self.cursor.as_ref();
                let is_new = !cursor.is_some_and(|cursor| is_here(cursor, &link));
                if let Found::Seal(to) = end
                    && !is_new
                {
                    return Err(Corrupt::new("a seal before the frontier", to, 0).into());
                }
                if let Some(cursor) = &mut self.cursor {
                    cursor.follow(link);
                }
                Ok(is_new)
            }
            // Nothing is appended to files while no daemon runs: whoever waits has to
            // open it again, and who does not has come to the end.
            Located::Closed(_) if shared.chain.is_file() && self.is_range() => Ok(false),
            Located::Closed(_) if shared.control.state()?.is_gone() => Err(ReadError::Closed),
            Located::Closed(link) => {
                // Where it will go on; it may come from a file.
                match &mut self.cursor {
                    Some(cursor) if !is_here(cursor, &link) => cursor.follow(link),
                    _ => {}
                }
                Ok(false)
            }
        }
    }

    /// Says in the roster how far it has come, after something that takes long
    /// anyway; once per bell if that has no room.
    fn tell(&mut self) {
        let (next_seq, shared) = (self.next_seq(), self.context.shared());
        let Listing::Listed(version, listed) = &mut self.listing else {
            return;
        };
        let now = shared.bell_version();
        if *version != now {
            *version = now;
            // The one before goes first, and its room is free then.
            *listed = None;
            *listed = shared.enlist(next_seq);
        } else if let Some(listed) = listed {
            listed.set_next_seq(next_seq);
        }
    }

    /// Advances, waiting until `deadline` at most; without one, for ever.
    fn wait_until(&mut self, deadline: Option<Instant>) -> Result<bool, ReadError> {
        let backoff = Backoff::new();
        let mut looks = 0;
        loop {
            if self.advance()? {
                return Ok(true);
            }
            if looks < LOOKS_BEFORE_SLEEP {
                looks += 1;
                backoff.spin();
                continue;
            }
            let left = match deadline {
                None => SLEEP_MAX,
                Some(deadline) => deadline.saturating_duration_since(Instant::now()),
            };
            if left.is_zero() {
                return Ok(false);
            }
            self.sleep(left.min(SLEEP_MAX))?;
        }
    }

    fn sleep(&mut self, left: Duration) -> Result<(), ReadError> {
        self.tell();
        self.context.shared().notice_retired();
        let Some(bell) = self.context.shared().bell() else {
            // No daemon has made a bell: look again as often as a sleep may
            // take at most.
            std::thread::sleep(left);
            return Ok(());
        };
        let parked = bell.park();
        let shared = self.context.shared();
        match &self.cursor {
            Some(cursor) if !shared.has_come(cursor.link(), cursor.next_seq()) => {
                parked.sleep(left);
            }
            _ => parked.found(),
        }
        Ok(())
    }
}

/// The descriptor of [`Watcher::event_fd`].
///
/// # Panics
///
/// If there is none left: call [`Watcher::event_fd`] first to be told.
impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event_fd()
            .unwrap_or_else(|error| panic!("a watcher's descriptor: {error}"))
    }
}

/// As [`AsFd`].
impl AsRawFd for Watcher {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}
