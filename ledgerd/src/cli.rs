//! The command line: what can be asked, and how answers look.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use clap_complete::CompleteEnv;
use ledger_client::converge::history::HistoryError;
use ledger_client::place;
use ledger_client::remote::{RemoteError, RemoteLedger};
use ledger_client::{ConnectError, LoadError, OpenError, ProveError, ReadError, SnapshotError};
use ledger_shm::object::{Instance, InvalidInstance};
use serde::Serialize;

use crate::commands;
use crate::commands::remote::RemoteArgs;

/// A shared-memory ledger: append-only contexts that co-located processes
/// append to, read and watch.
#[derive(Debug, Parser)]
#[command(name = "ledgerd", version, max_term_width = 100, after_long_help = AFTER_HELP)]
pub(crate) struct Cli {
    #[command(flatten)]
    instance: InstanceArgs,
    #[command(subcommand)]
    command: Command,
}

/// What no option says.
const AFTER_HELP: &str = "\
Exit codes: 0 done; 1 it cannot be done; 2 the arguments make no sense; 3 there is no \
daemon, or it does not answer; 4 --timeout is over.

Environment: LEDGER_INSTANCE and LEDGER_RUNTIME_DIR say which instance is meant, \
LEDGER_CONFIG which configuration; NO_COLOR keeps help and complaints without colours. \
`ledgerd run` also takes each of its settings from a variable, see `ledgerd run --help`.";

/// Set by a shell that asks how to go on.
pub(crate) const COMPLETE_VARIABLE: &str = "LEDGERD_COMPLETE";

/// What all commands share is listed behind what is their own.
const LAST: usize = 100;

/// Which instance.
#[derive(Args, Debug)]
pub(crate) struct InstanceArgs {
    /// The instance: 1 to 32 of A-Z, a-z, 0-9 and _ [default:
    /// $LEDGER_INSTANCE or default]
    #[arg(long, global = true, value_name = "NAME", display_order = LAST)]
    instance: Option<String>,
    /// The directory of the daemon's socket [default: $LEDGER_RUNTIME_DIR,
    /// $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR/ledgerd or /tmp/ledgerd-UID]
    #[arg(long, global = true, value_name = "DIR", display_order = LAST)]
    runtime_dir: Option<PathBuf>,
    /// The user whose instance it is, by number [default: who runs this]
    #[arg(long, global = true, value_name = "UID", display_order = LAST)]
    uid: Option<u32>,
    #[command(flatten)]
    remote: RemoteArgs,
}

impl InstanceArgs {
    /// What a line that is not finished says of it.
    pub(crate) fn of_line(words: impl Iterator<Item = OsString>) -> Option<InstanceArgs> {
        let command = InstanceArgs::augment_args(clap::Command::new("line"));
        let options: Vec<String> = command
            .get_arguments()
            .filter_map(|option| Some(format!("--{}", option.get_long()?)))
            .collect();
        let mut words = words.peekable();
        let mut said = vec![OsString::from("line")];
        while let Some(word) = words.next() {
            let text = word.to_string_lossy();
            let is_named = |option: &String| text.strip_prefix(&**option);
            match options.iter().find_map(is_named) {
                Some("") => said.extend([word].into_iter().chain(words.next())),
                Some(rest) if rest.starts_with('=') => said.push(word),
                _ => {}
            }
        }
        let matches = command.try_get_matches_from(said).ok()?;
        InstanceArgs::from_arg_matches(&matches).ok()
    }

    pub(crate) fn instance(&self) -> Result<Instance, InvalidInstance> {
        let name = match &self.instance {
            Some(name) => name.clone(),
            None => place::instance_name()?,
        };
        match self.uid {
            Some(uid) => Instance::new(uid, &name),
            None => Instance::own(&name),
        }
    }

    /// The ledger elsewhere, if that is meant. `--timeout` bounds what is asked of it.
    pub(crate) fn remote(
        &self,
        timeout: Option<Duration>,
    ) -> Result<Option<RemoteLedger>, Failure> {
        if self.remote.uri.is_none() {
            return Ok(None);
        }
        if self.instance.is_some() || self.runtime_dir.is_some() || self.uid.is_some() {
            let message = "--remote names a ledger, and so do --instance, --runtime-dir and --uid";
            return Err(Failure::Said(Kind::Usage, message.to_owned()));
        }
        self.remote.connect(timeout)
    }

