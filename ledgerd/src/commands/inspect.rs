//! `ledgerd inspect`: what a context looks like in memory.

use std::io::{self, Write};

use ledger_client::inspect::Drawing;

use crate::cli::{Failure, InstanceArgs};
use crate::commands::connect;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The context's name
    context: String,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let ledger = connect(instance, true)?;
    let context = ledger.context(&args.context).open_read_only()?;
    write!(io::stdout().lock(), "{}", Drawing::of(&context)?)?;
    Ok(())
}
