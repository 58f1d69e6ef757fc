//! Who waits without a thread of its own: watchers in an event loop or as a future, and
//! who awaits stable storage. One thread of the process sleeps at the bells of up to
//! [`BELLS_MAX`] contexts for all of them, however many they are.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
#[cfg(feature = "tokio")]
use std::time::Instant;

use ledger_shm::Bell;
use ledger_shm::bell::SLEEP_MAX;
use ledger_shm::bell::many::{BELLS_MAX, Nudge, sleep_at_any};
use ledger_shm::fork::Generation;
use ledger_shm::read::Link;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::shared::Shared;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one watcher waits for, and how it is told.
pub(crate) struct Waiter {
    shared: Arc<Shared>,
    /// It waits for stable storage, not for entries.
    is_for_disk: bool,
    awaited: Mutex<Awaited>,
    event: OnceLock<EventFd>,
}

#[derive(Default)]
struct Awaited {
    /// None if nothing is waited for.
    wanted: Option<Wanted>,
    waker: Option<Waker>,
}

/// What somebody waits for.
#[derive(Clone)]
pub(crate) enum Wanted {
    /// An entry, at the end of the log as it was seen.
    Entry(Link, u64),
    /// Stable storage for all entries up to one, or that no more time is left.
    #[cfg(feature = "tokio")]
    Durable(u64, Option<Instant>),
}

impl Wanted {
    fn has_come(&self, shared: &Shared) -> bool {
        match self {
            Wanted::Entry(link, seq) => shared.has_come(link, *seq),
            #[cfg(feature = "tokio")]
            Wanted::Durable(seq, deadline) => shared.durable_outcome(*seq, *deadline).is_some(),
        }
    }
}

impl Waiter {
    /// Waits, unless what comes next has come already; false then.
    fn wait_for(&self, wanted: Wanted, waker: Option<&Waker>) -> bool {
        let mut waker = waker.cloned();
        let mut awaited = lock(&self.awaited);
        awaited.wanted = Some(wanted.clone());
        // A look by the way takes nobody's place.
        if waker.is_some() {
            std::mem::swap(&mut awaited.waker, &mut waker);
        }
        drop(awaited);
        // With a task's last waker the task goes, and this watcher perhaps with
        // it: nothing is locked then.
        drop(waker);
        if !self.is_for_disk
            && let Some(bell) = self.shared.bell()
        {
            bell.announce();
        }
        let has_come = wanted.has_come(&self.shared);
        if has_come {
            lock(&self.awaited).wanted = None;
        }
        !has_come
    }

    fn is_waiting(&self) -> bool {
        lock(&self.awaited).wanted.is_some()
    }

    /// Tells the watcher if what it waits for has come. Its task is the
    /// caller's to wake, when nothing is locked: it may drop the watcher.
    fn look(&self) -> Option<Waker> {
        let mut awaited = lock(&self.awaited);
        if !awaited.wanted.as_ref()?.has_come(&self.shared) {
            return None;
        }
        awaited.wanted = None;
        self.signal();
        awaited.waker.take()
    }

    /// Has an event loop look, if one may.
    fn signal(&self) {
        if let Some(event) = self.event.get() {
            // Fails only when the counter is at its maximum: it is readable then.
            let _ = event.write(1);
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiter")
            .field("context", &self.shared.control.name())
            .field("event", &self.event.get())
            .finish_non_exhaustive()
    }
}

/// A waiter that a dispatcher looks after.
#[derive(Debug)]
pub(crate) struct Registered {
    waiter: Arc<Waiter>,
    dispatcher: Arc<Dispatcher>,
}

impl Registered {
    /// Has a dispatcher look after a watcher of this context, starting one if
    /// all have as many as they can take.
    pub(crate) fn new(shared: &Arc<Shared>) -> io::Result<Registered> {
        Registered::with(shared, false)
    }

    /// The same for who waits for stable storage.
    #[cfg(feature = "tokio")]
    pub(crate) fn for_disk(shared: &Arc<Shared>) -> io::Result<Registered> {
        Registered::with(shared, true)
    }

