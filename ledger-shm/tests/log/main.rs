//! A log as the crate alone makes it: its parts in memory of this process, which no daemon
//! provides, and whose every word a test may write.
//!
//! Reading order: `geometry` is how a part is divided, and `shelf` where the parts are;
//! `append`, `blocks`, `roll` and `races` how the log grows; `read` how it is read; `bell`
//! how readers are woken, and `sleepers` those who are; `control` what the daemon tells of a
//! log; `nodes` its tree; `damage` what is said of words that nobody writes.

#![forbid(unsafe_code)]

mod append;
mod bell;
mod blocks;
mod control;
mod damage;
mod geometry;
mod nodes;
mod races;
mod read;
mod roll;
mod shelf;
mod sleepers;
