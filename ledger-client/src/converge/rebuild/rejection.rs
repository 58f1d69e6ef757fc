//! What the engine does when a human rejects a proposal, and tells nobody: it adds a fact,
//! and remembers the proposal's id. Neither is in the ledger as such. Here engines are had
//! to do it once more, on a context of their own.

use std::pin::pin;
use std::task::{Context as TaskContext, Poll, Waker};

use async_trait::async_trait;
use converge_core::gates::{GateDecision, TimeoutPolicy};
use converge_core::{
    AgentEffect, Context, ContextFact, ContextKey, ContextState, Engine, EngineHitlPolicy,
    HitlPause, ProposedFact, RunResult, Suggestor, TextPayload,
};

use crate::converge::history::Rejection;

/// Proposes one thing.
struct Proposes(ProposedFact);

#[async_trait]
impl Suggestor for Proposes {
    fn name(&self) -> &str {
        "rejected"
    }

    fn dependencies(&self) -> &[ContextKey] {
        &[]
    }

    fn accepts(&self, _: &dyn Context) -> bool {
        true
    }

    async fn execute(&self, _: &dyn Context) -> AgentEffect {
        AgentEffect::with_proposal(self.0.clone())
    }
}

/// A pause in which a human is asked about a proposal of this id, and how they reject it.
fn pause(rejection: &Rejection, context: ContextState) -> Option<(HitlPause, GateDecision)> {
    let mut engine = asking(rejection);
    let RunResult::HitlPause(pause) = at_once(engine.run_with_hitl(context))? else {
        return None;
    };
    let gate_id = pause.request.gate_id.clone();
    let (who, why) = (&*rejection.decided_by, rejection.reason.clone());
    Some((*pause, GateDecision::reject(gate_id, who, why)))
}

fn asking(rejection: &Rejection) -> Engine {
    let mut engine = Engine::new();
    engine.set_hitl_policy(EngineHitlPolicy {
        confidence_threshold: None,
        gated_keys: vec![ContextKey::Seeds],
        timeout: TimeoutPolicy::default(),
    });
    let text = TextPayload::new("rejected");
    let id = &*rejection.proposal_id;
    let proposal = ProposedFact::new(ContextKey::Seeds, id, text, "rejected");
    engine.register_suggestor(Proposes(proposal));
    engine
}

/// What an engine's context is after this rejection, and nothing else.
fn context(rejection: &Rejection) -> Option<ContextState> {
    let (pause, decision) = pause(rejection, ContextState::new())?;
    let mut engine = asking(rejection);
    match at_once(engine.resume(pause, decision))? {
        RunResult::Complete(Ok(result)) => Some(result.context),
        _ => None,
    }
}

/// What the engine has in its context after this rejection.
pub(super) fn fact(rejection: &Rejection) -> Option<ContextFact> {
    let context = context(rejection)?;
    context.get(ContextKey::Diagnostic).first().cloned()
}

/// Has an engine, which nobody listens to, remember a rejection as if it had never been
/// away from the run. It is resumed from a pause in whose context the rejection has left its
/// fact already: so nothing changes there, and no suggestor is asked for anything.
pub(crate) fn teach(engine: &mut Engine, rejection: &Rejection) {
    let taught = context(rejection).and_then(|context| pause(rejection, context));
    if let Some((pause, decision)) = taught {
        // What its invariants say of that context is nobody's business.
        let _ = at_once(engine.resume(pause, decision));
    }
}

/// What a future comes to that never waits.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}
