//! What operators do to whole contexts. No program that appends or reads needs it.

use ledger_shm::control::InvalidName;

use crate::error::OpenError;
use crate::ledger::Ledger;
use crate::wire::{Refusal, Reply, Request, Trouble};

/// Drops a context for good: its memory and its files. Its name is free then, for
/// another one. It takes the right `admin`.
///
/// # Errors
///
/// [`OpenError::InUse`] while somebody has it open; [`OpenError::Unknown`] if there is
/// none, [`OpenError::NotAllowed`], and whatever keeps the daemon from answering. If it dies
/// before it answers, the next one is asked: that there is none then is no error.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::{OpenError, admin};
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// let error = admin::drop_context(&ledger, "loan-7").unwrap_err();
/// assert!(matches!(error, OpenError::InUse { count: 1 }));
/// # Ok(()) });
/// ```
pub fn drop_context(ledger: &Ledger, name: &str) -> Result<(), OpenError> {
    let name = InvalidName::check(name.as_bytes())?.to_owned();
    let core = ledger.core();
    let answer = core.ask(&Request::Drop { name: name.clone() })?;
    match answer.reply {
        Reply::Dropped => Ok(()),
        // The daemon that died over it had dropped it.
        Reply::Refused(Refusal::UnknownContext) if answer.is_second => Ok(()),
        Reply::Refused(refusal) => Err(OpenError::refused(&name, &core.instance, refusal)),
        _ => Err(core.line.protocol("an answer to another question").into()),
    }
}

/// What keeps contexts from being written behind just now: of one, or of all that this uid
/// may read, as many as one answer takes.
///
/// # Errors
///
/// Whatever keeps the daemon from answering.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_client::admin;
///
/// ledger.context("loan-7").open_or_create()?;
/// assert_eq!(admin::troubles(&ledger, Some("loan-7"))?, []);
/// # Ok(()) });
/// ```
pub fn troubles(ledger: &Ledger, name: Option<&str>) -> Result<Vec<Trouble>, OpenError> {
    let core = ledger.core();
    let name = name.map(str::to_owned);
    match core.ask(&Request::Troubles { name })?.reply {
        Reply::Troubles(troubles) => Ok(troubles),
        Reply::Refused(refusal) => Err(OpenError::refused("", &core.instance, refusal)),
        _ => Err(core.line.protocol("an answer to another question").into()),
    }
}
