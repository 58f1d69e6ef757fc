//! `ledgerd ls`: the contexts in memory.

use std::io::{self, Write};

use ledger_client::Ledger;
use serde::Serialize;

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs};
use crate::commands::connect;

#[derive(Serialize)]
pub(super) struct Summary {
    pub(super) name: String,
    pub(super) epoch: String,
    pub(super) state: &'static str,
    pub(super) first_available: u64,
    pub(super) latest: u64,
}

pub(super) fn summary(ledger: &Ledger, name: &str) -> Result<Summary, Failure> {
    let context = ledger.context(name).open_read_only()?;
    Ok(Summary {
        name: name.to_owned(),
        epoch: context.epoch().to_string(),
        state: context.state()?.as_str(),
        first_available: context.first_available()?,
        latest: context.latest()?,
    })
}

pub(crate) fn run(instance: &InstanceArgs, args: OutputArgs) -> Result<(), Failure> {
    let ledger = connect(instance, true)?;
    let found = ledger.controls()?;
    let mut out = io::stdout().lock();
    for control in found.readable {
        match summary(&ledger, control.name()) {
            Ok(summary) => match args.output() {
                Output::Jsonl => {
                    serde_json::to_writer(&mut out, &summary)?;
                    writeln!(out)?;
                }
                Output::Raw => writeln!(out, "{}", summary.name)?,
                Output::Short => writeln!(
                    out,
                    "{:<32} {:<11} {:>12} {:>12}",
                    summary.name, summary.state, summary.first_available, summary.latest
                )?,
            },
            Err(failure) => eprintln!("ledgerd: {}: {failure}", control.name()),
        }
    }
    for (epoch, error) in found.unreadable {
        eprintln!("ledgerd: context of epoch {epoch}: {error}");
    }
    Ok(())
}
