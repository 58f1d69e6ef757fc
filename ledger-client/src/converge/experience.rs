//! Events of engines and of users, as entries of one context.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use converge_core::{ArtifactId, ChainId, Timestamp, TraceLinkId};
use converge_core::{
    ArtifactKind, EventQuery, ExperienceEvent, ExperienceEventEnvelope, ExperienceRecord,
    ExperienceStore, ExperienceStoreError, ExperienceStoreResult, LifecycleEvent, TimeRange,
    UserExperienceEvent, UserExperienceEventEnvelope,
};
use ledger_shm::NewEntry;
use serde::de::DeserializeOwned;

use crate::appender::Appender;
use crate::context::Context;
use crate::error::{AppendError, ReadError};

use super::record::{EVENTS, Tags, USER_EVENTS, VERSION, of};
use super::recorder::start::unique;

/// Stores what a host tells of one run in a context, for everybody who asks there.
///
/// It finds what converge-core's in-memory store would (`converge-experience`): the limit is the
/// first n, of records those of the engine before they are put in order with the users'. What
/// several runs store in one context is found by all of them. An event of an id that
/// this run has stored already, now or before a restart, is not stored again. It waits
/// for room as its appender does, and for nothing else, so it may be called by a
/// task of any runtime.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use converge_core::{EventQuery, ExperienceEvent, ExperienceEventEnvelope, ExperienceStore};
/// use ledger_client::converge::LedgerExperienceStore;
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// let store = LedgerExperienceStore::new(context.appender()?, "run-1");
/// let event = ExperienceEvent::FactPromoted {
///     proposal_id: "income".into(),
///     fact_id: "income".into(),
///     promoted_by: "agent-0".into(),
///     reason: "validated".into(),
///     requires_human: false,
/// };
/// store.append_event(ExperienceEventEnvelope::new("event-1", event)).expect("room");
/// let found = store.query_events(&EventQuery::default()).expect("readable");
/// assert_eq!(found.len(), 1);
/// # Ok(()) });
/// ```
pub struct LedgerExperienceStore {
    context: Context,
    run_id: String,
    writer: Mutex<Writer>,
}

/// Who stores, one after the other.
struct Writer {
    appender: Appender,
    /// Keys and ids of what this run has stored before this entry.
    stored: HashSet<(String, String)>,
    next_seq: u64,
    /// How far the run has come: attempt and cycle.
    reached: (u32, u32),
}

