//! What all clones of a recorder share with the thread beside them.

use std::collections::HashSet;
use std::fmt;
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::converge::history::Rejection;
use crate::ledger::Ledger;

use super::gate::Answer;
use super::opening::Opening;
use super::output::Output;
use super::ringer::Ringer;
use super::run::Run;

/// How often it is tried again to say what is missing.
const RETRY: Duration = Duration::from_millis(100);

/// What all clones share, and the thread beside them does not.
pub(super) struct Handle(Arc<Shared>);

/// What all clones share with the thread beside them.
pub(super) struct Shared {
    pub(super) opening: Opening,
    state: Mutex<State>,
    is_unrung: AtomicBool,
    /// None if no thread could be started: then whoever appends tells watchers.
    ringer: Option<Arc<Ringer>>,
}

/// The log's end and the run that is recorded there.
pub(super) struct State {
    pub(super) output: Output,
    pub(super) run: Run,
    /// Whether the run was started: the next start is another run's.
    is_started: bool,
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

    /// The run that is started next.
    pub(super) fn name(&mut self, run: Run) {
        self.run = run;
        self.is_started = false;
        self.is_continued = false;
        self.answers.clear();
        self.rejections.clear();
    }

    /// A run is started: another one than the one before.
    pub(super) fn start(&mut self) {
        if self.is_started {
            self.name(Run::new());
        }
        self.is_started = true;
        self.cycle = 0;
        self.events = 0;
        self.diagnostics.clear();
    }
}

impl Shared {
    fn new(opening: Opening, run: Run, ringer: Option<Arc<Ringer>>) -> Arc<Shared> {
        Arc::new(Shared {
            opening,
            state: Mutex::new(State::of(run)),
            is_unrung: AtomicBool::new(false),
            ringer,
        })
    }

    /// The one lock. It is held for one append at a time, and that does not wait.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of a payload, at most.
    pub(super) fn payload_len_max(&self) -> usize {
        let limits = self.opening.context().map(Context::limits);
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
        if is_unrung && let Some(context) = self.opening.context() {
            context.ring();
        }
        is_unrung
    }

    /// Has the thread look, also if nothing was recorded.
    pub(super) fn wake(&self) {
        if let Some(ringer) = &self.ringer {
            ringer.wake();
        }
    }

    /// Does what is due beside the run; says when it wants to be asked again.
    pub(super) fn tend(self: &Arc<Shared>, is_quiet: bool) -> Option<Instant> {
        if self.opening.context().is_none() {
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

    /// Until there is memory for a burst.
    pub(super) fn wait_ready(&self, deadline: Instant) {
        if let Some(context) = self.opening.context() {
            let left = deadline.saturating_duration_since(Instant::now());
            context.shared().wait_ready(left);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("scope", &self.opening.scope)
            .finish_non_exhaustive()
    }
}

impl Handle {
    /// Opens the context, and waits this long at most until it is open and has memory for a
    /// burst.
    pub(super) fn open(ledger: &Ledger, scope: String, run: Run, wait: Duration) -> Handle {
        let deadline = Instant::now() + wait;
        let opening = Opening::new(ledger.clone(), scope);
        let shared = Ringer::with(|ringer| Shared::new(opening, run, ringer));
        shared.open_if_due();
        shared.opening.wait(wait);
        shared.wait_ready(deadline);
        Handle(shared)
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
        self.wake();
    }
}
