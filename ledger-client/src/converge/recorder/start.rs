//! Which run an entry is of, which attempt at it, and which of the starts of that.

use std::fmt::Write as _;
use std::sync::Arc;

/// A run's id, how often it was started, and which of these starts it is. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Start(Arc<Name>);

#[derive(Debug, PartialEq, Eq)]
struct Name {
    run_id: String,
    attempt_text: String,
    /// Tells one start from every other, also of the same attempt.
    unique: String,
}

impl Start {
    /// Of a run that nobody else has.
    pub(super) fn new() -> Start {
        Start::named(String::new(), 1)
    }

    /// Of a run of this name; an empty one is none.
    pub(super) fn named(run_id: String, attempt: u32) -> Start {
        let is_named = !run_id.is_empty();
        Start(Arc::new(Name {
            run_id: if is_named {
                run_id
            } else {
                unique() + &unique()
            },
            attempt_text: attempt.to_string(),
            unique: unique(),
        }))
    }

    pub(super) fn run_id(&self) -> &str {
        &self.0.run_id
    }

    pub(super) fn attempt_text(&self) -> &str {
        &self.0.attempt_text
    }

    pub(super) fn unique(&self) -> &str {
        &self.0.unique
    }
}

/// An id that nobody else has.
pub(crate) fn unique() -> String {
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
