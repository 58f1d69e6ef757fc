//! `ledgerd info`: one context.

use std::io::{self, Write};

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs};
use crate::commands::{connect, ls};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The context's name
    context: String,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let ledger = connect(instance, true)?;
    let summary = ls::summary(&ledger, &args.context)?;
    let mut out = io::stdout().lock();
    match args.output.output() {
        Output::Jsonl | Output::Raw => {
            serde_json::to_writer(&mut out, &summary)?;
            writeln!(out)?;
        }
        Output::Short => {
            writeln!(out, "name             {}", summary.name)?;
            writeln!(out, "epoch            {}", summary.epoch)?;
            writeln!(out, "state            {}", summary.state)?;
            writeln!(out, "first available  {}", summary.first_available)?;
            writeln!(out, "latest           {}", summary.latest)?;
        }
    }
    Ok(())
}
