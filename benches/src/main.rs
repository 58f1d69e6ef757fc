//! What the ledger costs, and in the same run what this machine can do at all.
//!
//! Payloads are written and read; whoever waits for somebody else does so in
//! another process, pinned to another core. `--only NAME` runs one row.

mod archive;
mod beside;
mod child;
mod converge;
mod instance;
mod limits;
mod log;
mod memory;
mod peers;
mod remote;
mod report;
mod scale;
mod snapshot;
mod sweep;
mod watch;

use std::process::ExitCode;

use clap::Parser;

/// Measures the ledger beside the machine's limits.
#[derive(Debug, Parser)]
struct Args {
    /// Run only rows whose name contains this
    #[arg(long, default_value = "")]
    only: String,
    /// Fewer repetitions: for a look, not for a record
    #[arg(long)]
    quick: bool,
    /// Measure the ledger without time and checksums as well, building that first
    #[arg(long)]
    bare: bool,
    /// Fail unless these peers can be run
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    require: Vec<String>,
    /// Internal: the part that a child process plays
    #[arg(long, hide = true)]
    role: Option<String>,
    /// Internal: what a child process needs to know
    #[arg(hide = true)]
    rest: Vec<String>,
}

/// Prints figures; does the given fraction of the work.
type Row = fn(u64);

fn main() -> ExitCode {
    if std::env::args_os()
        .next()
        .is_some_and(|name| name == remote::LEDGERD)
    {
        return ledgerd::cli::main();
    }
    let args = Args::parse();
    match args.role.as_deref() {
        None => return sweep::behind(),
        Some(sweep::MEASURER) => return measure(&args),
        Some("daemon") => scale::be_daemon(&args.rest),
        Some("bare") => remote::be_bare(&args.rest),
        Some("host") => peers::ledger::host(&args.rest),
        Some("player") => beside::part::play(&args.rest),
        Some(role) => watch::play(role, &args.rest),
    }
    ExitCode::SUCCESS
}

fn measure(args: &Args) -> ExitCode {
    if let Err(error) = beside::run(&args.only, args.quick, args.bare, &args.require) {
        eprintln!("ledger-benches: {error}");
        return ExitCode::FAILURE;
    }
    let scale = if args.quick { 10 } else { 1 };
    let rows: [(&str, Row); 22] = [
        ("limit/clock", limits::clock),
        ("limit/zeroing", limits::zeroing),
        ("limit/random-reads", limits::random_reads),
        ("log/append", log::append),
        ("log/sustained", log::sustained),
        ("log/scan", log::scan),
        ("log/get", log::get),
        ("log/open", log::open),
        ("watch/spinning", watch::spinning),
        ("watch/parked", watch::parked),
        ("converge/fact", converge::fact),
        ("converge/heard", converge::heard),
        ("archive/beside", archive::beside),
        ("archive/keeps-up", archive::keeps_up),
        ("archive/many", archive::many),
        ("archive/get", archive::get),
        ("archive/restart", snapshot::restart),
        ("snapshot/large", snapshot::large),
        ("snapshot/small", snapshot::small),
        ("remote/append", remote::append),
        ("remote/watch", remote::watch),
        ("scale/idle-contexts", scale::idle_contexts),
    ];
    let own: Vec<_> = rows
        .iter()
        .filter(|(name, _)| name.contains(&args.only))
        .collect();
    if own.is_empty() && beside::works(&args.only).next().is_none() {
        eprintln!(
            "ledger-benches: no row's name contains {:?}; without --only all are run",
            args.only
        );
        return ExitCode::FAILURE;
    }
    for (_, row) in own {
        // The row before may have pinned this thread, and children inherit that.
        report::unpin();
        row(scale);
    }
    ExitCode::SUCCESS
}
