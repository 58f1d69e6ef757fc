//! All contexts, in memory and in files only, and what there is to say about each at one
//! moment.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use ledger_shm::control::State;
use ledger_shm::object::{self, Epoch, MapError, Name, Object};
use ledger_shm::segment::Glance;
use ledger_shm::{Control, Segment};

use crate::archive::{Archived, archive_dir, archived};
use crate::context::Context;
use crate::error::{OpenError, ReadError};
use crate::ledger::Ledger;

impl Ledger {
    /// All contexts, in memory and in files only, for reading, found without the
    /// daemon: it does not learn that somebody looks. In another uid's instance, those that the
    /// daemon lets this uid read.
    ///
    /// # Errors
    ///
    /// [`OpenError::Map`] with the kernel's, when the memory file system cannot be
    /// listed; in another uid's instance [`OpenError::Connect`], when the daemon
    /// cannot be asked.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// ledger.context("b").open_or_create()?;
    /// ledger.context("a").open_or_create()?;
    /// let names: Vec<_> = ledger.contexts()?.readable.into_iter().map(|of| of.name().to_owned()).collect();
    /// assert_eq!(names, ["a", "b"]);
    /// # Ok(()) });
    /// ```
    pub fn contexts(&self) -> Result<Contexts, OpenError> {
        if !self.instance().may_open_by_name() {
            let mut found = Contexts::default();
            for name in self.core().names()? {
                match self.context(&name).open_read_only() {
                    Ok(context) => found.readable.push(context.summary()),
                    // What is dropped meanwhile is not there, nor what this uid has
                    // no right to any more.
                    Err(error) if error.is_unknown() || error.is_not_allowed() => {}
                    Err(error) => return Err(error),
                }
            }
            return Ok(found);
        }
        let epochs = self.core().epochs()?;
        let archive_dir = archive_dir(self.instance())?;
        let look = |epochs: &[Epoch]| self.look_at(epochs, archive_dir.as_deref());
        let [mut found, more] = object::in_halves(&epochs, look);
        found.readable.extend(more.readable);
        found.unreadable.extend(more.unreadable);
        found.homes.extend(more.homes);
        for (home, archived) in archived(self.instance(), archive_dir.as_deref(), &found.homes)? {
            match archived {
                Ok(archived) => found.readable.push(ContextSummary::in_files(archived)),
                Err(error) => found.unreadable.push((home, error)),
            }
        }
        found.readable.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(found)
    }

    /// One after the other: a process can have some ten thousand mappings, and
    /// there may be more contexts.
    fn look_at(&self, epochs: &[Epoch], archive_dir: Option<&Path>) -> Contexts {
        let mut found = Contexts::default();
        for epoch in epochs {
            match Control::look(self.instance(), *epoch) {
                Ok(control) => {
                    let home = control.home();
                    let mut summary = self.summary(control);
                    let files_dir = home.zip(archive_dir);
                    summary.files_dir = files_dir.map(|(home, dir)| dir.join(home.to_string()));
                    found.homes.extend(home);
                    found.readable.push(summary);
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => found.unreadable.push((*epoch, error)),
            }
        }
        found
    }

    /// What there is to say about a context that was just looked at.
    fn summary(&self, control: Control) -> ContextSummary {
        let first = Name::Part(control.epoch(), control.first_part());
        let glance = Object::open(self.instance(), first, false)
            .map_err(MapError::from)
            .and_then(|object| Segment::glance(&object));
        match glance {
            Ok(Some(glance)) => ContextSummary::at_a_glance(&control, &glance),
            // It has retired meanwhile, is damaged, or is not that simple.
            _ => None,
        }
        .unwrap_or_else(|| {
            let again = Control::open(self.instance(), control.epoch(), false);
            Context::in_memory(self, again.unwrap_or(control)).summary()
        })
    }
}

/// The contexts there are.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// for (epoch, error) in ledger.contexts()?.unreadable {
///     eprintln!("context {epoch}: {error}");
/// }
/// # Ok(()) });
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Contexts {
    /// Those that can be read, by name.
    pub readable: Vec<ContextSummary>,
    /// Those that cannot, and why.
    pub unreadable: Vec<(Epoch, MapError)>,
    /// Of those in memory, what the directories of their files are called.
    homes: HashSet<Epoch>,
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
    files_dir: Option<PathBuf>,
}

impl ContextSummary {
    /// Of a context that is in files only.
    fn in_files(archived: Archived) -> ContextSummary {
        ContextSummary {
            name: archived.facts.name,
            epoch: archived.facts.epoch,
            state: Ok(State::Archived),
            first_available: Ok(archived.first_seq),
            latest: Ok(archived.latest),
            files_dir: Some(archived.dir),
        }
    }

    /// Of a context that has its first part only, seen to be sound.
    pub(crate) fn at_a_glance(control: &Control, glance: &Glance) -> Option<ContextSummary> {
        let is_whole = glance.was_last(control.epoch().0, control.first_part());
        // What is before it may be in files.
        let is_all = glance.base_seq == 1 || control.home().is_none();
        let state = control.state().ok()?;
        (is_whole && is_all && !state.is_gone()).then(|| ContextSummary {
            name: control.name().to_owned(),
            epoch: control.epoch(),
            state: Ok(state),
            first_available: Ok(glance.base_seq),
            latest: Ok(glance.base_seq + glance.entries - 1),
            files_dir: None,
        })
    }

    /// Opens it for reading: this one, whatever has its name by now. The daemon
    /// need not answer, and does not learn of it where it need not be asked; one that
    /// is in files only is brought back into memory by it, under the name, or read there.
    ///
    /// # Errors
    ///
    /// As [`ContextOptions::open_read_only`](crate::ContextOptions::open_read_only).
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
            return ledger.context(&self.name).open_epoch(self.epoch);
        }
        if matches!(self.state, Ok(State::Archived)) {
            return ledger.context(&self.name).open_read_only();
        }
        let control = Control::open(&core.instance, self.epoch, false)?;
        Ok(Context::in_memory(ledger, control))
    }

    /// The directory of its files, if it has some and they can be found by path.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # ledger.context("loan-7").open_or_create()?;
    /// for found in ledger.contexts()?.readable {
    ///     assert!(found.files_dir().is_some());
    /// }
    /// # Ok(()) });
    /// ```
    pub fn files_dir(&self) -> Option<&Path> {
        self.files_dir.as_deref()
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

impl Context {
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
            files_dir: None,
        }
    }
}
