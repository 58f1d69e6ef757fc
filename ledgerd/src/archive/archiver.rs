//! The thread that writes contexts behind.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use ledger_shm::object::{Epoch, Instance, MapError};
use nix::sys::eventfd::EventFd;

use super::Marks;
use super::keeper::{Keeper, Trouble};

/// How often the frontiers of contexts that are appended to are looked at.
const LOOK: Duration = Duration::from_millis(10);

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
    /// A context is dropped: its directory is not its own any more, and to be removed.
    Forget { epoch: Epoch, removed: PathBuf },
    /// What is there is to be on stable storage at once.
    Sync { epoch: Epoch, marks: Arc<Marks> },
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
        archive_dir: PathBuf,
        done: Arc<EventFd>,
    ) -> io::Result<Archiver> {
        let (orders, todo) = mpsc::channel();
        let (sender, reports) = mpsc::channel();
        let desk = Desk {
            instance,
            archive_dir,
            reports: sender,
            done,
            keepers: HashMap::new(),
            said: HashMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("ledgerd-archiver".into())
            .spawn(move || desk.run(&todo))?;
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

/// What the thread works with.
struct Desk {
    instance: Instance,
    archive_dir: PathBuf,
    reports: Sender<Report>,
    done: Arc<EventFd>,
    /// Of contexts that are appended to, or whose last entries cannot be written yet.
    keepers: HashMap<Epoch, Kept>,
    /// What was last reported of a context that does not come further.
    said: HashMap<Epoch, String>,
}

struct Kept {
    keeper: Keeper,
    marks: Arc<Marks>,
    /// Somebody appends.
    is_followed: bool,
}

impl Desk {
    fn run(mut self, todo: &Receiver<Order>) {
        let mut has_more = false;
        loop {
            let first = match (has_more, self.keepers.is_empty()) {
                (true, _) => todo.recv_timeout(Duration::ZERO),
                (false, false) => todo.recv_timeout(LOOK),
                (false, true) => todo.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match first {
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
                Ok(order) => {
                    self.obey(order);
                    while let Ok(order) = todo.try_recv() {
                        self.obey(order);
                    }
                }
            }
            has_more = self.look();
        }
        // Also what nobody has looked at yet.
        for epoch in self.keepers.keys().copied().collect::<Vec<_>>() {
            self.with(epoch, None, Keeper::leave);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Follow { epoch, marks } => {
                self.with(epoch, Some(marks), |_| Ok(()));
                if let Some(kept) = self.keepers.get_mut(&epoch) {
                    kept.is_followed = true;
                }
            }
            Order::Leave { epoch, marks } => {
                self.with(epoch, Some(marks), Keeper::leave);
                if let Some(kept) = self.keepers.get_mut(&epoch) {
                    kept.is_followed = false;
                    self.let_go(epoch);
                }
            }
            Order::Finish { epoch, marks, seq } => {
                self.with(epoch, Some(marks), |keeper| keeper.finish(seq));
                self.let_go(epoch);
            }
            Order::Complete { epoch, marks } => {
                let mut is_done = false;
                self.with(epoch, Some(marks), |keeper| {
                    is_done = keeper.complete()?;
                    Ok(())
                });
                // If it is not done, whoever looks after it next begins anew.
                self.keepers.remove(&epoch);
                self.report(Report::Complete { epoch, is_done });
            }
            Order::Forget { epoch, removed } => {
                self.keepers.remove(&epoch);
                self.said.remove(&epoch);
                // What is left is removed at the next start.
                let _ = std::fs::remove_dir_all(removed);
            }
            Order::Sync { epoch, marks } => {
                self.with(epoch, Some(marks), |keeper| keeper.advance(true).map(drop));
                self.let_go(epoch);
            }
        }
    }

    /// One look at every context; whether there is more to copy.
    fn look(&mut self) -> bool {
        let mut has_more = false;
        for epoch in self.keepers.keys().copied().collect::<Vec<_>>() {
            self.with(epoch, None, |keeper| {
                has_more |= keeper.advance(false)?;
                Ok(())
            });
            self.let_go(epoch);
        }
        has_more
    }

    /// Does something with a context, and reports what came of it.
    fn with(
        &mut self,
        epoch: Epoch,
        marks: Option<Arc<Marks>>,
        act: impl FnOnce(&mut Keeper) -> Result<(), Trouble>,
    ) {
        let outcome = self.kept(epoch, marks).map(|kept| {
            let before = kept.marks.finished_seq();
            let outcome = act(&mut kept.keeper);
            (outcome, kept.marks.finished_seq() != before)
        });
        match outcome {
            None => {}
            Some((outcome, is_further)) => {
                if is_further {
                    self.report(Report::Finished(epoch));
                }
                match outcome {
                    Ok(()) => drop(self.said.remove(&epoch)),
                    Err(trouble) => self.complain(epoch, trouble),
                }
            }
        }
    }

    fn kept(&mut self, epoch: Epoch, marks: Option<Arc<Marks>>) -> Option<&mut Kept> {
        if let (false, Some(marks)) = (self.keepers.contains_key(&epoch), marks) {
            let keeper = Keeper::new(&self.instance, epoch, &self.archive_dir, Arc::clone(&marks));
            match keeper {
                Ok(keeper) => {
                    let kept = Kept {
                        keeper,
                        marks,
                        is_followed: false,
                    };
                    self.keepers.insert(epoch, kept);
                }
                Err(error) => self.complain(epoch, error.into()),
            }
        }
        self.keepers.get_mut(&epoch)
    }

    /// Forgets a context that nobody appends to and that has everything written.
    fn let_go(&mut self, epoch: Epoch) {
        let is_done = |kept: &Kept| !kept.is_followed && kept.keeper.is_settled();
        if self.keepers.get(&epoch).is_some_and(is_done) {
            self.keepers.remove(&epoch);
        }
    }

    fn complain(&mut self, epoch: Epoch, trouble: Trouble) {
        match trouble {
            Trouble::Memory(error) if matches!(error, MapError::Corrupt(_)) => {
                self.keepers.remove(&epoch);
                self.said.remove(&epoch);
                self.report(Report::Damaged(epoch, error));
            }
            trouble => {
                // Said once, however often it is tried.
                let error = trouble.to_string();
                if self.said.get(&epoch) != Some(&error) {
                    tracing::error!(%epoch, error, "a context cannot be archived; it is tried again");
                    self.said.insert(epoch, error);
                }
            }
        }
    }

    fn report(&self, report: Report) {
        // The server has ended if nobody listens.
        let _ = self.reports.send(report);
        let _ = self.done.write(1);
    }
}
