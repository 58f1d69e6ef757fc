//! Running an engine with everything recorded, and what of that a host can say itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use converge_core::gates::{GateDecision, TimeoutPolicy};
use converge_core::{
    Budget, ContextKey, ContextSnapshot, ContextState, ConvergeError, ConvergeResult,
    CriterionOutcome, Engine, EngineHitlPolicy, ExperienceEvent, HitlPause, RunResult, StopReason,
    TypesRootIntent, TypesRunHooks,
};
use converge_pack::{ContextFact, ProposedFact};
use serde::Serialize;

use crate::converge::record::{self, key_name};
use crate::converge::{checkpoint, parts, rebuild};

use super::hooks::Beside;
use super::output::What;
use super::{Recorder, Setup};

/// How long all of a checkpoint waits for memory, before the run.
const CHECKPOINT_WAIT: Duration = Duration::from_millis(100);

/// What the ledger keeps of a run's start: everything that only the host knows.
#[derive(Serialize)]
struct Started<'a> {
    entry_point: &'a str,
    budget: Option<WireBudget>,
    policy: Option<WirePolicy<'a>>,
    suggestors: Option<&'a [String]>,
    intent: Option<&'a TypesRootIntent>,
    /// How many were staged; their entries come before this one.
    inputs: usize,
    /// How many facts the context had.
    facts: usize,
}

#[derive(Serialize)]
struct WireBudget {
    max_cycles: u32,
    max_facts: u32,
}

#[derive(Serialize)]
struct WirePolicy<'a> {
    confidence_threshold: Option<f64>,
    gated_keys: &'a [ContextKey],
    timeout: &'a TimeoutPolicy,
}

#[derive(Serialize)]
struct Ended<'a> {
    stop_reason: &'a StopReason,
    cycles: u32,
    converged: bool,
    criteria_outcomes: &'a [CriterionOutcome],
    integrity: Integrity,
}

#[derive(Serialize)]
struct Integrity {
    merkle_root: String,
    clock_time: u64,
    fact_count: usize,
}

#[derive(Serialize)]
struct Failed<'a> {
    error: String,
    stop_reason: StopReason,
    /// Those that only the error carries.
    facts: Vec<&'a ContextFact>,
}

impl<'a> Started<'a> {
    fn new(setup: &'a Setup, intent: Option<&'a TypesRootIntent>) -> Started<'a> {
        let wire = |budget: &Budget| WireBudget {
            max_cycles: budget.max_cycles,
            max_facts: budget.max_facts,
        };
        let of_intent = intent.map(|intent| intent.budgets.to_engine_budget());
        let policy = |policy: &'a EngineHitlPolicy| WirePolicy {
            confidence_threshold: policy.confidence_threshold,
            gated_keys: &policy.gated_keys,
            timeout: &policy.timeout,
        };
        Started {
            entry_point: "",
            budget: of_intent.as_ref().or(setup.budget.as_ref()).map(wire),
            policy: setup.policy.as_ref().map(policy),
            suggestors: setup.suggestors.as_deref(),
            intent,
            inputs: 0,
            facts: 0,
        }
    }
}

impl Recorder {
    /// Runs the engine as its `run` does, and records it. Meanwhile the recorder is the
    /// engine's callback and observer; afterwards it has those of
    /// [`streaming`](Self::streaming) and [`event_observer`](Self::event_observer), or none.
    ///
    /// # Errors
    ///
    /// Those of the engine, and no others.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::{ContextState, Engine};
    /// use ledger_client::converge::Recorder;
    ///
    /// let recorder = Recorder::new(&ledger, "loan-7");
    /// let run = recorder.run(&mut Engine::new(), ContextState::new()).await_here()?;
    /// assert!(run.converged);
    /// # Ok(()) });
    /// # trait AwaitHere: std::future::Future + Sized {
    /// #     fn await_here(self) -> Self::Output { pollster::block_on(self) }
    /// # }
    /// # impl<F: std::future::Future> AwaitHere for F {}
    /// ```
    pub async fn run(
        &self,
        engine: &mut Engine,
        context: ContextState,
    ) -> Result<ConvergeResult, ConvergeError> {
        self.started("run", &context);
        let listening = self.listen(engine);
        let result = listening.engine.run(context).await;
        drop(listening);
        self.ended(&result);
        result
    }

