//! `ledgerd inspect`: what a context looks like in memory.

use std::io::{self, Write};

use ledger_client::inspect::Drawing;

use crate::cli::{Failure, InstanceArgs};
use crate::commands::{open_to_read, text};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The context's name
    #[arg(value_parser = text())]
    context: String,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let context = open_to_read(instance, &args.context)?;
    write!(io::stdout().lock(), "{}", Drawing::of(&context)?)?;
    Ok(())
}
