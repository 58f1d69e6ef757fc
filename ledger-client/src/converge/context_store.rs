//! Checkpoints of whole contexts.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::{Ready, ready};
use std::sync::{Mutex, PoisonError};

use converge_core::traits::StoreError;
use converge_core::{ContextState, ContextStore, ProposedFact};
use converge_pack::PayloadRegistry;
use ledger_shm::NewEntry;

use crate::appender::Appender;
use crate::error::{AppendError, OpenError, ReadError};
use crate::ledger::Ledger;

use super::checkpoint::{self, Saved};
use super::gate;
use super::history::HistoryError;
use super::record::{self, Tags, VERSION};
use super::run::Run;

/// Saves whole contexts, each in the ledger's context of its scope's name, and loads the one
/// that was saved there last. Large ones take several entries.
///
/// What a human has been asked about is never saved: the engine would take it as approved
/// when it is run again. It is known from what a [`Recorder`](super::Recorder) has recorded
/// in the same context; who pauses runs without one must not save them at a pause.
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
    scopes: Mutex<HashMap<String, Scope>>,
}

/// One context, and what is known of the runs in it.
struct Scope {
    appender: Appender,
    /// What was asked before this entry is known.
    next_seq: u64,
    asked: HashSet<(String, String)>,
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
        let loaded = saved
            .last
            .map(|text| checkpoint::context(&text, &self.registry));
        loaded
            .transpose()
            .map_err(|message| StoreError::SerializationFailed { message })
    }

    fn save(&self, name: &str, context: &ContextState) -> Result<(), StoreError> {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        if !scopes.contains_key(name) {
            scopes.insert(name.to_owned(), Scope::open(&self.ledger, name)?);
        }
        let scope = scopes.get_mut(name).expect("inserted above");
        let outcome = scope.save(context);
        if outcome.is_err() {
            // It may have been dropped and made again.
            scopes.remove(name);
        }
        outcome
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
            last: None,
        })
    }

    fn save(&mut self, context: &ContextState) -> Result<(), StoreError> {
        self.catch_up()?;
        let text = checkpoint::text(&context.snapshot(), |proposal| self.is_asked(proposal));
        let text = text.map_err(|error| StoreError::SerializationFailed {
            message: error.to_string(),
        })?;
        let len_max = self.appender.context().limits().payload_len_max;
        let parts = checkpoint::parts(&text, len_max);
        // Tells its parts from those that another saves meanwhile.
        let id = Run::new();
        let numbers = self.last.as_ref().map(|(run_id, attempt, cycle)| {
            (run_id.clone(), attempt.to_string(), cycle.to_string())
        });
        for (number, part) in parts.iter().enumerate() {
            let number = format!("{}/{}", number + 1, parts.len());
            let mut metadata = vec![
                ("v", VERSION),
                ("kind", record::CHECKPOINT),
                ("checkpoint", id.id()),
                ("part", &number),
            ];
            if let Some((run_id, attempt, cycle)) = &numbers {
                metadata.extend([
                    ("run_id", &**run_id),
                    ("attempt", attempt),
                    ("cycle", cycle),
                ]);
            }
            let entry = NewEntry::new(record::SNAPSHOTS, part.as_bytes()).metadata(&metadata);
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
            let Some(tags) = Tags::of(&entry) else {
                continue;
            };
            if tags.kind == record::GATE_REQUESTED {
                let asked = super::history::asked(&entry, &tags);
                self.asked.insert(asked.map_err(untold)?);
            }
            let is_same = |(run_id, ..): &(String, u32, u32)| run_id == tags.run_id;
            match self.last.as_mut().filter(|last| is_same(last)) {
                Some(last) => (last.1, last.2) = (tags.attempt, tags.cycle),
                None => self.last = Some((tags.run_id.to_owned(), tags.attempt, tags.cycle)),
            }
        }
        Ok(())
    }

    fn is_asked(&self, proposal: &ProposedFact) -> bool {
        let wire = proposal.to_wire();
        wire.is_ok_and(|wire| {
            let asked = (wire.id.to_string(), gate::hash(&wire));
            self.asked.contains(&asked)
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

fn untold(error: HistoryError) -> StoreError {
    StoreError::Internal {
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
