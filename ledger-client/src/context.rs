//! One context: open it, read it, make appenders and watchers of it.

use std::sync::Arc;

use ledger_shm::bell::roster::Roster;
use ledger_shm::control::{InvalidName, Sizes, State};
use ledger_shm::entry::Limits;
use ledger_shm::object::Epoch;
use ledger_shm::read::Found;
use ledger_shm::segment::Glance;
use ledger_shm::{Control, Corrupt, Entry};

use crate::appender::Appender;
use crate::chain::Located;
use crate::error::{AppendError, ObjectError, OpenError, ReadError};
use crate::ledger::{Ledger, Released};
use crate::line::Answer;
use crate::provision;
use crate::range::Range;
use crate::shared::Shared;
use crate::watcher::Watcher;
use crate::wire::{Reply, Request};

/// How a context is opened.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// let context = ledger.context("loan-7").open_or_create()?;
/// let reading = ledger.context("loan-7").open_read_only()?;
/// assert_eq!(context.epoch(), reading.epoch());
/// # Ok(()) });
/// ```
#[derive(Debug)]
#[must_use = "call one of the open methods"]
pub struct ContextOptions<'a> {
    ledger: &'a Ledger,
    name: &'a [u8],
    sizes: Sizes,
}

impl<'a> ContextOptions<'a> {
    pub(crate) fn new(ledger: &'a Ledger, name: &'a [u8]) -> ContextOptions<'a> {
        ContextOptions {
            ledger,
            name,
            sizes: Sizes::default(),
        }
    }

    /// How large the segments of the context are if this creates it, for those
    /// who know their load. One that exists keeps what it has. Default: as the
    /// daemon's options have it.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::Sizes;
    ///
    /// let sizes = Sizes { first_len: Some(1 << 20), ..Sizes::default() };
    /// let busy = ledger.context("busy").sizes(sizes).open_or_create()?;
    /// # Ok(()) });
    /// ```
    pub fn sizes(mut self, sizes: Sizes) -> Self {
        self.sizes = sizes;
        self
    }

    /// Opens the context, making it if there is none.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the name or the sizes are none, no daemon, no room, no
    /// right.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let made = ledger.context("loan-7").open_or_create()?;
    /// let found = ledger.context("loan-7").open_or_create()?;
    /// assert_eq!(made.epoch(), found.epoch());
    /// # Ok(()) });
    /// ```
    pub fn open_or_create(self) -> Result<Context, OpenError> {
        self.attach(Some(self.sizes), true)
    }

    /// Opens an existing context for appending and reading.
    ///
    /// # Errors
    ///
    /// [`OpenError::Unknown`] if there is none; others as for
    /// [`open_or_create`](Self::open_or_create).
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// assert!(ledger.context("loan-7").open().unwrap_err().is_unknown());
    /// # Ok(()) });
    /// ```
    pub fn open(self) -> Result<Context, OpenError> {
        self.attach(None, true)
    }

    /// Opens an existing context for reading. Its memory is mapped read-only.
    /// Works without a daemon, and with a context that it has quarantined: what
    /// validates in memory can be read.
    ///
    /// # Errors
    ///
    /// [`OpenError::Unknown`] if there is none; others as for
    /// [`open_or_create`](Self::open_or_create).
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # ledger.context("loan-7").open_or_create()?;
    /// let context = ledger.context("loan-7").open_read_only()?;
    /// assert_eq!(context.appender().unwrap_err(), ledger_client::AppendError::ReadOnly);
    /// # Ok(()) });
    /// ```
    pub fn open_read_only(self) -> Result<Context, OpenError> {
        match self.attach(None, false) {
            Err(OpenError::Connect(_) | OpenError::Quarantined { .. }) => self.find_in_memory(),
            outcome => outcome,
        }
    }

    fn attach(&self, create: Option<Sizes>, append: bool) -> Result<Context, OpenError> {
        let name = InvalidName::check(self.name)?;
        create.map_or(Ok(()), |sizes| sizes.check())?;
        let request = Request::Open {
            name: name.to_owned(),
            epoch: None,
            create,
            append,
        };
        let core = self.ledger.core();
        let Answer {
            reply,
            fd: bell,
            connection,
        } = core.ask(&request)?;
        let (epoch, current, client) = match reply {
            Reply::Opened {
                epoch,
                current,
                client,
                ..
            } => (Epoch(epoch), current, client),
            Reply::Refused(refusal) => {
                return Err(OpenError::refused(name, &core.instance, refusal));
            }
            _ => return Err(OpenError::Daemon("an answer to another question".into())),
        };
        let control = || {
            let object = core.object(epoch, None, false)?;
            Ok(Control::map(&object, epoch, false)?)
        };
        let control = control().inspect_err(|_: &ObjectError| {
            core.release(Released {
                epoch,
                append,
                connection,
            });
        })?;
        let shared = Arc::new(Shared::new(Arc::clone(core), control, append));
        shared.attached(bell, client, connection)?;
        core.register(&shared);
        if append {
            provision::map_current(&shared, current)?;
            shared.want(0);
        }
        Ok(Context {
            shared,
            ledger: self.ledger.clone(),
        })
    }

    fn find_in_memory(&self) -> Result<Context, OpenError> {
        let name = InvalidName::check(self.name)?;
        let core = self.ledger.core();
        let mut newest: Option<Control> = None;
        for epoch in core.epochs()? {
            // What cannot be read is not what is looked for, or cannot be used.
            let Ok(control) = Control::look(&core.instance, epoch) else {
                continue;
            };
            let is_it = control.name() == name && control.state() != Ok(State::Dropped);
            let created_at_ns = newest.as_ref().map(Control::created_at_ns);
            if is_it && created_at_ns < Some(control.created_at_ns()) {
                newest = Some(control);
            }
        }
        let newest = newest.ok_or_else(|| OpenError::unknown(name, &core.instance))?;
        let control = Control::open(&core.instance, newest.epoch(), false)?;
        let context = Context::in_memory(self.ledger, control);
        // So that it gets a bell as soon as there is a daemon to make one.
        core.register(&context.shared);
        Ok(context)
    }
}

