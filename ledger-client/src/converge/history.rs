//! What a context tells of the runs in it, read without any type of converge-core.
//!
//! [`timeline`] has every entry as one line, [`gates`] what was asked of humans, [`explain`]
//! where a fact comes from, and [`diff`] the first fact in which two runs differ.

mod diff;
mod explain;
mod gates;
mod run;
mod timeline;

pub use diff::{Diff, Differing, Had, Side, diff};
pub use explain::{Explanation, explain};
pub use gates::{Decision, Gate, Verdict, gates};
#[cfg(feature = "converge")]
pub(super) use gates::{asked, of_run as gates_of};
#[cfg(feature = "converge")]
pub(super) use run::{Attempt, FactEntry, Gap, Rejection, Run};
pub use timeline::{Event, Timeline, timeline};

use crate::error::ReadError;

/// Why a context's runs cannot be told.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::converge::history::{HistoryError, diff};
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// let error = diff(&context, None, &context, None).unwrap_err();
/// assert!(matches!(error, HistoryError::UnknownRun { .. }));
/// # Ok(()) });
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// The context cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An entry says that it is of a run, and its payload is something else.
    #[error("entry {seq} is no {kind} of a recorder: {why}; see `ledgerd get` for what it is")]
    Unreadable {
        /// Which one.
        seq: u64,
        /// As what it was written.
        kind: String,
        /// What is wrong.
        why: String,
    },
    /// No such run is recorded.
    #[error("context {context:?} has no {}; `ledgerd timeline` shows what was recorded", which(run_id.as_deref()))]
    UnknownRun {
        /// Where.
        context: String,
        /// Which one was asked for; none is the last one.
        run_id: Option<String>,
    },
}

fn which(run_id: Option<&str>) -> String {
    run_id.map_or_else(|| "run".to_owned(), |run_id| format!("run {run_id:?}"))
}