    /// Runs the engine as its `run_with_hitl` does, and records it. In the next attempt at
    /// a run, proposals that humans have answered already are answered so again.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::{ContextState, Engine, RunResult};
    /// use ledger_client::converge::Recorder;
    ///
    /// let recorder = Recorder::new(&ledger, "loan-7");
    /// let mut engine = Engine::new();
    /// let run = recorder.run_with_hitl(&mut engine, ContextState::new());
    /// match pollster::block_on(run) {
    ///     RunResult::HitlPause(pause) => println!("{}?", pause.request.summary),
    ///     RunResult::Complete(result) => println!("{:?}", result?.stop_reason),
    /// }
    /// # Ok(()) });
    /// ```
    pub async fn run_with_hitl(&self, engine: &mut Engine, context: ContextState) -> RunResult {
        self.started("run_with_hitl", &context);
        self.remind(engine);
        let listening = self.listen(engine);
        let result = listening.engine.run_with_hitl(context).await;
        listening.until_asked(result).await
    }

    /// Records a human's answer, then resumes the engine as its `resume` does, and records
    /// that.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::gates::GateDecision;
    /// use converge_core::{ContextState, Engine, RunResult};
    /// use ledger_client::converge::Recorder;
    ///
    /// let recorder = Recorder::new(&ledger, "loan-7");
    /// let mut engine = Engine::new();
    /// let mut result = pollster::block_on(recorder.run_with_hitl(&mut engine, ContextState::new()));
    /// while let RunResult::HitlPause(pause) = result {
    ///     let decision = GateDecision::approve(pause.request.gate_id.clone(), "kari");
    ///     result = pollster::block_on(recorder.resume(&mut engine, *pause, decision));
    /// }
    /// # Ok(()) });
    /// ```
    pub async fn resume(
        &self,
        engine: &mut Engine,
        pause: HitlPause,
        decision: GateDecision,
    ) -> RunResult {
        self.decided(&pause, &decision);
        let listening = self.listen(engine);
        let result = listening.engine.resume(pause, decision).await;
        listening.until_asked(result).await
    }

    /// Runs the engine as its `run_with_types_intent_and_hooks` does, and records it with
    /// the intent. The hooks' own observer hears what it would have heard.
    ///
    /// # Errors
    ///
    /// Those of the engine, and no others.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::{ContextState, Engine, TypesIntentKind, TypesRootIntent, TypesRunHooks};
    /// use ledger_client::converge::Recorder;
    ///
    /// let intent = TypesRootIntent::builder()
    ///     .id("loan-7".into())
    ///     .kind(TypesIntentKind::Custom)
    ///     .request("decide loan 7")
    ///     .build();
    /// let recorder = Recorder::new(&ledger, "loan-7");
    /// let (mut engine, hooks) = (Engine::new(), TypesRunHooks::default());
    /// let run = recorder.run_with_types_intent_and_hooks(
    ///     &mut engine,
    ///     ContextState::new(),
    ///     &intent,
    ///     hooks,
    /// );
    /// assert!(pollster::block_on(run)?.converged);
    /// # Ok(()) });
    /// ```
    pub async fn run_with_types_intent_and_hooks(
        &self,
        engine: &mut Engine,
        context: ContextState,
        intent: &TypesRootIntent,
        hooks: TypesRunHooks,
    ) -> Result<ConvergeResult, ConvergeError> {
        let entry_point = "run_with_types_intent_and_hooks";
        self.start(entry_point, &context, Some(intent));
        let hooks = TypesRunHooks {
            event_observer: Some(Arc::new(Beside {
                recorder: self.clone(),
                other: hooks.event_observer,
            })),
            ..hooks
        };
        let listening = self.listen(engine);
        let engine = &mut *listening.engine;
        let run = engine.run_with_types_intent_and_hooks(context, intent, hooks);
        let result = run.await;
        drop(listening);
        self.ended(&result);
        result
    }

