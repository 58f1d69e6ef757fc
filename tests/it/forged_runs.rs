//! What others write in a recorder's name, or leave out.

use converge_core::{ContextKey, ContextStore, Engine};
use ledger_client::converge::history::{diff, explain, gates, timeline};
use ledger_client::converge::{LedgerContextStore, Missing, RebuildError, Recorder, rebuild};
use ledger_client::{Context, NewEntry};
use pollster::block_on;

use crate::suggestors::{engine, root, survived, texts, two_plans, with_facts, with_term};
use crate::{IN_MEMORY, started};

/// An entry of a run that no recorder has written.
pub(crate) fn forged(context: &Context, key: &str, payload: &str, pairs: &[(&str, &str)]) -> u64 {
    let mut metadata = vec![("v", "1")];
    for (name, value) in [
        ("run_id", "one"),
        ("attempt", "1"),
        ("start", "first"),
        ("cycle", "1"),
    ] {
        if pairs.iter().all(|(given, _)| *given != name) {
            metadata.push((name, value));
        }
    }
    metadata.extend(pairs);
    let entry = NewEntry::new(key, payload).metadata(&metadata);
    let appended = context.appender().expect("an appender").append(&entry);
    appended.expect("there is room").seq
}

const STARTED: &str = r#"{"entry_point":"run","suggestors":null,"inputs":0,"facts":0}"#;

