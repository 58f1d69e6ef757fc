//! `ledgerd get`: one entry, or those that filters let through.

use std::time::Duration;

use ledger_client::remote;

use crate::cli::{Failure, InstanceArgs, Kind, OutputArgs};
use crate::commands::print::Printer;
use crate::commands::{ContextArg, get, open_to_read, seconds, text};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArg,
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
    /// Wait so long for the entry with this seq
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "seq")]
    timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    if let Some(ledger) = instance.remote(None)? {
        let context = ledger.context(&args.context.name).open()?;
        return elsewhere(&context, args);
    }
    let context = open_to_read(instance, &args.context.name)?;
    let mut printer = Printer::new(args.output.output());
    if let Some(seq) = args.seq {
        if let Some(timeout) = args.timeout {
            context.watch(seq).next_timeout(timeout)?;
        }
        let Some(entry) = get(&context, seq)? else {
            return Err(args.missing(seq, context.latest()?));
        };
        printer.entry(&entry)?;
    } else {
        let first = args.after.map_or_else(
            || context.first_available(),
            |after| Ok(after.saturating_add(1)),
        )?;
        let limit = args.limit.unwrap_or(u64::MAX);
        let mut range = context.range(first).limit(limit).until_now();
        if let Some(key) = args.key {
            range = range.key(key);
        }
        while let Some(entry) = range.next_entry()? {
            printer.entry(&entry)?;
        }
    }
    Ok(printer.finish()?)
}

/// The same, of a context elsewhere.
fn elsewhere(context: &remote::Context, args: Args) -> Result<(), Failure> {
    let mut printer = Printer::new(args.output.output());
    if let Some(seq) = args.seq {
        if let Some(timeout) = args.timeout {
            context.watch(seq).next_timeout(timeout)?;
        }
        let Some(entry) = context.get(seq)? else {
            return Err(args.missing(seq, context.latest()?));
        };
        printer.entry(&entry)?;
    } else {
        let limit = args.limit.unwrap_or(u64::MAX);
        let range = context.range(1).after(args.after.unwrap_or(0)).limit(limit);
        let mut range = range.until_now()?;
        if let Some(key) = args.key {
            range = range.key(key);
        }
        while let Some(entry) = range.next_entry()? {
            printer.entry(&entry)?;
        }
    }
    Ok(printer.finish()?)
}

impl Args {
    /// What to say when there is no such entry.
    fn missing(&self, seq: u64, latest: u64) -> Failure {
        let kind = match self.timeout {
            Some(_) => Kind::TimedOut,
            None => Kind::Failed,
        };
        let message = format!("there is no entry {seq}; the latest is {latest}");
        Failure::Said(kind, message)
    }
}
