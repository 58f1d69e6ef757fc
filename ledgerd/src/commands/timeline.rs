//! `ledgerd timeline`: what happened in the runs of a context.

use ledger_client::converge::history::{Event, timeline};

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs, say};
use crate::commands::print::{Printer, inert, time};
use crate::commands::{ContextArg, open_to_read, text};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArg,
    /// Only this run
    #[arg(long, value_name = "RUN_ID", value_parser = text())]
    run: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: &Args) -> Result<(), Failure> {
    let context = open_to_read(instance, &args.context.name)?;
    let output = args.output.output();
    let mut printer = Printer::new(output);
    let mut shown = None;
    for event in timeline(&context)? {
        let event = event?;
        if args.run.as_ref().is_some_and(|run| *run != event.run_id) {
            continue;
        }
        let attempt = (event.run_id.clone(), event.attempt);
        let is_another = shown.as_ref() != Some(&attempt);
        shown = Some(attempt);
        if output != Output::Short {
            printer.json(&event)?;
            continue;
        }
        if is_another {
            let (run, attempt) = (inert(&event.run_id), event.attempt);
            printer.line(&format!("run {run}, attempt {attempt}"))?;
        }
        printer.line(&line(&event))?;
    }
    printer.finish()?;
    if shown.is_none() {
        let name = context.name();
        match &args.run {
            Some(run) => {
                let message = format!(
                    "context {name:?} has no run {run:?}; `ledgerd timeline` without --run shows \
                     those there are"
                );
                return Err(message.into());
            }
            None => say(&format!("context {name:?} has no runs")),
        }
    }
    Ok(())
}

fn line(event: &Event) -> String {
    let agent = event.agent.as_deref().unwrap_or("-");
    let line = format!(
        "{:>6}  {}  cycle {:<3}  {:<20}  {:<13}  {}",
        event.seq,
        time(event.appended_at_ns),
        event.cycle,
        inert(&event.kind),
        inert(agent),
        inert(&event.says)
    );
    line.trim_end().to_owned()
}
