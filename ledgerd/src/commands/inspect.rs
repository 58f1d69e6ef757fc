//! `ledgerd inspect`: what a context looks like in memory.

use std::io::{self, Write};

use ledger_client::inspect::Drawing;

use crate::cli::{Failure, InstanceArgs};
use crate::commands::{ContextArg, open_to_read};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArg,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let context = open_to_read(instance, &args.context.name)?;
    write!(io::stdout().lock(), "{}", Drawing::of(&context)?)?;
    Ok(())
}
