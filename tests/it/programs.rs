//! Whatever program an engine runs, it does the same with a ledger beside it, and the ledger
//! has all of it.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};

use converge_core::gates::{GateDecision, TimeoutPolicy};
use converge_core::{
    Budget, ContextFact, ContextKey, ContextState, ConvergeError, ConvergeResult, Engine,
    EngineHitlPolicy, Invariant, InvariantClass, InvariantResult, RunResult, StreamingCallback,
    Violation,
};
use ledger_client::Context;
use ledger_client::converge::{PayloadRegistry, Recorder, rebuild};
use pollster::block_on;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::started;
use crate::suggestors::{Rule, engine};

const KEYS: [ContextKey; 5] = [
    ContextKey::Seeds,
    ContextKey::Hypotheses,
    ContextKey::Signals,
    ContextKey::Strategies,
    ContextKey::Diagnostic,
];

/// Which key, and which fact there.
type Place = (usize, u8);

/// A fact, and what it says.
type Told = (Place, String);

/// What an engine is given.
#[derive(Clone, Debug)]
struct Program {
    inputs: Vec<Told>,
    /// What each waits for, and what it adds.
    rules: Vec<(Vec<Place>, Vec<Told>)>,
    max_cycles: u32,
    max_facts: u32,
    gated: Option<usize>,
    /// What a human says, one after the other.
    answers: Vec<bool>,
    /// Nothing may be there, or only one thing, and when that is looked at.
    forbidden: Option<(usize, usize, InvariantClass)>,
    /// Without humans there is another way to run it.
    is_plain: bool,
}

/// At most so many facts may be under a key.
#[derive(Clone, Copy, Debug)]
struct AtMost(usize, usize, InvariantClass);

impl Invariant for AtMost {
    fn name(&self) -> &str {
        "at_most"
    }
    fn class(&self) -> InvariantClass {
        self.2
    }
    fn check(&self, context: &dyn converge_core::Context) -> InvariantResult {
        match context.count(KEYS[self.0]) > self.1 {
            true => InvariantResult::Violated(Violation::new("there are too many")),
            false => InvariantResult::Ok,
        }
    }
}

fn program() -> impl Strategy<Value = Program> {
    let place = || (0..KEYS.len(), 0..4_u8);
    let fact = move || {
        (
            place(),
            "[a-z ]{0,8}|[a-z\"\n é]{20,200}|[\\PC]{1,6}|[\"\\\\/\u{0}-\u{1f}\u{7f}é]{1,4}",
        )
    };
    let rule = (
        prop::collection::vec(place(), 0..3),
        prop::collection::vec(fact(), 0..4),
    );
    let given = (
        prop::collection::vec(fact(), 0..4),
        prop::collection::vec(rule, 0..6),
    );
    let limits = (1..8_u32, 1..12_u32, prop::option::of(0..KEYS.len()));
    let classes = prop::sample::select(vec![
        InvariantClass::Structural,
        InvariantClass::Semantic,
        InvariantClass::Acceptance,
    ]);
    let forbidden = prop::option::weighted(0.3, (0..KEYS.len(), 0..3_usize, classes));
    let answers = prop::collection::vec(any::<bool>(), 8);
    (given, limits, answers, forbidden, any::<bool>()).prop_map(
        |((inputs, rules), (max_cycles, max_facts, gated), answers, forbidden, is_plain)| Program {
            inputs,
            rules,
            max_cycles,
            max_facts,
            gated,
            answers,
            forbidden,
            is_plain: is_plain && gated.is_none(),
        },
    )
}

fn id(place: Place) -> String {
    format!("fact-{}", place.1)
}

impl Program {
    fn engine(&self) -> Engine {
        let rules: Vec<Rule> = self
            .rules
            .iter()
            .enumerate()
            .map(|(at, rule)| {
                let needs: Vec<_> = rule
                    .0
                    .iter()
                    .map(|place| (KEYS[place.0], id(*place)))
                    .collect();
                let needs: Vec<_> = needs.iter().map(|(key, id)| (*key, &**id)).collect();
                let rule_of = Rule::after(&format!("rule-{at}"), &needs);
                rule.1.iter().fold(rule_of, |whole, (place, text)| {
                    whole.adds(KEYS[place.0], &id(*place), text)
                })
            })
            .collect();
        let mut engine = engine(&rules);
        engine.set_budget(Budget {
            max_cycles: self.max_cycles,
            max_facts: self.max_facts,
        });
        if let Some((key, count, class)) = self.forbidden {
            engine.register_invariant(AtMost(key, count, class));
        }
        if let Some(gated) = self.gated {
            engine.set_hitl_policy(EngineHitlPolicy {
                confidence_threshold: None,
                gated_keys: vec![KEYS[gated]],
                timeout: TimeoutPolicy::default(),
            });
        }
        engine
    }

