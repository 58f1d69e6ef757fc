//! `ledgerd ls`: the contexts in memory.

use ledger_client::{ContextSummary, ReadError, remote};
use serde::Serialize;

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs, say};
use crate::commands::print::Printer;
use crate::commands::{NO_DAEMON, connect_to_read};

/// What there is to say about a context; damage only hides what it damaged.
#[derive(Serialize)]
pub(super) struct Summary {
    context: String,
    epoch: String,
    pub(super) state: String,
    pub(super) first_available: Option<u64>,
    pub(super) latest: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) damage: Option<String>,
}

impl Summary {
    pub(super) fn of(found: &ContextSummary) -> Summary {
        let state = found.state().map(|state| state.as_str().to_owned());
        let (first_available, latest) = (found.first_available(), found.latest());
        let damage = state.as_ref().err().copied();
        let damage = damage.or(first_available.err()).or(latest.err());
        Summary {
            context: found.name().to_owned(),
            epoch: found.epoch().to_string(),
            damage: damage.map(ReadError::to_string),
            state: state.unwrap_or_else(|_| "damaged".to_owned()),
            first_available: first_available.ok(),
            latest: latest.ok(),
        }
    }
}

impl Summary {
    fn elsewhere(found: remote::ContextSummary) -> Summary {
        Summary {
            context: found.name,
            epoch: found.epoch,
            state: found.state,
            first_available: found.first_available,
            latest: found.latest,
            damage: found.damage,
        }
    }
}

pub(super) fn number(number: Option<u64>) -> String {
    number.map_or_else(|| "?".to_owned(), |number| number.to_string())
}

pub(crate) fn run(instance: &InstanceArgs, args: OutputArgs) -> Result<(), Failure> {
    if let Some(ledger) = instance.remote(None)? {
        let found = ledger.contexts()?;
        if found.is_empty() {
            say("there are no contexts there, or none that you may read");
        }
        return print(args, found.into_iter().map(Summary::elsewhere));
    }
    let ledger = connect_to_read(instance)?;
    let found = ledger.contexts()?;
    if found.readable.is_empty() && found.unreadable.is_empty() {
        let name = ledger.instance().name();
        let no_daemon = if ledger.is_connected() {
            String::new()
        } else {
            format!("; {NO_DAEMON}")
        };
        say(&format!("instance {name:?} has no contexts{no_daemon}"));
    }
    print(args, found.readable.iter().map(Summary::of))?;
    for (epoch, error) in found.unreadable {
        say(&format!("context of epoch {epoch}: {error}"));
    }
    Ok(())
}

fn print(args: OutputArgs, found: impl ExactSizeIterator<Item = Summary>) -> Result<(), Failure> {
    let output = args.output();
    let mut printer = Printer::new(output);
    if output == Output::Short && found.len() > 0 {
        printer.line(&columns("CONTEXT", "STATE", "FIRST", "LATEST"))?;
    }
    for summary in found {
        match output {
            Output::Json | Output::Jsonl => printer.json(&summary)?,
            Output::Raw | Output::Hex => printer.line(&summary.context)?,
            Output::Short => printer.line(&columns(
                &summary.context.escape_debug().to_string(),
                &summary.state,
                &number(summary.first_available),
                &number(summary.latest),
            ))?,
        }
    }
    Ok(printer.finish()?)
}

fn columns(context: &str, state: &str, first: &str, latest: &str) -> String {
    format!("{context:<32} {state:<11} {first:>12} {latest:>12}")
}