#[test]
fn without_what_a_context_held_before_a_run_is_not_complete() {
    let instance = started(&[]);
    // All of it has left memory, or the beginning, or the end did not fit.
    let context = instance.context("gone");
    let three = STARTED.replace("\"facts\":0", "\"facts\":3");
    forged(&context, "intents", &three, &[("kind", "run_started")]);
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert!(!rebuilt.is_complete());

    let small = started(&[&["--memory-budget", "2M", "--window", "1G"][..], &IN_MEMORY].concat());
    let recorder = Recorder::new(&small.connect(), "run");
    let begin = with_facts("old", 10, 500_000);
    let mut engine = engine(&two_plans());
    let result = block_on(recorder.run(&mut engine, begin)).expect("it converges");
    assert_eq!(result.integrity.fact_count, 10);
    assert!(recorder.dropped() > 0, "five megabytes do not fit");
    drop(recorder);
    match rebuild(&small.context("run"), &texts()) {
        Ok(rebuilt) => assert!(!rebuilt.is_complete()),
        Err(RebuildError::NotStarted { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Asks everything that there is to ask of a context; each answers or says which entry it
/// cannot read.
fn asked_everything(context: &Context) {
    let said = [
        rebuild(context, &texts())
            .err()
            .map(|error| error.to_string()),
        gates(context).err().map(|error| error.to_string()),
        explain(context, "x").err().map(|error| error.to_string()),
        diff(context, None, context, None)
            .err()
            .map(|error| error.to_string()),
        diff(context, Some("one"), context, Some("two"))
            .err()
            .map(|error| error.to_string()),
    ];
    for said in said.into_iter().flatten() {
        assert!(
            [
                "entry ",
                "run ",
                "no run was started",
                "has no run",
                "cannot be read as"
            ]
            .iter()
            .any(|named| said.contains(named)),
            "{said}"
        );
    }
    for event in timeline(context).expect("readable") {
        event.expect("readable");
    }
}

const NULLS: [&str; 8] = [
    "",
    "null",
    "1",
    "\"x\"",
    "[null]",
    "{}",
    "{\"payload\":1}",
    "\u{1f980}",
];

#[test]
fn garbage_under_a_recorders_keys_is_named_and_nothing_panics() {
    let instance = started(&[]);
    let kinds = [
        ("intents", "run_started"),
        ("proposals", "input"),
        ("facts", "fact"),
        ("traces", "cycle_start"),
        ("traces", "cycle_end"),
        ("traces", "gap"),
        ("gates", "gate_requested"),
        ("gates", "gate_decided"),
        ("snapshots", "checkpoint"),
        ("outcomes", "run_ended"),
        ("outcomes", "run_failed"),
        ("events", "FactPromoted"),
    ];
    for (at, (key, kind)) in kinds.into_iter().enumerate() {
        for (which, payload) in NULLS.into_iter().enumerate() {
            for is_started in [false, true] {
                let scope = format!("garbage-{at}-{which}-{is_started}");
                let context = instance.context(&scope);
                if is_started {
                    forged(&context, "intents", STARTED, &[("kind", "run_started")]);
                }
                let pairs = [("kind", kind), ("fact_id", "x"), ("ckey", "Signals")];
                forged(&context, key, payload, &pairs);
                if !is_started {
                    forged(&context, "intents", STARTED, &[("kind", "run_started")]);
                }
                let end = r#"{"cycle":1,"facts_added":1}"#;
                forged(&context, "traces", end, &[("kind", "cycle_end")]);
                assert!(
                    survived(|| asked_everything(&context)).is_some(),
                    "{kind}: {payload}"
                );
            }
        }
    }
}

#[test]
fn numbers_that_no_run_comes_to_are_no_trouble() {
    let instance = started(&[]);
    let (ledger, context) = (instance.connect(), instance.context("run"));
    let most = u32::MAX.to_string();
    let end = r#"{"cycle":1,"facts_added":1}"#;
    for attempt in ["1", "2", &most] {
        let at = [("attempt", attempt)];
        forged(
            &context,
            "intents",
            STARTED,
            &[&at[..], &[("kind", "run_started")]].concat(),
        );
        let gap = r#"{"dropped":18446744073709551615,"since_cycle":4294967295}"#;
        forged(
            &context,
            "traces",
            gap,
            &[&at[..], &[("kind", "gap")]].concat(),
        );
        let last = [&at[..], &[("cycle", &*most), ("kind", "cycle_end")]].concat();
        forged(&context, "traces", end, &last);
    }
    forged(
        &context,
        "traces",
        end,
        &[("attempt", "4294967296"), ("kind", "cycle_end")],
    );
    forged(
        &context,
        "traces",
        end,
        &[("attempt", "-1"), ("kind", "cycle_end")],
    );
    asked_everything(&context);
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert_eq!(rebuilt.attempt, u32::MAX);
    assert!(!rebuilt.is_complete());
    let recorder = Recorder::continuing(&ledger, &rebuilt);
    let result = block_on(recorder.run(&mut Engine::new(), rebuilt.context)).expect("it converges");
    assert!(result.converged);
    asked_everything(&context);
}

#[test]
fn facts_of_a_run_that_was_never_started_are_told_and_not_rebuilt() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let recorder = Recorder::new(&ledger, "other");
    let result = block_on(recorder.run(&mut Engine::new(), with_term())).expect("it converges");
    let fact = serde_json::to_string(&result.context.get(ContextKey::Seeds)[0]).expect("JSON");
    let context = instance.context("run");
    let pairs = [("kind", "fact"), ("fact_id", "term"), ("ckey", "Seeds")];
    forged(&context, "facts", &fact, &pairs);
    forged(
        &context,
        "traces",
        r#"{"cycle":1,"facts_added":1}"#,
        &[("kind", "cycle_end")],
    );
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    let start = Missing::Start { attempt: 1 };
    assert_eq!(rebuilt.missing, [start]);
    assert_eq!(explain(&context, "term").expect("readable").len(), 1);
    asked_everything(&context);
}

#[test]
fn a_saved_context_without_one_of_its_parts_is_passed_over() {
    let instance = started(&[]);
    let store = LedgerContextStore::new(&instance.connect(), texts());
    let saved = with_facts("a", 3, 10);
    block_on(store.save_context("run", &saved)).expect("saved");
    let context = instance.context("run");
    for parts in [
        &["1/3", "3/3"][..],
        &["2/2"],
        &["1/2", "1/2"],
        &["0/1", "1/0"],
        &["1/3", "2/3", "2/3", "3/3"],
    ] {
        let id = format!("{parts:?}");
        for part in parts {
            let pairs = [("kind", "checkpoint"), ("checkpoint", &*id), ("part", part)];
            forged(&context, "snapshots", "{\"version\":", &pairs);
        }
        let loaded = block_on(store.load_context("run")).expect("the one before it is whole");
        assert_eq!(root(&loaded.expect("saved")), root(&saved), "{id}");
    }
}
