//! Suggestors that do what a test says.

use async_trait::async_trait;
use converge_core::{
    AgentEffect, Context, ContextKey, Engine, ProposedFact, Suggestor, TextPayload,
};

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
