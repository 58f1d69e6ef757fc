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
use super::ringer::{LOOK, Ringer};
use super::start::Start;

/// Without anything recorded for this long, there is nothing to look for.
const QUIET: Duration = Duration::from_millis(100);
/// How often it is tried again to say what is missing.
const RETRY: Duration = Duration::from_millis(100);

/// What all clones share, and the thread beside them does not.
pub(super) struct Handle(Arc<Shared>);

/// What all clones share with the thread beside them.
pub(super) struct Shared {
    pub(super) opening: Opening,
    state: Mutex<State>,
    is_unrung: AtomicBool,
    /// Only of the thread beside the run.
    tended: Mutex<Tended>,
    /// None if no thread could be started: then whoever appends tells watchers.
    ringer: Option<Arc<Ringer>>,
}

/// When the thread has last found and done something.
#[derive(Debug)]
struct Tended {
    rung_at: Instant,
    settle_at: Instant,
}

/// The log's end and the run that is recorded there.
pub(super) struct State {
    pub(super) output: Output,
    pub(super) start: Start,
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
    fn of(start: Start) -> State {
        State {
            output: Output::default(),
            start,
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
    pub(super) fn name(&mut self, start: Start) {
        self.start = start;
        self.is_started = false;
        self.is_continued = false;
        self.answers.clear();
        self.rejections.clear();
    }

    /// A run is started: another one than the one before.
    pub(super) fn begin(&mut self) {
        if self.is_started {
            self.name(Start::new());
        }
        self.is_started = true;
        self.cycle = 0;
        self.events = 0;
        self.diagnostics.clear();
    }
}

impl Shared {
    fn new(opening: Opening, start: Start, ringer: Option<Arc<Ringer>>) -> Arc<Shared> {
        let now = Instant::now();
        Arc::new(Shared {
            opening,
            state: Mutex::new(State::of(start)),
            is_unrung: AtomicBool::new(false),
            tended: Mutex::new(Tended {
                rung_at: now,
                settle_at: now,
            }),
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

    /// Whether there is something that watchers are to be told.
    pub(super) fn is_unrung(&self) -> bool {
        self.opening.context().is_some() && self.is_unrung.load(Ordering::SeqCst)
    }

    /// Tells watchers of what was appended since the last time; says whether anything was.
    pub(super) fn ring(&self) -> bool {
        // The context first: what is appended before it is there is told as soon as it is.
        let context = self.opening.context();
        let unrung = context.filter(|_| self.is_unrung.swap(false, Ordering::SeqCst));
        if let Some(context) = unrung {
            context.ring();
        }
        unrung.is_some()
    }

    /// Whether something is missing that is not said yet.
    pub(super) fn has_lost(&self) -> bool {
        self.state().output.has_lost()
    }

    pub(super) fn forget_observer(&self) {
        self.state().output.forget_observer();
    }

    /// Has the thread look, also if nothing was recorded.
    pub(super) fn wake(&self) {
        if let Some(ringer) = &self.ringer {
            ringer.wake();
        }
    }

    /// Does what is due beside the run; says when it wants to be asked again.
    pub(super) fn tend(self: &Arc<Shared>) -> Option<Instant> {
        if self.opening.context().is_none() {
            return self.open_if_due();
        }
        let mut tended = self.tended.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if self.ring() {
            tended.rung_at = now;
        }
        // While something is recorded, that itself says what is missing.
        if now.duration_since(tended.rung_at) < QUIET {
            return Some(now + LOOK);
        }
        let mut state = self.state();
        if !state.output.has_lost() {
            return None;
        }
        if now >= tended.settle_at {
            tended.settle_at = now + RETRY;
            if state.output.settle() {
                drop(state);
                // At once: if nobody has the recorder any more, this was its last entry.
                self.is_unrung.store(true, Ordering::SeqCst);
                self.ring();
                return None;
            }
        }
        Some(tended.settle_at)
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
    pub(super) fn open(ledger: &Ledger, scope: String, start: Start, wait: Duration) -> Handle {
        let deadline = Instant::now() + wait;
        let opening = Opening::new(ledger.clone(), scope);
        let shared = Ringer::with(|ringer| Shared::new(opening, start, ringer));
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
    /// Says what is missing, and tells of what was said; the thread goes on trying if there
    /// is no room for that.
    fn drop(&mut self) {
        let mut state = self.state();
        if state.output.has_lost() && state.output.settle() {
            self.is_unrung.store(true, Ordering::SeqCst);
        }
        let has_lost = state.output.has_lost();
        drop(state);
        self.ring();
        match &self.ringer {
            Some(ringer) if has_lost => ringer.keep(Arc::clone(&self.0)),
            _ => self.wake(),
        }
    }
}
