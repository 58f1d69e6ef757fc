//! `ledgerd info`: one context.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs};
use crate::commands::ls::{Summary, number};
use crate::commands::{open_to_read, text};
use crate::held::Held;

#[derive(Serialize)]
struct Description {
    #[serde(flatten)]
    summary: Summary,
    /// Bytes that have left the window and that somebody still maps.
    retired_mapped_len: u64,
    retired_mapped_by: Vec<u32>,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The context's name
    #[arg(value_parser = text())]
    context: String,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let context = open_to_read(instance, &args.context)?;
    let held = Held::of(context.ledger().instance(), context.epoch())?;
    let description = Description {
        summary: Summary::of(&context),
        retired_mapped_len: held.len,
        retired_mapped_by: held.pids.into_iter().collect(),
    };
    let summary = &description.summary;
    let mut out = io::stdout().lock();
    match args.output.output() {
        Output::Jsonl | Output::Raw => {
            serde_json::to_writer(&mut out, &description)?;
            writeln!(out)?;
        }
        Output::Short => {
            let limits = context.limits();
            writeln!(out, "context          {}", context.name().escape_debug())?;
            writeln!(out, "epoch            {}", context.epoch())?;
            writeln!(out, "state            {}", summary.state)?;
            writeln!(out, "first available  {}", number(summary.first_available))?;
            writeln!(out, "latest           {}", number(summary.latest))?;
            writeln!(out, "largest payload  {} bytes", limits.payload_len_max)?;
            writeln!(out, "largest metadata {} bytes", limits.metadata_len_max)?;
            if description.retired_mapped_len > 0 {
                writeln!(
                    out,
                    "retired, mapped  {} bytes, by processes {:?}",
                    description.retired_mapped_len, description.retired_mapped_by
                )?;
            }
            if let Some(damage) = &summary.damage {
                writeln!(out, "damage           {damage}")?;
            }
        }
    }
    Ok(())
}
