//! The thread beside all recorders of a process: it opens contexts, tells watchers what was
//! recorded, and says what is missing as soon as there is room again.
//!
//! Waking a thread costs whoever does it tens of microseconds, so nobody wakes this one
//! while it looks by itself, every millisecond. It sleeps when nothing was recorded for a
//! while; only what is recorded then wakes it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use ledger_shm::fork::Generation;

use super::shared::Shared;

/// How often it looks while something is recorded.
pub(super) const LOOK: Duration = Duration::from_millis(1);
/// How long a recorder that nobody has any more may take to say what is missing.
const KEEP: Duration = Duration::from_secs(60);
/// How long it stays for the next recorder.
const LINGER: Duration = Duration::from_secs(1);

/// The one of this process, if there is one.
static CURRENT: Mutex<Option<Arc<Ringer>>> = Mutex::new(None);

#[derive(Debug)]
pub(super) struct Ringer {
    thread: OnceLock<Thread>,
    is_asleep: AtomicBool,
    recorders: Mutex<Vec<Weak<Shared>>>,
    /// Until when.
    kept: Mutex<Vec<(Arc<Shared>, Instant)>>,
    made_in: Generation,
}

fn current() -> MutexGuard<'static, Option<Arc<Ringer>>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what is due for a recorder; says when it wants to be asked again.
fn tended(shared: &Arc<Shared>) -> Option<Instant> {
    let due = catch_unwind(AssertUnwindSafe(|| shared.tend()));
    due.unwrap_or_else(|_| {
        // A host's observer has panicked, and all recorders have only this thread.
        shared.forget_observer();
        Some(Instant::now())
    })
}

impl Ringer {
    /// Makes a recorder of which the thread of this process takes care.
    /// If none can be started, without it.
    pub(super) fn with(make: impl FnOnce(Option<Arc<Ringer>>) -> Arc<Shared>) -> Arc<Shared> {
        // Held all along, so that the thread does not end meanwhile.
        let mut current = current();
        // A fork's child inherits it without its thread.
        let running = current.take().filter(|ringer| ringer.made_in.is_current());
        *current = running.or_else(|| Ringer::start().ok());
        let shared = make(current.clone());
        if let Some(ringer) = &*current {
            ringer.recorders().push(Arc::downgrade(&shared));
            ringer.wake();
        }
        shared
    }

    fn start() -> io::Result<Arc<Ringer>> {
        let ringer = Arc::new(Ringer {
            thread: OnceLock::new(),
            is_asleep: AtomicBool::new(false),
            recorders: Mutex::default(),
            kept: Mutex::default(),
            made_in: Generation::current()?,
        });
        let its = Arc::clone(&ringer);
        let builder = thread::Builder::new().name("ledger-recorder".to_owned());
        let thread = builder.spawn(move || its.run())?;
        let _ = ringer.thread.set(thread.thread().clone());
        Ok(ringer)
    }

    fn recorders(&self) -> MutexGuard<'_, Vec<Weak<Shared>>> {
        self.recorders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was recorded, and that is written where the thread looks.
    #[inline]
    pub(super) fn notify(&self) {
        // Both sides write their own flag and read the other's, all of it in one order: the
        // thread sees what was recorded before it sleeps, or this sees that it sleeps.
        if self.is_asleep.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    #[cold]
    pub(super) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Those that somebody has, and those that nobody has any more and that have yet to say
    /// what is missing.
    fn live(&self) -> Vec<Arc<Shared>> {
        let mut recorders = self.recorders();
        recorders.retain(|shared| shared.strong_count() > 0);
        recorders.iter().filter_map(Weak::upgrade).collect()
    }

    /// Keeps a recorder that nobody has any more, as long as it makes sense.
    pub(super) fn keep(&self, shared: Arc<Shared>) {
        self.kept().push((shared, Instant::now() + KEEP));
        self.wake();
    }

    fn kept(&self) -> MutexGuard<'_, Vec<(Arc<Shared>, Instant)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets those go that have said it, and those that cannot.
    fn let_go(&self) {
        let now = Instant::now();
        let is_done =
            |(shared, until): &mut (Arc<Shared>, Instant)| *until <= now || !shared.has_lost();
        let done: Vec<_> = self.kept().extract_if(.., is_done).collect();
        // Not while it is locked: the end of one may be anybody's code.
        drop(done);
    }

    fn run(&self) {
        let mut alone_since = None;
        loop {
            let live = self.live();
            let due = live.iter().filter_map(tended).min();
            let is_alone = live.is_empty();
            drop(live);
            self.let_go();
            let now = Instant::now();
            if let Some(due) = due.filter(|due| *due <= now + LOOK) {
                thread::park_timeout(due.saturating_duration_since(now));
                continue;
            }
            self.is_asleep.store(true, Ordering::SeqCst);
            if self.live().iter().any(|shared| shared.is_unrung()) {
                // It was recorded in between.
            } else if let Some(due) = due {
                thread::park_timeout(due.saturating_duration_since(now));
            } else if !is_alone {
                alone_since = None;
                thread::park();
            } else if now.duration_since(*alone_since.get_or_insert(now)) < LINGER {
                thread::park_timeout(LINGER);
            } else if self.ends() {
                return;
            }
            self.is_asleep.store(false, Ordering::SeqCst);
        }
    }

    /// Ends with the last recorder, unless there is a new one.
    fn ends(&self) -> bool {
        let mut current = current();
        // Without taking one: its end may be anybody's code.
        let is_alone = self.recorders().iter().all(|it| it.strong_count() == 0);
        if is_alone {
            *current = None;
        }
        is_alone
    }
}
