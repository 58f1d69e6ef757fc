//! `ledgerd tail`: the last entries, and new ones as they come.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ledger_client::{Context, Entry, ReadError};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use regex::bytes::Regex;

use crate::cli::{Failure, InstanceArgs, Kind, Output, OutputArgs};
use crate::commands::cursor_file::CursorFile;
use crate::commands::print::Printer;
use crate::commands::template::Template;
use crate::commands::{ContextArg, open_to_read, seconds, text};

/// How often it is looked whether anybody still reads what is printed.
const LOOK_AT_OUTPUT: Duration = Duration::from_millis(500);
/// Of the last entries, unless something else says where to begin.
const LINES_DEFAULT: u64 = 10;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArg,
    /// Wait for new entries until interrupted
    #[arg(short, long)]
    follow: bool,
    /// How many of the last entries to begin with, counted after the filters
    /// [default: 10, or all if something else says where to begin]
    #[arg(short = 'n', long, value_name = "N", conflicts_with_all = ["from", "after"])]
    lines: Option<u64>,
    /// Begin with this seq
    #[arg(long, value_name = "SEQ", conflicts_with = "after")]
    from: Option<u64>,
    /// Begin after this seq
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Begin where the last time ended, which this file remembers
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "after", "lines"])]
    cursor_file: Option<PathBuf>,
    #[command(flatten)]
    filter: Filter,
    /// Stop following when nothing has come for so long
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "follow")]
    timeout: Option<Duration>,
    /// How each entry is printed: text with {seq}, {time}, {lamport}, {key},
    /// {payload} and {meta.NAME} in it
    #[arg(long, value_name = "TEXT", value_parser = Template::parse, conflicts_with = "output")]
    template: Option<Template>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// Which entries.
#[derive(clap::Args, Debug)]
struct Filter {
    /// Only entries with exactly this key
    #[arg(long, value_parser = text())]
    key: Option<String>,
    /// Only entries whose payload has a match of this regular expression
    #[arg(long, value_name = "REGEX", value_parser = Regex::new)]
    grep: Option<Regex>,
    /// Only entries appended since then: 5m, 2h or 1d ago, or
    /// 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time_ns)]
    since: Option<u64>,
    /// Only entries appended until then, and no waiting for later ones
    #[arg(long, value_name = "TIME", value_parser = time_ns, conflicts_with = "cursor_file")]
    until: Option<u64>,
}

fn now_ns() -> u64 {
    ns_of(SystemTime::now())
}