    fn context(&self) -> ContextState {
        let mut context = ContextState::new();
        for (place, text) in &self.inputs {
            // One that contradicts another is not staged.
            let _ = context.add_input(KEYS[place.0], id(*place), text.clone());
        }
        context
    }

    fn run(&self, recorder: Option<&Recorder>) -> Result<ConvergeResult, ConvergeError> {
        let mut engine = self.engine();
        if self.is_plain {
            return block_on(async {
                match recorder {
                    Some(recorder) => recorder.run(&mut engine, self.context()).await,
                    None => engine.run(self.context()).await,
                }
            });
        }
        let mut answers = self.answers.iter();
        let mut result = block_on(async {
            match recorder {
                Some(recorder) => recorder.run_with_hitl(&mut engine, self.context()).await,
                None => engine.run_with_hitl(self.context()).await,
            }
        });
        loop {
            match result {
                RunResult::Complete(result) => return result,
                RunResult::HitlPause(pause) => {
                    let gate = pause.request.gate_id.clone();
                    let decision = match answers.next() {
                        Some(true) => GateDecision::approve(gate, "kari"),
                        _ => GateDecision::reject(gate, "kari", None),
                    };
                    result = block_on(async {
                        match recorder {
                            Some(recorder) => recorder.resume(&mut engine, *pause, decision).await,
                            None => engine.resume(*pause, decision).await,
                        }
                    });
                }
            }
        }
    }
}

/// How it ended, to the byte, but for what an engine does in no order: it takes what is
/// staged under different keys in that of a hash map.
fn outcome(result: &Result<ConvergeResult, ConvergeError>) -> String {
    match result {
        Ok(result) => format!(
            "{:?} {} {:?}",
            result.integrity, result.cycles, result.stop_reason
        ),
        Err(error) => {
            let root = error
                .context()
                .map(|it| it.snapshot().merkle_root().to_hex());
            let said = error.to_string();
            let said = match error {
                ConvergeError::Conflict { .. } => said.split(':').next().unwrap_or_default(),
                _ => &*said,
            };
            format!("{said} {root:?}")
        }
    }
}

/// A host's callback that has the engine's process fail at some call.
struct Fails(Mutex<u32>);

impl Fails {
    fn call(&self) {
        let mut left = self.0.lock().expect("one thread");
        match left.checked_sub(1) {
            Some(less) => *left = less,
            // As a panic, without the report of one: this happens hundreds of times.
            None => resume_unwind(Box::new("the process fails here")),
        }
    }
}

impl StreamingCallback for Fails {
    fn on_cycle_start(&self, _: u32) {
        self.call();
    }
    fn on_fact(&self, _: u32, _: &ContextFact) {
        self.call();
    }
    fn on_cycle_end(&self, _: u32, _: usize) {
        self.call();
    }
}

