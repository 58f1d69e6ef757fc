//! Checkpoints of whole contexts.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, PoisonError};

use converge_core::traits::StoreError;
use converge_core::{ContextSnapshot, ContextState, ContextStore, ProposedFact};
use converge_pack::{PayloadRegistry, WireProposedFact};
use ledger_shm::{Entry, NewEntry};

use crate::appender::Appender;
use crate::error::{AppendError, OpenError, ReadError};
use crate::ledger::Ledger;

use super::checkpoint::{self, Saved};
use super::record::{self, Tags, VERSION};
use super::recorder::gate;
use super::recorder::run::Run;
use super::{history, parts};

/// Saves whole contexts, each in the ledger's context of its scope's name, and loads the one
/// that was saved there last. Large ones take several entries.
///
/// What a human has been asked about is never saved: the engine would take it as approved
/// when it is run again. It is known from what a [`Recorder`](super::Recorder) has recorded
/// in the same context: while its run has not ended, nothing that is staged is saved but that
/// run's own inputs. Who pauses runs without a recorder must not save them at a pause.
///
/// It waits for room as an appender does, and for nothing else, so it may be called by a
/// task of any runtime.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use converge_core::{ContextKey, ContextState, ContextStore};
/// use ledger_client::converge::{LedgerContextStore, PayloadRegistry};
///
/// let mut context = ContextState::new();
/// context.add_input(ContextKey::Seeds, "term", "42 months")?;
///
/// let store = LedgerContextStore::new(&ledger, PayloadRegistry::with_pack_payloads());
/// pollster::block_on(store.save_context("loan-7", &context))?;
/// let loaded = pollster::block_on(store.load_context("loan-7"))?.expect("saved above");
/// assert!(loaded.has_pending_proposals());
/// # Ok(()) });
/// ```
pub struct LedgerContextStore {
    ledger: Ledger,
    registry: PayloadRegistry,
    scopes: Mutex<HashMap<String, Arc<Mutex<Option<Scope>>>>>,
}

/// One context, and what is known of the runs in it.
struct Scope {
    appender: Appender,
    /// What was asked before this entry is known.
    next_seq: u64,
    runs: Runs,
}

/// What is known of the runs in a context.
#[derive(Default)]
struct Runs {
    /// Proposals that a human was asked about, by id and content.
    asked: HashSet<(String, String)>,
    /// Those that the last run was given.
    inputs: HashSet<(String, String)>,
    /// Whether the last run has started and not ended.
    is_open: bool,
    /// Run, attempt and cycle of the entry before.
    last: Option<(String, u32, u32)>,
}

impl LedgerContextStore {
    /// Payloads are read with this registry.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::converge::{LedgerContextStore, PayloadRegistry};
    ///
    /// let store = LedgerContextStore::new(&ledger, PayloadRegistry::with_pack_payloads());
    /// # Ok(()) });
    /// ```
    pub fn new(ledger: &Ledger, registry: PayloadRegistry) -> LedgerContextStore {
        LedgerContextStore {
            ledger: ledger.clone(),
            registry,
            scopes: Mutex::default(),
        }
    }

    fn load(&self, scope: &str) -> Result<Option<ContextState>, StoreError> {
        let context = match self.ledger.context(scope).open_read_only() {
            Ok(context) => context,
            Err(error) if error.is_unknown() => return Ok(None),
            Err(error) => return Err(unopened(&error)),
        };
        let first_seq = context.first_available().map_err(unread)?;
        let mut range = context.range(first_seq).key(record::SNAPSHOTS);
        let mut saved = Saved::default();
        while let Some(entry) = range.next_entry().map_err(unread)? {
            saved.add(&entry);
        }
        let loaded = saved.last.map(|text| self.context(&text));
        loaded.transpose()
    }

    fn context(&self, text: &str) -> Result<ContextState, StoreError> {
        let wire = serde_json::from_str(text).map_err(unserialized)?;
        let snapshot = ContextSnapshot::from_wire(wire, &self.registry).map_err(unserialized)?;
        ContextState::from_snapshot(snapshot).map_err(unserialized)
    }

    fn save(&self, name: &str, context: &ContextState) -> Result<(), StoreError> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        let scope = Arc::clone(scopes.entry(name.to_owned()).or_default());
        drop(scopes);
        // One may wait for room, and the others need not.
        let mut scope = scope.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = match scope.take() {
            Some(open) => open,
            None => Scope::open(&self.ledger, name)?,
        };
        open.save(context)?;
        // After an error it is opened anew: it may have been dropped and made again.
        *scope = Some(open);
        Ok(())
    }
}

impl Scope {
    fn open(ledger: &Ledger, name: &str) -> Result<Scope, StoreError> {
        let context = ledger.context(name).open_or_create();
        let context = context.map_err(|error| unopened(&error))?;
        Ok(Scope {
            appender: context.appender().map_err(|error| unappended(&error))?,
            next_seq: 1,
            runs: Runs::default(),
        })
    }

