//! Which run an entry is of, and which attempt at it.

use std::fmt::Write as _;
use std::sync::Arc;

/// An id, how often it was started, and which of these starts it is. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run(Arc<Name>);

#[derive(Debug, PartialEq, Eq)]
struct Name {
    id: String,
    attempt_text: String,
    /// Tells one start from every other, also of the same attempt.
    start: String,
}

impl Run {
    /// One that nobody else has.
    pub(crate) fn new() -> Run {
        Run::named(unique() + &unique(), 1)
    }

    pub(crate) fn named(id: String, attempt: u32) -> Run {
        Run(Arc::new(Name {
            id,
            attempt_text: attempt.to_string(),
            start: unique(),
        }))
    }

    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    pub(super) fn attempt_text(&self) -> &str {
        &self.0.attempt_text
    }

    pub(super) fn start(&self) -> &str {
        &self.0.start
    }
}

/// A number that nobody else has, as text.
fn unique() -> String {
    let mut random = [0; 8];
    // Without the kernel's randomness there is still this process and the time.
    if getrandom::fill(&mut random).is_err() {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        let nanos = now.as_nanos() as u64;
        random = (nanos ^ u64::from(std::process::id()).rotate_left(40)).to_le_bytes();
    }
    let mut text = String::new();
    for byte in random {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}