    /// A run starts with this context: records what is staged in it, then the start. Hosts
    /// that call the engine themselves say so here, with a recorder as the engine's
    /// callback and observer; the entry point is what they call.
    ///
    /// A recorder that has started a run before starts another one. What a context holds
    /// already is recorded first, and this waits a tenth of a second at most until there is
    /// memory for it.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use std::sync::Arc;
    /// use converge_core::{ContextState, Engine};
    /// use ledger_client::converge::Recorder;
    ///
    /// let recorder = Recorder::new(&ledger, "loan-7");
    /// let (mut engine, context) = (Engine::new(), ContextState::new());
    /// engine.set_streaming(Arc::new(recorder.clone()));
    /// engine.set_event_observer(Arc::new(recorder.clone()));
    /// recorder.started("run", &context);
    /// let result = pollster::block_on(engine.run(context));
    /// recorder.ended(&result);
    /// # Ok(()) });
    /// ```
    pub fn started(&self, entry_point: &str, context: &ContextState) {
        self.start(entry_point, context, None);
    }

    fn start(&self, entry_point: &str, context: &ContextState, intent: Option<&TypesRootIntent>) {
        let mut state = self.shared.state();
        state.begin();
        let is_continued = state.is_continued;
        drop(state);
        let mut started = Started::new(&self.setup, intent);
        started.entry_point = entry_point;
        started.facts = facts_of(context).count();
        if context.has_pending_proposals() || (started.facts > 0 && !is_continued) {
            let snapshot = context.snapshot();
            for proposal in snapshot.proposals().values().flatten() {
                self.input(proposal);
                started.inputs += 1;
            }
            if started.facts > 0 && !is_continued {
                self.checkpoint(&snapshot);
            }
        }
        let diagnostics = context.get(ContextKey::Diagnostic).iter();
        let diagnostics = diagnostics.map(|fact| fact.id().to_string());
        self.shared.state().diagnostics.extend(diagnostics);
        let what = What {
            key: record::INTENTS,
            kind: record::RUN_STARTED,
            cycle: 0,
            more: &[],
        };
        self.record(&what, &started);
    }

    fn input(&self, proposal: &ProposedFact) {
        let family = proposal.payload_family();
        let more = [
            ("proposal_id", proposal.id().as_str()),
            ("ckey", key_name(proposal.key())),
            ("family", family.as_str()),
        ];
        let what = What {
            key: record::PROPOSALS,
            kind: record::INPUT,
            cycle: 0,
            more: &more,
        };
        self.record(&what, proposal);
    }

    /// What the context holds before anything is recorded of it.
    fn checkpoint(&self, snapshot: &ContextSnapshot) {
        let len_max = self.shared.payload_len_max();
        let deadline = Instant::now() + CHECKPOINT_WAIT;
        let start = self.shared.state().start.clone();
        match checkpoint::text(snapshot, |_| false) {
            Ok(text) => {
                for (number, part) in parts::split(&text, len_max) {
                    let what = What {
                        key: record::SNAPSHOTS,
                        kind: record::CHECKPOINT,
                        cycle: 0,
                        more: &[("checkpoint", record::START), ("part", &*number)],
                    };
                    self.shared.wait_ready(deadline);
                    let output = &mut self.shared.state().output;
                    output.record_bytes(&start, &what, part.as_bytes());
                }
            }
            Err(error) => {
                let output = &mut self.shared.state().output;
                output.trouble = Some(error.to_string());
                output.lose(&start, 0);
            }
        }
    }

    /// A run has ended, with a result or an error: records that, with the facts that only
    /// it carries.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::{ContextState, Engine};
    /// use ledger_client::converge::Recorder;
    ///
    /// let recorder = Recorder::new(&ledger, "loan-7");
    /// let (mut engine, context) = (Engine::new(), ContextState::new());
    /// recorder.started("run", &context);
    /// recorder.ended(&pollster::block_on(engine.run(context)));
    /// # Ok(()) });
    /// ```
    pub fn ended(&self, result: &Result<ConvergeResult, ConvergeError>) {
        let cycle = self.cycle();
        let what = |kind| What {
            key: record::OUTCOMES,
            kind,
            cycle,
            more: &[],
        };
        match result {
            Ok(result) => {
                self.reconcile(&result.context, cycle);
                let integrity = Integrity {
                    merkle_root: result.integrity.merkle_root.to_hex(),
                    clock_time: result.integrity.clock_time,
                    fact_count: result.integrity.fact_count,
                };
                let ended = Ended {
                    stop_reason: &result.stop_reason,
                    cycles: result.cycles,
                    converged: result.converged,
                    criteria_outcomes: &result.criteria_outcomes,
                    integrity,
                };
                self.record(&what(record::RUN_ENDED), &ended);
            }
            Err(error) => {
                let failed = Failed {
                    error: error.to_string(),
                    stop_reason: error.stop_reason(),
                    facts: error.context().map_or_else(Vec::new, |it| self.unheard(it)),
                };
                self.record(&what(record::RUN_FAILED), &failed);
            }
        }
        self.ring();
    }

