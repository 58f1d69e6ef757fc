//! A [`Recorder`], and what it is told before a run.
//!
//! Reading order: `start` is which run an entry is of; `hooks`, `runs` and `gate` record what an
//! engine and its host do, `wire` has the JSON of it; `output` is where it goes, and what is
//! missing there; `shared`, `ringer` and `opening` how none of that ever waits.

mod hooks;
mod opening;
mod output;
mod ringer;
mod runs;
mod shared;
mod wire;

pub(super) mod gate;
pub(super) mod start;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use converge_core::{Budget, EngineHitlPolicy, ExperienceEventObserver, StreamingCallback};

use crate::ledger::Ledger;

use gate::Answer;
pub use gate::{DecideError, decide};
pub use output::Tried;
use shared::Handle;
use start::Start;

use super::rebuild::Rebuilt;

/// How long a new recorder waits for its context and for memory there.
const OPEN_WAIT: Duration = Duration::from_secs(1);

/// Writes what runs of an engine do into one context, beside them.
///
/// It never blocks a run and never fails one: what cannot be appended at once is dropped,
/// counted, and recorded as a gap as soon as there is room again. Watchers hear of entries
/// from a thread beside the run, within about a millisecond.
///
/// A recorder is for one run at a time, and a handle: a clone records the same run. Who
/// drives several engines at once gives each a recorder, and best a context, of its own.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use converge_core::{ContextKey, ContextState, Engine};
/// use ledger_client::converge::Recorder;
///
/// let mut context = ContextState::new();
/// context.add_input(ContextKey::Seeds, "term", "42 months")?;
/// let mut engine = Engine::new();
///
/// let recorder = Recorder::new(&ledger, "loan-7");
/// let result = pollster::block_on(recorder.run(&mut engine, context))?;
/// assert_eq!((result.integrity.fact_count, recorder.dropped()), (1, 0));
/// # Ok(()) });
/// ```
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Handle>,
    setup: Setup,
    streaming: Option<Arc<dyn StreamingCallback>>,
    events: Option<Arc<dyn ExperienceEventObserver>>,
}

/// What an engine does not tell of itself.
#[derive(Clone, Debug, Default)]
struct Setup {
    suggestors: Option<Vec<String>>,
    budget: Option<Budget>,
    policy: Option<EngineHitlPolicy>,
}

impl Recorder {
    /// Records into the context of this name, which is made if there is none. A run gets a
    /// random id.
    ///
    /// Waits for the daemon and its memory, at most a second. Nothing that comes after
    /// waits. If the context cannot be opened, this is tried again beside the run; until
    /// then entries are dropped and counted, and [`trouble`](Self::trouble) says why.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::converge::Recorder;
    ///
    /// let recorder = Recorder::new(&ledger, "loan-7");
    /// assert_eq!(recorder.trouble(), None);
    /// # Ok(()) });
    /// ```
    pub fn new(ledger: &Ledger, scope: impl Into<String>) -> Recorder {
        Recorder::of(ledger, scope.into(), Start::new())
    }

    /// Records the next attempt at a run that was rebuilt, and answers its gates as humans
    /// have answered them already.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::{ContextState, Engine};
    /// use ledger_client::converge::{PayloadRegistry, Recorder, rebuild};
    ///
    /// let mut engine = Engine::new();
    /// let recorder = Recorder::new(&ledger, "loan-7");
    /// recorder.started("host", &ContextState::new());
    /// drop(recorder); // It never ends.
    ///
    /// let context = ledger.context("loan-7").open()?;
    /// let rebuilt = rebuild(&context, &PayloadRegistry::with_pack_payloads())?;
    /// let recorder = Recorder::continuing(&ledger, &rebuilt);
    /// let result = pollster::block_on(recorder.run(&mut engine, rebuilt.context))?;
    /// assert!(result.converged);
    /// # Ok(()) });
    /// ```
    pub fn continuing(ledger: &Ledger, rebuilt: &Rebuilt) -> Recorder {
        let start = Start::named(rebuilt.run_id.clone(), rebuilt.next_attempt);
        let recorder = Recorder::of(ledger, rebuilt.scope.clone(), start);
        let mut state = recorder.shared.state();
        state.is_continued = true;
        state.answers.clone_from(&rebuilt.answers);
        state.rejections.clone_from(&rebuilt.rejections);
        drop(state);
        recorder
    }