    /// The instance, of who runs this.
    pub(crate) fn own(&self) -> Result<Instance, Failure> {
        let instance = self.instance()?;
        if instance.is_own() {
            return Ok(instance);
        }
        let message = format!(
            "the instance is that of uid {}; run this as that user",
            instance.uid()
        );
        Err(Failure::Said(Kind::Usage, message))
    }

    pub(crate) fn runtime_dir(&self, instance: &Instance) -> PathBuf {
        let named = self.runtime_dir.clone();
        named.unwrap_or_else(|| place::runtime_dir(instance.uid()))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Own an instance: provide its memory until SIGTERM or SIGINT
    Run(commands::config::ConfigArgs),
    /// Check or print what a daemon would be run with
    Config(commands::config::Args),
    /// List the contexts in memory
    Ls(OutputArgs),
    /// Describe one context
    Info(commands::info::Args),
    /// Append entries, creating the context if there is none
    Append(commands::append::Args),
    /// Print entries
    Get(commands::get::Args),
    /// Print the last entries, and new ones as they come
    Tail(commands::tail::Args),
    /// Write entries for other programs: as lines of JSON, or as a table
    Export(commands::export::Args),
    /// Make a context out of the lines of JSON that an export wrote
    Import(commands::import::Args),
    /// Write a context as one file, look at such a file, or load it
    #[command(subcommand)]
    Snapshot(commands::snapshot::Command),
    /// Show who watches a context, and how far behind each is
    Watchers(commands::watchers::Args),
    /// Draw a context's segments, frontier and bell
    Inspect(commands::inspect::Args),
    /// Tell what happened in the runs of a context, entry by entry
    Timeline(commands::timeline::Args),
    /// List what humans were asked in runs, and what they answered
    Gates(commands::gates::Args),
    /// Say where a fact of a run comes from
    Explain(commands::explain::Args),
    /// Show the first fact in which two runs differ; fails if there is one
    Diff(commands::diff::Args),
    /// Say how the daemon does; fails if there is none
    Status(OutputArgs),
    /// Measure what the ledger takes here, beside what the machine itself takes
    Bench(commands::bench::Args),
    /// Look for what on this machine stands in the way, and say what to do
    Doctor(OutputArgs),
    /// Verify every entry of a context, of all, or of a file of an archive
    Verify(commands::verify::Args),
    /// Prove, as JSON, that an entry is in a context or that a context only grew
    Prove(commands::prove::Args),
    /// Check such a proof, with nothing but the proof and a root that you trust
    CheckProof(commands::prove::CheckArgs),
    /// Say what each context takes, in memory and on disk, in bytes
    Du(OutputArgs),
    /// Remove a context for good, from memory and from disk
    Drop(commands::drop::Args),
    /// Free the memory of a stopped instance; what is on disk stays
    Purge,
    /// Print what a shell sources to complete arguments, context names included
    Completions(commands::completions::Args),
    /// Write the manual's pages
    Man(commands::man::Args),
}

/// How entries and contexts are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// One aligned line each, for eyes
    Short,
    /// One JSON document; errors are JSON, too
    Json,
    /// One JSON object per line; errors are JSON, too
    Jsonl,
    /// Payloads only, byte for byte; of `ls` the names, of `append` the seq; of
    /// everything else as jsonl
    Raw,
    /// Payloads only, in hexadecimal digits, one per line; else as raw
    Hex,
}

impl Output {
    pub(crate) fn is_json(self) -> bool {
        matches!(self, Output::Json | Output::Jsonl)
    }

    /// Of what there is one only: an object and a line of it are the same.
    pub(crate) fn of_one(self) -> Output {
        match self {
            Output::Json => Output::Jsonl,
            other => other,
        }
    }
}

#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct OutputArgs {
    /// How to print [default: short on a terminal, jsonl elsewhere]
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    output: Option<Output>,
}

impl OutputArgs {
    pub(crate) fn output(self) -> Output {
        let is_terminal = io::stdout().is_terminal();
        self.output.unwrap_or(if is_terminal {
            Output::Short
        } else {
            Output::Jsonl
        })
    }

    /// Whether somebody has asked for JSON, who can then read errors in it.
    fn wants_json(self) -> bool {
        self.output.is_some_and(Output::is_json)
    }
}

/// What a command's exit code says, and `kind` in a JSON error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// 1: what was asked for cannot be done.
    Failed,
    /// 2: it makes no sense, as clap's own errors.
    Usage,
    /// 3: there is no daemon, or it does not answer.
    Unreachable,
    /// 4: `--timeout` is over.
    TimedOut,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Failed => 1,
            Kind::Usage => 2,
            Kind::Unreachable => 3,
            Kind::TimedOut => 4,
        }
    }
}

