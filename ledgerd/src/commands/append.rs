//! `ledgerd append`: one entry, or many from standard input.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::builder::TypedValueParser;
use ledger_client::{Appender, NewEntry, remote};
use ledger_shm::entry::{LIMIT_MAX, Limits};
use serde::Serialize;

use crate::cli::{Failure, InstanceArgs, Kind, OutputArgs};
use crate::commands::print::Printer;
use crate::commands::{ContextArg, builder, jsonl, seconds, text};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArg,
    /// The entry's key
    #[arg(value_parser = text(), required_unless_present = "jsonl")]
    key: Option<String>,
    /// The payload, any bytes; `-` reads standard input, `@FILE` a file; any
    /// other text that begins with `-` and is no number goes behind a `--`
    #[arg(allow_negative_numbers = true)]
    payload: Option<OsString>,
    /// A metadata pair; can be repeated
    #[arg(long = "meta", value_name = "K=V", value_parser = text().try_map(pair))]
    metadata: Vec<(String, String)>,
    /// Append every line of standard input, a JSON object with the fields that
    /// `get -o jsonl` prints; what an entry is given anew is ignored
    #[arg(long, conflicts_with_all = ["key", "payload", "metadata"])]
    jsonl: bool,
    /// Wait so long for the daemon and for room [default: 2 and 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

fn pair(text: String) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} has no `=`"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[derive(Serialize)]
struct Appended<'a> {
    context: &'a str,
    seq: u64,
    lamport: u64,
    appended_at_ns: u64,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let Some(key) = &args.key else {
        return run_bulk(instance, &args);
    };
    let payload = args.payload.as_deref().map_or(Ok(Vec::new()), payload)?;
    let metadata: Vec<_> = args
        .metadata
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let entry = NewEntry::new(key, &payload).metadata(&metadata);
    // An entry that no context takes creates none.
    entry.validate(&Limits {
        payload_len_max: LIMIT_MAX,
        metadata_len_max: LIMIT_MAX,
    })?;
    let appended = args.target(instance)?.append(&entry);
    let appended = appended.map_err(|(kind, why)| Failure::Said(kind, why))?;
    let mut printer = Printer::new(args.output.output().of_one());
    print(&mut printer, &args.context.name, &appended)?;
    printer.finish().map_err(|error| unsaid(&appended, error))
}

fn run_bulk(instance: &InstanceArgs, args: &Args) -> Result<(), Failure> {
    let mut target = args.target(instance)?;
    let mut printer = Printer::new(args.output.output());
    let input = io::stdin().lock();
    let append = |entry: &NewEntry<'_>| target.append(entry);
    let outcome = jsonl::append_all(append, input, |appended, has_more| {
        print(&mut printer, &args.context.name, appended)?;
        if has_more {
            return Ok(());
        }
        printer.flush().map_err(|error| unsaid(appended, error))
    });
    // Also of what came before an error.
    let printed = printer.finish().map_err(Failure::from);
    match outcome.and(printed) {
        // Input is left, or may be: not done.
        Err(Failure::ClosedPipe) => {
            let message = "nobody reads the answers any more; lines after the last one answered may not be appended";
            Err(message.to_owned().into())
        }
        outcome => outcome,
    }
}

/// What is appended to.
struct Target {
    appender: EitherAppender,
    has_timeout: bool,
}

enum EitherAppender {
    Here(Box<Appender>),
    Elsewhere(remote::Appender),
}

impl Target {
    fn append(&mut self, entry: &NewEntry<'_>) -> Result<ledger_client::Appended, (Kind, String)> {
        let timed_out = |is_over| match self.has_timeout && is_over {
            true => Kind::TimedOut,
            false => Kind::Failed,
        };
        match &mut self.appender {
            EitherAppender::Here(appender) => appender
                .append(entry)
                .map_err(|error| (timed_out(error.is_full()), error.to_string())),
            EitherAppender::Elsewhere(appender) => {
                appender.append(entry).map_err(|error| match error {
                    error if error.is_full() => (timed_out(true), error.to_string()),
                    error => match Failure::from(error) {
                        Failure::Said(kind, why) => (kind, why),
                        Failure::ClosedPipe => (Kind::Failed, String::new()),
                    },
                })
            }
        }
    }
}

impl Args {
    fn target(&self, instance: &InstanceArgs) -> Result<Target, Failure> {
        let appender = match instance.remote(self.timeout)? {
            Some(ledger) => {
                let context = ledger.context(&self.context.name).open_or_create()?;
                EitherAppender::Elsewhere(context.appender()?)
            }
            None => EitherAppender::Here(Box::new(self.appender(instance)?)),
        };
        let has_timeout = self.timeout.is_some();
        Ok(Target {
            appender,
            has_timeout,
        })
    }

    fn appender(&self, instance: &InstanceArgs) -> Result<Appender, Failure> {
        let mut builder = builder(instance)?;
        if let Some(timeout) = self.timeout {
            builder = builder.connect_timeout(timeout);
        }
        let ledger = builder.connect()?;
        let context = ledger.context(&self.context.name).open_or_create()?;
        let mut appender = context.appender()?;
        if let Some(timeout) = self.timeout {
            appender.set_wait(timeout);
        }
        Ok(appender)
    }
}

fn print(
    printer: &mut Printer,
    context: &str,
    appended: &ledger_client::Appended,
) -> Result<(), Failure> {
    let outcome = if printer.output().is_json() {
        printer.json(&Appended {
            context,
            seq: appended.seq,
            lamport: appended.lamport,
            appended_at_ns: appended.appended_at_ns,
        })
    } else {
        printer.line(&appended.seq.to_string())
    };
    outcome.map_err(|error| unsaid(appended, error))
}

/// What was appended stays so, though nobody may have been told.
fn unsaid(appended: &ledger_client::Appended, error: io::Error) -> Failure {
    match Failure::from(error) {
        Failure::Said(kind, why) => {
            let message = format!("entry {} is appended, but: {why}", appended.seq);
            Failure::Said(kind, message)
        }
        closed => closed,
    }
}

/// The payload that an argument means.
fn payload(argument: &OsStr) -> Result<Vec<u8>, Failure> {
    let (name, outcome) = match argument.as_bytes() {
        b"-" => {
            let input = read(io::stdin().lock(), LIMIT_MAX);
            ("standard input".to_owned(), input)
        }
        [b'@', file @ ..] => {
            let file = OsStr::from_bytes(file);
            let outcome = File::open(file).and_then(|file| read(file, LIMIT_MAX));
            (format!("file {file:?}"), outcome)
        }
        text => return Ok(text.to_vec()),
    };
    outcome.map_err(|error| format!("cannot read {name}: {error}").into())
}

/// What there is, but no more than shows that it is too large: a device may have
/// no end.
fn read(from: impl Read, len_max: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(len_max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::read;

    #[test]
    fn what_has_no_end_is_read_as_far_as_an_entry_goes() {
        assert_eq!(read(io::repeat(7), 1000).expect("endless").len(), 1001);
        assert_eq!(read(&b"short"[..], 1000).expect("in memory"), b"short");
    }
}
