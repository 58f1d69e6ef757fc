//! `ledgerd get`: one entry, or those that filters let through.

use std::io::{self, BufWriter, Write};

use crate::cli::{Failure, InstanceArgs, OutputArgs};
use crate::commands::{open_to_read, print, text};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The context's name
    #[arg(value_parser = text())]
    context: String,
    /// Only the entry with this seq; the first is 1
    #[arg(conflicts_with_all = ["key", "after", "limit"], value_parser = clap::value_parser!(u64).range(1..))]
    seq: Option<u64>,
    /// Only entries with exactly this key
    #[arg(long, value_parser = text())]
    key: Option<String>,
    /// Only entries after this seq
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// At most this many entries
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let context = open_to_read(instance, &args.context)?;
    let output = args.output.output();
    let mut out = BufWriter::new(io::stdout().lock());
    if let Some(seq) = args.seq {
        let Some(entry) = context.get(seq)? else {
            let latest = context.latest()?;
            let message = format!("there is no entry {seq}; the latest is {latest}");
            return Err(message.into());
        };
        print::entry(&mut out, output, &entry)?;
    } else {
        let first = args.after.map_or_else(
            || context.first_available(),
            |after| Ok(after.saturating_add(1)),
        )?;
        let mut range = context.range(first).limit(args.limit.unwrap_or(u64::MAX));
        if let Some(key) = args.key {
            range = range.key(key);
        }
        while let Some(entry) = range.next_entry()? {
            print::entry(&mut out, output, &entry)?;
        }
    }
    Ok(out.flush()?)
}
