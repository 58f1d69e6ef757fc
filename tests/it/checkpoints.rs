//! Whole contexts, saved and loaded.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::sync::Mutex;

use converge_core::traits::StoreError;
use converge_core::{ContextKey, ContextState, ContextStore, Engine, StreamingCallback};
use ledger_client::converge::history::gates;
use ledger_client::converge::{LedgerContextStore, PayloadRegistry, Recorder, conformance};
use ledger_client::{Context, Ledger, NewEntry};
use pollster::block_on;

use crate::forged_runs::forged;
use crate::suggestors::{Rule, TERM, asked, gated, with_term};
use crate::{loan, started};

fn texts(ledger: &Ledger) -> LedgerContextStore {
    LedgerContextStore::new(ledger, PayloadRegistry::with_pack_payloads())
}

/// What every such store is compared with.
#[derive(Default)]
struct Naive(Mutex<HashMap<String, ContextState>>);

impl ContextStore for Naive {
    type LoadFut<'a> = Ready<Result<Option<ContextState>, StoreError>>;
    type SaveFut<'a> = Ready<Result<(), StoreError>>;

    fn load_context<'a>(&'a self, scope_id: &'a str) -> Self::LoadFut<'a> {
        ready(Ok(self.0.lock().expect("no panic").get(scope_id).cloned()))
    }

    fn save_context<'a>(
        &'a self,
        scope_id: &'a str,
        context: &'a ContextState,
    ) -> Self::SaveFut<'a> {
        let mut saved = self.0.lock().expect("no panic");
        saved.insert(scope_id.to_owned(), context.clone());
        ready(Ok(()))
    }
}

#[test]
fn a_naive_store_does_what_every_store_has_to() {
    block_on(conformance::context_store(&Naive::default()));
}

#[test]
fn the_ledgers_store_does_what_every_store_has_to() {
    let instance = started(&[]);
    block_on(conformance::context_store(&texts(&instance.connect())));
}