    fn of(ledger: &Ledger, scope: String, start: Start) -> Recorder {
        Recorder {
            shared: Arc::new(Handle::open(ledger, scope, start, OPEN_WAIT)),
            setup: Setup::default(),
            streaming: None,
            events: None,
        }
    }

    /// Names the run that is started next, which tells it apart from others in the same
    /// context; an empty name is none. Those that follow on this recorder get random ids.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::converge::Recorder;
    ///
    /// let recorder = Recorder::new(&ledger, "loans").with_run_id("loan-7");
    /// # Ok(()) });
    /// ```
    #[must_use]
    pub fn with_run_id(self, run_id: impl Into<String>) -> Recorder {
        let start = Start::named(run_id.into(), 1);
        self.shared.state().name(start);
        self
    }

    /// The run that is recorded, or that the next start is of.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::converge::{LedgerExperienceStore, Recorder};
    ///
    /// let recorder = Recorder::new(&ledger, "loan-7");
    /// let appender = ledger.context("loan-7").open()?.appender()?;
    /// let store = LedgerExperienceStore::new(appender, recorder.run_id());
    /// # Ok(()) });
    /// ```
    pub fn run_id(&self) -> String {
        self.shared.state().start.run_id().to_owned()
    }

    /// The suggestors' names, in the order in which they were registered. Facts only say
    /// which index proposed them, and an engine does not tell.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::converge::Recorder;
    ///
    /// let recorder = Recorder::new(&ledger, "loan-7").suggestors(["identity", "credit"]);
    /// # Ok(()) });
    /// ```
    #[must_use]
    pub fn suggestors<N: Into<String>>(mut self, names: impl IntoIterator<Item = N>) -> Recorder {
        self.setup.suggestors = Some(names.into_iter().map(N::into).collect());
        self
    }

    /// The engine's budget, to be recorded with a run's start.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::Budget;
    /// use ledger_client::converge::Recorder;
    ///
    /// let recorder = Recorder::new(&ledger, "loan-7").budget(&Budget::default());
    /// # Ok(()) });
    /// ```
    #[must_use]
    pub fn budget(mut self, budget: &Budget) -> Recorder {
        self.setup.budget = Some(budget.clone());
        self
    }

    /// The engine's policy on what humans have to approve, to be recorded with a run's start.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::gates::TimeoutPolicy;
    /// use converge_core::{ContextKey, EngineHitlPolicy};
    /// use ledger_client::converge::Recorder;
    ///
    /// let policy = EngineHitlPolicy {
    ///     confidence_threshold: None,
    ///     gated_keys: vec![ContextKey::Strategies],
    ///     timeout: TimeoutPolicy::default(),
    /// };
    /// let recorder = Recorder::new(&ledger, "loan-7").policy(&policy);
    /// # Ok(()) });
    /// ```
    #[must_use]
    pub fn policy(mut self, policy: &EngineHitlPolicy) -> Recorder {
        self.setup.policy = Some(policy.clone());
        self
    }

