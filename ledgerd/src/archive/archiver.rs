//! The thread that writes contexts behind.

use std::collections::HashMap;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ledger_shm::object::{Epoch, Instance, MapError};
use nix::sys::eventfd::EventFd;

use super::Marks;
use super::disk::Disk;
use super::home::Home;
use super::keeper::{Keeper, Trouble};
use super::retain::Cleaner;
use super::synced_file::Syncer;
use crate::options::Options;

/// How often the frontiers of contexts that are appended to are looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How long old files are removed before contexts that are appended to have their turn.
const CLEANING: Duration = Duration::from_millis(5);

/// What to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Somebody appends to a context from now on.
    Follow { epoch: Epoch, marks: Arc<Marks> },
    /// Nobody does any more.
    Leave { epoch: Epoch, marks: Arc<Marks> },
    /// Everything up to a seq is to be in finished files: its memory is wanted.
    Finish {
        epoch: Epoch,
        marks: Arc<Marks>,
        seq: u64,
    },
    /// A closed log is to be in finished files, so that its memory can be given up.
    Complete { epoch: Epoch, marks: Arc<Marks> },
    /// A context is dropped: its directory was set aside, and is to be removed.
    Forget { epoch: Epoch, home: Home },
    /// What is there is to be on stable storage at once.
    Sync { epoch: Epoch, marks: Arc<Marks> },
    /// Other options hold from now on.
    GoOn(Box<Options>),
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Report {
    /// More of a context is in finished files.
    Finished(Epoch),
    /// A closed log is in finished files, or that could not be done.
    Complete { epoch: Epoch, is_done: bool },
    /// A context's memory is damaged.
    Damaged(Epoch, MapError),
    /// A context cannot be written for this reason, or can be again.
    Trouble { epoch: Epoch, error: Option<String> },
    /// The thread has panicked: nothing is written behind any more.
    Ended,
}

#[derive(Debug)]
pub(crate) struct Archiver {
    orders: Option<Sender<Order>>,
    reports: Receiver<Report>,
    thread: Option<JoinHandle<()>>,
}

impl Archiver {
    /// Starts the thread; it writes `done` after each report.
    pub(crate) fn start(
        instance: Instance,
        options: Options,
        archive_dir: PathBuf,
        done: Arc<EventFd>,
    ) -> io::Result<Archiver> {
        let (orders, todo) = mpsc::channel();
        let (sender, reports) = mpsc::channel();
        let announce = Announce {
            reports: sender.clone(),
            done: Arc::clone(&done),
        };
        let desk = Desk::new(instance, options, archive_dir, sender, done)?;
        let thread = std::thread::Builder::new()
            .name("ledgerd-archiver".into())
            .spawn(move || {
                let _announce = announce;
                desk.run(&todo);
            })?;
        Ok(Archiver {
            orders: Some(orders),
            reports,
            thread: Some(thread),
        })
    }

    pub(crate) fn give(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The thread ends only with this sender.
            let _ = orders.send(order);
        }
    }

    pub(crate) fn take_report(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }
}

impl Drop for Archiver {
    /// Waits until everything is on stable storage that can be.
    fn drop(&mut self) {
        drop(self.orders.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was reported by the hook.
            let _ = thread.join();
        }
    }
}

/// Says so if the thread panics.
struct Announce {
    reports: Sender<Report>,
    done: Arc<EventFd>,
}

impl Drop for Announce {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The server has ended if nobody listens.
            let _ = self.reports.send(Report::Ended);
            let _ = self.done.write(1);
        }
    }
}

/// What the thread works with.
struct Desk {
    instance: Instance,
    archive_dir: PathBuf,
    disk: Disk,
    file_len: usize,
    syncer: Syncer,
    cleaner: Cleaner,
    reports: Sender<Report>,
    done: Arc<EventFd>,
    /// Of contexts that are appended to, or whose last entries cannot be written yet.
    keepers: HashMap<Epoch, Kept>,
}

struct Kept {
    keeper: Keeper,
    marks: Arc<Marks>,
    /// Somebody appends.
    is_followed: bool,
    /// What was last reported of it.
    said: Option<String>,
}

impl Desk {
    fn new(
        instance: Instance,
        options: Options,
        archive_dir: PathBuf,
        reports: Sender<Report>,
        done: Arc<EventFd>,
    ) -> io::Result<Desk> {
        Ok(Desk {
            disk: Disk::new(Arc::clone(&options.file_system)),
            file_len: options.archive_file_len,
            syncer: Syncer::start()?,
            cleaner: Cleaner::new(instance.clone(), archive_dir.clone(), options),
            instance,
            archive_dir,
            reports,
            done,
            keepers: HashMap::new(),
        })
    }

    fn run(mut self, todo: &Receiver<Order>) {
        let mut has_more = false;
        loop {
            let first = match self.pause(has_more) {
                Some(pause) => todo.recv_timeout(pause),
                None => todo.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(order) => {
                    // However many there are, everybody else has a turn.
                    let begun = Instant::now();
                    self.obey(order);
                    while begun.elapsed() < LOOK
                        && let Ok(order) = todo.try_recv()
                    {
                        self.obey(order);
                    }
                }
            }
            has_more = self.look() | self.clean();
        }
        // Also what nobody has looked at yet.
        for epoch in self.keepers.keys().copied().collect::<Vec<_>>() {
            self.with(epoch, Keeper::leave);
        }
    }

    /// How long to wait for an order before looking again; for ever if none.
    fn pause(&self, has_more: bool) -> Option<Duration> {
        if has_more {
            return Some(Duration::ZERO);
        }
        let look = (!self.keepers.is_empty()).then_some(LOOK);
        let cleaning = self.cleaner.due();
        let cleaning = cleaning.map(|due| due.saturating_duration_since(Instant::now()));
        look.into_iter().chain(cleaning).min()
    }

