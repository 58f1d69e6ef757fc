//! Stores of converge-core's events: ours finds what that does which converge-core has in
//! memory.

use std::sync::atomic::{AtomicU32, Ordering};

use converge_core::{
    ArtifactId, ArtifactKind, BudgetResource, EventQuery, ExperienceEvent, ExperienceEventEnvelope,
    ExperienceEventKind, ExperienceRecord, ExperienceStore, ExperienceStoreResult,
    HypothesisOutcome, LifecycleEvent, ReplayTrace, TimeRange, TraceLinkId, UserExperienceEvent,
    UserExperienceEventEnvelope,
};
use converge_experience::InMemoryExperienceStore;
use converge_pack::UnitInterval;
use ledger_client::converge::{LedgerExperienceStore, conformance};
use ledger_tests::Instance;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::started;

/// converge-core's, which takes an id as often as it is given.
#[derive(Default)]
struct Once(InMemoryExperienceStore);

impl ExperienceStore for Once {
    fn append_event(&self, event: ExperienceEventEnvelope) -> ExperienceStoreResult<()> {
        let stored = self.0.query_events(&EventQuery::default())?;
        match stored.iter().any(|it| it.event_id == event.event_id) {
            true => Ok(()),
            false => self.0.append_event(event),
        }
    }

    fn query_events(
        &self,
        query: &EventQuery,
    ) -> ExperienceStoreResult<Vec<ExperienceEventEnvelope>> {
        self.0.query_events(query)
    }

    fn write_artifact_state_transition(
        &self,
        id: &ArtifactId,
        kind: ArtifactKind,
        event: LifecycleEvent,
    ) -> ExperienceStoreResult<()> {
        self.0.write_artifact_state_transition(id, kind, event)
    }

    fn get_trace_link(&self, id: &TraceLinkId) -> ExperienceStoreResult<Option<ReplayTrace>> {
        self.0.get_trace_link(id)
    }

    fn append_user_event(&self, event: UserExperienceEventEnvelope) -> ExperienceStoreResult<()> {
        let stored = self.0.query_records(&EventQuery::default())?;
        let is_it = |record: &ExperienceRecord| match record {
            ExperienceRecord::Engine(_) => false,
            ExperienceRecord::User(it) => it.event_id == event.event_id,
        };
        match stored.iter().any(is_it) {
            true => Ok(()),
            false => self.0.append_user_event(event),
        }
    }

    fn query_records(&self, query: &EventQuery) -> ExperienceStoreResult<Vec<ExperienceRecord>> {
        self.0.query_records(query)
    }
}

fn store(instance: &Instance, run_id: &str) -> LedgerExperienceStore {
    let appender = instance.context("run").appender().expect("an appender");
    LedgerExperienceStore::new(appender, run_id)
}

#[test]
fn a_store_in_memory_conforms() {
    conformance::experience_store(&InMemoryExperienceStore::new());
    conformance::experience_store(&Once::default());
    conformance::stores_once(&Once::default());
}

#[test]
fn a_store_in_a_context_conforms() {
    let instance = started(&[]);
    conformance::experience_store(&store(&instance, "run-1"));
    let appender = instance.context("once").appender().expect("an appender");
    conformance::stores_once(&LedgerExperienceStore::new(appender, ""));
}

/// One of few, so that several things have the same.
fn one_of(names: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    proptest::sample::select(names)
}

fn times() -> impl Strategy<Value = &'static str> {
    one_of(&["2026-01-01", "2026-01-02T00:00:00Z", "2026-01-03"])
}

fn events() -> impl Strategy<Value = ExperienceEvent> {
    let chain = || one_of(&["a", "b"]);
    prop_oneof![
        chain().prop_map(|chain| ExperienceEvent::BudgetExceeded {
            chain_id: chain.into(),
            resource: BudgetResource::Cycles,
            limit: "100".into(),
            observed: None,
        }),
        chain().prop_map(|chain| ExperienceEvent::HypothesisResolved {
            chain_id: chain.into(),
            fact_id: "income".into(),
            domain: "loans".into(),
            claim: "it is paid back".into(),
            confidence: UnitInterval::clamped(0.5),
            outcome: HypothesisOutcome::Confirmed,
            contradiction_id: None,
            formed_cycle: 1,
            resolved_cycle: 2,
        }),
        Just(ExperienceEvent::FactPromoted {
            proposal_id: "income".into(),
            fact_id: "income".into(),
            promoted_by: "agent-0".into(),
            reason: "validated".into(),
            requires_human: false,
        }),
    ]
}