/// A context as it was at one moment. Damage only hides what it damaged.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// let context = ledger.context("loan-7").open_or_create()?;
/// let before = context.summary();
/// context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
/// assert_eq!(*before.latest().as_ref().unwrap(), 0);
/// assert_eq!(*context.summary().latest().as_ref().unwrap(), 1);
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct ContextSummary {
    name: String,
    epoch: Epoch,
    state: Result<State, ReadError>,
    first_available: Result<u64, ReadError>,
    latest: Result<u64, ReadError>,
}

impl ContextSummary {
    /// Of a context that has its first part only, seen to be sound.
    pub(crate) fn at_a_glance(control: &Control, glance: &Glance) -> Option<ContextSummary> {
        let is_whole = glance.was_last(control.epoch().0, control.first_part());
        let state = control.state().ok()?;
        (is_whole && state != State::Dropped).then(|| ContextSummary {
            name: control.name().to_owned(),
            epoch: control.epoch(),
            state: Ok(state),
            first_available: Ok(glance.base_seq),
            latest: Ok(glance.base_seq + glance.entries - 1),
        })
    }

    /// Opens it for reading: this one, whatever has its name by now. The daemon
    /// need not answer, and does not learn of it where it need not be asked.
    ///
    /// # Errors
    ///
    /// As [`ContextOptions::open_read_only`].
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # ledger.context("loan-7").open_or_create()?;
    /// for found in ledger.contexts()?.readable {
    ///     let context = found.open(&ledger)?;
    ///     assert_eq!(context.epoch(), found.epoch());
    /// }
    /// # Ok(()) });
    /// ```
    pub fn open(&self, ledger: &Ledger) -> Result<Context, OpenError> {
        let core = ledger.core();
        if !core.instance.may_open_by_name() {
            return ledger.context(&self.name).open_read_only();
        }
        let control = Control::open(&core.instance, self.epoch, false)?;
        Ok(Context::in_memory(ledger, control))
    }

