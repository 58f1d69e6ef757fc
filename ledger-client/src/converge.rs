//! Recording runs of converge-core, telling what happened in them, and going on from there.
//!
//! A [`Recorder`] writes what a run does into a context beside it:
//!
//! | when | key | payload | `kind` |
//! |---|---|---|---|
//! | what is staged, before the run | `proposals` | `WireProposedFact` | `input` |
//! | what the context holds already | `snapshots` | `WireContextSnapshot`, in parts | `checkpoint` |
//! | the run starts | `intents` | entry point, budget, policy, suggestors, intent | `run_started` |
//! | `on_cycle_start` | `traces` | cycle | `cycle_start` |
//! | `on_fact` | `facts` | `WireContextFact` | `fact` |
//! | `on_cycle_end` | `traces` | cycle, facts added | `cycle_end` |
//! | the run pauses | `gates` | request, proposal and its hash, Merkle root | `gate_requested` |
//! | a human answers | `gates` | decision, the proposal's hash | `gate_decided` |
//! | `on_event` | `events` | `ExperienceEventEnvelope` | the event's |
//! | the run ends | `outcomes` | stop reason, cycles, criteria, integrity | `run_ended` |
//! | the run fails | `outcomes` | error, stop reason, the facts that only it carries | `run_failed` |
//! | there is room again | `traces` | how many did not fit, since which cycle | `gap` |
//!
//! Every entry's metadata has `v`, `run_id`, `attempt`, `cycle` and `kind`; those of a
//! recorder have `start`, which tells apart processes that are at the same attempt; and, where it
//! is known, `agent`, `fact_id`, `proposal_id`, `ckey` (the key in the engine's context),
//! `family`, `event_id` and `corr`. Payloads are UTF-8 JSON of the types of converge-core
//! that the table names, else of what it says.
//!
//! A `cycle_end` from which the run goes on is the mark up to which it counts: [`rebuild`] makes
//! a context of the facts before it, and [`Rebuilt::resume`] goes on from there. What was asked
//! of humans and what they said outlives the engine with it.
//!
//! A [`LedgerExperienceStore`] is where a host stores events of its own, under `events` and
//! `user_events`, and asks for them; a [`LedgerContextStore`] where it saves whole contexts,
//! as `checkpoint`s.
//!
//! Reading order: `record` has the names of the table, and [`history`] reads them without a
//! type of converge-core; `recorder` writes them and `rebuild` is the way back;
//! `experience` and `context_store` are the stores, and [`conformance`] what those have to
//! do; `checkpoint` and `parts` have what does not fit into one entry.

#[cfg(feature = "converge")]
mod checkpoint;
#[cfg(feature = "converge")]
pub mod conformance;
#[cfg(feature = "converge")]
mod context_store;
#[cfg(feature = "converge")]
mod experience;
pub mod history;
mod parts;
#[cfg(feature = "converge")]
mod rebuild;
mod record;
#[cfg(feature = "converge")]
mod recorder;

#[cfg(feature = "converge")]
pub use context_store::LedgerContextStore;
/// Which type a payload family is: every fact is read back with one.
#[cfg(feature = "converge")]
pub use converge_pack::PayloadRegistry;
#[cfg(feature = "converge")]
pub use experience::LedgerExperienceStore;
#[cfg(feature = "converge")]
pub use rebuild::{Missing, NotResumable, RebuildError, Rebuilt, rebuild, rebuild_run};
#[cfg(feature = "converge")]
pub use recorder::{DecideError, Recorder, Tried, decide};
