//! What an engine calls while it runs.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use converge_core::{
    ContextFact, ContextKey, ExperienceEvent, ExperienceEventObserver, StreamingCallback,
};
use converge_pack::FactTraceLink;
use serde::Serialize;

use crate::converge::record::{self, key_name};

use super::output::What;
use super::{Recorder, wire};

#[derive(Serialize)]
struct CycleStart {
    cycle: u32,
}

#[derive(Serialize)]
struct CycleEnd {
    cycle: u32,
    facts_added: usize,
}

impl Recorder {
    pub(super) fn record(&self, what: &What<'_>, payload: &impl Serialize) {
        self.record_with(what, |json| serde_json::to_writer(json, payload));
    }

    fn record_with<E: fmt::Display>(
        &self,
        what: &What<'_>,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) {
        let mut state = self.shared.state();
        let start = state.start.clone();
        state.output.record(&start, what, write);
        drop(state);
        // Also of what was dropped: the thread says so when there is room.
        self.shared.published();
    }

    /// Has watchers told at once.
    pub(super) fn ring(&self) {
        self.shared.ring();
    }

    pub(super) fn cycle(&self) -> u32 {
        self.shared.state().cycle
    }

    fn trace(&self, kind: &str, cycle: u32, payload: &impl Serialize) {
        let what = What {
            key: record::TRACES,
            kind,
            cycle,
            more: &[],
        };
        self.record(&what, payload);
    }

    pub(super) fn fact(&self, cycle: u32, fact: &ContextFact) {
        let family = fact.payload_family();
        let id = fact.id().as_str();
        if fact.key() == ContextKey::Diagnostic {
            self.shared.state().diagnostics.insert(id.to_owned());
        }
        let ckey = key_name(fact.key());
        let mut more = [
            ("fact_id", id),
            // The engine names a fact after its proposal.
            ("proposal_id", id),
            ("ckey", ckey),
            ("family", family.as_str()),
            ("", ""),
        ];
        let mut len = more.len() - 1;
        if let FactTraceLink::Local(trace) = fact.promotion_record().trace_link() {
            more[len] = ("agent", trace.span_id().as_str());
            len += 1;
        }
        let what = What {
            key: record::FACTS,
            kind: record::FACT,
            cycle,
            more: &more[..len],
        };
        let len_max = self.shared.payload_len_max();
        self.record_with(&what, |json| wire::write_fact(json, fact, len_max));
    }

    pub(super) fn event(&self, event: &ExperienceEvent) {
        let mut state = self.shared.state();
        state.events += 1;
        let (start, cycle) = (state.start.clone(), state.cycle);
        let id = format!("{}-{}", start.unique(), state.events);
        let now = humantime::format_rfc3339_nanos(SystemTime::now()).to_string();
        let kind = format!("{:?}", event.kind());
        let envelope = wire::Event {
            event_id: &id,
            occurred_at: &now,
            tenant_id: None,
            correlation_id: Some(start.run_id()),
            event,
        };
        let mut more = [("", ""); 5];
        more[..2].copy_from_slice(&[("event_id", &*id), ("corr", start.run_id())]);
        let mut len = 2;
        if let ExperienceEvent::FactPromoted {
            proposal_id,
            fact_id,
            promoted_by,
            ..
        } = event
        {
            more[len..].copy_from_slice(&[
                ("agent", promoted_by.as_str()),
                ("fact_id", fact_id.as_str()),
                ("proposal_id", proposal_id.as_str()),
            ]);
            len = more.len();
        }
        let what = What {
            key: record::EVENTS,
            kind: &kind,
            cycle,
            more: &more[..len],
        };
        let write = |json: &mut Vec<u8>| serde_json::to_writer(json, &envelope);
        state.output.record(&start, &what, write);
        drop(state);
        self.shared.published();
    }
}

impl StreamingCallback for Recorder {
    fn on_cycle_start(&self, cycle: u32) {
        self.shared.state().cycle = cycle;
        self.trace(record::CYCLE_START, cycle, &CycleStart { cycle });
        if let Some(other) = &self.streaming {
            other.on_cycle_start(cycle);
        }
    }

    fn on_fact(&self, cycle: u32, fact: &ContextFact) {
        self.fact(cycle, fact);
        if let Some(other) = &self.streaming {
            other.on_fact(cycle, fact);
        }
    }

    fn on_cycle_end(&self, cycle: u32, facts_added: usize) {
        self.trace(record::CYCLE_END, cycle, &CycleEnd { cycle, facts_added });
        if let Some(other) = &self.streaming {
            other.on_cycle_end(cycle, facts_added);
        }
    }
}

impl ExperienceEventObserver for Recorder {
    fn on_event(&self, event: &ExperienceEvent) {
        self.event(event);
        if let Some(other) = &self.events {
            other.on_event(event);
        }
    }
}

/// Records what another observer is told, in a way of running that has its own observer.
pub(super) struct Beside {
    pub(super) recorder: Recorder,
    pub(super) other: Option<Arc<dyn ExperienceEventObserver>>,
}

impl ExperienceEventObserver for Beside {
    fn on_event(&self, event: &ExperienceEvent) {
        self.recorder.event(event);
        if let Some(other) = &self.other {
            other.on_event(event);
        }
    }
}
