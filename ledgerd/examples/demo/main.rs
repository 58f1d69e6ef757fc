//! The ledger at work: loan applications are decided by Converge engines in
//! one process, watched live from another, and read once more by a third that
//! joins late. All of them must have seen the same records.
//!
//! ```text
//!                 coordinator
//!        ┌────────────┼───────────┬────────────┐
//!     daemon       engines     watcher    late joiner
//!   owns memory    append    print, live  read at the end
//! ```
//!
//! Then one more run waits for a human. Its process is killed meanwhile, and another one
//! goes on where it was, to the same end.
//!
//! Reading order: `plan` and `coordinator` are the story; `engines`, `watcher`,
//! `late`, `daemon` and `gate` are its processes; `loan` is what the engines decide;
//! `digest` and `latency` are what is measured, `summary` prints it; `message`,
//! `crew` and `instance` start the processes, listen to them and clean up.

#![forbid(unsafe_code)]

mod coordinator;
mod crew;
mod daemon;
mod digest;
mod engines;
mod gate;
mod instance;
mod late;
mod latency;
mod loan;
mod message;
mod plan;
mod summary;
mod watcher;

use std::process::ExitCode;

use clap::Parser;

use crate::plan::{Plan, Role};

/// Whatever ends a process of the demo early; its text is for the user.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let plan = Plan::parse();
    let Some(role) = plan.role else {
        return coordinator::coordinate(&plan);
    };
    if let Err(error) = crew::take_signals_again() {
        eprintln!("{role}: cannot be stopped by signals: {error}");
    }
    let outcome = match role {
        Role::Daemon => daemon::play(&plan),
        Role::Engines => engines::play(&plan),
        Role::Watcher => watcher::play(&plan),
        Role::Late => late::play(&plan),
        Role::Asking => gate::ask(),
        Role::Resuming => gate::resume(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{role}: {failure}");
            ExitCode::FAILURE
        }
    }
}
