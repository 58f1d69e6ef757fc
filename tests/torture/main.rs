//! `cargo torture`: what is promised, tried for as long as it is given.
//!
//! Says what it does on standard error, and one line of JSON for each promise on standard
//! output. Ends with an error if one is broken.

#![forbid(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use clap::Parser;

#[cfg(not(target_arch = "x86_64"))]
fn main() -> ExitCode {
    eprintln!("victims are stopped at an instruction by their registers, as x86-64 has them");
    ExitCode::FAILURE
}

/// Tries what is promised against every instruction, system call and shortage.
#[derive(Debug, Parser)]
#[command(name = "cargo torture")]
struct Cli {
    /// Which ones; all without.
    names: Vec<String>,
    /// How long all of them may take together, e.g. `90s` or `2h`; as long as everything
    /// there is takes without.
    #[arg(long = "for", value_name = "DURATION", value_parser = humantime::parse_duration)]
    time: Option<std::time::Duration>,
    /// Only kinds of cases that have this in their name, of those that have kinds: paths,
    /// those whose calls fail, resources, storms, abuses, targets, patches.
    #[arg(long, default_value = "")]
    only: String,
    /// Repeats what was drawn in an earlier run.
    #[arg(long, default_value_t = fastrand::u64(..))]
    seed: u64,
}

#[cfg(target_arch = "x86_64")]
fn main() -> ExitCode {
    use ledger_tests::Programs;
    use ledger_tests::torture::promises::{self, TRIED};
    use ledger_tests::torture::{
        Effort, Verdicts, daemon, freeze, hostile, kill, museum, power, scarce, starve, storm,
        watcher, wild,
    };

    const PROGRAMS: Programs = Programs {
        ledgerd: env!("CARGO_BIN_EXE_ledgerd-under-test"),
        peer: env!("CARGO_BIN_EXE_peer"),
        engine: env!("CARGO_BIN_EXE_engine"),
    };
    type Torture = fn(Programs, &Effort) -> Verdicts;
    const ALL: [(&str, Torture); 11] = [
        ("kill", kill::kill),
        ("freeze", freeze::freeze),
        ("watcher", watcher::watcher),
        ("daemon", daemon::daemon),
        ("starve", starve::starve),
        ("scarce", scarce::scarce),
        ("storm", storm::storm),
        ("hostile", hostile::hostile),
        ("wild", wild::wild),
        ("power", power::power),
        ("museum", museum::museum),
    ];

    let cli = Cli::parse();
    let is_asked_for =
        |name: &str| cli.names.is_empty() || cli.names.iter().any(|asked| asked == name);
    if let Some(unknown) = cli
        .names
        .iter()
        .find(|name| ALL.iter().all(|(known, _)| known != name))
    {
        let known = ALL.map(|(name, _)| name).join(", ");
        eprintln!("no torture is called {unknown:?}: there are {known}");
        return ExitCode::FAILURE;
    }
    let effort = Effort {
        only: cli.only.clone(),
        ..Effort::all(cli.seed)
    };
    let effort = match cli.time {
        Some(time) => effort.within(time),
        None => effort,
    };
    let asked_for: Vec<_> = ALL
        .into_iter()
        .filter(|(name, _)| is_asked_for(name))
        .collect();
    eprintln!("--seed {}", cli.seed);
    let mut all = Vec::new();
    for (n, (name, torture)) in asked_for.iter().enumerate() {
        let effort = effort.share(asked_for.len() - n);
        let outcome = catch_unwind(AssertUnwindSafe(|| torture(PROGRAMS, &effort)));
        let verdicts = outcome.unwrap_or_else(|_| {
            let mut none = Verdicts::new(name, &effort);
            none.check(TRIED, false, || {
                "it panicked before it came to an end".into()
            });
            none
        });
        if verdicts.lines().next().is_none() {
            eprintln!("{name}: nothing was tried; give it more time, or another --only");
        }
        for line in verdicts.lines() {
            println!("{line}");
        }
        all.push(verdicts);
    }
    if all.len() > 1 {
        for promise in promises::ALL {
            println!("{}", Verdicts::line_of_all(&all, promise));
        }
    }
    if all.iter().all(Verdicts::hold) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
