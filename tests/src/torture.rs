//! What is promised, tried against every instruction, every system call and every
//! kind of shortage there is.
//!
//! Each torture is one function that takes how much of it is to be done and says what
//! became of the promises. The suite does a little of each; `cargo torture` does all of
//! it, for as long as it is given.
//!
//! Reading order:
//!
//! 1. [`promises`]: what is looked at; [`verdicts`]: how much is done, and what came of it;
//! 2. [`course`]: what a process does, instruction by instruction; [`appends`]: the ways an
//!    append can take, and how to stop one on each of them; [`frontier`]: where the log
//!    ends meanwhile;
//! 3. [`kill`] and [`freeze`]: at every instruction of them; [`watcher`]: the same of those
//!    who watch;
//! 4. [`daemon`]: killed before each of its system calls, and while it recovers, and stopped
//!    there;
//! 5. [`starve`]: each of its system calls fails, and each of clients'; [`scarce`]: there is
//!    only so much of what it needs; `service`: all that it has to do in these three, and
//!    `aftermath`: what is there then;
//! 6. [`power`]: lost at each of its operations on the disk;
//! 7. [`storm`]: all of them killed and stopped at random, while they work;
//! 8. [`hostile`]: a context abused by who may only read it;
//!    [`wild`]: its memory spoilt by who may append to it;
//! 9. [`museum`]: what would be noticed if we made the mistakes of others.

mod aftermath;
pub mod appends;
pub mod course;
pub mod daemon;
pub mod freeze;
pub mod frontier;
pub mod hostile;
pub mod kill;
pub mod museum;
mod observed;
pub mod power;
pub mod promises;
pub mod scarce;
mod service;
pub mod starve;
pub mod storm;
pub mod verdicts;
pub mod victim;
pub mod watcher;
pub mod wild;

pub use verdicts::{Effort, Verdicts};
