//! A daemon each system call of which is seen, and those who ask it.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;

use super::{Order, Supervised};
use crate::Instance;
use crate::call::Call;

/// What became of a daemon.
#[derive(Debug)]
pub struct Served<T> {
    /// What came of the work; none if the daemon never listened.
    pub outcome: Option<T>,
    /// What the daemon said.
    pub said: Vec<String>,
    /// How it ended.
    pub ended: Option<WaitStatus>,
}

/// Has a daemon ended that does not end by itself.
struct Ends(Pid);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

/// Runs a daemon, with what is decided about each of its calls, whether it listens by then
/// or not. `begin` is told which process it is; `work` is done once it listens, and then it
/// is told to end, if it has not.
///
/// # Panics
///
/// If `work` does.
pub fn serve<T: Send>(
    instance: &Instance,
    args: &[&str],
    begin: impl FnOnce(Pid),
    mut decide: impl FnMut(&Call, bool) -> Order,
    work: impl FnOnce(Pid) -> T + Send,
) -> Served<T> {
    let listens = AtomicBool::new(false);
    let mut command = instance.ledgerd(&["run"]);
    let mut daemon = Supervised::start(command.args(args).stderr(Stdio::piped()));
    let (pid, mut lines) = (daemon.pid(), daemon.stderr());
    begin(pid);
    let (outcome, said) = std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            // Also when somebody panics.
            let _ends = Ends(pid);
            let (mut outcome, mut said) = (None, Vec::new());
            let mut work = Some(work);
            while let Ok(line) = lines.line() {
                let has_come = line.contains(" listens at ");
                said.push(line);
                if let Some(work) = work.take_if(|_| has_come) {
                    listens.store(true, Ordering::Relaxed);
                    outcome = Some(work(pid));
                    // It may be dead.
                    let _ = kill(pid, Signal::SIGTERM);
                }
            }
            (outcome, said)
        });
        daemon.run(|call| decide(call, listens.load(Ordering::Relaxed)));
        working.join().expect("no panic")
    });
    Served {
        outcome,
        said,
        ended: daemon.ended(),
    }
}
