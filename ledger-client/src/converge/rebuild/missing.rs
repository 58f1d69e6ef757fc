//! What is known to be missing of a run.

use crate::converge::history::{Attempt, Gap};

/// Something that a run did and that its entries do not tell.
///
/// ```
/// use ledger_client::converge::Missing;
///
/// let missing = Missing::Entries { dropped: 3, since_cycle: 2 };
/// assert_eq!(missing.to_string(), "3 entries since cycle 2 did not fit into the ledger");
/// assert!(!missing.is_of_the_beginning());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Missing {
    /// Entries that did not fit. What came before them is whole; what came after them in
    /// that attempt is left out.
    #[error("{dropped} entries since cycle {since_cycle} did not fit into the ledger")]
    Entries {
        /// How many.
        dropped: u64,
        /// Since which cycle.
        since_cycle: u32,
    },
    /// The start of an attempt: it did not fit, or is not kept any more.
    #[error("the start of attempt {attempt} is not there")]
    Start {
        /// Of which one.
        attempt: u32,
    },
    /// Some of what was staged.
    #[error("of {staged} inputs of attempt {attempt} {recorded} are there")]
    Inputs {
        /// For which attempt.
        attempt: u32,
        /// How many were.
        staged: usize,
        /// How many are recorded.
        recorded: usize,
    },
    /// Some of what the context held before.
    #[error("of {held} facts that the context held before attempt {attempt} {recorded} are there")]
    Facts {
        /// Before which attempt.
        attempt: u32,
        /// How many it held.
        held: usize,
        /// How many are recorded.
        recorded: usize,
    },
    /// Something, though nobody says what: the run ended with another Merkle root.
    #[error("the run ended with root {ended}, and what is recorded has {rebuilt}")]
    Root {
        /// Of the run, as it was recorded with its end.
        ended: String,
        /// Of the context that was rebuilt.
        rebuilt: String,
    },
}

impl Missing {
    /// Whether the run cannot be gone on with: it would begin with less than it had.
    ///
    /// ```
    /// use ledger_client::converge::Missing;
    ///
    /// assert!(Missing::Start { attempt: 1 }.is_of_the_beginning());
    /// ```
    pub fn is_of_the_beginning(&self) -> bool {
        !matches!(self, Missing::Entries { .. })
    }

    /// What of an attempt's beginning is not there, of which this many facts are known
    /// before it.
    pub(super) fn of_beginning(attempt: &Attempt, known: usize) -> Vec<Missing> {
        let number = attempt.number;
        let Some(started) = &attempt.started else {
            return vec![Missing::Start { attempt: number }];
        };
        let recorded = attempt.staged.inputs.len();
        let inputs = (started.inputs != recorded).then_some(Missing::Inputs {
            attempt: number,
            staged: started.inputs,
            recorded,
        });
        let facts = (started.facts > known).then_some(Missing::Facts {
            attempt: number,
            held: started.facts,
            recorded: known,
        });
        inputs.into_iter().chain(facts).collect()
    }
}

impl From<&Gap> for Missing {
    fn from(gap: &Gap) -> Missing {
        Missing::Entries {
            dropped: gap.dropped,
            since_cycle: gap.since_cycle,
        }
    }
}
