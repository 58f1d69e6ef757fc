//! Opening a context: by the daemon's word, or as it is found in memory or in files.

use std::collections::HashSet;
use std::sync::Arc;

use ledger_shm::Control;
use ledger_shm::control::{InvalidName, Sizes, State};
use ledger_shm::object::Epoch;

use crate::context::Context;
use crate::error::{ObjectError, OpenError};
use crate::in_files;
use crate::ledger::{Ledger, Released};
use crate::line::Answer;
use crate::provision;
use crate::shared::Shared;
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
        self.attach(None, Some(self.sizes), true)
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
        self.attach(None, None, true)
    }

    /// Opens an existing context for reading. Its memory is mapped read-only.
    /// Works without a daemon, and with a context that it has quarantined: what
    /// validates in memory can be read. In another uid's instance the daemon has to
    /// give the memory.
    ///
    /// Without a daemon a context that is in files only is read from these, as far as
    /// they go now, and stays [`State::Archived`](crate::State::Archived). It has an end:
    /// a [`Range`](crate::Range) stops there, and a [`Watcher`](crate::Watcher) says
    /// [`ReadError::Closed`](crate::ReadError::Closed). What a daemon that comes later adds
    /// is found by who opens it again.
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
        match self.attach(None, None, false) {
            Err(
                OpenError::Connect(_) | OpenError::Quarantined { .. } | OpenError::Limit { .. },
            ) if self.ledger.instance().may_open_by_name() => self.find(),
            outcome => outcome,
        }
    }

    /// Opens for reading, by the daemon's word, the context that has this epoch.
    pub(crate) fn open_epoch(self, epoch: Epoch) -> Result<Context, OpenError> {
        self.attach(Some(epoch), None, false)
    }

    fn attach(
        &self,
        epoch: Option<Epoch>,
        create: Option<Sizes>,
        append: bool,
    ) -> Result<Context, OpenError> {
        let name = InvalidName::check(self.name)?;
        create.map_or(Ok(()), |sizes| sizes.check())?;
        let request = Request::Open {
            name: name.to_owned(),
            epoch: epoch.map(|epoch| epoch.0),
            create,
            append,
        };
        let core = self.ledger.core();
        let Answer {
            reply,
            fd: bell,
            connection,
            ..
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
        Ok(Context::new(self.ledger, shared))
    }

    /// Finds it in memory, or else in files.
    fn find(&self) -> Result<Context, OpenError> {
        let name = InvalidName::check(self.name)?;
        let core = self.ledger.core();
        let mut newest: Option<Control> = None;
        let mut homes = HashSet::new();
        for epoch in core.epochs()? {
            // What cannot be read is not what is looked for, or cannot be used.
            let Ok(control) = Control::look(&core.instance, epoch) else {
                continue;
            };
            if control.state().is_ok_and(State::is_gone) {
                continue;
            }
            homes.extend(control.home());
            let is_it = control.name() == name;
            let created_at_ns = |control: &Control| control.facts().created_at_ns;
            if is_it && newest.as_ref().map(created_at_ns) < Some(created_at_ns(&control)) {
                newest = Some(control);
            }
        }
        let Some(newest) = newest else {
            let found = in_files::find(&core.instance, name, &homes)?;
            let (control, last_file) =
                found.ok_or_else(|| OpenError::unknown(name, &core.instance))?;
            return Ok(Context::in_files(self.ledger, control, last_file));
        };
        let control = Control::open(&core.instance, newest.epoch(), false)?;
        let context = Context::in_memory(self.ledger, control);
        // So that it gets a bell as soon as there is a daemon to make one.
        core.register(context.shared());
        Ok(context)
    }
}
