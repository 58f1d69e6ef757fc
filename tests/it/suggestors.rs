//! Suggestors that do what a test says, and what tests of their runs have in common.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use converge_core::gates::{GateDecision, TimeoutPolicy};
use converge_core::{
    AgentEffect, Context, ContextFact, ContextKey, ContextState, Engine, EngineHitlPolicy,
    HitlPause, ProposedFact, RunResult, StreamingCallback, Suggestor, TextPayload,
};
use ledger_client::converge::{PayloadRegistry, Recorder};
use pollster::block_on;

/// Adds facts as soon as others are there, unless the first of its own is there already.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    name: String,
    wakes_on: Vec<ContextKey>,
    needs: Vec<(ContextKey, String)>,
    adds: Vec<(ContextKey, String, String)>,
}

impl Rule {
    /// One that waits for these facts.
    pub(crate) fn after(name: &str, needs: &[(ContextKey, &str)]) -> Rule {
        Rule {
            name: name.to_owned(),
            wakes_on: needs.iter().map(|(key, _)| *key).collect(),
            needs: needs
                .iter()
                .map(|(key, id)| (*key, (*id).to_owned()))
                .collect(),
            adds: Vec::new(),
        }
    }

    /// What it adds.
    pub(crate) fn adds(mut self, key: ContextKey, id: &str, text: &str) -> Rule {
        self.adds.push((key, id.to_owned(), text.to_owned()));
        self
    }
}

fn has(context: &dyn Context, key: ContextKey, id: &str) -> bool {
    context.get(key).iter().any(|fact| fact.id().as_str() == id)
}

#[async_trait]
impl Suggestor for Rule {
    fn name(&self) -> &str {
        &self.name
    }

    fn dependencies(&self) -> &[ContextKey] {
        &self.wakes_on
    }

    fn accepts(&self, context: &dyn Context) -> bool {
        let is_ready = self.needs.iter().all(|(key, id)| has(context, *key, id));
        let is_done = self
            .adds
            .first()
            .is_none_or(|(key, id, _)| has(context, *key, id));
        is_ready && !is_done
    }

    async fn execute(&self, _: &dyn Context) -> AgentEffect {
        let adds = self.adds.iter().map(|(key, id, text)| {
            ProposedFact::new(*key, &**id, TextPayload::new(text), &*self.name)
        });
        AgentEffect::with_proposals(adds.collect())
    }
}

/// An engine with these suggestors.
pub(crate) fn engine(rules: &[Rule]) -> Engine {
    let mut engine = Engine::new();
    for rule in rules {
        engine.register_suggestor(rule.clone());
    }
    engine
}

/// What runs begin with.
pub(crate) const TERM: &[(ContextKey, &str)] = &[(ContextKey::Seeds, "term")];

pub(crate) fn with_term() -> ContextState {
    let mut context = ContextState::new();
    let added = context.add_input(ContextKey::Seeds, "term", "42 months");
    added.expect("an input");
    context
}

/// How their facts are read back.
pub(crate) fn texts() -> PayloadRegistry {
    PayloadRegistry::with_pack_payloads()
}

pub(crate) fn ids(context: &ContextState, key: ContextKey) -> Vec<String> {
    let facts = context.get(key).iter();
    facts.map(|fact| fact.id().to_string()).collect()
}

/// What a human is asked.
pub(crate) fn asked(result: RunResult) -> Box<HitlPause> {
    match result {
        RunResult::HitlPause(pause) => pause,
        RunResult::Complete(result) => panic!("nobody was asked: {result:?}"),
    }
}

/// What a run came to.
pub(crate) fn complete(result: RunResult) -> ContextState {
    match result {
        RunResult::Complete(result) => result.expect("it converges").context,
        RunResult::HitlPause(pause) => panic!("{:?}", pause.request),
    }
}

/// Calls what a test wants at the start of a cycle.
pub(crate) struct AtCycle<F>(pub(crate) u32, pub(crate) F);

impl<F: Fn() + Send + Sync> StreamingCallback for AtCycle<F> {
    fn on_cycle_start(&self, cycle: u32) {
        if cycle == self.0 {
            (self.1)();
        }
    }
    fn on_fact(&self, _: u32, _: &ContextFact) {}
    fn on_cycle_end(&self, _: u32, _: usize) {}
}

