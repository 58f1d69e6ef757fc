//! `ledgerd explain`: where a fact of a run comes from.

use ledger_client::converge::history::{Explanation, explain};

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs};
use crate::commands::gates::answer;
use crate::commands::print::{Printer, inert, time};
use crate::commands::{ContextArg, open_to_read, text};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArg,
    /// The fact's id
    #[arg(value_parser = text())]
    fact: String,
    /// In this run [default: the last one that has the fact]
    #[arg(long, value_name = "RUN_ID", value_parser = text())]
    run: Option<String>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: &Args) -> Result<(), Failure> {
    let context = open_to_read(instance, &args.context.name)?;
    let mut found = explain(&context, &args.fact)?;
    let last = found.last().map(|fact| fact.run_id.clone());
    let run = args.run.clone().or(last);
    found.retain(|fact| Some(&fact.run_id) == run.as_ref());
    if found.is_empty() {
        let run = match &args.run {
            Some(run) => format!("run {run:?}"),
            None => "no run".to_owned(),
        };
        let (name, fact) = (context.name(), &args.fact);
        let has = if args.run.is_some() {
            "has no"
        } else {
            "has a"
        };
        let message = format!(
            "{run} of context {name:?} {has} fact {fact:?}; `ledgerd timeline` shows what there is"
        );
        return Err(message.into());
    }
    let output = args.output.output();
    let mut printer = Printer::new(output);
    for (place, fact) in found.iter().enumerate() {
        if output != Output::Short {
            printer.json(fact)?;
            continue;
        }
        if place > 0 {
            printer.line("")?;
        }
        for (name, value) in rows(fact) {
            printer.line(&format!("{name:<12} {}", inert(&value)))?;
        }
    }
    Ok(printer.finish()?)
}

fn rows(fact: &Explanation) -> Vec<(&'static str, String)> {
    let cycle = match fact.is_committed {
        true if fact.is_held => "before the first".to_owned(),
        true => fact.cycle.to_string(),
        false => format!("{}, which has not ended", fact.cycle),
    };
    let mut rows = vec![
        ("fact", format!("{}/{}", fact.key, fact.id)),
        ("family", fact.family.clone()),
        ("payload", fact.payload.to_string()),
        ("run", format!("{}, attempt {}", fact.run_id, fact.attempt)),
        ("cycle", cycle),
    ];
    let said = |name, text: &Option<String>| Some((name, text.clone()?));
    rows.extend(said("agent", &fact.agent));
    rows.extend(said("provenance", &fact.provenance));
    rows.push(("seq", fact.seq.to_string()));
    rows.push(("Lamport time", fact.lamport.to_string()));
    rows.push(("recorded at", time(fact.appended_at_ns)));
    rows.push(("promotion", fact.promotion_record.to_string()));
    if let Some(gate) = &fact.gate {
        rows.push(("gate", format!("{}: {}", gate.gate_id, gate.summary)));
        rows.push(("answer", answer(gate)));
    }
    rows.extend(said("run stopped", &fact.stop_reason));
    rows
}
