//! Threads that are known to sleep when something wakes them.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, gettid};

/// Longer than anything here takes that is woken.
pub(crate) const LONG: Duration = Duration::from_secs(30);

/// Something wakes all of those threads, once they are asleep.
pub(crate) fn wakes<S: FnOnce() + Send>(wake: impl FnOnce(), sleepers: impl Iterator<Item = S>) {
    thread::scope(|scope| {
        let (sleeps, asleep) = mpsc::channel();
        let sleepers: Vec<_> = sleepers
            .map(|sleep| {
                let sleeps = sleeps.clone();
                scope.spawn(move || {
                    sleeps.send(gettid()).expect("it is waited for");
                    sleep();
                })
            })
            .collect();
        asleep
            .iter()
            .take(sleepers.len())
            .for_each(wait_until_asleep);
        wake();
        for sleeper in sleepers {
            sleeper.join().expect("it sleeps");
        }
    });
}

/// A thread of this process has gone to sleep; or has been woken from that before, by a
/// kernel that cannot sleep at many words.
fn wait_until_asleep(thread: Pid) {
    let began = Instant::now();
    let stat = format!("/proc/self/task/{thread}/stat");
    loop {
        let Ok(stat) = std::fs::read_to_string(&stat) else {
            return;
        };
        let (_, state) = stat.rsplit_once(") ").expect("behind its name");
        if state.starts_with('S') {
            return;
        }
        assert!(began.elapsed() < LONG, "it does not fall asleep");
        thread::yield_now();
    }
}
