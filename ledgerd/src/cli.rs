//! The command line: what can be asked, and how answers look.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ledger_client::place;
use ledger_shm::object::{Instance, InvalidInstance};

use crate::commands;

/// A shared-memory ledger: append-only contexts that co-located processes
/// append to, read and watch.
#[derive(Debug, Parser)]
#[command(name = "ledgerd", version, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    instance: InstanceArgs,
    #[command(subcommand)]
    command: Command,
}

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
}

impl InstanceArgs {
    pub(crate) fn instance(&self) -> Result<Instance, InvalidInstance> {
        match &self.instance {
            Some(name) => Instance::own(name),
            None => Instance::own(&place::instance_name()?),
        }
    }

    pub(crate) fn runtime_dir(&self, instance: &Instance) -> PathBuf {
        let named = self.runtime_dir.clone();
        named.unwrap_or_else(|| place::runtime_dir(instance.uid()))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Own an instance: provide its memory until SIGTERM or SIGINT
    Run(commands::run::Args),
    /// List the contexts in memory
    Ls(OutputArgs),
    /// Describe one context
    Info(commands::info::Args),
    /// Append one entry, creating the context if there is none
    Append(commands::append::Args),
    /// Print entries
    Get(commands::get::Args),
    /// Print the last entries, and new ones as they come
    Tail(commands::tail::Args),
    /// Draw a context's segments, frontier and bell
    Inspect(commands::inspect::Args),
    /// Free the memory of a stopped instance
    Purge,
}

/// How entries and contexts are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// One aligned line each, for eyes
    Short,
    /// One JSON object per line
    Jsonl,
    /// Payloads only, byte for byte; of `ls` the names, of `append` the seq, of
    /// `info` the same as jsonl
    Raw,
}

#[derive(Args, Clone, Copy, Debug)]
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
}

/// Why a command ended before it was done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The message for the user.
    Said(String),
    /// Nobody reads the output any more, which is nobody's fault.
    ClosedPipe,
}

impl From<String> for Failure {
    fn from(message: String) -> Failure {
        Failure::Said(message)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ClosedPipe,
            _ => Failure::Said(error.to_string()),
        }
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Failure {
        io::Error::from(error).into()
    }
}

macro_rules! failure_from {
    ($($error:ty),* $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure::Said(error.to_string())
            }
        }
    )*};
}

failure_from!(
    crate::StartError,
    ledger_client::ConnectError,
    ledger_client::OpenError,
    ledger_client::ReadError,
    ledger_client::AppendError,
    ledger_client::Corrupt,
    ledger_shm::Refused,
    InvalidInstance,
);

/// Parses the arguments, does what they say, and tells how it went.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Run(args) => commands::run::run(&cli.instance, args),
        Command::Ls(args) => commands::ls::run(&cli.instance, args),
        Command::Info(args) => commands::info::run(&cli.instance, args),
        Command::Append(args) => commands::append::run(&cli.instance, args),
        Command::Get(args) => commands::get::run(&cli.instance, args),
        Command::Tail(args) => commands::tail::run(&cli.instance, args),
        Command::Inspect(args) => commands::inspect::run(&cli.instance, args),
        Command::Purge => commands::purge::run(&cli.instance),
    };
    match outcome {
        Ok(()) | Err(Failure::ClosedPipe) => ExitCode::SUCCESS,
        Err(Failure::Said(message)) => {
            eprintln!("ledgerd: {message}");
            ExitCode::FAILURE
        }
    }
}
