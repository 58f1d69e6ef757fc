//! Stores of converge-core's events: ours, and one that is as simple as can be, hold what
//! every one has to.

use std::sync::Mutex;

use converge_core::{
    CorrelationId, EventQuery, ExperienceEvent, ExperienceEventEnvelope, ExperienceRecord,
    ExperienceStore, ExperienceStoreResult, LifecycleEvent, TenantId, UserExperienceEventEnvelope,
};
use ledger_client::converge::{LedgerExperienceStore, conformance};
use ledger_tests::Instance;

use crate::started;

/// All of it in vectors, and every filter written out.
#[derive(Default)]
struct Naive {
    events: Mutex<Vec<ExperienceEventEnvelope>>,
    user_events: Mutex<Vec<UserExperienceEventEnvelope>>,
}

impl ExperienceStore for Naive {
    fn append_event(&self, event: ExperienceEventEnvelope) -> ExperienceStoreResult<()> {
        let mut events = self.events.lock().expect("one thread");
        if events
            .iter()
            .all(|stored| stored.event_id != event.event_id)
        {
            events.push(event);
        }
        Ok(())
    }

    fn query_events(
        &self,
        query: &EventQuery,
    ) -> ExperienceStoreResult<Vec<ExperienceEventEnvelope>> {
        let mut found = Vec::new();
        for event in self.events.lock().expect("one thread").iter() {
            let json = serde_json::to_value(&event.event).expect("JSON");
            let chain = json["data"]["chain_id"].as_str();
            let is_out = !query.kinds.is_empty() && !query.kinds.contains(&event.event.kind())
                || query.chain_id.as_ref().is_some_and(|id| chain != Some(id))
                || is_out(
                    query,
                    &event.tenant_id,
                    &event.correlation_id,
                    &event.occurred_at,
                );
            if !is_out {
                found.push(event.clone());
            }
        }
        found.truncate(query.limit.unwrap_or(found.len()));
        Ok(found)
    }

    fn write_artifact_state_transition(
        &self,
        artifact_id: &converge_core::ArtifactId,
        artifact_kind: converge_core::ArtifactKind,
        event: LifecycleEvent,
    ) -> ExperienceStoreResult<()> {
        let count = self.events.lock().expect("one thread").len();
        let event = ExperienceEvent::ArtifactStateTransitioned {
            artifact_id: artifact_id.clone(),
            artifact_kind,
            event,
        };
        self.append_event(ExperienceEventEnvelope::new(
            format!("given-{count}"),
            event,
        ))
    }

    fn get_trace_link(
        &self,
        trace_link_id: &converge_core::TraceLinkId,
    ) -> ExperienceStoreResult<Option<converge_core::ReplayTrace>> {
        for event in self.events.lock().expect("one thread").iter() {
            if let ExperienceEvent::ReplayTraceRecorded {
                trace_link_id: id,
                trace_link,
            } = &event.event
                && id == trace_link_id
            {
                return Ok(Some(trace_link.clone()));
            }
        }
        Ok(None)
    }

    fn append_user_event(&self, event: UserExperienceEventEnvelope) -> ExperienceStoreResult<()> {
        let mut events = self.user_events.lock().expect("one thread");
        if events
            .iter()
            .all(|stored| stored.event_id != event.event_id)
        {
            events.push(event);
        }
        Ok(())
    }

    fn query_records(&self, query: &EventQuery) -> ExperienceStoreResult<Vec<ExperienceRecord>> {
        let unlimited = EventQuery {
            limit: None,
            ..query.clone()
        };
        let mut found: Vec<_> = self
            .query_events(&unlimited)?
            .into_iter()
            .map(ExperienceRecord::Engine)
            .collect();
        for event in self.user_events.lock().expect("one thread").iter() {
            let is_out = !query.kinds.is_empty()
                || query.chain_id.is_some()
                || is_out(
                    query,
                    &event.tenant_id,
                    &event.correlation_id,
                    &event.occurred_at,
                );
            if !is_out {
                found.push(ExperienceRecord::User(event.clone()));
            }
        }
        found.sort_by_key(|record| record.occurred_at().to_string());
        found.truncate(query.limit.unwrap_or(found.len()));
        Ok(found)
    }
}

/// What envelopes of both kinds say.
fn is_out(
    query: &EventQuery,
    tenant: &Option<TenantId>,
    correlation: &Option<CorrelationId>,
    at: &str,
) -> bool {
    let (mut start, mut end) = (None, None);
    if let Some(range) = &query.time_range {
        (start, end) = (range.start.as_deref(), range.end.as_deref());
    }
    query.tenant_id.is_some() && query.tenant_id != *tenant
        || query.correlation_id.is_some() && query.correlation_id != *correlation
        || start.is_some_and(|start| at < start)
        || end.is_some_and(|end| at > end)
}

fn store(instance: &Instance, run_id: &str) -> LedgerExperienceStore {
    let appender = instance.context("run").appender().expect("an appender");
    LedgerExperienceStore::new(appender, run_id)
}

#[test]
fn a_store_in_memory_conforms() {
    conformance::experience_store(&Naive::default());
}

#[test]
fn a_store_in_a_context_conforms() {
    let instance = started(&[]);
    conformance::experience_store(&store(&instance, "run-1"));
}

#[test]
fn what_was_stored_is_there_after_a_restart_and_once() {
    let mut instance = started(&["--durability", "archive"]);
    let event = |id: &str| {
        let event = ExperienceEvent::FactPromoted {
            proposal_id: "income".into(),
            fact_id: "income".into(),
            promoted_by: "agent-0".into(),
            reason: "validated".into(),
            requires_human: false,
        };
        ExperienceEventEnvelope::new(id, event)
    };
    let transition = LifecycleEvent {
        from_state: converge_core::GovernedArtifactState::Draft,
        to_state: converge_core::GovernedArtifactState::Approved,
        timestamp: "2026-01-04T00:00:00Z".into(),
        actor: "kari".into(),
        reason: "reviewed".into(),
        ticket_ref: None,
        tenant_id: None,
    };
    let write = |store: &LedgerExperienceStore| {
        let kind = converge_core::ArtifactKind::Pack;
        let written =
            store.write_artifact_state_transition(&"pack".into(), kind, transition.clone());
        written.expect("room");
    };
    let before = store(&instance, "run-1");
    before.append_event(event("e1")).expect("room");
    write(&before);
    drop(before);
    instance.stop_daemon();
    instance.start(&["--durability", "archive"]);
    let after = store(&instance, "run-1");
    after.append_event(event("e1")).expect("room");
    write(&after);
    // Another run's is another one.
    store(&instance, "run-2")
        .append_event(event("e1"))
        .expect("room");
    let found = after
        .query_events(&EventQuery::default())
        .expect("readable");
    let ids: Vec<_> = found.iter().map(|event| event.event_id.as_str()).collect();
    let [first, transition, again, other] = ids[..] else {
        panic!("{ids:?}");
    };
    assert_eq!([first, other], ["e1"; 2]);
    assert_ne!(transition, again);
    assert_eq!(instance.context("run").latest().expect("readable"), 4);
}

#[test]
fn a_store_is_called_in_a_runtime() {
    let instance = started(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(async {
        conformance::experience_store(&store(&instance, "run-1"));
    });
}