/// Why a command ended before it was done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The message for the user.
    Said(Kind, String),
    /// Nobody reads the output any more, which is nobody's fault.
    ClosedPipe,
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::Said(Kind::Failed, message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => error.to_string().into(),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        io::Error::from(error).into()
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Failure {
        let kind = match error {
            ConnectError::InvalidInstance(_) => Kind::Usage,
            _ if error.is_unreachable() => Kind::Unreachable,
            _ => Kind::Failed,
        };
        Failure::Said(kind, error.to_string())
    }
}

impl From<InvalidInstance> for Failure {
    fn from(error: InvalidInstance) -> Failure {
        Failure::Said(Kind::Usage, error.to_string())
    }
}

impl From<RemoteError> for Failure {
    fn from(error: RemoteError) -> Failure {
        let kind = match error {
            RemoteError::InvalidUri { .. }
            | RemoteError::InvalidName(_)
            | RemoteError::InvalidToken => Kind::Usage,
            _ if error.is_unreachable() => Kind::Unreachable,
            _ => Kind::Failed,
        };
        Failure::Said(kind, error.to_string())
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Failure {
        match error {
            OpenError::Connect(error) => error.into(),
            OpenError::InvalidName(error) => Failure::Said(Kind::Usage, error.to_string()),
            OpenError::Unknown { name, instance } => format!(
                "there is no context {name:?} in instance {instance:?}; `ledgerd ls` lists those \
                 there are, and `ledgerd append` makes one"
            )
            .into(),
            error => error.to_string().into(),
        }
    }
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Failure {
        match error {
            LoadError::Open(error) => error.into(),
            error => error.to_string().into(),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Failure {
        match error.is_corrupt() {
            true => format!("{error}; `ledgerd verify` names what is damaged").into(),
            false => error.to_string().into(),
        }
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Failure {
        match error {
            HistoryError::Read(error) => error.into(),
            error => error.to_string().into(),
        }
    }
}

impl From<ProveError> for Failure {
    fn from(error: ProveError) -> Failure {
        match error {
            ProveError::Read(error) => error.into(),
            error => error.to_string().into(),
        }
    }
}

impl From<SnapshotError> for Failure {
    fn from(error: SnapshotError) -> Failure {
        match error {
            SnapshotError::Read(error) => error.into(),
            error => error.to_string().into(),
        }
    }
}

macro_rules! failure_from {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                error.to_string().into()
            }
        }
    )*};
}

failure_from!(
    crate::StartError,
    ledger_shm::file::SnapshotError,
    ledger_client::AppendError,
    ledger_client::Corrupt,
    ledger_shm::Refused,
);

impl Command {
    /// Whether it can be asked of a ledger elsewhere, or asks none at all.
    fn may_be_remote(&self) -> bool {
        matches!(
            self,
            Command::Ls(_)
                | Command::Append(_)
                | Command::Get(_)
                | Command::Tail(_)
                | Command::Snapshot(_)
                | Command::CheckProof(_)
                | Command::Completions(_)
                | Command::Man(_)
        )
    }

    fn wants_json(&self) -> bool {
        match self {
            Command::Ls(output)
            | Command::Du(output)
            | Command::Status(output)
            | Command::Doctor(output) => output.wants_json(),
            Command::Bench(args) => args.output.wants_json(),
            Command::Info(args) => args.output.wants_json(),
            Command::Append(args) => args.output.wants_json(),
            Command::Get(args) => args.output.wants_json(),
            Command::Tail(args) => args.output.wants_json(),
            Command::Watchers(args) => args.output.wants_json(),
            Command::Timeline(args) => args.output.wants_json(),
            Command::Gates(args) => args.output.wants_json(),
            Command::Explain(args) => args.output.wants_json(),
            Command::Diff(args) => args.output.wants_json(),
            Command::Verify(args) => args.output.wants_json(),
            Command::Import(args) => args.output.wants_json(),
            Command::CheckProof(args) => args.output.wants_json(),
            Command::Snapshot(command) => command.output().is_some_and(OutputArgs::wants_json),
            Command::Config(args) => args.wants_json(),
            _ => false,
        }
    }
}

/// One line beside the data, for people.
pub(crate) fn say(message: &str) {
    complain(&format!("ledgerd: {message}"));
}