    /// Removes some of what need not be kept; whether there is more.
    fn clean(&mut self) -> bool {
        let keepers = &self.keepers;
        let is_in_trouble = |dir: &Path| {
            let mut waiting = keepers.values().filter(|kept| kept.keeper.is_waiting());
            waiting.any(|kept| kept.keeper.home().is_some_and(|home| home.dir == dir))
        };
        self.cleaner.work(Instant::now() + CLEANING, is_in_trouble)
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Follow { epoch, marks } => {
                self.kept(epoch, marks).is_followed = true;
            }
            Order::Leave { epoch, marks } => {
                self.kept(epoch, marks).is_followed = false;
                self.with(epoch, Keeper::leave);
                self.let_go(epoch);
            }
            Order::Finish { epoch, marks, seq } => {
                self.kept(epoch, marks);
                self.with(epoch, |keeper| keeper.finish(seq));
                self.let_go(epoch);
            }
            Order::Complete { epoch, marks } => {
                self.kept(epoch, marks);
                let mut is_done = false;
                self.with(epoch, |keeper| {
                    is_done = keeper.complete()?;
                    Ok(())
                });
                if is_done {
                    self.forget(epoch);
                } else {
                    // What could not be written is still to be.
                    self.let_go(epoch);
                }
                self.report(Report::Complete { epoch, is_done });
            }
            Order::Forget { epoch, home } => {
                self.forget(epoch);
                // Twice: a look that was under way may have begun a file since. What is
                // left is removed at the next start.
                let _ = home.remove_aside();
                let _ = home.set_aside().and_then(|()| home.remove_aside());
            }
            Order::Sync { epoch, marks } => {
                marks.begin_sync();
                self.kept(epoch, marks);
                self.with(epoch, |keeper| keeper.advance(true).map(drop));
                self.let_go(epoch);
            }
            Order::GoOn(options) => {
                self.file_len = options.archive_file_len;
                self.cleaner.go_on_with(*options);
            }
        }
    }

    /// One look at every context; whether there is more to copy.
    fn look(&mut self) -> bool {
        let mut has_more = false;
        for epoch in self.keepers.keys().copied().collect::<Vec<_>>() {
            self.with(epoch, |keeper| {
                has_more |= keeper.advance(false)?;
                Ok(())
            });
            self.let_go(epoch);
        }
        has_more
    }

    /// Who looks after a context, from now on if nobody does yet.
    fn kept(&mut self, epoch: Epoch, marks: Arc<Marks>) -> &mut Kept {
        // Memory that was given up, and came back as other memory.
        let is_other = |kept: &Kept| !Arc::ptr_eq(&kept.marks, &marks);
        if self.keepers.get(&epoch).is_some_and(is_other) {
            self.forget(epoch);
        }
        let (instance, file_len) = (&self.instance, self.file_len);
        let place = (self.archive_dir.as_path(), &self.disk);
        let syncer = &self.syncer;
        self.keepers.entry(epoch).or_insert_with(|| Kept {
            keeper: Keeper::new(
                instance,
                epoch,
                place,
                Arc::clone(&marks),
                file_len,
                syncer.clone(),
            ),
            marks,
            is_followed: false,
            said: None,
        })
    }

    /// Does something with a context that is looked after, and reports what came of it.
    fn with(&mut self, epoch: Epoch, act: impl FnOnce(&mut Keeper) -> Result<(), Trouble>) {
        let Some(kept) = self.keepers.get_mut(&epoch) else {
            return;
        };
        let before = kept.marks.finished_seq();
        // One context's trouble is not that of all.
        let outcome = catch_unwind(AssertUnwindSafe(|| act(&mut kept.keeper)))
            .unwrap_or_else(|panic| Err(kept.keeper.panicked(&*panic)));
        let is_further = kept.marks.finished_seq() != before;
        if is_further && let Some(home) = kept.keeper.home() {
            self.cleaner.look_at(home);
        }
        match outcome {
            Ok(()) if kept.keeper.is_well() => self.say(epoch, None),
            Ok(()) => {}
            Err(Trouble::Memory(error)) if matches!(error, MapError::Corrupt(_)) => {
                self.forget(epoch);
                self.report(Report::Damaged(epoch, error));
            }
            // It was dropped, or its memory given up.
            Err(Trouble::Memory(error)) if error.is_not_found() => {
                self.forget(epoch);
            }
            Err(trouble) => self.say(epoch, Some(trouble.to_string())),
        }
        if is_further {
            self.report(Report::Finished(epoch));
        }
    }

    /// Forgets a context that nobody appends to and that has everything written.
    fn let_go(&mut self, epoch: Epoch) {
        let is_done = |kept: &Kept| !kept.is_followed && kept.keeper.is_settled();
        if self.keepers.get(&epoch).is_some_and(is_done) {
            self.forget(epoch);
        }
    }

    fn forget(&mut self, epoch: Epoch) {
        self.say(epoch, None);
        self.keepers.remove(&epoch);
    }

    /// Reports what keeps a context from being written, or that nothing does; once,
    /// however often it is tried.
    fn say(&mut self, epoch: Epoch, said: Option<String>) {
        let Some(kept) = self.keepers.get_mut(&epoch) else {
            return;
        };
        if kept.said == said {
            return;
        }
        kept.said.clone_from(&said);
        self.report(Report::Trouble { epoch, error: said });
    }

    fn report(&self, report: Report) {
        // The server has ended if nobody listens.
        let _ = self.reports.send(report);
        let _ = self.done.write(1);
    }
}

#[cfg(test)]
mod tests;
