//! Which run an entry is of, and which attempt at it.

use std::fmt::Write as _;
use std::sync::Arc;

/// An id, and how often it was started. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run(Arc<Name>);

#[derive(Debug, PartialEq, Eq)]
struct Name {
    id: String,
    attempt: u32,
    attempt_text: String,
}

impl Run {
    /// One that nobody else has.
    pub(super) fn new() -> Run {
        let mut random = [0; 16];
        // Without the kernel's randomness there is still this process and the time.
        if getrandom::fill(&mut random).is_err() {
            let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
            random[..8].copy_from_slice(&now.as_nanos().to_le_bytes()[..8]);
            random[8..12].copy_from_slice(&std::process::id().to_le_bytes());
        }
        let mut id = String::new();
        for byte in random {
            write!(id, "{byte:02x}").expect("a string takes everything");
        }
        Run::named(id, 1)
    }

    pub(super) fn named(id: String, attempt: u32) -> Run {
        Run(Arc::new(Name {
            id,
            attempt,
            attempt_text: attempt.to_string(),
        }))
    }

    pub(super) fn id(&self) -> &str {
        &self.0.id
    }

    pub(super) fn attempt_text(&self) -> &str {
        &self.0.attempt_text
    }
}
