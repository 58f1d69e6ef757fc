//! `ledgerd diff`: the first fact in which two runs differ.

use clap_complete::engine::ArgValueCompleter;
use ledger_client::converge::history::{Diff, Had, Side, diff};

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs};
use crate::commands::print::{Printer, inert};
use crate::commands::{contexts, open_to_read, text};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The context of the first run
    #[arg(value_parser = text(), add = ArgValueCompleter::new(contexts))]
    a: String,
    /// The context of the second run, which may be the same
    #[arg(value_parser = text(), add = ArgValueCompleter::new(contexts))]
    b: String,
    /// The first run [default: the last one there]
    #[arg(long, value_name = "RUN_ID", value_parser = text())]
    run_a: Option<String>,
    /// The second run [default: the last one there]
    #[arg(long, value_name = "RUN_ID", value_parser = text())]
    run_b: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: &Args) -> Result<(), Failure> {
    let [a, b] = [&args.a, &args.b].map(|name| open_to_read(instance, name));
    let found = diff(&a?, args.run_a.as_deref(), &b?, args.run_b.as_deref())?;
    let output = args.output.output();
    let mut printer = Printer::new(output.of_one());
    match output {
        Output::Short => {
            for line in lines(&found) {
                printer.line(&inert(&line))?;
            }
        }
        _ => printer.json(&found)?,
    }
    printer.finish()?;
    match found.first {
        None => Ok(()),
        Some(_) => Err("the runs differ".to_owned().into()),
    }
}

fn lines(found: &Diff) -> Vec<String> {
    let mut lines = vec![run_line("a", &found.a), run_line("b", &found.b)];
    match &found.first {
        None => lines.push("the same facts".to_owned()),
        Some(fact) => {
            let order = match fact.a == fact.b {
                true => ", in another order",
                false => "",
            };
            lines.push(format!("first differing: {}/{}{order}", fact.key, fact.id));
            lines.push(had_line("a", fact.a.as_ref()));
            lines.push(had_line("b", fact.b.as_ref()));
        }
    }
    lines
}

fn run_line(name: &str, side: &Side) -> String {
    let root = side.merkle_root.as_deref().unwrap_or("none yet");
    let stopped = side.stop_reason.as_deref().unwrap_or("not yet");
    format!(
        "{name}  {} run {}: {} facts, root {root}, stopped: {stopped}",
        side.context, side.run_id, side.facts
    )
}

fn had_line(name: &str, had: Option<&Had>) -> String {
    match had {
        Some(Had { cycle, payload, .. }) => format!("  {name}  cycle {cycle}: {payload}"),
        None => format!("  {name}  has none"),
    }
}