#[test]
fn it_may_be_called_within_a_runtime() {
    let instance = started(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(conformance::context_store(&texts(&instance.connect())));
}

/// Of one size, and told from others by its text.
fn with_text(text: &str) -> ContextState {
    let mut context = ContextState::new();
    for fact in 0..10 {
        let text = text.repeat(150_000);
        let staged = context.add_input(ContextKey::Seeds, fact.to_string(), text);
        assert!(staged.expect("nothing contradicts it"));
    }
    block_on(Engine::new().run(context))
        .expect("it converges")
        .context
}

fn checkpoints(context: &Context) -> u64 {
    let mut range = context.range(1).key("snapshots");
    let mut count = 0;
    while range.next_entry().expect("readable").is_some() {
        count += 1;
    }
    count
}

#[test]
fn a_large_one_takes_several_entries_and_a_half_one_is_passed_over() {
    let instance = started(&[]);
    let store = texts(&instance.connect());
    let saved = with_text("a");
    block_on(store.save_context("run", &saved)).expect("saved");
    let context = instance.context("run");
    assert_eq!(checkpoints(&context), 3, "of half a mebibyte each at most");

    // A process that was killed while it saved.
    let metadata = [
        ("v", "1"),
        ("kind", "checkpoint"),
        ("checkpoint", "half"),
        ("part", "1/2"),
    ];
    let half = NewEntry::new("snapshots", "{\"version\":").metadata(&metadata);
    let mut appender = context.appender().expect("an appender");
    appender.append(&half).expect("room");
    let loaded = block_on(store.load_context("run")).expect("readable");
    let loaded = loaded.expect("one was saved");
    assert_eq!(
        loaded.snapshot().merkle_root(),
        saved.snapshot().merkle_root()
    );
}

fn staged_ids(context: &ContextState) -> Vec<String> {
    let snapshot = context.snapshot();
    let staged = snapshot.proposals().values().flatten();
    staged.map(|it| it.id().to_string()).collect()
}

fn loaded(store: &LedgerContextStore, scope: &str) -> ContextState {
    let loaded = block_on(store.load_context(scope)).expect("readable");
    loaded.expect("one was saved")
}

#[test]
fn what_is_staged_while_a_run_is_open_is_saved_and_so_it_is_behind_garbage() {
    let instance = started(&[]);
    let ledger = instance.connect();
    // A run that never ends, and one that nobody has recorded.
    Recorder::new(&ledger, "run").started("run", &with_term());
    for kind in ["gate_requested", "input"] {
        forged(&instance.context("run"), "gates", "[]", &[("kind", kind)]);
    }
    let mut context = ContextState::new();
    let staged = context.add_input(ContextKey::Signals, "evidence", "new");
    assert!(staged.expect("nothing contradicts it"));
    let store = texts(&ledger);
    block_on(store.save_context("run", &context)).expect("saved");
    assert_eq!(staged_ids(&loaded(&store, "run")), ["evidence"]);
    block_on(conformance::context_store(&store));
}

#[test]
fn what_a_human_is_asked_is_not_saved_though_there_was_no_room_to_record_it() {
    let mut instance = started(&["--spare-min", "16K", "--spare-max", "16K"]);
    let ledger = instance.connect();
    let recorder = Recorder::new(&ledger, "run");
    instance.kill_daemon();
    while recorder.dropped() == 0 {
        recorder.on_cycle_start(1);
    }
    let plan = Rule::after("planner", TERM).adds(ContextKey::Strategies, "plan", "lend");
    let mut engine = gated(&[plan]);
    let pause = asked(block_on(recorder.run_with_hitl(&mut engine, with_term())));
    instance.start(&["--spare-min", "16K", "--spare-max", "16K"]);
    assert_eq!(gates(&instance.context("run")).expect("readable"), []);
    assert_eq!(staged_ids(&pause.context), ["plan"]);
    let store = texts(&ledger);
    block_on(store.save_context("run", &pause.context)).expect("saved");
    assert_eq!(staged_ids(&loaded(&store, "run")), [""; 0]);
    // Elsewhere nobody is asked about it.
    block_on(store.save_context("other", &pause.context)).expect("saved");
    assert_eq!(staged_ids(&loaded(&store, "other")), ["plan"]);
}

#[test]
fn of_two_that_are_saved_at_once_one_is_loaded_whole() {
    let instance = started(&[]);
    let contexts = ["a", "b"].map(with_text);
    std::thread::scope(|scope| {
        for context in &contexts {
            let store = texts(&instance.connect());
            scope.spawn(move || {
                for _ in 0..5 {
                    block_on(store.save_context("run", context)).expect("saved");
                }
            });
        }
    });
    assert_eq!(checkpoints(&instance.context("run")), 30);
    let loaded = block_on(texts(&instance.connect()).load_context("run"));
    let loaded = loaded.expect("readable").expect("saved");
    let is_it = |context: &&ContextState| {
        context.snapshot().merkle_root() == loaded.snapshot().merkle_root()
    };
    assert_eq!(contexts.iter().filter(is_it).count(), 1);
}

#[test]
fn what_cannot_be_saved_or_loaded_says_why() {
    let mut instance = started(&[]);
    let ledger = instance.connect();
    let store = texts(&ledger);
    let empty = ContextState::new();
    let error = block_on(store.save_context("", &empty)).expect_err("no name");
    assert!(matches!(error, StoreError::InvalidQuery { .. }), "{error}");

    let context = loan::context(loan::application(7)).expect("a context");
    block_on(store.save_context("loan", &context)).expect("saved");
    let error = block_on(store.load_context("loan")).expect_err("no loan is known");
    let StoreError::SerializationFailed { message } = &error else {
        panic!("{error}");
    };
    assert!(message.contains("loan.application"), "{message}");

    instance.kill_daemon();
    let error = block_on(store.save_context("new", &empty)).expect_err("no daemon");
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
}