    fn save(&mut self, context: &ContextState) -> Result<(), StoreError> {
        self.catch_up()?;
        let text = checkpoint::text(&context.snapshot(), |proposal| self.runs.may_wait(proposal));
        let text = text.map_err(unserialized)?;
        let len_max = self.appender.context().limits().payload_len_max;
        // Tells its parts from those that another saves meanwhile.
        let id = Run::new();
        let last = self.runs.last.as_ref();
        let numbers = last.map(|(run_id, attempt, cycle)| {
            (run_id.clone(), attempt.to_string(), cycle.to_string())
        });
        for (number, part) in parts::split(&text, len_max) {
            let mut metadata = vec![("v", VERSION)];
            if let Some((run_id, attempt, cycle)) = &numbers {
                metadata.extend([
                    ("run_id", &**run_id),
                    ("attempt", attempt),
                    ("cycle", cycle),
                ]);
            }
            metadata.extend([
                ("kind", record::CHECKPOINT),
                ("checkpoint", id.id()),
                ("part", &number),
            ]);
            let entry = NewEntry::new(record::SNAPSHOTS, part).metadata(&metadata);
            let appended = self.appender.append(&entry);
            appended.map_err(|error| unappended(&error))?;
        }
        Ok(())
    }

    /// Looks at what was recorded meanwhile.
    fn catch_up(&mut self) -> Result<(), StoreError> {
        let context = self.appender.context();
        let first_seq = context.first_available().map_err(unread)?;
        let mut range = context.range(self.next_seq.max(first_seq));
        while let Some(entry) = range.next_entry().map_err(unread)? {
            self.next_seq = entry.seq() + 1;
            if let Some(tags) = Tags::of(&entry) {
                self.runs.add(&entry, &tags)?;
            }
        }
        Ok(())
    }
}

impl Runs {
    fn add(&mut self, entry: &Entry<'_>, tags: &Tags<'_>) -> Result<(), StoreError> {
        let is_known = self.last.as_ref().is_some_and(|last| last.0 == tags.run_id);
        match tags.kind {
            record::GATE_REQUESTED => {
                let asked = history::asked(entry, tags);
                self.asked.insert(asked.map_err(unserialized)?);
            }
            record::INPUT => {
                if !is_known {
                    self.inputs.clear();
                }
                let wire = serde_json::from_slice(entry.payload());
                let wire: WireProposedFact = wire.map_err(unserialized)?;
                self.inputs.insert((wire.id.to_string(), gate::hash(&wire)));
            }
            record::RUN_STARTED => self.is_open = true,
            record::RUN_ENDED | record::RUN_FAILED => self.is_open = false,
            _ => {}
        }
        self.last = Some((tags.run_id.to_owned(), tags.attempt, tags.cycle));
        Ok(())
    }

    /// Whether it may be waiting for a human.
    fn may_wait(&self, proposal: &ProposedFact) -> bool {
        let wire = proposal.to_wire();
        wire.is_ok_and(|wire| {
            let it = (wire.id.to_string(), gate::hash(&wire));
            self.asked.contains(&it) || (self.is_open && !self.inputs.contains(&it))
        })
    }
}

impl fmt::Debug for LedgerContextStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerContextStore")
            .field("ledger", &self.ledger)
            .finish_non_exhaustive()
    }
}

fn unopened(error: &OpenError) -> StoreError {
    let message = error.to_string();
    match error {
        OpenError::InvalidName(_) => StoreError::InvalidQuery { message },
        OpenError::NotAllowed { .. } => StoreError::AuthFailed { message },
        _ => StoreError::Unavailable { message },
    }
}

fn unread(error: ReadError) -> StoreError {
    StoreError::Internal {
        message: error.to_string(),
    }
}

fn unserialized(error: impl fmt::Display) -> StoreError {
    StoreError::SerializationFailed {
        message: error.to_string(),
    }
}

fn unappended(error: &AppendError) -> StoreError {
    let message = error.to_string();
    match error.is_full() {
        true => StoreError::Unavailable { message },
        false => StoreError::Internal { message },
    }
}

impl ContextStore for LedgerContextStore {
    type LoadFut<'a> = Ready<Result<Option<ContextState>, StoreError>>;
    type SaveFut<'a> = Ready<Result<(), StoreError>>;

    fn load_context<'a>(&'a self, scope_id: &'a str) -> Self::LoadFut<'a> {
        ready(self.load(scope_id))
    }

    fn save_context<'a>(
        &'a self,
        scope_id: &'a str,
        context: &'a ContextState,
    ) -> Self::SaveFut<'a> {
        ready(self.save(scope_id, context))
    }
}