fn ns_of(time: SystemTime) -> u64 {
    let elapsed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds since 1970 of a time, or of one so long ago.
fn time_ns(text: &str) -> Result<u64, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(SystemTime::now().checked_sub(ago).map_or(0, ns_of));
    }
    humantime::parse_rfc3339_weak(text).map(ns_of).map_err(|_| {
        "neither a time such as 2026-01-31T12:00:00Z nor one ago such as 5m".to_owned()
    })
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.key.is_none() && self.grep.is_none() && self.since.is_none() && self.until.is_none()
    }

    /// Whether nothing that is appended from now on is let through.
    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| now_ns() > until)
    }

    /// Of those with the key, which the watcher looks after.
    fn lets_through(&self, entry: &Entry<'_>) -> bool {
        let at = entry.appended_at_ns();
        let greps = |grep: &Regex| grep.is_match(entry.payload());
        self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at <= until)
            && self.grep.as_ref().is_none_or(greps)
    }
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let output = args.output.output();
    if args.follow && output == Output::Json {
        let message = "a document that has no end: use --output jsonl with --follow";
        return Err(Failure::Said(Kind::Usage, message.to_owned()));
    }
    let context = open_to_read(instance, &args.context.name)?;
    let cursor_file = args.cursor_file.map(CursorFile::new);
    let remembered = match &cursor_file {
        Some(file) => file.read(context.epoch())?,
        None => None,
    };
    let latest = context.latest()?;
    let is_told = args.filter.since.is_some() || cursor_file.is_some();
    let first = match (remembered.or(args.from), args.after, args.lines) {
        (Some(from), ..) => from,
        (None, Some(after), _) => after.saturating_add(1),
        (None, None, None) if is_told => context.first_available()?,
        (None, None, lines) => first_of_last(
            &context,
            latest,
            lines.unwrap_or(LINES_DEFAULT),
            &args.filter,
        )?,
    };
    let mut watcher = context.watch(first);
    if let Some(key) = &args.filter.key {
        watcher = watcher.key(key);
    }
    let mut printer = Printer::new(output);
    let mut last = Instant::now();
    let show = |printer: &mut Printer, entry: &Entry<'_>| {
        if !args.filter.lets_through(entry) {
            return Ok::<_, Failure>(false);
        }
        match &args.template {
            Some(template) => printer.line(&template.of(entry)?)?,
            None => printer.entry(entry)?,
        }
        Ok(true)
    };
    let place_is_gone = |error: ReadError| match &cursor_file {
        Some(file) if is_at(&error, remembered) => file.is_behind(&error),
        _ => error.into(),
    };
    // The last seq of all. A log that never pauses has an end, too, once nothing
    // that is appended later can be wanted.
    let mut end = (!args.follow).then_some(latest);
    let mut written = None;
    loop {
        if end.is_none() && args.filter.is_over() {
            end = Some(context.latest()?);
        }
        match watcher.try_next().map_err(place_is_gone)? {
            Some(entry) if end.is_none_or(|end| entry.seq() <= end) => {
                if show(&mut printer, &entry)? {
                    last = Instant::now();
                }
                continue;
            }
            _ => {}
        }
        printer.flush()?;
        let seen = watcher.next_seq();
        let next_seq = end.map_or(seen, |end| seen.min((end + 1).max(first)));
        if let Some(file) = &cursor_file
            && written != Some(next_seq)
        {
            file.write(context.epoch(), next_seq)?;
            written = Some(next_seq);
        }
        if end.is_some() {
            return Ok(printer.finish()?);
        }
        let left = args.timeout.map_or(LOOK_AT_OUTPUT, |timeout| {
            timeout.saturating_sub(last.elapsed()).min(LOOK_AT_OUTPUT)
        });
        if left.is_zero() {
            let message = format!("nothing new for {:?}", args.timeout.unwrap_or_default());
            return Err(Failure::Said(Kind::TimedOut, message));
        }
        match watcher.next_timeout(left).map_err(place_is_gone)? {
            Some(entry) if show(&mut printer, &entry)? => last = Instant::now(),
            Some(_) => {}
            None if is_closed(&io::stdout()) => return Err(Failure::ClosedPipe),
            None => {}
        }
    }
}

/// Whether what has left memory is the entry at a place.
fn is_at(error: &ReadError, place: Option<u64>) -> bool {
    matches!(error, ReadError::Evicted { seq, .. } if place == Some(*seq))
}

/// Whether nobody reads a pipe any more (poll(2), POLLERR).
fn is_closed(pipe: &impl AsFd) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::empty())];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1..))
}

/// The seq of the first of the last entries that a filter lets through, up to the
/// latest; the next one's if there are none.
fn first_of_last(
    context: &Context,
    latest: u64,
    lines: u64,
    filter: &Filter,
) -> Result<u64, ReadError> {
    let first = context.first_available()?;
    if filter.is_empty() {
        return Ok(latest.saturating_sub(lines).saturating_add(1).max(first));
    }
    let mut watcher = context.watch(first);
    if let Some(key) = &filter.key {
        watcher = watcher.key(key);
    }
    let mut last = VecDeque::new();
    loop {
        match watcher.try_next() {
            Ok(Some(entry)) if entry.seq() > latest => break,
            Ok(Some(entry)) if filter.lets_through(&entry) => last.push_back(entry.seq()),
            Ok(Some(_)) => {}
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

#[cfg(test)]
mod tests {
    use super::{now_ns, time_ns};

    #[test]
    fn times_are_points_or_so_long_ago() {
        assert_eq!(time_ns("1970-01-01T00:00:01Z"), Ok(1_000_000_000));
        let minute_ago = now_ns() - 60_000_000_000;
        let parsed = time_ns("1m").expect("a duration");
        assert!(parsed.abs_diff(minute_ago) < 10_000_000_000);
        for wrong in ["", "yesterday", "-5m", "5"] {
            assert!(time_ns(wrong).is_err(), "{wrong}");
        }
    }
}