    /// A callback of the host's own, which hears everything after the recorder. An engine
    /// has only one, and does not tell which: around a run it is the recorder's, and this
    /// one afterwards.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use std::sync::Arc;
    /// use converge_core::{ContextFact, StreamingCallback};
    /// use ledger_client::converge::Recorder;
    ///
    /// struct Progress;
    /// impl StreamingCallback for Progress {
    ///     fn on_cycle_start(&self, cycle: u32) {
    ///         println!("cycle {cycle}");
    ///     }
    ///     fn on_fact(&self, _: u32, _: &ContextFact) {}
    ///     fn on_cycle_end(&self, _: u32, _: usize) {}
    /// }
    /// let recorder = Recorder::new(&ledger, "loan-7").streaming(Arc::new(Progress));
    /// # Ok(()) });
    /// ```
    #[must_use]
    pub fn streaming(mut self, callback: Arc<dyn StreamingCallback>) -> Recorder {
        self.streaming = Some(callback);
        self
    }

    /// An observer of the host's own, as [`streaming`](Self::streaming) is a callback.
    /// `run_with_types_intent_and_hooks` has one of its own, in its hooks.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use std::sync::Arc;
    /// use converge_core::ExperienceEvent;
    /// use ledger_client::converge::Recorder;
    ///
    /// let print = |event: &ExperienceEvent| println!("{:?}", event.kind());
    /// let recorder = Recorder::new(&ledger, "loan-7").event_observer(Arc::new(print));
    /// # Ok(()) });
    /// ```
    #[must_use]
    pub fn event_observer(mut self, observer: Arc<dyn ExperienceEventObserver>) -> Recorder {
        self.events = Some(observer);
        self
    }

    /// Shows every entry to `observer` right after its append was tried, for those who want
    /// to know why one was dropped or how long one took. It runs within the engine's call, and
    /// for gaps also in a thread beside the run, where a panic is its end: it must not block
    /// either, and must not use this recorder.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::StreamingCallback;
    /// use ledger_client::converge::Recorder;
    ///
    /// let recorder = Recorder::new(&ledger, "loan-7").observed_by(|tried| {
    ///     println!("{} took {:?}", tried.key, tried.elapsed);
    /// });
    /// recorder.on_cycle_start(1);
    /// # Ok(()) });
    /// ```
    #[must_use]
    pub fn observed_by(self, observer: impl FnMut(&Tried<'_>) + Send + 'static) -> Recorder {
        self.shared.state().output.set_observer(observer);
        self
    }

    /// Entries appended so far.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::StreamingCallback;
    /// use ledger_client::converge::Recorder;
    ///
    /// let recorder = Recorder::new(&ledger, "loan-7");
    /// recorder.on_cycle_start(1);
    /// assert_eq!(recorder.recorded(), 1);
    /// # Ok(()) });
    /// ```
    pub fn recorded(&self) -> u64 {
        self.shared.state().output.recorded
    }

    /// Entries that could not be appended and are missing from the ledger.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_client::converge::Recorder;
    ///
    /// assert_eq!(Recorder::new(&ledger, "loan-7").dropped(), 0);
    /// # Ok(()) });
    /// ```
    pub fn dropped(&self) -> u64 {
        self.shared.state().output.dropped
    }

    /// Why the last entry could not be appended, if it could not.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use converge_core::StreamingCallback;
    /// use ledger_client::converge::Recorder;
    ///
    /// let recorder = Recorder::new(&ledger, "");
    /// recorder.on_cycle_start(1);
    /// assert_eq!(recorder.dropped(), 1);
    /// assert!(recorder.trouble().unwrap().contains("name"));
    /// # Ok(()) });
    /// ```
    pub fn trouble(&self) -> Option<String> {
        self.shared.state().output.trouble.clone()
    }

    /// What a human said of this proposal in an earlier attempt at the run.
    fn answer(&self, proposal_id: &str, hash: &str) -> Option<Answer> {
        let state = self.shared.state();
        let mut answers = state.answers.iter();
        let answer = answers.find(|answer| answer.is_for(proposal_id, hash));
        answer.cloned()
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state();
        f.debug_struct("Recorder")
            .field("scope", &self.shared.opening.scope)
            .field("start", &state.start)
            .field("output", &state.output)
            .finish_non_exhaustive()
    }
}
