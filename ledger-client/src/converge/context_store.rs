//! Checkpoints of whole contexts.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, PoisonError};

use converge_core::traits::StoreError;
use converge_core::{ContextSnapshot, ContextState, ContextStore, ProposedFact};
use converge_pack::PayloadRegistry;
use ledger_shm::NewEntry;

use crate::appender::Appender;
use crate::error::{AppendError, OpenError, ReadError};
use crate::ledger::Ledger;

use super::checkpoint;
use super::record::{self, Tags, VERSION};
use super::recorder::gate;
use super::recorder::start::unique;
use super::{history, parts};

/// Saves whole contexts, each in the ledger's context of its scope's name, and loads the one
/// that was saved there last. Large ones take several entries.
///
/// What a human has been asked about is never saved: the engine would take it as approved
/// when it is run again. It is known from a [`Recorder`](super::Recorder) that has
/// [`paused`](super::Recorder::paused) in the same context, by what it has recorded there or,
/// within its process, by itself. Who pauses runs without a recorder must not save them at a
/// pause.
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
    /// What was recorded before this entry is known.
    next_seq: u64,
    /// Proposals that a human was asked about, by id and content.
    asked: HashSet<(String, String)>,
    /// Run, attempt and cycle of the last entry.
    reached: Option<(String, u32, u32)>,
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
        let text = checkpoint::last(&context).map_err(unread)?;
        text.map(|text| self.context(&text)).transpose()
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
        open.save(&self.ledger, context)?;
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
            asked: HashSet::new(),
            reached: None,
        })
    }

    fn save(&mut self, ledger: &Ledger, context: &ContextState) -> Result<(), StoreError> {
        self.catch_up()?;
        let is_asked = |proposal: &ProposedFact| self.is_asked(ledger, proposal);
        let text = checkpoint::text(&context.snapshot(), is_asked).map_err(unserialized)?;
        let len_max = self.appender.context().limits().payload_len_max;
        // Tells its parts from those that another saves meanwhile.
        let id = unique();
        let reached = self.reached.as_ref();
        let numbers = reached.map(|(run_id, attempt, cycle)| {
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
                ("checkpoint", &*id),
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
            entry.verify().map_err(|damage| unread(damage.into()))?;
            self.next_seq = entry.seq() + 1;
            let Some(tags) = Tags::of(&entry) else {
                continue;
            };
            // One that cannot be read is of no recorder.
            let is_gate = (entry.key(), tags.kind) == (record::GATES, record::GATE_REQUESTED);
            if is_gate && let Ok(asked) = history::asked(&entry, &tags) {
                self.asked.insert(asked);
            }
            self.reached = Some((tags.run_id.to_owned(), tags.attempt, tags.cycle));
        }
        Ok(())
    }

    /// Whether a human was asked about it.
    fn is_asked(&self, ledger: &Ledger, proposal: &ProposedFact) -> bool {
        let wire = proposal.to_wire();
        wire.is_ok_and(|wire| {
            let (id, hash) = (wire.id.to_string(), gate::hash(&wire));
            let scope = self.appender.context().name();
            gate::is_waiting(ledger, scope, &id, &hash) || self.asked.contains(&(id, hash))
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
