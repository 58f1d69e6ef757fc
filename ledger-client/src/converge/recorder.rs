//! A [`Recorder`] and what it is told before a run.

use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use converge_core::{Budget, EngineHitlPolicy, ExperienceEventObserver, StreamingCallback};

use crate::appender::Appender;
use crate::context::Context;
use crate::ledger::Ledger;

use super::gate::Answer;
use super::history::Rejection;
use super::output::{Output, Tried};
use super::rebuild::Rebuilt;
use super::ringer::Ringer;
use super::run::Run;

/// How long a new recorder waits for its context and for memory there.
const OPEN_WAIT: Duration = Duration::from_secs(1);
/// How often what did not work is tried again.
const RETRY: Duration = Duration::from_millis(100);

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
    pub(super) shared: Arc<Handle>,
    pub(super) setup: Setup,
    pub(super) streaming: Option<Arc<dyn StreamingCallback>>,
    pub(super) events: Option<Arc<dyn ExperienceEventObserver>>,
}

/// What an engine does not tell of itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Setup {
    pub(super) suggestors: Option<Vec<String>>,
    pub(super) budget: Option<Budget>,
    pub(super) policy: Option<EngineHitlPolicy>,
}

/// What all clones share, and the thread beside them does not.
pub(super) struct Handle(Arc<Shared>);

/// What all clones share with the thread beside them.
pub(super) struct Shared {
    ledger: Ledger,
    scope: String,
    context: OnceLock<Context>,
    opening: Mutex<Opening>,
    tried: Condvar,
    state: Mutex<State>,
    is_unrung: AtomicBool,
    /// None if no thread could be started: then whoever appends tells watchers.
    ringer: Option<Arc<Ringer>>,
}

/// What came of the attempts to open the context.
#[derive(Debug, Default)]
struct Opening {
    tries: u64,
    is_running: bool,
    next_try: Option<Instant>,
}

