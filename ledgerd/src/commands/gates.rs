//! `ledgerd gates`: what humans were asked in runs, and what they answered.

use clap_complete::engine::ArgValueCompleter;
use ledger_client::Context;
use ledger_client::converge::history::{Gate, gates};
use serde::Serialize;

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs, say};
use crate::commands::print::{Printer, inert, time};
use crate::commands::{connect_to_read, contexts, open_to_read, text};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The context's name [default: every context of the instance]
    #[arg(value_name = "CONTEXT", value_parser = text(), add = ArgValueCompleter::new(contexts))]
    context: Option<String>,
    /// Only those that wait for an answer
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

/// As `docs/JSON.md` has it.
#[derive(Serialize)]
struct Line<'a> {
    context: &'a str,
    #[serde(flatten)]
    gate: &'a Gate,
}

pub(crate) fn run(instance: &InstanceArgs, args: &Args) -> Result<(), Failure> {
    let mut told = Told {
        printer: Printer::new(args.output.output()),
        is_open_only: args.open,
        count: 0,
    };
    match &args.context {
        Some(name) => told.all_of(&open_to_read(instance, name)?)?,
        None => {
            // One that cannot be read keeps nobody from the others.
            let mut unread_count = 0;
            let mut unread = |name: String, why: String| {
                unread_count += 1;
                say(&format!("context {name}: {why}"));
            };
            let ledger = connect_to_read(instance)?;
            let found = ledger.contexts()?;
            for name in found.readable.iter().map(|found| found.name()) {
                let outcome = match ledger.context(name).open_read_only() {
                    Ok(context) => told.all_of(&context),
                    // It was dropped meanwhile.
                    Err(error) if error.is_unknown() => continue,
                    Err(error) => Err(error.into()),
                };
                match outcome {
                    Err(Failure::Said(_, why)) => unread(format!("{name:?}"), why),
                    outcome => outcome?,
                }
            }
            for (epoch, why) in found.unreadable {
                unread(format!("of epoch {epoch}"), why.to_string());
            }
            if unread_count > 0 {
                told.printer.finish()?;
                let message = format!("{unread_count} contexts cannot be told");
                return Err(message.into());
            }
        }
    }
    let is_none = told.count == 0;
    told.printer.finish()?;
    if is_none {
        say(match args.open {
            true => "no gate waits for an answer",
            false => "there are no gates",
        });
    }
    Ok(())
}

/// Gates, printed context by context.
struct Told {
    printer: Printer,
    is_open_only: bool,
    count: u64,
}

impl Told {
    fn all_of(&mut self, context: &Context) -> Result<(), Failure> {
        let name = context.name();
        for gate in gates(context)? {
            if self.is_open_only && !gate.is_open {
                continue;
            }
            let gate = &gate;
            match self.printer.output() {
                Output::Short => {
                    if self.count == 0 {
                        let head = columns("CONTEXT", "STATE", "PROPOSAL", "AGENT", "GATE");
                        self.printer.line(&head)?;
                    }
                    self.printer.line(&line(name, gate))?;
                }
                _ => self.printer.json(&Line {
                    context: name,
                    gate,
                })?,
            }
            self.count += 1;
        }
        Ok(())
    }
}

fn line(context: &str, gate: &Gate) -> String {
    let [context, proposal, agent, id] =
        [context, &gate.proposal_id, &gate.agent, &gate.gate_id].map(inert);
    let mut line = columns(&context, state(gate), &proposal, &agent, &id);
    line += &format!("  {}", inert(&gate.summary));
    if gate.decision.is_some() {
        line += &format!("  {}", answer(gate));
    }
    line
}

/// What has become of it.
fn state(gate: &Gate) -> &'static str {
    match &gate.decision {
        Some(decision) => decision.verdict.as_str(),
        None if gate.is_open => "open",
        // Its run is over, or its suggestor proposes something else.
        None => "unanswered",
    }
}

/// Who said what, when that was recorded, and why.
pub(super) fn answer(gate: &Gate) -> String {
    let Some(decision) = &gate.decision else {
        return state(gate).to_owned();
    };
    let (by, at) = (inert(&decision.decided_by), time(decision.appended_at_ns));
    let answer = format!("{} by {by} at {at}", decision.verdict.as_str());
    match &decision.reason {
        Some(reason) => format!("{answer}: {}", inert(reason)),
        None => answer,
    }
}

fn columns(context: &str, state: &str, proposal: &str, agent: &str, gate: &str) -> String {
    format!("{context:<20} {state:<10} {proposal:<16} {agent:<12} {gate}")
}
