//! The shared-memory log of the Converge ledger: bytes, atomics and system
//! calls, and nothing else.
//!
//! This crate knows one log and the memory it lies in. Who may open it, where
//! the next segment comes from and how a program waits conveniently is the
//! business of `ledger-client` and `ledgerd`, which contain no `unsafe`.
//!
//! Reading order:
//!
//! 1. [`format`](mod@format): the bytes of every object, and nothing else;
//! 2. [`slot`]: the word that numbers and publishes an entry in one step;
//! 3. [`record`]: the bytes of one entry;
//! 4. [`segment`]: one mapped part of a log;
//! 5. [`append`]: place, publish, seal, roll;
//! 6. [`read`]: find a slot, look at what it names;
//! 7. [`bell`]: park and ring, alone or at many at once; who watches;
//! 8. [`control`]: what the daemon tells everybody about one log;
//! 9. [`object`]: named memory, from creation to unlinking;
//! 10. `file`: entries on disk, in an archive or a snapshot; `merkle`: the tree over
//!     them;
//! 11. [`socket`]: packets and descriptors between a client and the daemon;
//! 12. `clock`: what time it is, for less;
//! 13. [`fork`], `region`, [`sync`] and `sys`: what all of it rests on.

#![cfg_attr(loom, allow(dead_code))]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "ledger-shm runs on Linux only: it is built on futexes, memfd seals and tmpfs allocation"
);

#[cfg(not(target_pointer_width = "64"))]
compile_error!("ledger-shm needs 64-bit addresses: segments are mapped whole");

pub mod append;
pub mod bell;
#[cfg(not(loom))]
pub mod clock;
pub mod control;
pub mod entry;
pub mod error;
#[cfg(not(loom))]
pub mod file;
pub mod fork;
pub mod format;
#[cfg(not(loom))]
pub mod merkle;
pub mod object;
pub mod read;
pub mod record;
mod region;
pub mod segment;
pub mod slot;
pub mod socket;
pub mod sync;
mod sys;

pub use append::{Appended, Clock, Parts, Tail};
pub use bell::Bell;
pub use control::Control;
pub use entry::{Entry, NewEntry};
pub use error::{Corrupt, Full, Refused};
pub use segment::Segment;
pub use sys::uninterrupted;
