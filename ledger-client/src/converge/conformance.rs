//! What every implementation of converge-core's stores has to do, as tests that take one.
//!
//! Each panics with what it found where an implementation does something else.

use converge_core::{
    BudgetResource, ContextKey, ContextState, ContextStore, Engine, EventQuery, ExecutionEnv,
    ExperienceEvent, ExperienceEventEnvelope, ExperienceEventKind, ExperienceRecord,
    ExperienceStore, GovernedArtifactState, LifecycleEvent, LocalReplayTrace, ReplayTrace,
    SamplerParams, TimeRange, UserExperienceEvent, UserExperienceEventEnvelope,
};

/// Events of two chains and of none, and of users; some at the same time.
fn fill(store: &impl ExperienceStore) {
    let budget = |chain: &str| ExperienceEvent::BudgetExceeded {
        chain_id: chain.into(),
        resource: BudgetResource::Cycles,
        limit: "100".into(),
        observed: None,
    };
    let fact = ExperienceEvent::FactPromoted {
        proposal_id: "income".into(),
        fact_id: "income".into(),
        promoted_by: "agent-0".into(),
        reason: "validated".into(),
        requires_human: false,
    };
    let events = [
        ("e1", "2026-01-03T00:00:00Z", budget("a"), "t1", "c1"),
        ("e2", "2026-01-01T00:00:00Z", fact.clone(), "t1", "c2"),
        ("e3", "2026-01-02T00:00:00Z", budget("b"), "t2", "c1"),
        ("e4", "2026-01-02T00:00:00Z", fact, "t2", "c2"),
    ];
    let events = events.map(|(id, at, event, tenant, correlation)| {
        ExperienceEventEnvelope::new(id, event)
            .with_timestamp(at)
            .with_tenant(tenant)
            .with_correlation(correlation)
    });
    let [first, others @ ..] = events;
    store.append_event(first).expect("stored");
    store.append_events(&others).expect("stored");
    let approval = UserExperienceEvent::UserApprovalGranted {
        gate_request_id: "gate".into(),
        actor: "kari".into(),
        policy_snapshot_hash: None,
        reason: None,
    };
    // An id of its own, though an engine's event has the same.
    let user = UserExperienceEventEnvelope::new("e1", approval)
        .with_timestamp("2026-01-02T00:00:00Z")
        .with_tenant("t1")
        .with_correlation("c1");
    store.append_user_event(user).expect("stored");
}

fn ids(store: &impl ExperienceStore, query: &EventQuery) -> Vec<String> {
    let found = store.query_events(query).expect("readable").into_iter();
    found.map(|event| event.event_id.to_string()).collect()
}

fn record_ids(store: &impl ExperienceStore, query: &EventQuery) -> Vec<String> {
    let found = store.query_records(query).expect("readable").into_iter();
    let ids = found.map(|record| match record {
        ExperienceRecord::Engine(event) => event.event_id.to_string(),
        ExperienceRecord::User(event) => format!("user {}", event.event_id),
    });
    ids.collect()
}

/// An [`ExperienceStore`], empty so far, finds what is asked for, whichever way it is asked, as
/// converge-core's in-memory store does.
///
/// # Panics
///
/// Where it does not.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::converge::{LedgerExperienceStore, conformance};
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// conformance::experience_store(&LedgerExperienceStore::new(context.appender()?, "run-1"));
/// # Ok(()) });
/// ```
pub fn experience_store(store: &impl ExperienceStore) {
    assert_eq!(ids(store, &EventQuery::default()), [""; 0], "it is empty");
    fill(store);
    finds_what_every_filter_lets_through(store);
    orders_records_by_occurrence(store);
    keeps_transitions_of_artifacts(store);
    finds_trace_links(store);
}

