//! An engine with one suggestor, whose plan a human has to approve.

use async_trait::async_trait;
use converge_core::gates::TimeoutPolicy;
use converge_core::{
    AgentEffect, Context, ContextKey, Engine, EngineHitlPolicy, ProposedFact, Suggestor,
    TextPayload,
};

struct Planner;

#[async_trait]
impl Suggestor for Planner {
    fn name(&self) -> &str {
        "planner"
    }

    fn dependencies(&self) -> &[ContextKey] {
        &[ContextKey::Seeds]
    }

    fn accepts(&self, context: &dyn Context) -> bool {
        context.has(ContextKey::Seeds) && !context.has(ContextKey::Strategies)
    }

    async fn execute(&self, context: &dyn Context) -> AgentEffect {
        let wish = context.get(ContextKey::Seeds)[0]
            .text()
            .unwrap_or("nothing");
        let plan = TextPayload::new(format!("lend {wish}"));
        let plan = ProposedFact::new(ContextKey::Strategies, "plan", plan, self.provenance());
        AgentEffect::with_proposal(plan)
    }
}

pub fn engine() -> Engine {
    let mut engine = Engine::new();
    engine.register_suggestor(Planner);
    engine.set_hitl_policy(EngineHitlPolicy {
        confidence_threshold: None,
        gated_keys: vec![ContextKey::Strategies],
        timeout: TimeoutPolicy::default(),
    });
    engine
}