    fn with(shared: &Arc<Shared>, is_for_disk: bool) -> io::Result<Registered> {
        let waiter = Arc::new(Waiter {
            shared: Arc::clone(shared),
            is_for_disk,
            awaited: Mutex::default(),
            event: OnceLock::new(),
        });
        let mut dispatchers = lock(&DISPATCHERS);
        // Threads are not inherited by a fork's child.
        dispatchers.retain(|dispatcher| dispatcher.made_in.is_current());
        let added = dispatchers
            .iter()
            .find(|dispatcher| dispatcher.join(&waiter))
            .or_else(|| {
                dispatchers
                    .iter()
                    .find(|dispatcher| dispatcher.add(&waiter))
            });
        let dispatcher = match added {
            Some(dispatcher) => Arc::clone(dispatcher),
            None => {
                let dispatcher = Dispatcher::start(&waiter)?;
                dispatchers.retain(|dispatcher| !lock(&dispatcher.members).has_ended);
                dispatchers.push(Arc::clone(&dispatcher));
                dispatcher
            }
        };
        dispatcher.nudge.call();
        Ok(Registered { waiter, dispatcher })
    }

    /// Whether a thread looks after it: none does in a fork's child.
    pub(crate) fn is_alive(&self) -> bool {
        self.dispatcher.made_in.is_current()
    }

    /// Waits for something, unless it has come already; false then.
    pub(crate) fn wait_for(&self, wanted: Wanted, waker: Option<&Waker>) -> bool {
        let is_waiting = self.waiter.wait_for(wanted, waker);
        if is_waiting && self.dispatcher.is_idle.swap(false, Ordering::SeqCst) {
            self.dispatcher.nudge.call();
        }
        is_waiting
    }

    /// What an event loop waits for: readable at first, and whenever there is
    /// something to look at.
    pub(crate) fn event(&self) -> io::Result<BorrowedFd<'_>> {
        if let Some(event) = self.waiter.event.get() {
            return Ok(event.as_fd());
        }
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let event = EventFd::from_value_and_flags(1, flags)?;
        Ok(self.waiter.event.get_or_init(|| event).as_fd())
    }

    pub(crate) fn has_event(&self) -> bool {
        self.waiter.event.get().is_some()
    }

    /// Has an event loop look.
    pub(crate) fn signal(&self) {
        self.waiter.signal();
    }

    /// Takes back that there is something to look at.
    pub(crate) fn reset(&self) {
        if let Some(event) = self.waiter.event.get() {
            // Not readable is as good.
            let _ = event.read();
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // In a fork's child nobody looks after it.
        if self.dispatcher.made_in.is_current() {
            self.dispatcher.remove(&self.waiter);
        }
    }
}

static DISPATCHERS: Mutex<Vec<Arc<Dispatcher>>> = Mutex::new(Vec::new());

/// A thread that sleeps at the bells of many contexts. It ends when nobody is
/// left whom it looks after.
#[derive(Debug)]
struct Dispatcher {
    nudge: Nudge,
    /// Whether it may sleep without an end, because nobody waits.
    is_idle: AtomicBool,
    members: Mutex<Members>,
    made_in: Generation,
}

#[derive(Debug, Default)]
struct Members {
    contexts: Vec<Member>,
    has_ended: bool,
}

impl Members {
    /// How many words are slept at.
    fn word_count(&self) -> usize {
        let counts = self.contexts.iter();
        counts.map(|of| 1 + usize::from(of.is_for_disk())).sum()
    }
}

/// The watchers of one context.
#[derive(Debug)]
struct Member {
    shared: Arc<Shared>,
    bell: Option<Arc<Bell>>,
    bell_version: Option<u64>,
    seen: u32,
    waiters: Vec<Arc<Waiter>>,
}

impl Dispatcher {
    fn start(first: &Arc<Waiter>) -> io::Result<Arc<Dispatcher>> {
        let dispatcher = Arc::new(Dispatcher {
            nudge: Nudge::default(),
            is_idle: AtomicBool::new(true),
            members: Mutex::default(),
            made_in: Generation::current()?,
        });
        dispatcher.add(first);
        let thread = Arc::clone(&dispatcher);
        std::thread::Builder::new()
            .name("ledger-dispatch".into())
            .spawn(move || thread.run())?;
        Ok(dispatcher)
    }

