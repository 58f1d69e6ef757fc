//! One file per command.

pub(crate) mod append;
pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod config;
mod cursor_file;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod drop;
pub(crate) mod du;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod gates;
pub(crate) mod get;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod inspect;
mod jsonl;
pub(crate) mod ls;
pub(crate) mod man;
mod print;
pub(crate) mod prove;
pub(crate) mod purge;
pub(crate) mod remote;
pub(crate) mod run;
pub(crate) mod snapshot;
pub(crate) mod status;
pub(crate) mod tail;
mod target;
mod template;
pub(crate) mod timeline;
pub(crate) mod verify;
pub(crate) mod watchers;

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use ledger_client::wire::Trouble;
use ledger_client::{Builder, Context, ContextSummary, Entry, Ledger, ReadError};

use crate::cli::{Failure, InstanceArgs};
use crate::settings::Seconds;

/// A daemon that has not greeted by then is read around.
const READER_CONNECT_TIMEOUT: Duration = Duration::from_millis(250);

/// Which context.
#[derive(clap::Args, Debug)]
pub(crate) struct ContextArg {
    /// The context's name
    #[arg(value_name = "CONTEXT", value_parser = text(), add = ArgValueCompleter::new(contexts))]
    name: String,
}

/// Those in memory, for a shell that completes a name.
fn contexts(begun: &OsStr) -> Vec<CompletionCandidate> {
    let instance = InstanceArgs::of_line(std::env::args_os());
    let ledger = instance.and_then(|instance| connect_to_read(&instance).ok());
    let found = ledger.and_then(|ledger| ledger.contexts().ok());
    let readable = found.map_or_else(Vec::new, |found| found.readable);
    let names = readable.iter().map(ContextSummary::name);
    let begun = begun.to_string_lossy();
    // A shell would take others for several arguments, or act on them.
    let is_word = |name: &&str| !name.contains(|c: char| c.is_whitespace() || c.is_control());
    names
        .filter(|name| name.starts_with(&*begun))
        .filter(is_word)
        .map(CompletionCandidate::new)
        .collect()
}

fn builder(instance: &InstanceArgs) -> Result<Builder, Failure> {
    let place = instance.instance()?;
    Ok(Ledger::builder()
        .instance(place.name())
        .uid(place.uid())
        .runtime_dir(instance.runtime_dir(&place)))
}

/// Connects for reading, which works while the daemon is down or stopped.
fn connect_to_read(instance: &InstanceArgs) -> Result<Ledger, Failure> {
    let ledger = builder(instance)?
        .daemon_optional(true)
        .connect_timeout(READER_CONNECT_TIMEOUT)
        .connect()?;
    Ok(ledger)
}

fn open_to_read(instance: &InstanceArgs, name: &str) -> Result<Context, Failure> {
    let ledger = connect_to_read(instance)?;
    ledger.context(name).open_read_only().map_err(|error| {
        let is_unknown = error.is_unknown();
        let Failure::Said(kind, mut said) = error.into() else {
            return Failure::ClosedPipe;
        };
        if !is_unknown {
            return Failure::Said(kind, said);
        }
        let contexts = ledger.contexts().unwrap_or_default();
        if !contexts.unreadable.is_empty() {
            said += "; there are some that cannot be read, see `ledgerd ls`";
        }
        if !ledger.is_connected() {
            said += "; ";
            said += NO_DAEMON;
        }
        said.into()
    })
}

/// One entry; damage names it.
fn get(context: &Context, seq: u64) -> Result<Option<Entry<'static>>, Failure> {
    context.get(seq).map_err(|error| match error {
        ReadError::Corrupt(_) => format!("entry {seq}: {error}").into(),
        error => error.into(),
    })
}

/// When it began, in UTC.
fn since(trouble: &Trouble) -> humantime::Rfc3339Timestamp {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_nanos(trouble.since_ns))
}

/// Beside what was not found: it may have been looked for in the wrong place.
const NO_DAEMON: &str = "no daemon answers there, see --instance and --runtime-dir";

/// A file that is read, in an error.
fn shown(path: &Path) -> Cow<'_, str> {
    match path == Path::new("-") {
        true => "standard input".into(),
        false => path.to_string_lossy(),
    }
}

/// An argument that has to be text; the payload need not be.
fn text() -> impl TypedValueParser<Value = String> {
    OsStringValueParser::new().try_map(|argument: OsString| {
        argument
            .into_string()
            .map_err(|_| "not UTF-8; only a payload can be other bytes")
    })
}

/// A time of some seconds.
fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(|Seconds(time)| time)
}
