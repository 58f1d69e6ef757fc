//! Recording runs of converge-core, and remembering what hosts tell of them.
//!
//! A [`Recorder`] hears what an engine does:
//!
//! | called | key | payload | `kind` |
//! |---|---|---|---|
//! | `on_cycle_start` | `traces` | `{"cycle":N}` | `cycle_start` |
//! | `on_fact` | `facts` | the fact, as `WireContextFact` | `fact` |
//! | `on_cycle_end` | `traces` | `{"cycle":N,"facts_added":M}` | `cycle_end` |
//!
//! Every entry's metadata has `v`, `run_id`, `cycle` and `kind`; a fact's also
//! `fact_id`, `ckey`, `family` and, where the engine tells, `agent`.
//!
//! A [`LedgerExperienceStore`] is where a host stores events, and asks for them:
//!
//! | called | key | payload | `kind` |
//! |---|---|---|---|
//! | `append_event` and what else appends one | `events` | `ExperienceEventEnvelope` | the event's |
//! | `append_user_event` | `user_events` | `UserExperienceEventEnvelope` | the event's |
//!
//! These entries' metadata has `v`, `run_id`, `kind`, `event_id` and, where the envelope
//! tells, `corr`.

pub mod conformance;
mod experience;
mod recorder;

pub use experience::LedgerExperienceStore;
pub use recorder::{Attempt, Recorder};

/// Version of what is recorded, in the metadata as `v`.
const VERSION: &str = "1";