pub(crate) fn staged(text: &str) -> ContextState {
    let mut context = ContextState::new();
    let added = context.add_input(ContextKey::Seeds, "term", text);
    added.expect("an input");
    context
}

/// A human has to approve all strategies.
pub(crate) fn gated(rules: &[Rule]) -> Engine {
    gated_at(&[ContextKey::Strategies], rules)
}

/// A human has to approve everything under these keys.
pub(crate) fn gated_at(keys: &[ContextKey], rules: &[Rule]) -> Engine {
    let mut engine = engine(rules);
    engine.set_hitl_policy(EngineHitlPolicy {
        confidence_threshold: None,
        gated_keys: keys.to_vec(),
        timeout: TimeoutPolicy::default(),
    });
    engine
}

pub(crate) fn root(context: &ContextState) -> String {
    context.snapshot().merkle_root().to_hex()
}

pub(crate) fn approve(pause: &HitlPause) -> GateDecision {
    GateDecision::approve(pause.request.gate_id.clone(), "kari")
}

pub(crate) fn reject(pause: &HitlPause) -> GateDecision {
    GateDecision::reject(pause.request.gate_id.clone(), "ola", Some("no".to_owned()))
}

/// Has the process fail right after its `count`th entry, as a panic without the report of one.
pub(crate) fn dying(recorder: Recorder, count: u64) -> Recorder {
    let mut left = count;
    recorder.observed_by(move |_| {
        left = left.saturating_sub(1);
        if left == 0 {
            resume_unwind(Box::new("the process fails here"));
        }
    })
}

/// Whether a part of a host's process came to its end.
pub(crate) fn survived<T>(part: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(part)).ok()
}

/// Has the process fail as this cycle starts.
pub(crate) fn failing_at(cycle: u32) -> Arc<dyn StreamingCallback> {
    Arc::new(AtCycle(cycle, || {
        resume_unwind(Box::new("the process fails here"))
    }))
}

pub(crate) fn two_plans() -> [Rule; 5] {
    [
        Rule::after("planner", TERM).adds(ContextKey::Strategies, "plan", "lend"),
        Rule::after("identity", TERM).adds(ContextKey::Signals, "identity", "known"),
        Rule::after("checker", &[(ContextKey::Strategies, "plan")]).adds(
            ContextKey::Signals,
            "check",
            "ok",
        ),
        Rule::after("second", &[(ContextKey::Signals, "check")]).adds(
            ContextKey::Strategies,
            "second",
            "lend more",
        ),
        Rule::after("end", &[(ContextKey::Strategies, "second")]).adds(
            ContextKey::Evaluations,
            "end",
            "done",
        ),
    ]
}

/// What the run comes to if nothing happens to it.
pub(crate) fn whole(mut engine: Engine, context: ContextState) -> (ContextState, u32) {
    let mut result = block_on(engine.run_with_hitl(context));
    let mut pauses = 0;
    loop {
        match result {
            RunResult::Complete(result) => return (result.expect("it converges").context, pauses),
            RunResult::HitlPause(pause) => {
                pauses += 1;
                let decision = approve(&pause);
                result = block_on(engine.resume(*pause, decision));
            }
        }
    }
}

/// Facts of another run.
pub(crate) fn with_facts(prefix: &str, count: usize, len: usize) -> ContextState {
    let mut context = ContextState::new();
    for fact in 0..count {
        let staged = context.add_input(
            ContextKey::Signals,
            format!("{prefix}-{fact}"),
            "y".repeat(len),
        );
        assert!(staged.expect("nothing contradicts it"));
    }
    let result = block_on(Engine::new().run(context));
    result.expect("it converges").context
}

/// Everything that an engine says, to the byte.
#[derive(Default)]
pub(crate) struct Heard(Mutex<Vec<String>>);

impl Heard {
    pub(crate) fn note(&self, what: String) {
        self.0.lock().expect("no panic").push(what);
    }
    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().expect("no panic"))
    }
}

impl StreamingCallback for Heard {
    fn on_cycle_start(&self, cycle: u32) {
        self.note(format!("start {cycle}"));
    }
    fn on_fact(&self, cycle: u32, fact: &ContextFact) {
        self.note(format!(
            "fact {cycle} {}",
            serde_json::to_string(fact).expect("JSON")
        ));
    }
    fn on_cycle_end(&self, cycle: u32, facts: usize) {
        self.note(format!("end {cycle} {facts}"));
    }
}
