//! The fact that the engine adds when a human rejects a proposal. It tells nobody of it, so
//! it is not in the ledger; here the engine is had to make it once more.

use std::pin::pin;
use std::task::{Context as TaskContext, Poll, Waker};

use async_trait::async_trait;
use converge_core::gates::{GateDecision, TimeoutPolicy};
use converge_core::{
    AgentEffect, Context, ContextFact, ContextKey, ContextState, Engine, EngineHitlPolicy,
    ProposedFact, RunResult, Suggestor, TextPayload,
};

use super::history::Rejection;

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

    fn accepts(&self, context: &dyn Context) -> bool {
        !context.has(ContextKey::Diagnostic)
    }

    async fn execute(&self, _: &dyn Context) -> AgentEffect {
        AgentEffect::with_proposal(self.0.clone())
    }
}

/// What the engine has in its context after this rejection.
pub(super) fn fact(rejection: &Rejection) -> Option<ContextFact> {
    let mut engine = Engine::new();
    engine.set_hitl_policy(EngineHitlPolicy {
        confidence_threshold: None,
        gated_keys: vec![ContextKey::Seeds],
        timeout: TimeoutPolicy::default(),
    });
    let text = TextPayload::new("rejected");
    let proposal = ProposedFact::new(ContextKey::Seeds, &*rejection.proposal_id, text, "rejected");
    engine.register_suggestor(Proposes(proposal));
    let RunResult::HitlPause(pause) = at_once(engine.run_with_hitl(ContextState::new()))? else {
        return None;
    };
    let gate_id = pause.request.gate_id.clone();
    let (who, why) = (&*rejection.decided_by, rejection.reason.clone());
    let decision = GateDecision::reject(gate_id, who, why);
    let RunResult::Complete(Ok(result)) = at_once(engine.resume(*pause, decision))? else {
        return None;
    };
    result.context.get(ContextKey::Diagnostic).first().cloned()
}

/// What a future comes to that never waits.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut TaskContext::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}