    /// As [`Context::name`].
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # ledger.context("loan-7").open_or_create()?;
    /// for found in ledger.contexts()?.readable {
    ///     println!("{}", found.name());
    /// }
    /// # Ok(()) });
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// As [`Context::epoch`].
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # ledger.context("loan-7").open_or_create()?;
    /// for found in ledger.contexts()?.readable {
    ///     println!("{}", found.epoch());
    /// }
    /// # Ok(()) });
    /// ```
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// As [`Context::state`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # ledger.context("loan-7").open_or_create()?;
    /// for found in ledger.contexts()?.readable {
    ///     let state = found.state().map_or("damaged", |state| state.as_str());
    ///     println!("{} is {state}", found.name());
    /// }
    /// # Ok(()) });
    /// ```
    pub fn state(&self) -> Result<State, &ReadError> {
        self.state.as_ref().copied()
    }

    /// As [`Context::first_available`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # ledger.context("loan-7").open_or_create()?;
    /// for found in ledger.contexts()?.readable {
    ///     assert_eq!(found.first_available().ok(), Some(1));
    /// }
    /// # Ok(()) });
    /// ```
    pub fn first_available(&self) -> Result<u64, &ReadError> {
        self.first_available.as_ref().copied()
    }

    /// As [`Context::latest`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # ledger.context("loan-7").open_or_create()?;
    /// for found in ledger.contexts()?.readable {
    ///     assert_eq!(found.latest().ok(), Some(0));
    /// }
    /// # Ok(()) });
    /// ```
    pub fn latest(&self) -> Result<u64, &ReadError> {
        self.latest.as_ref().copied()
    }
}

/// One append-only log.
///
/// Cheap to clone; clones share what is mapped.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::NewEntry;
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// let mut appender = context.appender()?;
/// appender.append(&NewEntry::new("facts", "income: 4200"))?;
/// let entry = context.get(1)?.expect("just appended");
/// assert_eq!(entry.payload(), b"income: 4200");
/// # Ok(()) });
/// ```
#[derive(Clone, Debug)]
pub struct Context {
    shared: Arc<Shared>,
    ledger: Ledger,
}

impl Context {
    /// A context found by its control object, for reading.
    pub(crate) fn in_memory(ledger: &Ledger, control: Control) -> Context {
        Context {
            shared: Arc::new(Shared::new(Arc::clone(ledger.core()), control, false)),
            ledger: ledger.clone(),
        }
    }

    /// Its name.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// assert_eq!(context.name(), "loan-7");
    /// # Ok(()) });
    /// ```
    pub fn name(&self) -> &str {
        self.shared.control.name()
    }

    /// Its epoch: tells two contexts of one name apart.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// println!("{}", context.epoch()); // 32 hexadecimal digits
    /// # assert_eq!(context.epoch().to_string().len(), 32);
    /// # Ok(()) });
    /// ```
    pub fn epoch(&self) -> Epoch {
        self.shared.control.epoch()
    }

    /// What its entries may weigh.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// assert_eq!(context.limits().payload_len_max, 4 << 20);
    /// # Ok(()) });
    /// ```
    pub fn limits(&self) -> Limits {
        self.shared.control.limits()
    }

    /// Whether and how it can be used right now.
    ///
    /// # Errors
    ///
    /// [`ReadError::Corrupt`] on damage.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::State;
    ///
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// assert_eq!(context.state()?, State::Open);
    /// # Ok(()) });
    /// ```
    pub fn state(&self) -> Result<State, ReadError> {
        Ok(self.shared.control.state()?)
    }

    /// What there is to say about it right now.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let summary = ledger.context("loan-7").open_or_create()?.summary();
    /// assert_eq!(summary.name(), "loan-7");
    /// # Ok(()) });
    /// ```
    pub fn summary(&self) -> ContextSummary {
        ContextSummary {
            name: self.name().to_owned(),
            epoch: self.epoch(),
            state: self.state(),
            first_available: self.first_available(),
            latest: self.latest(),
        }
    }