fn finds_what_every_filter_lets_through(store: &impl ExperienceStore) {
    let all = EventQuery::default();
    assert_eq!(ids(store, &all), ["e1", "e2", "e3", "e4"]);
    let of_tenant = EventQuery {
        tenant_id: Some("t1".into()),
        ..all.clone()
    };
    assert_eq!(ids(store, &of_tenant), ["e1", "e2"]);
    let both = EventQuery {
        correlation_id: Some("c1".into()),
        ..of_tenant
    };
    assert_eq!(ids(store, &both), ["e1"], "filters are conjunctive");
    let of_kind = EventQuery {
        kinds: vec![ExperienceEventKind::FactPromoted],
        ..all.clone()
    };
    assert_eq!(ids(store, &of_kind), ["e2", "e4"]);
    let in_chain = EventQuery {
        chain_id: Some("a".into()),
        ..all.clone()
    };
    assert_eq!(
        ids(store, &in_chain),
        ["e1"],
        "those without a chain are in none"
    );
    let correlated = EventQuery {
        correlation_id: Some("c2".into()),
        ..all.clone()
    };
    assert_eq!(ids(store, &correlated), ["e2", "e4"]);
    let between = |start: Option<&str>, end: Option<&str>| EventQuery {
        time_range: Some(TimeRange {
            start: start.map(Into::into),
            end: end.map(Into::into),
        }),
        ..all.clone()
    };
    let within = |start, end| between(Some(start), Some(end));
    let since = between(Some("2026-01-02T00:00:00Z"), None);
    assert_eq!(ids(store, &since), ["e1", "e3", "e4"]);
    let until = between(None, Some("2026-01-01T00:00:00Z"));
    assert_eq!(ids(store, &until), ["e2"]);
    let day = within("2026-01-02T00:00:00Z", "2026-01-03T00:00:00Z");
    assert_eq!(ids(store, &day), ["e1", "e3", "e4"], "both ends are in it");
    // As text: a shorter one is before what it begins.
    let short = within("2026-01-01", "2026-01-02");
    assert_eq!(ids(store, &short), ["e2"]);
    let first = EventQuery {
        limit: Some(3),
        ..all.clone()
    };
    assert_eq!(ids(store, &first), ["e1", "e2", "e3"]);
    let none = EventQuery {
        limit: Some(0),
        ..all
    };
    assert_eq!(ids(store, &none), [""; 0]);
}

fn orders_records_by_occurrence(store: &impl ExperienceStore) {
    let all = EventQuery::default();
    let in_order = ["e2", "e3", "e4", "user e1", "e1"];
    assert_eq!(
        record_ids(store, &all),
        in_order,
        "the engine's before the user's"
    );
    let first = EventQuery {
        limit: Some(4),
        ..all.clone()
    };
    assert_eq!(record_ids(store, &first), in_order[..4]);
    let of_tenant = EventQuery {
        tenant_id: Some("t1".into()),
        ..all.clone()
    };
    assert_eq!(record_ids(store, &of_tenant), ["e2", "user e1", "e1"]);
    // The engine's are limited before that.
    let first = EventQuery {
        limit: Some(2),
        ..all.clone()
    };
    assert_eq!(record_ids(store, &first), ["e2", "user e1"]);
    // Users' events have no kind and no chain.
    let in_chain = EventQuery {
        chain_id: Some("a".into()),
        ..all.clone()
    };
    assert_eq!(record_ids(store, &in_chain), ["user e1", "e1"]);
    let of_kind = EventQuery {
        kinds: vec![ExperienceEventKind::FactPromoted],
        ..all
    };
    assert_eq!(record_ids(store, &of_kind), ["e2", "e4", "user e1"]);
}

/// An [`ExperienceStore`], empty so far, stores an event of an id once. That of converge-core,
/// which is in memory, need not.
///
/// # Panics
///
/// Where it does not.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::converge::{LedgerExperienceStore, conformance};
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// conformance::stores_once(&LedgerExperienceStore::new(context.appender()?, "run-1"));
/// # Ok(()) });
/// ```
pub fn stores_once(store: &impl ExperienceStore) {
    fill(store);
    fill(store);
    let all = EventQuery::default();
    assert_eq!(ids(store, &all), ["e1", "e2", "e3", "e4"]);
    assert_eq!(record_ids(store, &all).len(), 5);
}

fn keeps_transitions_of_artifacts(store: &impl ExperienceStore) {
    let transition = |to_state| LifecycleEvent {
        from_state: GovernedArtifactState::Draft,
        to_state,
        timestamp: "2026-01-04T00:00:00Z".into(),
        actor: "kari".into(),
        reason: "reviewed".into(),
        ticket_ref: None,
        tenant_id: None,
    };
    for to_state in [
        GovernedArtifactState::Approved,
        GovernedArtifactState::Active,
    ] {
        let kind = converge_core::ArtifactKind::Pack;
        let written =
            store.write_artifact_state_transition(&"pack-1".into(), kind, transition(to_state));
        written.expect("stored");
    }
    let query = EventQuery {
        kinds: vec![ExperienceEventKind::ArtifactStateTransitioned],
        ..EventQuery::default()
    };
    let found = store.query_events(&query).expect("readable");
    assert_eq!(found.len(), 2);
    assert_ne!(found[0].event_id, found[1].event_id, "ids are unique");
}

