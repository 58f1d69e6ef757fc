//! The thread that commits and frees memory: both take the kernel tens of
//! milliseconds for a large segment, and nobody should wait for somebody
//! else's.

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use ledger_shm::Segment;
use ledger_shm::object::{self, Epoch, Instance, MapError, Name, Object};
use ledger_shm::segment::Geometry;
use nix::sys::eventfd::EventFd;
use std::sync::Arc;

/// What to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Make a spare of `segment_len` bytes, or of half as many, and so on down
    /// to `segment_len_min`, if the memory file system has no more.
    Make {
        epoch: Epoch,
        part: u64,
        segment_len: usize,
        segment_len_min: usize,
    },
    /// Remove the name of a part that nobody needs any more.
    Unlink { epoch: Epoch, part: u64 },
}

/// A spare that was made, or was not.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) epoch: Epoch,
    pub(crate) part: u64,
    pub(crate) segment_len: usize,
    pub(crate) outcome: Result<(), MapError>,
}

#[derive(Debug)]
pub(crate) struct Maker {
    jobs: Option<Sender<Job>>,
    made: Receiver<Made>,
    thread: Option<JoinHandle<()>>,
}

impl Maker {
    /// Starts the thread; it writes `done` after each spare.
    pub(crate) fn start(instance: Instance, done: Arc<EventFd>) -> io::Result<Maker> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let (results, made) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("ledgerd-maker".into())
            .spawn(move || {
                for job in todo {
                    match job {
                        Job::Make {
                            epoch,
                            part,
                            segment_len,
                            segment_len_min,
                        } => {
                            let (segment_len, outcome) = make_what_fits(
                                &instance,
                                epoch,
                                part,
                                segment_len,
                                segment_len_min,
                            );
                            if results
                                .send(Made {
                                    epoch,
                                    part,
                                    segment_len,
                                    outcome,
                                })
                                .is_err()
                            {
                                return;
                            }
                            // Full means that the loop has not looked yet, and it will.
                            let _ = done.write(1);
                        }
                        Job::Unlink { epoch, part } => {
                            // What cannot be unlinked now is a leftover for the
                            // next start.
                            let _ = object::unlink(&instance, Name::Part(epoch, part));
                        }
                    }
                }
            })?;
        Ok(Maker {
            jobs: Some(jobs),
            made,
            thread: Some(thread),
        })
    }

    pub(crate) fn give(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // The thread ends only with this sender.
            let _ = jobs.send(job);
        }
    }

    pub(crate) fn take_made(&self) -> Option<Made> {
        self.made.try_recv().ok()
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            // Its panic was reported by the hook.
            let _ = thread.join();
        }
    }
}

fn make_what_fits(
    instance: &Instance,
    epoch: Epoch,
    part: u64,
    segment_len: usize,
    segment_len_min: usize,
) -> (usize, Result<(), MapError>) {
    let mut geometry = Geometry::of_len(segment_len);
    loop {
        match make(instance, epoch, part, geometry, 0, 0) {
            Err(MapError::Io(error))
                if is_out_of_memory(&error) && geometry.segment_len > segment_len_min =>
            {
                geometry = Geometry::of_len((geometry.segment_len / 2).max(segment_len_min));
            }
            outcome => return (geometry.segment_len, outcome.map(drop)),
        }
    }
}

/// Whether there is no memory: the file system's limit, or that of the control
/// group to which it is charged (fallocate(2) then says ENOMEM).
pub(crate) fn is_out_of_memory(error: &io::Error) -> bool {
    [nix::Error::ENOSPC, nix::Error::ENOMEM]
        .iter()
        .any(|none| error.raw_os_error() == Some(*none as i32))
}

/// Makes one part: memory committed, header complete. On failure nothing is
/// left behind.
pub(crate) fn make(
    instance: &Instance,
    epoch: Epoch,
    part: u64,
    geometry: Geometry,
    base_seq: u64,
    base_lamport: u64,
) -> Result<Segment, MapError> {
    let name = Name::Part(epoch, part);
    let object = Object::create(instance, name, geometry.segment_len)?;
    Segment::format(&object, epoch.0, part, geometry, base_seq, base_lamport).inspect_err(|_| {
        let _ = object::unlink(instance, name);
    })
}
