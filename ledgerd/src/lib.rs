//! The daemon of a Converge ledger, as a library: to run it, to embed it in a
//! program, and to test it.
//!
//! The daemon owns an instance's memory and gives it out. It is not on the way
//! of any append or read, and while it is down attached clients go on.
//!
//! Reading order:
//!
//! 1. [`Daemon`] starts and stops one;
//! 2. [`Options`]: every limit, with its default;
//! 3. `server`: the loop that answers clients; `connected`: how many of them;
//! 4. `registry`: open, create, release; `rights`: who may;
//! 5. `spares`: how many, how large, and for whom;
//! 6. `room`: who keeps what when memory is short;
//! 7. `logs`: all contexts and their sums;
//! 8. `log`: one context's parts: follow, retire, close, reopen;
//!    `drop`: give one up for good;
//! 9. `maker`: the thread that commits and frees memory;
//! 10. `archive`: the thread that writes contexts behind, into files;
//!     `load`: how a snapshot becomes such files, and a context;
//! 11. `recover`: finding everything again after a death, and `revive`: bringing back
//!     what is in files only;
//! 12. `lock`: one daemon per instance;
//! 13. `held`: memory that nobody can ask for and somebody still maps; `lent`:
//!     what of it other uids were given;
//! 14. [`cli`] and its commands; `settings` and `config`: what is set, and by whom;
//! 15. `service`: what a service manager is told; `report` and `metrics`: what
//!     operators are;
//! 16. `grpc`: the remote door, for those who may not map memory.
//!
//! `objects` is what unit tests work on.

#![forbid(unsafe_code)]
// These panic where nobody reads any more.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod archive;
pub mod cli;
mod commands;
mod config;
mod connected;
mod daemon;
mod drop;
mod grpc;
mod held;
mod lent;
mod load;
mod lock;
mod log;
mod logs;
mod maker;
mod metrics;
#[cfg(test)]
mod objects;
mod options;
mod recover;
mod registry;
mod report;
mod revive;
mod rights;
mod room;
mod server;
mod service;
mod settings;
mod spares;

pub use archive::FileSystem;
#[cfg(fuzzing)]
#[doc(hidden)]
pub use commands::import::round_trip;
pub use daemon::{Daemon, StartError};
pub use lock::purge;
pub use options::{ContextRules, Durability, Options, Retention};
pub use rights::{Grant, Right};

/// The front page's example, run as it stands there.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