    /// The connection it was opened over.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// let next = context.ledger().context("loan-8").open_or_create()?;
    /// # Ok(()) });
    /// ```
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// An appender. Make one per thread: it is `Send`, not `Sync`.
    ///
    /// # Errors
    ///
    /// [`AppendError::ReadOnly`] on a context opened for reading.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::NewEntry;
    ///
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// std::thread::scope(|scope| {
    ///     for _ in 0..2 {
    ///         let mut appender = context.appender()?;
    ///         scope.spawn(move || appender.append(&NewEntry::new("facts", "in parallel")));
    ///     }
    ///     Ok::<_, ledger_client::AppendError>(())
    /// })?;
    /// assert_eq!(context.latest()?, 2);
    /// # Ok(()) });
    /// ```
    pub fn appender(&self) -> Result<Appender, AppendError> {
        Appender::new(self.clone())
    }

    /// The entry at `seq`; `None` if there is none yet, and for 0: the first one
    /// is 1. O(1).
    ///
    /// # Errors
    ///
    /// [`ReadError::Evicted`] if it has left memory; others on damage.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let entry = context.get(1)?.expect("it was appended");
    /// assert_eq!((entry.seq(), entry.key()), (1, "facts"));
    /// assert!(context.get(2)?.is_none());
    /// # Ok(()) });
    /// ```
    pub fn get(&self, seq: u64) -> Result<Option<Entry<'static>>, ReadError> {
        if seq == 0 {
            return Ok(None);
        }
        let mut sealed = None;
        loop {
            let (core, control) = (&self.shared.core, &self.shared.control);
            let (Located::In(link) | Located::Closed(link)) =
                self.shared.chain.locate(core, control, seq)?;
            let part = link.segment.part();
            match link.get(seq)? {
                Ok(entry) => return Ok(Some(entry)),
                // It was the last segment when it was located: look again, and
                // go on behind the seal.
                Err(Found::Seal(to)) if sealed == Some(part) => {
                    return Err(Corrupt::new("a seal before the frontier", to, 0).into());
                }
                Err(Found::Seal(_)) => sealed = Some(part),
                Err(_) => return Ok(None),
            }
        }
    }

    /// Entries from `first_seq` on, in order, up to the end of the log as it
    /// is when it is reached. 0 and 1 both mean the first one ever.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let mut range = context.range(1);
    /// while let Some(entry) = range.next_entry()? {
    ///     println!("{} {}", entry.seq(), entry.key());
    /// }
    /// # Ok(()) });
    /// ```
    pub fn range(&self, first_seq: u64) -> Range {
        Range::new(Watcher::new(self.clone(), first_seq.max(1)))
    }

    /// Entries from `first_seq` on, in order, and then every new one. 0 and 1
    /// both mean the first one ever.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// let mut watcher = context.watch(1);
    /// context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// assert_eq!(watcher.next()?.seq(), 1);
    /// # Ok(()) });
    /// ```
    pub fn watch(&self, first_seq: u64) -> Watcher {
        Watcher::listed(self.clone(), first_seq.max(1))
    }

    /// Who watches this context and how far each has come, as the watchers say
    /// themselves; none if no daemon has answered yet. A [`Range`] is not listed.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// let mut watcher = context.watch(1);
    /// watcher.try_next()?;
    /// let roster = context.watchers().expect("a daemon answered");
    /// assert_eq!(roster.watching[0].client.pid, std::process::id());
    /// assert_eq!(roster.watching[0].next_seq, 1);
    /// # Ok(()) });
    /// ```
    pub fn watchers(&self) -> Option<Roster> {
        self.shared.bell().map(|bell| bell.roster())
    }

    /// The seq of the last entry; 0 if there is none.
    ///
    /// # Errors
    ///
    /// [`ReadError`] on damage.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// assert_eq!(context.latest()?, 0);
    /// # Ok(()) });
    /// ```
    pub fn latest(&self) -> Result<u64, ReadError> {
        let (link, entries) = self
            .shared
            .chain
            .last(&self.shared.core, &self.shared.control)?;
        Ok(link.base_seq + entries - 1)
    }

    /// The seq of the oldest entry in memory, or of the next one if there is
    /// none.
    ///
    /// # Errors
    ///
    /// [`ReadError`] on damage.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// let mut range = context.range(context.first_available()?);
    /// # Ok(()) });
    /// ```
    pub fn first_available(&self) -> Result<u64, ReadError> {
        self.shared
            .chain
            .first_available(&self.shared.core, &self.shared.control)
    }
}
