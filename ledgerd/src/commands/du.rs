//! `ledgerd du`: what contexts take, in memory and on disk.

use std::collections::BTreeMap;
use std::fs;

use ledger_shm::object::{self, Epoch, Name};
use serde::Serialize;

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs};
use crate::commands::connect_to_read;
use crate::commands::print::Printer;

/// As `docs/JSON.md` has it.
#[derive(Serialize)]
struct Line {
    context: String,
    epoch: String,
    memory: u64,
    disk: u64,
    files: u64,
}

pub(crate) fn run(instance: &InstanceArgs, args: OutputArgs) -> Result<(), Failure> {
    let ledger = connect_to_read(instance)?;
    let place = ledger.instance();
    let mut memory: BTreeMap<Epoch, u64> = BTreeMap::new();
    for name in object::list(place)? {
        if let Name::Control(epoch) | Name::Part(epoch, _) = name {
            let found = fs::metadata(name.path_in(place));
            // What is gone meanwhile takes nothing.
            *memory.entry(epoch).or_default() += found.map_or(0, |found| found.len());
        }
    }
    let output = args.output();
    let mut printer = Printer::new(output);
    let found = ledger.contexts()?.readable;
    if output == Output::Short && !found.is_empty() {
        printer.line(&columns("CONTEXT", "MEMORY", "DISK", "FILES"))?;
    }
    for context in found {
        let (mut disk, mut files) = (0, 0);
        for entry in context
            .files_dir()
            .into_iter()
            .flat_map(fs::read_dir)
            .flatten()
        {
            disk += entry?.metadata().map_or(0, |found| found.len());
            files += 1;
        }
        let line = Line {
            context: context.name().to_owned(),
            epoch: context.epoch().to_string(),
            memory: memory.get(&context.epoch()).copied().unwrap_or(0),
            disk,
            files,
        };
        if output != Output::Short {
            printer.json(&line)?;
            continue;
        }
        printer.line(&columns(
            &line.context.escape_debug().to_string(),
            &line.memory.to_string(),
            &line.disk.to_string(),
            &line.files.to_string(),
        ))?;
    }
    Ok(printer.finish()?)
}

fn columns(context: &str, memory: &str, disk: &str, files: &str) -> String {
    format!("{context:<32} {memory:>14} {disk:>14} {files:>7}")
}
