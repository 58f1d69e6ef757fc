//! `ledgerd tail`: the last entries, and new ones as they come.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use ledger_client::{Context, ReadError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::cli::{Failure, InstanceArgs, Kind, Output, OutputArgs};
use crate::commands::print::Printer;
use crate::commands::{ContextArg, open_to_read, seconds, text};

/// How often it is looked whether anybody still reads what is printed.
const LOOK_AT_OUTPUT: Duration = Duration::from_millis(500);

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArg,
    /// Wait for new entries until interrupted
    #[arg(short, long)]
    follow: bool,
    /// How many of the last entries to begin with, counted after the filter
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10, conflicts_with_all = ["from", "after"])]
    lines: u64,
    /// Begin with this seq
    #[arg(long, value_name = "SEQ", conflicts_with = "after")]
    from: Option<u64>,
    /// Begin after this seq
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Only entries with exactly this key
    #[arg(long, value_parser = text())]
    key: Option<String>,
    /// Stop following when nothing has come for so long
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "follow")]
    timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let context = open_to_read(instance, &args.context.name)?;
    let output = args.output.output();
    if args.follow && output == Output::Json {
        let message = "a document that has no end: use --output jsonl with --follow";
        return Err(Failure::Said(Kind::Usage, message.to_owned()));
    }
    let first = match (args.from, args.after) {
        (Some(from), _) => from,
        (None, Some(after)) => after.saturating_add(1),
        (None, None) => first_of_last(&context, args.lines, args.key.as_deref())?,
    };
    let mut watcher = context.watch(first);
    if let Some(key) = args.key {
        watcher = watcher.key(key);
    }
    let mut printer = Printer::new(output);
    let mut last = Instant::now();
    loop {
        if let Some(entry) = watcher.try_next()? {
            printer.entry(&entry)?;
            last = Instant::now();
            continue;
        }
        if !args.follow {
            return Ok(printer.finish()?);
        }
        printer.flush()?;
        let left = args.timeout.map_or(LOOK_AT_OUTPUT, |timeout| {
            timeout.saturating_sub(last.elapsed()).min(LOOK_AT_OUTPUT)
        });
        if left.is_zero() {
            let message = format!("nothing new for {:?}", args.timeout.unwrap_or_default());
            return Err(Failure::Said(Kind::TimedOut, message));
        }
        match watcher.next_timeout(left)? {
            Some(entry) => {
                printer.entry(&entry)?;
                last = Instant::now();
            }
            None if is_closed(&io::stdout()) => return Err(Failure::ClosedPipe),
            None => {}
        }
    }
}

/// Whether nobody reads a pipe any more (poll(2), POLLERR).
fn is_closed(pipe: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

/// The seq of the first of the last entries, all or those with a key; the next
/// one's if there are none.
fn first_of_last(context: &Context, lines: u64, key: Option<&str>) -> Result<u64, ReadError> {
    let (first, latest) = (context.first_available()?, context.latest()?);
    let Some(key) = key else {
        return Ok(latest.saturating_sub(lines).saturating_add(1).max(first));
    };
    let mut watcher = context.watch(first).key(key);
    let mut last = VecDeque::new();
    loop {
        match watcher.try_next() {
            Ok(Some(entry)) => last.push_back(entry.seq()),
            Ok(None) => break,
            // The window has moved on meanwhile, and so does what is in it.
            Err(ReadError::Evicted {
                first_available, ..
            }) => {
                last.retain(|seq| *seq >= first_available);
                watcher.seek(first_available);
            }
            Err(error) => return Err(error),
        }
        if last.len() as u64 > lines {
            last.pop_front();
        }
    }
    Ok(last.front().copied().unwrap_or(latest + 1))
}
