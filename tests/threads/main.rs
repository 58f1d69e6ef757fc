//! A log whose appenders, readers and daemon are threads that share its memory: they agree on
//! what it says, and ThreadSanitizer sees whether what they agree on is ordered.
//!
//! `tests/sanitize thread` builds it for that; `docs/ORDERING.md` says what it cannot see. They
//! share nothing but the log, and wait only for it: to the sanitizer a lock of the standard
//! library's, which is not built for it, would order nothing.
//!
//! Reading order: `log` is what they share; `roles` what each of them does; `race` what the
//! sanitizer has to report.

mod log;
#[cfg(ledger_tsan)]
mod race;
mod roles;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ledger_shm::bell::many::Nudge;
use ledger_shm::control::State;
use ledger_shm::fork::Generation;

use log::Log;

const ROUNDS: u64 = 8;
const APPENDERS: u64 = 3;
const READERS: u64 = 2;

fn main() {
    #[cfg(ledger_tsan)]
    {
        if race::is_asked_for() {
            return race::race();
        }
        race::check_reported();
    }
    // Asked for by all of them, and found by a word that is written only once.
    Generation::current().expect("one page");
    for _ in 0..ROUNDS {
        round();
    }
}

/// All of a log, from its first entry until there is no memory for one more.
fn round() {
    let log = Log::create();
    let nudge = Nudge::default();
    let has_ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let appenders: Vec<_> = (0..APPENDERS)
            .map(|id| {
                scope.spawn({
                    let log = &log;
                    move || roles::append(log, id)
                })
            })
            .collect();
        let readers: Vec<_> = (0..READERS)
            .map(|_| scope.spawn(|| roles::read(&log)))
            .collect();
        let daemon = scope.spawn(|| roles::archive(&log, &has_ended, &nudge));
        let newcomer = scope.spawn(|| roles::come_anew(&log));
        let sleeper = scope.spawn(|| roles::sleep_for_others(&log, &nudge));

        let mut acknowledged: Vec<u64> = appenders
            .into_iter()
            .flat_map(|appender| appender.join().expect("an appender"))
            .collect();
        has_ended.store(true, Ordering::Release);
        acknowledged.sort_unstable();
        let count = acknowledged.len() as u64;
        assert!(count > 1000, "{count} entries");
        assert_eq!(acknowledged, Vec::from_iter(1..=count), "each seq once");
        for reader in readers {
            assert_eq!(reader.join().expect("a reader"), count);
        }
        assert_eq!(daemon.join().expect("a daemon"), count);
        newcomer.join().expect("who comes anew");
        sleeper.join().expect("who sleeps for others");
    });
    assert_eq!(log.control.state(), Ok(State::Idle));
}
