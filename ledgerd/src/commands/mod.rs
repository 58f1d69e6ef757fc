//! One file per command.

pub(crate) mod append;
pub(crate) mod get;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod ls;
mod print;
pub(crate) mod purge;
pub(crate) mod run;
pub(crate) mod tail;

use ledger_client::Ledger;

use crate::cli::{Failure, InstanceArgs};

/// Connects. Reading commands work while the daemon is down.
fn connect(instance: &InstanceArgs, daemon_optional: bool) -> Result<Ledger, Failure> {
    let place = instance.instance()?;
    let ledger = Ledger::builder()
        .instance(place.name())
        .runtime_dir(instance.runtime_dir(&place))
        .daemon_optional(daemon_optional)
        .connect()?;
    Ok(ledger)
}