/// The log's end and the run that is recorded there.
pub(super) struct State {
    pub(super) output: Output,
    pub(super) run: Run,
    /// Whether the run was started: the next start is another run's.
    pub(super) is_started: bool,
    /// An earlier attempt at the run has recorded what its context holds.
    pub(super) is_continued: bool,
    pub(super) cycle: u32,
    /// Diagnostic facts that are recorded: the engine tells only of some.
    pub(super) diagnostics: HashSet<String>,
    pub(super) events: u64,
    /// What humans said in earlier attempts at the run.
    pub(super) answers: Vec<Answer>,
    /// What an engine that had never been away would remember of them.
    pub(super) rejections: Vec<Rejection>,
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
        Recorder::of(ledger, scope.into(), Run::new())
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
        let run = Run::named(rebuilt.run_id.clone(), rebuilt.next_attempt);
        let recorder = Recorder::of(ledger, rebuilt.scope.clone(), run);
        let mut state = recorder.shared.state();
        state.is_continued = true;
        state.answers.clone_from(&rebuilt.answers);
        state.rejections.clone_from(&rebuilt.rejections);
        drop(state);
        recorder
    }

    fn of(ledger: &Ledger, scope: String, run: Run) -> Recorder {
        let make = |ringer| {
            Arc::new(Shared {
                ledger: ledger.clone(),
                scope,
                context: OnceLock::new(),
                // Right below, so that nobody else begins to.
                opening: Mutex::new(Opening {
                    is_running: true,
                    ..Opening::default()
                }),
                tried: Condvar::new(),
                state: Mutex::new(State::of(run)),
                is_unrung: AtomicBool::new(false),
                ringer,
            })
        };
        let shared = Ringer::with(make);
        shared.open_beside();
        shared.wait_open();
        Recorder {
            shared: Arc::new(Handle(shared)),
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
        let run_id = run_id.into();
        let mut state = self.shared.state();
        state.run = match run_id.is_empty() {
            true => Run::new(),
            false => Run::named(run_id, 1),
        };
        state.is_started = false;
        state.forget();
        drop(state);
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
        self.shared.state().run.id().to_owned()
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
    /// to know why one was dropped or how long one took. It runs within the engine's call:
    /// it must not block either, and must not use this recorder.
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
    pub(super) fn answer(&self, proposal_id: &str, hash: &str) -> Option<Answer> {
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
            .field("scope", &self.shared.scope)
            .field("run", &state.run)
            .field("output", &state.output)
            .finish_non_exhaustive()
    }
}

impl State {
    fn of(run: Run) -> State {
        State {
            output: Output::default(),
            run,
            is_started: false,
            is_continued: false,
            cycle: 0,
            diagnostics: HashSet::new(),
            events: 0,
            answers: Vec::new(),
            rejections: Vec::new(),
        }
    }

    /// The next run is none that was begun before.
    fn forget(&mut self) {
        self.is_continued = false;
        self.answers.clear();
        self.rejections.clear();
    }

    /// A run is started: another one than the one before.
    pub(super) fn start(&mut self) {
        if std::mem::replace(&mut self.is_started, true) {
            self.run = Run::new();
            self.forget();
        }
        self.cycle = 0;
        self.events = 0;
        self.diagnostics.clear();
    }
}

impl Shared {
    /// The one lock. It is held for one append at a time, and that does not wait.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of a payload, at most.
    pub(super) fn payload_len_max(&self) -> usize {
        let limits = self.context.get().map(Context::limits);
        limits.unwrap_or_default().payload_len_max
    }

    /// Something was appended or dropped: has the thread look.
    #[inline]
    pub(super) fn published(&self) {
        self.is_unrung.swap(true, Ordering::SeqCst);
        match &self.ringer {
            Some(ringer) => ringer.notify(),
            None => _ = self.ring(),
        }
    }

    pub(super) fn is_unrung(&self) -> bool {
        self.is_unrung.load(Ordering::SeqCst)
    }

    /// Tells watchers of what was appended since the last time; says whether anything was.
    pub(super) fn ring(&self) -> bool {
        let is_unrung = self.is_unrung.swap(false, Ordering::SeqCst);
        if is_unrung && let Some(context) = self.context.get() {
            context.ring();
        }
        is_unrung
    }

    /// Does what is due beside the run; says when it wants to be asked again.
    pub(super) fn tend(self: &Arc<Shared>, is_quiet: bool) -> Option<Instant> {
        if self.context.get().is_none() {
            return self.open_if_due();
        }
        // While something is recorded, that itself says what is missing.
        let mut state = if is_quiet { self.state() } else { return None };
        if !state.output.has_lost() {
            return None;
        }
        if state.output.settle() {
            drop(state);
            self.published();
            return None;
        }
        Some(Instant::now() + RETRY)
    }

    fn open_if_due(self: &Arc<Shared>) -> Option<Instant> {
        let mut opening = self.opening();
        let now = Instant::now();
        let next_try = opening.next_try.unwrap_or(now);
        if opening.is_running || next_try > now {
            return Some(next_try.max(now + RETRY / 2));
        }
        opening.is_running = true;
        drop(opening);
        self.open_beside();
        Some(now + RETRY)
    }

    /// Opens the context in a thread of its own: a daemon that does not answer is to keep
    /// nobody waiting.
    fn open_beside(self: &Arc<Shared>) {
        let shared = Arc::clone(self);
        let builder = thread::Builder::new().name("ledger-opening".to_owned());
        if builder.spawn(move || shared.try_open()).is_err() {
            self.try_open();
        }
    }

    fn try_open(&self) {
        let next_try = match self.open() {
            Ok((context, appender)) => {
                let mut state = self.state();
                state.output.appender = Some(appender);
                state.output.trouble = None;
                drop(state);
                let _ = self.context.set(context);
                None
            }
            Err(error) => {
                self.state().output.trouble = Some(error);
                Some(Instant::now() + RETRY)
            }
        };
        let mut opening = self.opening();
        opening.is_running = false;
        opening.next_try = next_try;
        opening.tries += 1;
        self.tried.notify_all();
        drop(opening);
        if let Some(ringer) = &self.ringer {
            ringer.wake();
        }
    }

    fn open(&self) -> Result<(Context, Appender), String> {
        let context = self.ledger.context(&self.scope).open_or_create();
        let context = context.map_err(|error| error.to_string())?;
        let appender = context.appender().map_err(|error| error.to_string())?;
        Ok((context, appender))
    }

    fn opening(&self) -> MutexGuard<'_, Opening> {
        self.opening.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until it was tried to open the context, and until that has memory for a burst.
    fn wait_open(&self) {
        let deadline = Instant::now() + OPEN_WAIT;
        let is_new = |opening: &mut Opening| opening.tries == 0;
        drop(
            self.tried
                .wait_timeout_while(self.opening(), OPEN_WAIT, is_new),
        );
        self.wait_ready(deadline);
    }

    /// Until there is memory for a burst.
    pub(super) fn wait_ready(&self, deadline: Instant) {
        if let Some(context) = self.context.get() {
            let left = deadline.saturating_duration_since(Instant::now());
            context.shared().wait_ready(left);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl Deref for Handle {
    type Target = Arc<Shared>;

    fn deref(&self) -> &Arc<Shared> {
        &self.0
    }
}

impl Drop for Handle {
    /// The last chance to say what is missing, and to tell of what was said.
    fn drop(&mut self) {
        let mut state = self.state();
        if state.output.has_lost() && state.output.settle() {
            self.is_unrung.store(true, Ordering::SeqCst);
        }
        drop(state);
        self.ring();
        if let Some(ringer) = &self.ringer {
            ringer.wake();
        }
    }
}
