//! `ledgerd tail`: the last entries, and new ones as they come.

use std::io::{self, BufWriter, Write};

use crate::cli::{Failure, InstanceArgs, OutputArgs};
use crate::commands::{connect, print};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The context's name
    context: String,
    /// Wait for new entries until interrupted
    #[arg(short, long)]
    follow: bool,
    /// How many of the last entries to begin with
    #[arg(short = 'n', long, default_value_t = 10, conflicts_with_all = ["from", "after"])]
    lines: u64,
    /// Begin with this seq
    #[arg(long, conflicts_with = "after")]
    from: Option<u64>,
    /// Begin after this seq
    #[arg(long)]
    after: Option<u64>,
    /// Only entries with exactly this key
    #[arg(long)]
    key: Option<String>,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let ledger = connect(instance, true)?;
    let context = ledger.context(&args.context).open_read_only()?;
    let output = args.output.output();
    let first = match (args.from, args.after) {
        (Some(from), _) => from,
        (None, Some(after)) => after.saturating_add(1),
        (None, None) => {
            let latest = context.latest()?;
            latest
                .saturating_sub(args.lines)
                .saturating_add(1)
                .max(context.first_available()?)
        }
    };
    let mut watcher = context.watch(first);
    if let Some(key) = args.key {
        watcher = watcher.key(key);
    }
    let mut out = BufWriter::new(io::stdout().lock());
    loop {
        if let Some(entry) = watcher.try_next()? {
            print::entry(&mut out, output, &entry)?;
            continue;
        }
        out.flush()?;
        if !args.follow {
            return Ok(());
        }
        let entry = watcher.next()?;
        print::entry(&mut out, output, &entry)?;
    }
}