    /// Records the facts of which the engine has not told.
    pub(super) fn reconcile(&self, context: &ContextState, cycle: u32) {
        for fact in self.unheard(context) {
            self.fact(cycle, fact);
        }
    }

    fn unheard<'c>(&self, context: &'c ContextState) -> Vec<&'c ContextFact> {
        let heard = &self.shared.state().diagnostics;
        let diagnostics = context.get(ContextKey::Diagnostic).iter();
        diagnostics
            .filter(|fact| !heard.contains(fact.id().as_str()))
            .collect()
    }

    /// Tells an engine what it would know if it had never been away from the run: what humans
    /// have rejected in earlier attempts, which it does not ask about again. Hosts that call
    /// the engine themselves do this before they set its callback and observer, which it
    /// takes away.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use std::sync::Arc;
    /// use converge_core::{ContextState, Engine};
    /// use ledger_client::converge::{PayloadRegistry, Recorder, rebuild};
    ///
    /// Recorder::new(&ledger, "loan-7").started("run_with_hitl", &ContextState::new());
    ///
    /// let context = ledger.context("loan-7").open()?;
    /// let rebuilt = rebuild(&context, &PayloadRegistry::with_pack_payloads())?;
    /// let recorder = Recorder::continuing(&ledger, &rebuilt);
    /// let mut engine = Engine::new();
    /// recorder.remind(&mut engine);
    /// engine.set_streaming(Arc::new(recorder.clone()));
    /// recorder.started("run_with_hitl", &rebuilt.context);
    /// let result = pollster::block_on(engine.run_with_hitl(rebuilt.context));
    /// # Ok(()) });
    /// ```
    pub fn remind(&self, engine: &mut Engine) {
        let rejections = std::mem::take(&mut self.shared.state().rejections);
        if rejections.is_empty() {
            return;
        }
        engine.clear_streaming();
        engine.set_event_observer(Arc::new(|_: &ExperienceEvent| ()));
        for rejection in &rejections {
            rebuild::rejection::teach(engine, rejection);
        }
    }

    fn listen<'r>(&'r self, engine: &'r mut Engine) -> Listening<'r> {
        engine.set_streaming(Arc::new(self.clone()));
        engine.set_event_observer(Arc::new(self.clone()));
        Listening {
            recorder: self,
            engine,
        }
    }
}

/// An engine whose callback and observer are a recorder. However this ends, also in the
/// middle of a run that nobody waits for any more, the engine gets the host's own ones.
struct Listening<'r> {
    recorder: &'r Recorder,
    engine: &'r mut Engine,
}

impl Listening<'_> {
    /// Answers what was answered before, and records how the engine came to its end or to
    /// a question that is new.
    async fn until_asked(self, mut result: RunResult) -> RunResult {
        let recorder = self.recorder;
        loop {
            match result {
                RunResult::Complete(complete) => {
                    drop(self);
                    recorder.ended(&complete);
                    return RunResult::Complete(complete);
                }
                RunResult::HitlPause(pause) => match recorder.answered(&pause) {
                    Some(decision) => {
                        // In this attempt, too, this is where it takes effect.
                        recorder.decided(&pause, &decision);
                        result = self.engine.resume(*pause, decision).await;
                    }
                    None => {
                        drop(self);
                        recorder.paused(&pause);
                        return RunResult::HitlPause(pause);
                    }
                },
            }
        }
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        match &self.recorder.streaming {
            Some(callback) => self.engine.set_streaming(Arc::clone(callback)),
            None => self.engine.clear_streaming(),
        }
        match &self.recorder.events {
            Some(observer) => self.engine.set_event_observer(Arc::clone(observer)),
            // There is no way to take one away.
            None => self
                .engine
                .set_event_observer(Arc::new(|_: &ExperienceEvent| ())),
        }
    }
}

fn facts_of(context: &ContextState) -> impl Iterator<Item = &ContextFact> {
    let keys = context.all_keys().into_iter();
    keys.flat_map(|key| context.get(key))
}
