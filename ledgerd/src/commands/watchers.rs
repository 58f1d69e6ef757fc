//! `ledgerd watchers`: who watches a context, and how far each has come.

use serde::Serialize;

use crate::cli::{Failure, InstanceArgs, Kind, Output, OutputArgs, say};
use crate::commands::print::Printer;
use crate::commands::{ContextArg, NO_DAEMON, open_to_read};

/// One watcher, as it says itself.
#[derive(Serialize)]
struct Line {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    program: Option<String>,
    next_seq: u64,
    behind: u64,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArg,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let context = open_to_read(instance, &args.context.name)?;
    let unreachable = || Failure::Said(Kind::Unreachable, NO_DAEMON.to_owned());
    let mut roster = context.watchers().ok_or_else(unreachable)?;
    roster.watching.sort_by_key(|watching| watching.next_seq);
    let end = context.latest()? + 1;
    let output = args.output.output();
    let mut printer = Printer::new(output);
    if output == Output::Short && !roster.watching.is_empty() {
        printer.line(&columns("PID", "NEXT", "BEHIND", "PROGRAM"))?;
    }
    for watching in roster.watching {
        let pid = watching.client.pid;
        let line = Line {
            pid,
            program: program(pid),
            next_seq: watching.next_seq,
            behind: end.saturating_sub(watching.next_seq),
        };
        if output != Output::Short {
            printer.json(&line)?;
            continue;
        }
        printer.line(&columns(
            &pid.to_string(),
            &line.next_seq.to_string(),
            &line.behind.to_string(),
            &line.program.unwrap_or_default(),
        ))?;
    }
    printer.finish()?;
    if roster.unlisted > 0 {
        say(&format!(
            "{} watchers found no room in this list since the daemon began",
            roster.unlisted
        ));
    }
    Ok(())
}

/// What runs as this process, if that may be known: proc_pid_comm(5).
fn program(pid: u32) -> Option<String> {
    let comm = std::fs::read(format!("/proc/{pid}/comm")).ok()?;
    let name = String::from_utf8_lossy(&comm);
    Some(name.trim_end().escape_debug().to_string())
}

fn columns(pid: &str, next: &str, behind: &str, program: &str) -> String {
    format!("{pid:>9} {next:>12} {behind:>12}  {program}")
}
