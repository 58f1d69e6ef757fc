//! Facts that are hard to write or to read back: their payloads, ids and sizes.

use std::collections::{BTreeMap, HashMap};

use async_trait::async_trait;
use converge_core::{AgentEffect, ContextKey, Engine, FactPayload, ProposedFact, Suggestor};
use ledger_client::converge::history::explain;
use ledger_client::converge::{RebuildError, Recorder, rebuild};
use pollster::block_on;
use serde::{Deserialize, Serialize};

use crate::suggestors::{
    Rule, TERM, dying, engine, ids, root, survived, texts, with_facts, with_term,
};
use crate::{loan, started};

#[test]
fn a_large_context_is_recorded_whole_by_default() {
    let instance = started(&[]);
    let begin = with_facts("old", 10, 500_000);
    for round in 0..10 {
        let scope = format!("run-{round}");
        let recorder = Recorder::new(&instance.connect(), &*scope);
        recorder.started("host", &begin);
        let (dropped, trouble) = (recorder.dropped(), recorder.trouble());
        assert_eq!(dropped, 0, "round {round}: {trouble:?}");
    }
}

#[test]
fn an_input_that_nobody_registered_is_named_with_its_entry() {
    let instance = started(&[]);
    let recorder = dying(Recorder::new(&instance.connect(), "run"), 3);
    let begin = loan::context(loan::application(7)).expect("a context");
    assert!(survived(|| block_on(recorder.run(&mut loan::engine(), begin))).is_none());
    let context = instance.context("run");
    let error = rebuild(&context, &texts()).expect_err("no loan is known");
    let RebuildError::UnknownFamily { seq, family, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(family, "loan.application");
    let entry = context
        .get(seq)
        .expect("a number of an entry")
        .expect("there");
    assert_eq!(entry.key(), "proposals");
}

/// Proposes one payload.
struct Proposes<P>(ContextKey, &'static str, P);

#[async_trait]
impl<P: FactPayload + PartialEq> Suggestor for Proposes<P> {
    fn name(&self) -> &str {
        "proposes"
    }
    fn dependencies(&self) -> &[ContextKey] {
        &[ContextKey::Seeds]
    }
    fn accepts(&self, context: &dyn converge_core::Context) -> bool {
        !context
            .get(self.0)
            .iter()
            .any(|fact| fact.id().as_str() == self.1)
    }
    async fn execute(&self, _: &dyn converge_core::Context) -> AgentEffect {
        AgentEffect::with_proposal(ProposedFact::new(
            self.0,
            self.1,
            self.2.clone(),
            "proposes",
        ))
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Numbers {
    doubles: Vec<f64>,
    singles: Vec<f32>,
    large: u64,
    small: i64,
    nested: BTreeMap<String, BTreeMap<String, Option<f64>>>,
}

impl FactPayload for Numbers {
    const FAMILY: &'static str = "oddities.numbers";
    const VERSION: u16 = u16::MAX;
}

/// Doubles of all sizes, the same in every run.
fn doubles() -> Vec<f64> {
    let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
    let mut found = vec![
        0.1 + 0.2,
        1e-7,
        -0.0,
        f64::MIN_POSITIVE,
        f64::MAX,
        5e-324,
        1e21,
        1e16,
    ];
    while found.len() < 5000 {
        bits ^= bits << 13;
        bits ^= bits >> 7;
        bits ^= bits << 17;
        let double = f64::from_bits(bits);
        if double.is_finite() {
            found.push(double);
        }
    }
    found
}

#[test]
fn numbers_are_rebuilt_to_the_last_bit() {
    let instance = started(&[]);
    let inner: BTreeMap<_, _> = [
        ("\u{1f980}\u{202e}\"\\\u{0}".to_owned(), Some(1e-7)),
        (String::new(), None),
    ]
    .into();
    let numbers = Numbers {
        singles: doubles()
            .iter()
            .map(|double| *double as f32)
            .filter(|it| it.is_finite())
            .collect(),
        doubles: doubles(),
        large: u64::MAX,
        small: i64::MIN,
        nested: [("Größe\u{2028}\n".to_owned(), inner)].into(),
    };
    let mut registry = texts();
    registry.register::<Numbers>();
    let mut engine = Engine::new();
    engine.register_suggestor(Proposes(ContextKey::Signals, "numbers", numbers.clone()));
    let recorder = Recorder::new(&instance.connect(), "run");
    let result = block_on(recorder.run(&mut engine, with_term())).expect("it converges");
    assert!(result.context.has(ContextKey::Signals));
    let rebuilt = rebuild(&instance.context("run"), &registry).expect("a run");
    let fact = &rebuilt.context.get(ContextKey::Signals)[0];
    let found: &Numbers = fact.payload().expect("of this type");
    let bits = |numbers: &Numbers| -> Vec<u64> {
        numbers
            .doubles
            .iter()
            .map(|double| double.to_bits())
            .collect()
    };
    let differing = bits(found)
        .iter()
        .zip(bits(&numbers))
        .filter(|(a, b)| **a != *b)
        .count();
    assert_eq!(differing, 0, "of {}", numbers.doubles.len());
    assert_eq!(found, &numbers);
    assert_eq!(
        root(&rebuilt.context),
        result.integrity.merkle_root.to_hex()
    );
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unordered(HashMap<String, u32>);

impl FactPayload for Unordered {
    const FAMILY: &'static str = "oddities.unordered";
    const VERSION: u16 = 1;
}

#[test]
fn a_payload_that_has_no_order_is_rebuilt_right_or_refused_by_name() {
    let instance = started(&[]);
    let mut registry = texts();
    registry.register::<Unordered>();
    let mut refusals = 0;
    for size in [0_u32, 1, 20] {
        let scope = format!("run-{size}");
        let map = (0..size)
            .map(|number| (format!("name-{number}"), number))
            .collect();
        let mut engine = Engine::new();
        engine.register_suggestor(Proposes(ContextKey::Signals, "map", Unordered(map)));
        let recorder = Recorder::new(&instance.connect(), &*scope);
        let result = block_on(recorder.run(&mut engine, with_term())).expect("it converges");
        match rebuild(&instance.context(&scope), &registry) {
            Ok(rebuilt) => {
                let found: Option<&Unordered> =
                    rebuilt.context.get(ContextKey::Signals)[0].payload();
                assert!(found.is_some_and(|found| found.0.len() == size as usize));
                if size < 2 {
                    assert_eq!(
                        root(&rebuilt.context),
                        result.integrity.merkle_root.to_hex()
                    );
                }
            }
            Err(RebuildError::Rejected { why, .. }) => {
                assert!(why.to_lowercase().contains("merkle"), "{why}");
                refusals += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refusals <= 1, "a map of one has an order");
}

#[test]
fn ids_of_any_characters_are_recorded_found_and_rebuilt() {
    let instance = started(&[]);
    let ids_ = [
        "\u{0}",
        " ",
        "a\nb",
        "\"\\",
        "\u{202e}x",
        "\u{1f980}",
        "--",
        "Signals/x",
        "a\tb",
        "é\u{301}",
    ];
    let rule = ids_.iter().fold(Rule::after("odd", TERM), |rule, id| {
        rule.adds(ContextKey::Signals, id, "x")
    });
    let recorder = Recorder::new(&instance.connect(), "run").with_run_id("\u{1f980} \n\"run\"");
    let result = block_on(recorder.run(&mut engine(&[rule]), with_term())).expect("it converges");
    assert_eq!((recorder.dropped(), recorder.trouble()), (0, None));
    let context = instance.context("run");
    let rebuilt = rebuild(&context, &texts()).expect("a run");
    assert_eq!(
        ids(&rebuilt.context, ContextKey::Signals),
        ids(&result.context, ContextKey::Signals)
    );
    assert_eq!(
        rebuilt.context.snapshot().merkle_root(),
        &result.integrity.merkle_root
    );
    assert!(result.context.has(ContextKey::Signals));
    for id in ids(&result.context, ContextKey::Signals) {
        let found = explain(&context, &id).expect("readable");
        assert_eq!(found.len(), 1, "{id:?}");
        assert_eq!((&found[0].id, found[0].is_committed), (&id, true));
    }
}

/// A run in which one fact cannot be recorded.
fn with_a_loss(rule: Rule) {
    let instance = started(&[]);
    let rules = [
        rule,
        Rule::after("after", &[(ContextKey::Signals, "before")]).adds(
            ContextKey::Hypotheses,
            "after",
            "x",
        ),
    ];
    let alone = block_on(engine(&rules).run(with_term())).expect("it converges");
    let recorder = Recorder::new(&instance.connect(), "run");
    let result = block_on(recorder.run(&mut engine(&rules), with_term())).expect("it converges");
    assert_eq!(result.integrity, alone.integrity);
    let dropped = recorder.dropped();
    assert!(
        (1..=2).contains(&dropped),
        "{dropped}: the fact, and perhaps its event"
    );
    let rebuilt = rebuild(&instance.context("run"), &texts()).expect("a run");
    assert!(!rebuilt.is_complete() && rebuilt.has_ended);
    let said: Vec<String> = rebuilt.missing.iter().map(ToString::to_string).collect();
    assert!(
        said.iter()
            .all(|said| said.contains("entries since cycle 1")),
        "{said:?}"
    );
    // Nothing of a cycle that may be there by halves, or of what came of it.
    assert!(!rebuilt.context.has(ContextKey::Signals));
    assert!(!rebuilt.context.has(ContextKey::Hypotheses));
    let found = explain(&instance.context("run"), "behind").expect("readable");
    assert_eq!((found.len(), found[0].is_committed), (1, false));
}

#[test]
fn a_fact_with_an_id_that_no_metadata_holds_is_counted_and_missing() {
    let id = "i".repeat(100 << 10);
    let rule = Rule::after("odd", TERM)
        .adds(ContextKey::Signals, "before", "x")
        .adds(ContextKey::Signals, &id, "x")
        .adds(ContextKey::Signals, "behind", "x");
    with_a_loss(rule);
}

#[test]
fn a_fact_larger_than_an_entry_is_counted_and_missing() {
    let text = "x".repeat(5 << 20);
    let rule = Rule::after("odd", TERM)
        .adds(ContextKey::Signals, "before", "x")
        .adds(ContextKey::Signals, "large", &text)
        .adds(ContextKey::Signals, "behind", "x");
    with_a_loss(rule);
}
