//! A ledger on another host, or one whose memory may not be mapped, asked by way of its
//! daemon's remote door, with the verbs of the local one.
//!
//! A program that has its ledger here goes on with one elsewhere when it takes these types
//! instead: [`RemoteLedger`] for [`Ledger`](crate::Ledger), and [`Context`], [`Appender`],
//! [`Range`] and [`Watcher`] for those of the same names. Entries are of the same type.
//!
//! Reading order: [`RemoteLedger`] connects; [`Context`] is one log; `append`, `range`,
//! `watcher`, `snapshot` and `load` are what is done with it. `link` is the connection,
//! `entry` how entries become messages, and [`proto`] what those are.

mod append;
mod context;
mod entry;
mod error;
mod ledger;
mod link;
mod load;
pub mod proto;
mod range;
mod snapshot;
mod watcher;

pub use append::Appender;
pub use context::{Context, ContextOptions};
pub use error::RemoteError;
pub use ledger::{Builder, ContextSummary, RemoteLedger};
pub use load::LoadFrom;
pub use range::Range;
pub use snapshot::SnapshotTo;
pub use watcher::Watcher;
