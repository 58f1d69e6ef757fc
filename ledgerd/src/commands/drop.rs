//! `ledgerd drop`: a context is gone for good.

use ledger_client::admin;

use crate::cli::{Failure, InstanceArgs, Kind};
use crate::commands::{ContextArg, builder};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArg,
    /// Yes, its memory and its files
    #[arg(long)]
    yes: bool,
}

pub(crate) fn run(instance: &InstanceArgs, args: &Args) -> Result<(), Failure> {
    let name = &args.context.name;
    if !args.yes {
        let message = format!(
            "this removes everything that context {name:?} holds, from memory and from disk; say --yes"
        );
        return Err(Failure::Said(Kind::Usage, message));
    }
    Ok(admin::drop_context(&builder(instance)?.connect()?, name)?)
}
