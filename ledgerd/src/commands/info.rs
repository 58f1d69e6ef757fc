//! `ledgerd info`: one context.

use std::io::{self, Write};

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs};
use crate::commands::connect;
use crate::commands::ls::{Summary, number};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The context's name
    context: String,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let ledger = connect(instance, true)?;
    let context = ledger.context(&args.context).open_read_only()?;
    let summary = Summary::of(&context);
    let mut out = io::stdout().lock();
    match args.output.output() {
        Output::Jsonl | Output::Raw => {
            serde_json::to_writer(&mut out, &summary)?;
            writeln!(out)?;
        }
        Output::Short => {
            let limits = context.limits();
            writeln!(out, "context          {}", context.name())?;
            writeln!(out, "epoch            {}", context.epoch())?;
            writeln!(out, "state            {}", summary.state)?;
            writeln!(out, "first available  {}", number(summary.first_available))?;
            writeln!(out, "latest           {}", number(summary.latest))?;
            writeln!(out, "largest payload  {} bytes", limits.payload_len_max)?;
            writeln!(out, "largest metadata {} bytes", limits.metadata_len_max)?;
            if let Some(damage) = summary.damage {
                writeln!(out, "damage           {damage}")?;
            }
        }
    }
    Ok(())
}
