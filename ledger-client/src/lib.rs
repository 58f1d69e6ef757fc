//! Append to, read and watch the contexts of a Converge ledger.
//!
//! A context is one append-only log in shared memory. Any number of processes
//! append to it, read it and watch it at the same time, without asking each
//! other or the daemon that owns the memory.
//!
//! Reading order:
//!
//! 1. [`Ledger`] connects to an instance; [`ContextOptions`] opens a context, and
//!    [`Contexts`] are all there are;
//! 2. [`Context`] is one log: read it here, or make an appender or a watcher;
//! 3. [`Appender`] appends;
//! 4. [`Range`] and [`Watcher`] read, the second one without an end: blocking, in
//!    an event loop, or (feature `tokio`) as a future and a stream;
//! 5. `chain` finds the segment that holds a seq, `archive` the file that does;
//!    `durable` waits for the disk, `snapshot` writes a context as bytes, `load`
//!    makes one of them, `proof` shows what is in it to those who have not;
//! 6. `shared` is what one process knows of one context;
//! 7. `provision` is the thread that fetches memory before it is needed,
//!    `dispatch` the one that sleeps for watchers in event loops and futures;
//! 8. `line`, `connection`, [`wire`] and [`place`]: how to reach the daemon;
//! 9. [`inspect`]: the drawing of a context; [`admin`]: what is done to whole ones;
//! 10. `converge` (feature): recording runs of converge-core;
//! 11. `remote` (feature): a ledger on another host.
//!
//! # Threads
//!
//! [`Ledger`] and [`Context`] are handles: clone them, send them, share them. An
//! [`Appender`] belongs to one thread at a time, because it writes into a block of
//! its own: it can be sent, not shared. [`Watcher`], [`Range`] and [`Entry`] can be
//! both.
//!
//! ```compile_fail,E0277
//! fn is_shared<T: Sync>() {}
//! is_shared::<ledger_client::Appender>();
//! ```

#![forbid(unsafe_code)]

pub mod admin;
mod appender;
mod archive;
#[cfg(feature = "tokio")]
mod async_watcher;
mod chain;
mod connection;
mod context;
mod contexts;
#[cfg(feature = "converge-history")]
pub mod converge;
mod dispatch;
mod durable;
mod error;
mod in_files;
pub mod inspect;
mod ledger;
mod line;
mod load;
mod open;
pub mod place;
mod proof;
mod provision;
mod range;
#[cfg(feature = "remote")]
pub mod remote;
mod shared;
mod snapshot;
mod watcher;
pub mod wire;

pub use appender::{Appender, BatchError};
#[cfg(feature = "tokio")]
pub use async_watcher::AsyncWatcher;
pub use context::Context;
pub use contexts::{ContextSummary, Contexts};
pub use error::{
    AppendError, ConnectError, DurableError, Held, LoadError, OpenError, ProveError, ReadError,
    SnapshotError,
};
pub use ledger::{Builder, Ledger};
pub use ledger_shm::bell::roster::{ClientId, Roster, Watching};
pub use ledger_shm::control::{InvalidName, InvalidSizes, Sizes, State};
pub use ledger_shm::entry::Limits;
pub use ledger_shm::{Appended, Corrupt, Entry, Full, NewEntry, Refused};
pub use load::{LoadFrom, Loaded};
pub use open::ContextOptions;
pub use proof::{Consistency, Inclusion};
pub use range::Range;
pub use snapshot::{Progress, Snapshot, SnapshotTo};
pub use watcher::Watcher;

/// What the section on threads says.
const _: () = {
    const fn is_sent<T: Send>() {}
    const fn is_shared<T: Sync>() {}
    is_sent::<Appender>();
    is_sent::<(Ledger, Context, Watcher, Range, Entry<'static>)>();
    is_shared::<(Ledger, Context, Watcher, Range, Entry<'static>)>();
};
#[cfg(feature = "tokio")]
const _: () = {
    const fn is_sent_and_shared<T: Send + Sync>() {}
    is_sent_and_shared::<AsyncWatcher>();
};
