//! `ledgerd info`: one context.

use std::io::{self, Write};

use ledger_client::wire::Trouble;
use ledger_client::{Context, admin};
use serde::Serialize;

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs};
use crate::commands::ls::{Summary, number};
use crate::commands::{ContextArg, open_to_read, since};
use crate::held::Held;

#[derive(Serialize)]
struct Description {
    #[serde(flatten)]
    summary: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    archived: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durable: Option<u64>,
    /// What keeps it from being written behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble_since_ns: Option<u64>,
    payload_len_max: usize,
    metadata_len_max: usize,
    /// Bytes that have left the window and that somebody still maps.
    retired_mapped_len: u64,
    retired_mapped_by: Vec<u32>,
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
    let held = Held::of(context.ledger().instance(), context.epoch())?;
    let trouble = trouble(&context);
    let description = Description {
        summary: Summary::of(&context.summary()),
        archived: context.archived_seq(),
        durable: context.durable_seq(),
        trouble: trouble.as_ref().map(|trouble| trouble.error.clone()),
        trouble_since_ns: trouble.as_ref().map(|trouble| trouble.since_ns),
        payload_len_max: context.limits().payload_len_max,
        metadata_len_max: context.limits().metadata_len_max,
        retired_mapped_len: held.len,
        retired_mapped_by: held.pids.into_iter().collect(),
    };
    let summary = &description.summary;
    let output = args.output.output();
    if output != Output::Short {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &description)?;
        return Ok(writeln!(out)?);
    }
    let retired = format!(
        "{} bytes, by processes {:?}",
        description.retired_mapped_len, description.retired_mapped_by
    );
    let mut rows = vec![
        ("context", context.name().escape_debug().to_string()),
        ("epoch", context.epoch().to_string()),
        ("state", summary.state.clone()),
        ("first available", number(summary.first_available)),
        ("latest", number(summary.latest)),
        (
            "largest payload",
            format!("{} bytes", description.payload_len_max),
        ),
        (
            "largest metadata",
            format!("{} bytes", description.metadata_len_max),
        ),
    ];
    if let (Some(archived), Some(durable)) = (description.archived, description.durable) {
        rows.push(("archived", archived.to_string()));
        rows.push(("durable", durable.to_string()));
    }
    if let Some(trouble) = &trouble {
        let since = since(trouble);
        rows.push(("not archived", format!("since {since}: {}", trouble.error)));
    }
    if description.retired_mapped_len > 0 {
        rows.push(("retired, mapped", retired));
    }
    if let Some(damage) = &summary.damage {
        rows.push(("damage", damage.clone()));
    }
    let mut out = io::stdout().lock();
    for (name, value) in rows {
        writeln!(out, "{name:<16} {value}")?;
    }
    Ok(())
}

/// What the daemon says; one that does not answer has nothing to say.
fn trouble(context: &Context) -> Option<Trouble> {
    let ledger = context.ledger();
    let is_asked = context.durable_seq().is_some() && ledger.is_connected();
    let troubles = is_asked.then(|| admin::troubles(ledger, Some(context.name())));
    troubles?.ok()?.pop()
}
