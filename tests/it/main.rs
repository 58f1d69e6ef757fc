//! The ledger's behaviour across processes. One module per kind of trouble;
//! each test is a story with real processes in it.

#![forbid(unsafe_code)]

mod abandoned;
mod answers;
mod appenders;
mod archive;
mod checkpoints;
mod closing;
mod coming_back;
mod commands;
mod compressed;
mod configuration;
mod crowd;
mod daemon;
mod damage;
mod damaged_files;
mod disk;
mod documents;
mod dropping;
mod entries;
mod event_loops;
mod experience;
mod export;
mod forged_runs;
mod format;
mod futures;
mod gaps;
mod history;
mod hosting;
mod json;
mod loading;
#[allow(dead_code, reason = "used by the demo")]
#[path = "../../ledgerd/examples/demo/loan.rs"]
mod loan;
mod memory;
mod names;
mod offline;
mod oracle;
mod payloads;
#[cfg(target_arch = "x86_64")]
mod power;
mod programs;
mod proofs;
mod readers;
mod rebuild;
mod recorder;
mod remote;
mod restarts;
mod retention;
mod roster;
mod runaway;
mod runs;
mod seamless;
mod service;
mod snapshot;
#[cfg(target_arch = "x86_64")]
mod stopped;
#[cfg(target_arch = "x86_64")]
mod storms;
mod suggestors;
#[cfg(target_arch = "x86_64")]
mod synced;
mod tail;
mod trust;
mod verifying;
mod versions;
mod waiting;
mod which_run;

use ledger_tests::Programs;

/// The programs that these tests start.
const PROGRAMS: Programs = Programs {
    ledgerd: env!("CARGO_BIN_EXE_ledgerd-under-test"),
    peer: env!("CARGO_BIN_EXE_peer"),
    engine: env!("CARGO_BIN_EXE_engine"),
};

/// Contexts that are nowhere else, so that what leaves memory is gone.
const IN_MEMORY: [&str; 2] = ["--durability", "memory"];

fn started(args: &[&str]) -> ledger_tests::Instance {
    ledger_tests::Instance::started(PROGRAMS, args)
}