fn finds_trace_links(store: &impl ExperienceStore) {
    let traces = [
        ("t1", "trace-1", 16),
        ("t2", "trace-2", 18),
        ("t3", "trace-1", 17),
    ];
    for (event_id, id, seed) in traces {
        let trace = LocalReplayTrace {
            base_model_hash: "model".into(),
            adapter: None,
            tokenizer_hash: "tokenizer".into(),
            seed,
            sampler: SamplerParams::default(),
            prompt_version: "1".into(),
            recall: None,
            weights_mutated: false,
            execution_env: ExecutionEnv::default(),
        };
        let event = ExperienceEvent::ReplayTraceRecorded {
            trace_link_id: id.into(),
            trace_link: ReplayTrace::Local(trace),
        };
        let stored = store.append_event(ExperienceEventEnvelope::new(event_id, event));
        stored.expect("stored");
    }
    let seed = |id: &str| match store.get_trace_link(&id.into()).expect("readable") {
        Some(ReplayTrace::Local(trace)) => Some(trace.seed),
        other => {
            assert!(other.is_none(), "{other:?}");
            None
        }
    };
    let found = ["trace-2", "trace-1", "none"].map(seed);
    assert_eq!(found, [Some(18), Some(17), None], "the last one counts");
}

/// A [`ContextStore`], empty so far and with the payloads of
/// [`PayloadRegistry::with_pack_payloads`](super::PayloadRegistry::with_pack_payloads), gives
/// back what was saved last: of each scope its own, however large.
///
/// # Panics
///
/// Where it does not.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::converge::{LedgerContextStore, PayloadRegistry, conformance};
///
/// let store = LedgerContextStore::new(&ledger, PayloadRegistry::with_pack_payloads());
/// pollster::block_on(conformance::context_store(&store));
/// # Ok(()) });
/// ```
pub async fn context_store(store: &impl ContextStore) {
    assert!(load(store, "a").await.is_none(), "it is empty");
    let empty = ContextState::new();
    save(store, "a", &empty).await;
    assert_same(&loaded(store, "a").await, &empty);

    let mut staged = ContextState::new();
    stage(&mut staged, "term", "42 months \u{2014} \"or more\"\n");
    save(store, "a", &staged).await;
    assert_same(&loaded(store, "a").await, &staged);
    let promoted = promoted(staged).await;
    save(store, "a", &promoted).await;
    assert_same(&loaded(store, "a").await, &promoted);

    // What comes back can be gone on with.
    let mut more = loaded(store, "a").await;
    stage(&mut more, "rate", "4 %");
    let more = self::promoted(more).await;
    assert_eq!(more.version(), 2);
    assert!(load(store, "b").await.is_none(), "scopes are apart");
    save(store, "b", &more).await;
    assert_same(&loaded(store, "b").await, &more);
    assert_same(&loaded(store, "a").await, &promoted);

    // Of several saved ones the last, also if it has less.
    save(store, "b", &promoted).await;
    assert_same(&loaded(store, "b").await, &promoted);

    let mut large = ContextState::new();
    for fact in 0..LARGE_COUNT {
        stage(&mut large, &fact.to_string(), &"\u{00e9}".repeat(LARGE_LEN));
    }
    let large = self::promoted(large).await;
    save(store, "large", &large).await;
    assert_same(&loaded(store, "large").await, &large);
}

/// Together more than an entry, a message or a row often may have.
const LARGE_COUNT: usize = 3000;
const LARGE_LEN: usize = 1000;

fn stage(context: &mut ContextState, id: &str, text: &str) {
    let staged = context.add_input(ContextKey::Seeds, id, text);
    assert!(staged.expect("nothing contradicts it"));
}

/// What is staged, as facts.
async fn promoted(context: ContextState) -> ContextState {
    let result = Engine::new().run(context).await;
    result.expect("it converges").context
}

async fn save(store: &impl ContextStore, scope: &str, context: &ContextState) {
    let saved = store.save_context(scope, context).await;
    saved.expect("saved");
}

async fn load(store: &impl ContextStore, scope: &str) -> Option<ContextState> {
    store.load_context(scope).await.expect("readable")
}

async fn loaded(store: &impl ContextStore, scope: &str) -> ContextState {
    load(store, scope).await.expect("it was saved")
}

/// Facts with their promotions, what is staged, and how often it changed.
fn assert_same(found: &ContextState, saved: &ContextState) {
    let (found, saved) = (found.snapshot(), saved.snapshot());
    assert_eq!(found.version(), saved.version());
    assert_eq!(found.merkle_root(), saved.merkle_root());
    assert!(
        found.facts() == saved.facts(),
        "facts are the same, with their promotions"
    );
    assert_eq!(found.proposals(), saved.proposals());
}