fn complain(line: &str) {
    // Where nobody listens there is nobody to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

/// An error as JSON.
#[derive(Serialize)]
struct ErrorLine<'a> {
    error: &'a str,
    kind: Kind,
}

/// Parses the arguments, does what they say, and tells how it went.
///
/// ```no_run
/// fn main() -> std::process::ExitCode {
///     ledgerd::cli::main()
/// }
/// ```
pub fn main() -> ExitCode {
    // A shell that completes arguments runs us with this variable, and nothing else.
    CompleteEnv::with_factory(Cli::command)
        .var(COMPLETE_VARIABLE)
        .complete();
    let (matches, Cli { instance, command }) = match parsed() {
        Ok(parsed) => parsed,
        Err(error) if error.use_stderr() && asks_for_json(std::env::args_os()) => {
            return fail(true, Kind::Usage, error.to_string().trim_end());
        }
        Err(error) => error.exit(),
    };
    let matches = matches.subcommand().map_or(&matches, |(_, of)| of);
    let wants_json = command.wants_json();
    if instance.remote.uri.is_some() && !command.may_be_remote() {
        let message = "--remote is for ls, append, get, tail and snapshot; run this where the \
                       ledger is";
        return fail(wants_json, Kind::Usage, message);
    }
    let outcome = match command {
        Command::Run(args) => commands::run::run(&instance, args, matches),
        Command::Config(args) => commands::config::run(&instance, args, matches),
        Command::Ls(args) => commands::ls::run(&instance, args),
        Command::Info(args) => commands::info::run(&instance, args),
        Command::Append(args) => commands::append::run(&instance, args),
        Command::Get(args) => commands::get::run(&instance, args),
        Command::Tail(args) => commands::tail::run(&instance, args),
        Command::Export(args) => commands::export::run(&instance, args),
        Command::Watchers(args) => commands::watchers::run(&instance, args),
        Command::Inspect(args) => commands::inspect::run(&instance, args),
        Command::Timeline(args) => commands::timeline::run(&instance, &args),
        Command::Gates(args) => commands::gates::run(&instance, &args),
        Command::Explain(args) => commands::explain::run(&instance, &args),
        Command::Diff(args) => commands::diff::run(&instance, &args),
        Command::Status(args) => commands::status::run(&instance, args),
        Command::Bench(args) => commands::bench::run(args),
        Command::Doctor(args) => commands::doctor::run(&instance, args),
        Command::Verify(args) => commands::verify::run(&instance, args),
        Command::Du(args) => commands::du::run(&instance, args),
        Command::Import(args) => commands::import::run(&instance, args),
        Command::Snapshot(command) => commands::snapshot::run(&instance, command),
        Command::Prove(args) => commands::prove::run(&instance, &args),
        Command::CheckProof(args) => commands::prove::check(&args),
        Command::Drop(args) => commands::drop::run(&instance, &args),
        Command::Purge => commands::purge::run(&instance),
        Command::Completions(args) => commands::completions::run(&args),
        Command::Man(args) => commands::man::run(&args),
    };
    match outcome {
        Ok(()) | Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(Failure::Said(kind, message)) => fail(wants_json, kind, &message),
    }
}

fn parsed() -> Result<(ArgMatches, Cli), clap::Error> {
    let matches = Cli::command().try_get_matches()?;
    let cli = Cli::from_arg_matches(&matches)?;
    Ok((matches, cli))
}

/// Whether arguments that cannot be parsed say how errors are to look.
fn asks_for_json(words: impl Iterator<Item = OsString>) -> bool {
    let words: Vec<_> = words
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let is_json = |format: &str| matches!(format, "json" | "jsonl");
    let is_option = |word: &str| matches!(word, "-o" | "--output");
    let apart = words
        .windows(2)
        .any(|two| is_option(&two[0]) && is_json(&two[1]));
    let in_one = |word: &String| {
        let format = word.strip_prefix("--output=").or(word.strip_prefix("-o"));
        format.is_some_and(|format| is_json(format.trim_start_matches('=')))
    };
    apart || words.iter().any(in_one)
}

fn fail(wants_json: bool, kind: Kind, message: &str) -> ExitCode {
    let error = ErrorLine {
        error: message,
        kind,
    };
    match serde_json::to_string(&error) {
        Ok(line) if wants_json => complain(&line),
        _ => say(message),
    }
    ExitCode::from(kind.code())
}