    /// Adds a watcher of a context that others watch already.
    fn join(&self, waiter: &Arc<Waiter>) -> bool {
        let mut members = lock(&self.members);
        let has_room = members.word_count() < BELLS_MAX;
        let same = members
            .contexts
            .iter_mut()
            .find(|member| Arc::ptr_eq(&member.shared, &waiter.shared))
            .filter(|member| has_room || !waiter.is_for_disk || member.is_for_disk());
        let is_found = same.is_some();
        if let Some(member) = same {
            member.waiters.push(Arc::clone(waiter));
        }
        is_found
    }

    /// Adds the first watcher of a context, if there is room for its bell.
    fn add(&self, waiter: &Arc<Waiter>) -> bool {
        let mut members = lock(&self.members);
        let needed = 1 + usize::from(waiter.is_for_disk);
        let has_room = !members.has_ended && members.word_count() + needed <= BELLS_MAX;
        if has_room {
            members.contexts.push(Member {
                shared: Arc::clone(&waiter.shared),
                bell: None,
                bell_version: None,
                seen: 0,
                waiters: vec![Arc::clone(waiter)],
            });
        }
        has_room
    }

    fn remove(&self, waiter: &Arc<Waiter>) {
        let mut members = lock(&self.members);
        for member in &mut members.contexts {
            member.waiters.retain(|known| !Arc::ptr_eq(known, waiter));
        }
        let left = members
            .contexts
            .extract_if(.., |member| member.waiters.is_empty());
        let left: Vec<Member> = left.collect();
        drop(members);
        // A context that is let go of here tells the daemon.
        drop(left);
        self.nudge.call();
    }

    fn run(&self) {
        let (mut bells, mut disks, mut wakers) = (Vec::new(), Vec::new(), Vec::new());
        loop {
            let nudged = self.nudge.count();
            // Before anybody is looked at: who comes to wait later finds it set.
            self.is_idle.store(true, Ordering::SeqCst);
            let mut members = lock(&self.members);
            if members.contexts.is_empty() {
                members.has_ended = true;
                return;
            }
            let mut is_anybody_waiting = false;
            for member in &mut members.contexts {
                if member.is_for_disk() {
                    let seen = member.shared.control.durable_seq();
                    disks.push((Arc::clone(&member.shared), seen));
                }
                is_anybody_waiting |= member.look(&mut wakers);
                let bell = member.bell.as_ref();
                bells.extend(bell.map(|bell| (Arc::clone(bell), member.seen)));
            }
            drop(members);
            for waker in wakers.drain(..) {
                // A task's trouble is its own; the panic hook has said so.
                let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
            }
            if is_anybody_waiting {
                self.is_idle.store(false, Ordering::SeqCst);
            }
            let timeout = is_anybody_waiting.then_some(SLEEP_MAX);
            let durable = disks.iter().map(|(shared, seen)| (&shared.control, *seen));
            sleep_at_any((&self.nudge, nudged), &bells, durable, timeout);
            disks.clear();
            // Also of contexts that nobody here watches any more: the one
            // sleeper that a ringer wakes may have been this thread.
            for (bell, seen) in bells.drain(..) {
                let count = bell.count();
                if count != seen {
                    bell.relay(count);
                }
            }
        }
    }
}

impl Member {
    /// Tells every watcher for whom something has come; whether others wait on.
    fn look(&mut self, wakers: &mut Vec<Waker>) -> bool {
        let version = Some(self.shared.bell_version());
        if self.bell_version != version {
            self.bell_version = version;
            self.bell = self.shared.bell();
            self.seen = self.bell.as_ref().map_or(0, |bell| bell.count());
        }
        if let Some(bell) = &self.bell {
            let count = bell.count();
            if count != self.seen {
                self.seen = count;
                bell.relay(count);
            }
            let mut watching = self.waiters.iter().filter(|waiter| !waiter.is_for_disk);
            if watching.any(|waiter| waiter.is_waiting()) {
                bell.announce();
            }
        }
        wakers.extend(self.waiters.iter().filter_map(|waiter| waiter.look()));
        self.is_anybody_waiting()
    }

    fn is_for_disk(&self) -> bool {
        self.waiters.iter().any(|waiter| waiter.is_for_disk)
    }