/// An event of the engine's, or of a user's if there is none.
type Said = (
    Option<ExperienceEvent>,
    &'static str,
    &'static str,
    &'static str,
);

fn said() -> impl Strategy<Value = Said> {
    let tenants = one_of(&["t1", "t2"]);
    let correlations = one_of(&["c1", "c2"]);
    (
        proptest::option::of(events()),
        times(),
        tenants,
        correlations,
    )
}

fn tell(store: &impl ExperienceStore, said: &[Said]) {
    for (number, (event, at, tenant, correlation)) in said.iter().enumerate() {
        let id = format!("e{number}");
        let stored = match event {
            Some(event) => store.append_event(
                ExperienceEventEnvelope::new(id, event.clone())
                    .with_timestamp(*at)
                    .with_tenant(*tenant)
                    .with_correlation(*correlation),
            ),
            None => {
                let granted = UserExperienceEvent::UserApprovalGranted {
                    gate_request_id: "gate".into(),
                    actor: "kari".into(),
                    policy_snapshot_hash: None,
                    reason: None,
                };
                store.append_user_event(
                    UserExperienceEventEnvelope::new(id, granted)
                        .with_timestamp(*at)
                        .with_tenant(*tenant)
                        .with_correlation(*correlation),
                )
            }
        };
        stored.expect("stored");
    }
}

fn queries() -> impl Strategy<Value = EventQuery> {
    use proptest::option::of;
    let kinds = proptest::sample::subsequence(
        vec![
            ExperienceEventKind::BudgetExceeded,
            ExperienceEventKind::FactPromoted,
            ExperienceEventKind::HypothesisResolved,
        ],
        0..=2,
    );
    let range = of(
        (of(times()), of(times())).prop_map(|(start, end)| TimeRange {
            start: start.map(Into::into),
            end: end.map(Into::into),
        }),
    );
    (
        of(one_of(&["t1", "t2"])),
        of(one_of(&["c1", "c2"])),
        kinds,
        of(one_of(&["a", "b"])),
        range,
        of(0..6_usize),
    )
        .prop_map(
            |(tenant, correlation, kinds, chain, time_range, limit)| EventQuery {
                tenant_id: tenant.map(Into::into),
                correlation_id: correlation.map(Into::into),
                kinds,
                chain_id: chain.map(Into::into),
                time_range,
                limit,
            },
        )
}

#[test]
fn whatever_is_asked_it_is_answered_as_by_the_store_in_memory() {
    let instance = started(&[]);
    let cases_done = AtomicU32::new(0);
    let cases = (
        proptest::collection::vec(said(), 0..12),
        proptest::collection::vec(queries(), 1..20),
    );
    let mut runner = TestRunner::new(ProptestConfig::with_cases(60));
    let outcome = runner.run(&cases, |(said, queries)| {
        let case = cases_done.fetch_add(1, Ordering::Relaxed);
        let context = instance.context(&format!("case-{case}"));
        let appender = context.appender().expect("an appender");
        let ours = LedgerExperienceStore::new(appender, "run");
        let expected = InMemoryExperienceStore::new();
        tell(&ours, &said);
        tell(&expected, &said);
        for query in &queries {
            let answer = |store: &dyn ExperienceStore| {
                let events = store.query_events(query).expect("readable");
                let records = store.query_records(query).expect("readable");
                serde_json::to_value((events, records)).expect("JSON")
            };
            prop_assert_eq!(answer(&ours), answer(&expected), "{:?}", query);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|failed| panic!("{failed}"));
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
        let kind = ArtifactKind::Pack;
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