#[test]
fn interrupted_anywhere_a_program_comes_to_the_same() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let interrupted = std::cell::Cell::new(0);
    let violated = std::cell::Cell::new(0);
    let interrupt = |(program, calls): (Program, u32)| {
        // Budgets begin anew with every attempt, and a resumed pause promotes the rest of
        // its cycle unasked: neither can come to the same.
        let mut program = Program {
            max_cycles: 100,
            max_facts: 1000,
            gated: None,
            is_plain: false,
            ..program
        };
        // An engine rejects what says nothing, and a rule whose first fact is not there runs
        // again in the first cycle of every attempt.
        let firsts = program
            .rules
            .iter_mut()
            .filter_map(|(_, adds)| adds.first_mut());
        for (_, text) in firsts.filter(|(_, text)| text.trim().is_empty()) {
            "something".clone_into(text);
        }
        let alone = program.run(None);
        // A fact that is proposed again contradicts itself by the cycle in its record, and
        // cycles count anew: the same cycle may come again.
        prop_assume!(!matches!(alone, Err(ConvergeError::Conflict { .. })));
        let fails = Arc::new(Fails(Mutex::new(calls)));
        let recorder = Recorder::new(&ledger, "programs").streaming(fails);
        let run = AssertUnwindSafe(|| program.run(Some(&recorder)));
        if catch_unwind(run).is_ok() {
            return Ok(());
        }
        drop(recorder);
        interrupted.set(interrupted.get() + 1);
        let context = ledger.context("programs").open_read_only().expect("there");
        let registry = PayloadRegistry::with_pack_payloads();
        let rebuilt = rebuild(&context, &registry).expect("a run");
        prop_assert!(rebuilt.is_complete());
        let recorder = Recorder::continuing(&ledger, &rebuilt);
        let resumed = block_on(rebuilt.resume(&recorder, &mut program.engine()));
        let RunResult::Complete(resumed) = resumed.expect("it has not ended") else {
            return Err(TestCaseError::fail("nothing is gated"));
        };
        let root = |result: Result<ConvergeResult, ConvergeError>| match result {
            Ok(result) => Ok(result.integrity.merkle_root.to_hex()),
            Err(error) => Err(outcome(&Err(error))),
        };
        violated.set(violated.get() + u32::from(alone.is_err()));
        prop_assert_eq!(root(resumed), root(alone));
        Ok(())
    };
    // Chance may have it that few of them violate anything.
    let are_enough = || interrupted.get() > 30 && violated.get() > 3;
    for _ in 0..10 {
        let mut runner = TestRunner::new(ProptestConfig::with_cases(300));
        let outcome = runner.run(&(program(), 0..12_u32), interrupt);
        outcome.unwrap_or_else(|error| panic!("{error}"));
        if are_enough() {
            return;
        }
    }
    panic!(
        "{} were interrupted, of which {} violate an invariant",
        interrupted.get(),
        violated.get()
    );
}

/// A run's facts as they were recorded.
fn fact_texts(context: &Context, run_id: &str) -> Vec<String> {
    let mut range = context.range(1).key("facts");
    let mut texts = Vec::new();
    while let Some(entry) = range.next_entry().expect("readable") {
        if entry.metadata().any(|pair| pair == ("run_id", run_id)) {
            texts.push(String::from_utf8(entry.payload().to_vec()).expect("text"));
        }
    }
    texts
}

#[test]
fn with_and_without_a_ledger_a_program_does_the_same() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let mut runner = TestRunner::new(ProptestConfig::with_cases(300));
    let kinds = std::cell::RefCell::new(std::collections::BTreeMap::<String, u32>::new());
    let outcome_of = runner.run(&program(), |program| {
        let alone = program.run(None);
        let recorder = Recorder::new(&ledger, "programs");
        let beside = program.run(Some(&recorder));
        prop_assert_eq!(outcome(&beside), outcome(&alone));
        prop_assert_eq!((recorder.dropped(), recorder.trouble()), (0, None));

        let context = ledger.context("programs").open_read_only().expect("there");
        let registry = PayloadRegistry::with_pack_payloads();
        let rebuilt = rebuild(&context, &registry).expect("a run");
        prop_assert!(rebuilt.is_complete());
        prop_assert_eq!(rebuilt.has_ended, beside.is_ok());
        if let Ok(result) = &beside {
            let root = rebuilt.context.snapshot().merkle_root().clone();
            prop_assert_eq!(root, result.integrity.merkle_root.clone());
            let texts = fact_texts(&context, &rebuilt.run_id);
            for key in KEYS {
                for fact in result.context.get(key) {
                    let text = serde_json::to_string(fact).expect("a fact is JSON");
                    prop_assert!(texts.contains(&text), "{text} is not in {texts:?}");
                }
            }
        }
        let kind = outcome(&alone);
        let kind = kind
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned();
        *kinds.borrow_mut().entry(kind).or_default() += 1;
        Ok(())
    });
    outcome_of.unwrap_or_else(|error| panic!("{error}"));
    // All ways to end are among them: well, without budget, in contradiction or violation.
    let kinds = kinds.into_inner();
    assert!(kinds.len() >= 4, "{kinds:?}");
}
