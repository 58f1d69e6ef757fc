//! `ledgerd status`: how the daemon does, for scripts.

use std::io::{self, Write};

use serde::Serialize;

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs};
use crate::commands::builder;

/// As `docs/JSON.md` has it.
#[derive(Serialize)]
struct Line<'a> {
    instance: &'a str,
    version: String,
    pid: u32,
    uptime_ns: u64,
    clients: u64,
    contexts: u64,
    attached: u64,
    quarantined: u64,
    entries: u64,
    budget: u64,
    committed: u64,
    held: u64,
}

pub(crate) fn run(instance: &InstanceArgs, args: OutputArgs) -> Result<(), Failure> {
    let ledger = builder(instance)?.connect()?;
    let status = ledger.status()?;
    let line = Line {
        instance: ledger.instance().name(),
        version: status.version,
        pid: status.pid,
        uptime_ns: status.uptime_ns,
        clients: status.clients,
        contexts: status.contexts,
        attached: status.attached,
        quarantined: status.quarantined,
        entries: status.entries,
        budget: status.budget,
        committed: status.committed,
        held: status.held,
    };
    let mut out = io::stdout().lock();
    if args.output() != Output::Short {
        serde_json::to_writer(&mut out, &line)?;
        return Ok(writeln!(out)?);
    }
    let rows = [
        ("instance", line.instance.to_owned()),
        ("daemon", format!("{}, process {}", line.version, line.pid)),
        ("up for", format!("{} s", line.uptime_ns / 1_000_000_000)),
        ("clients", line.clients.to_string()),
        (
            "contexts",
            format!(
                "{}, {} open, {} quarantined",
                line.contexts, line.attached, line.quarantined
            ),
        ),
        (
            "memory",
            format!("{} of {} bytes committed", line.committed, line.budget),
        ),
        ("held", format!("{} bytes by other uids", line.held)),
    ];
    for (name, value) in rows {
        writeln!(out, "{name:<9} {value}")?;
    }
    Ok(())
}