    fn is_anybody_waiting(&self) -> bool {
        self.waiters.iter().any(|waiter| waiter.is_waiting())
    }
}

#[cfg(all(test, feature = "tokio"))]
mod tests {
    use super::*;

    use ledger_shm::Control;
    use ledger_shm::control::{Facts, Sizes, State};
    use ledger_shm::entry::Limits;
    use ledger_shm::object::Epoch;

    use crate::Ledger;

    /// Contexts that nobody else has, of which nothing is on stable storage.
    fn contexts(count: usize) -> Vec<Arc<Shared>> {
        let ledger = Ledger::builder()
            .runtime_dir("/nonexistent")
            .daemon_optional(true);
        let ledger = ledger.connect().expect("no daemon is needed");
        let context = |n| {
            let facts = Facts {
                name: format!("context-{n}"),
                epoch: Epoch([1; 16]),
                limits: Limits::default(),
                sizes: Sizes::default(),
                has_foreign_writers: false,
                created_at_ns: 1,
            };
            let home = facts.epoch;
            let control = Control::in_files(facts, home, 0, 0).expect("memory");
            control.set_state(State::Open);
            Arc::new(Shared::new(Arc::clone(ledger.core()), control, false))
        };
        (0..count).map(context).collect()
    }

    fn waiter(shared: &Arc<Shared>, is_for_disk: bool) -> Arc<Waiter> {
        Arc::new(Waiter {
            shared: Arc::clone(shared),
            is_for_disk,
            awaited: Mutex::default(),
            event: OnceLock::new(),
        })
    }

    #[test]
    fn a_dispatcher_takes_as_many_as_it_can_sleep_for() {
        let dispatcher = Dispatcher {
            nudge: Nudge::default(),
            is_idle: AtomicBool::new(true),
            members: Mutex::default(),
            made_in: Generation::current().expect("a page"),
        };
        let contexts = contexts(BELLS_MAX);
        let (last, most) = contexts.split_last().expect("some");
        for shared in most {
            assert!(
                !dispatcher.join(&waiter(shared, false)),
                "nobody watches it"
            );
            assert!(dispatcher.add(&waiter(shared, false)));
        }
        // One more word, and then none.
        assert!(dispatcher.join(&waiter(&most[0], true)));
        assert_eq!(lock(&dispatcher.members).word_count(), BELLS_MAX);
        for (shared, is_for_disk, takes) in [
            (&most[0], true, true),
            (&most[0], false, true),
            (&most[1], false, true),
            (&most[1], true, false),
        ] {
            assert_eq!(dispatcher.join(&waiter(shared, is_for_disk)), takes);
        }
        assert!(!dispatcher.add(&waiter(last, false)));
    }

    #[test]
    fn dispatchers_that_have_room_again_are_used_before_another_is_started() {
        // Two words each.
        let contexts = contexts(BELLS_MAX / 2 + 1);
        let register = |shared| Registered::for_disk(shared).expect("a thread");
        let mut registered: Vec<Registered> = contexts.iter().map(register).collect();
        let first = Arc::clone(&registered[0].dispatcher);
        let last = &registered.last().expect("some").dispatcher;
        assert!(!Arc::ptr_eq(&first, last), "one takes no more");
        drop(registered.remove(0));
        let again = register(&contexts[0]);
        assert!(Arc::ptr_eq(&first, &again.dispatcher));
    }

    #[test]
    fn a_waiter_waits_until_it_is_told() {
        let shared = contexts(1).remove(0);
        let registered = Registered::for_disk(&shared).expect("a thread");
        assert!(!registered.has_event() && !registered.waiter.is_waiting());
        registered.event().expect("a descriptor");
        assert!(registered.has_event());
        let waiter = waiter(&shared, true);
        assert!(waiter.wait_for(Wanted::Durable(5, None), None));
        assert!(waiter.is_waiting() && waiter.look().is_none() && waiter.is_waiting());
        shared.control.set_archived(5, 5);
        waiter.look();
        assert!(!waiter.is_waiting());
        assert!(
            !waiter.wait_for(Wanted::Durable(5, None), None),
            "it is there"
        );
        assert!(!waiter.is_waiting());
    }
}
