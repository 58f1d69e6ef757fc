//! What is there after a loss of power.
//!
//! Reading order:
//!
//! 1. [`recorded`]: a file system that remembers what was done to it;
//! 2. [`image`]: what of that may be there afterwards.

pub mod image;
pub mod recorded;

pub use image::{Image, Loss};
pub use recorded::{Op, Recorded, Trace};