impl LedgerExperienceStore {
    /// Stores with this appender, as this run; an empty name is that of a new one.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::converge::LedgerExperienceStore;
    ///
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// let store = LedgerExperienceStore::new(context.appender()?, "run-1");
    /// # Ok(()) });
    /// ```
    pub fn new(appender: Appender, run_id: impl Into<String>) -> LedgerExperienceStore {
        let run_id = run_id.into();
        LedgerExperienceStore {
            context: appender.context().clone(),
            run_id: if run_id.is_empty() { unique() } else { run_id },
            writer: Mutex::new(Writer {
                appender,
                stored: HashSet::new(),
                next_seq: 1,
                reached: (1, 0),
            }),
        }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn store(
        &self,
        writer: &mut Writer,
        key: &str,
        id: &str,
        kind: &str,
        corr: Option<&str>,
        payload: serde_json::Result<Vec<u8>>,
    ) -> ExperienceStoreResult<()> {
        writer.catch_up(&self.context, &self.run_id)?;
        if writer.stored.contains(&(key.to_owned(), id.to_owned())) {
            return Ok(());
        }
        let payload = payload.map_err(failed)?;
        let (attempt, cycle) = writer.reached;
        let (attempt, cycle) = (attempt.to_string(), cycle.to_string());
        let mut metadata = vec![
            ("v", VERSION),
            ("run_id", &*self.run_id),
            ("attempt", &attempt),
            ("cycle", &cycle),
            ("kind", kind),
            ("event_id", id),
        ];
        metadata.extend(corr.map(|corr| ("corr", corr)));
        let entry = NewEntry::new(key, &payload[..]).metadata(&metadata);
        writer.appender.append(&entry)?;
        Ok(())
    }

    fn store_event(
        &self,
        writer: &mut Writer,
        event: &ExperienceEventEnvelope,
    ) -> ExperienceStoreResult<()> {
        self.store(
            writer,
            EVENTS,
            &event.event_id,
            &format!("{:?}", event.event.kind()),
            event.correlation_id.as_deref(),
            serde_json::to_vec(event),
        )
    }

    /// What was stored under a key, in the order in which it was, each once.
    fn all<T: DeserializeOwned>(&self, key: &str) -> ExperienceStoreResult<Vec<T>> {
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        let mut range = self.context.range(self.context.first_available()?).key(key);
        while let Some(entry) = range.next_entry()? {
            entry.verify().map_err(ReadError::from)?;
            let id = ["run_id", "event_id"].map(|name| of(&entry, name).map(str::to_owned));
            let is_ours = of(&entry, "v") == Some(VERSION);
            if is_ours && seen.insert(id) {
                let event = serde_json::from_slice(entry.payload());
                found.push(event.map_err(|error| {
                    failed(format!(
                        "entry {}: no event of this version: {error}",
                        entry.seq()
                    ))
                })?);
            }
        }
        Ok(found)
    }
}

impl Writer {
    /// Looks at what was stored meanwhile, here or by a process before this one.
    fn catch_up(&mut self, context: &Context, run_id: &str) -> Result<(), ReadError> {
        let mut range = context.range(self.next_seq.max(context.first_available()?));
        while let Some(entry) = range.next_entry()? {
            self.next_seq = entry.seq() + 1;
            let Some(tags) = Tags::of(&entry).filter(|tags| tags.run_id == run_id) else {
                continue;
            };
            self.reached = (tags.attempt.max(1), tags.cycle);
            let is_event = [EVENTS, USER_EVENTS].contains(&entry.key());
            if let Some(id) = of(&entry, "event_id").filter(|_| is_event) {
                self.stored.insert((entry.key().to_owned(), id.to_owned()));
            }
        }
        Ok(())
    }
}

impl fmt::Debug for LedgerExperienceStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerExperienceStore")
            .field("context", &self.context)
            .field("run_id", &self.run_id)
            .finish_non_exhaustive()
    }
}

fn failed(error: impl fmt::Display) -> ExperienceStoreError {
    ExperienceStoreError::StorageError {
        message: error.to_string(),
    }
}

impl From<ReadError> for ExperienceStoreError {
    fn from(error: ReadError) -> ExperienceStoreError {
        failed(error)
    }
}

impl From<AppendError> for ExperienceStoreError {
    fn from(error: AppendError) -> ExperienceStoreError {
        failed(error)
    }
}

impl ExperienceStore for LedgerExperienceStore {
    fn append_event(&self, event: ExperienceEventEnvelope) -> ExperienceStoreResult<()> {
        self.store_event(&mut self.writer(), &event)
    }

    fn query_events(
        &self,
        query: &EventQuery,
    ) -> ExperienceStoreResult<Vec<ExperienceEventEnvelope>> {
        let mut found = self.all(EVENTS)?;
        found.retain(|event| is_wanted(query, event));
        found.truncate(query.limit.unwrap_or(usize::MAX));
        Ok(found)
    }

    fn write_artifact_state_transition(
        &self,
        artifact_id: &ArtifactId,
        artifact_kind: ArtifactKind,
        event: LifecycleEvent,
    ) -> ExperienceStoreResult<()> {
        let occurred_at = Timestamp::new(event.timestamp.clone());
        let event = ExperienceEvent::ArtifactStateTransitioned {
            artifact_id: artifact_id.clone(),
            artifact_kind,
            event,
        };
        let event = ExperienceEventEnvelope::new(unique(), event).with_timestamp(occurred_at);
        self.store_event(&mut self.writer(), &event)
    }

    fn get_trace_link(
        &self,
        trace_link_id: &TraceLinkId,
    ) -> ExperienceStoreResult<Option<converge_core::ReplayTrace>> {
        let events: Vec<ExperienceEventEnvelope> = self.all(EVENTS)?;
        let mut links = events.into_iter().filter_map(|event| match event.event {
            ExperienceEvent::ReplayTraceRecorded {
                trace_link_id: id,
                trace_link,
            } if id == *trace_link_id => Some(trace_link),
            _ => None,
        });
        Ok(links.next_back())
    }

    fn append_user_event(&self, event: UserExperienceEventEnvelope) -> ExperienceStoreResult<()> {
        self.store(
            &mut self.writer(),
            USER_EVENTS,
            &event.event_id,
            user_kind(&event.event),
            event.correlation_id.as_deref(),
            serde_json::to_vec(&event),
        )
    }

    fn query_records(&self, query: &EventQuery) -> ExperienceStoreResult<Vec<ExperienceRecord>> {
        let engine = self.query_events(query)?.into_iter();
        let mut found: Vec<_> = engine.map(ExperienceRecord::Engine).collect();
        // Users' events have no kind and no chain, and are found whichever are asked for.
        let user: Vec<UserExperienceEventEnvelope> = self.all(USER_EVENTS)?;
        let user = user.into_iter().filter(|event| {
            is_same(query.tenant_id.as_ref(), event.tenant_id.as_ref())
                && is_same(query.correlation_id.as_ref(), event.correlation_id.as_ref())
                && is_within(query.time_range.as_ref(), &event.occurred_at)
        });
        found.extend(user.map(ExperienceRecord::User));
        // Those of one time stay as they are: the engine's before the user's.
        found.sort_by(|one, other| one.occurred_at().cmp(other.occurred_at()));
        found.truncate(query.limit.unwrap_or(usize::MAX));
        Ok(found)
    }
}

fn is_wanted(query: &EventQuery, event: &ExperienceEventEnvelope) -> bool {
    is_same(query.tenant_id.as_ref(), event.tenant_id.as_ref())
        && is_same(query.correlation_id.as_ref(), event.correlation_id.as_ref())
        && is_within(query.time_range.as_ref(), &event.occurred_at)
        && (query.kinds.is_empty() || query.kinds.contains(&event.event.kind()))
        && is_same(query.chain_id.as_ref(), chain(&event.event))
}

/// What is not asked for may be anything.
fn is_same<T: PartialEq>(wanted: Option<&T>, found: Option<&T>) -> bool {
    wanted.is_none() || wanted == found
}

/// Times are text, and compared as such; both ends belong to a range.
fn is_within(wanted: Option<&TimeRange>, found: &Timestamp) -> bool {
    wanted.is_none_or(|TimeRange { start, end }| {
        start.as_ref().is_none_or(|start| found >= start)
            && end.as_ref().is_none_or(|end| found <= end)
    })
}

/// As the core's in-memory store has it, which finds no resolved hypothesis by its chain.
fn chain(event: &ExperienceEvent) -> Option<&ChainId> {
    match event {
        ExperienceEvent::ProposalCreated { chain_id, .. }
        | ExperienceEvent::ProposalValidated { chain_id, .. }
        | ExperienceEvent::OutcomeRecorded { chain_id, .. }
        | ExperienceEvent::BudgetExceeded { chain_id, .. } => Some(chain_id),
        _ => None,
    }
}

fn user_kind(event: &UserExperienceEvent) -> &'static str {
    match event {
        UserExperienceEvent::UserApprovalGranted { .. } => "UserApprovalGranted",
        UserExperienceEvent::UserApprovalRejected { .. } => "UserApprovalRejected",
        UserExperienceEvent::UserOverrideIssued { .. } => "UserOverrideIssued",
        UserExperienceEvent::UserCorrection { .. } => "UserCorrection",
        UserExperienceEvent::UserBoundaryAdjusted { .. } => "UserBoundaryAdjusted",
    }
}
