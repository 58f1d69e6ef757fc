//! `ledgerd append`: one entry.

use std::io::{self, Read, Write};

use ledger_client::NewEntry;
use ledger_shm::entry::{LIMIT_MAX, Limits};
use serde::Serialize;

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs};
use crate::commands::connect;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The context's name
    context: String,
    /// The entry's key
    key: String,
    /// The payload; `-` reads standard input, `@FILE` a file
    #[arg(allow_hyphen_values = true)]
    payload: Option<String>,
    /// A metadata pair; can be repeated
    #[arg(long = "meta", value_name = "K=V", value_parser = pair)]
    metadata: Vec<(String, String)>,
    #[command(flatten)]
    output: OutputArgs,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} has no `=`"))?;
    Ok((key.to_owned(), value.to_owned()))
}

#[derive(Serialize)]
struct Appended<'a> {
    context: &'a str,
    seq: u64,
    lamport: u64,
    appended_at_ns: u64,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let payload = match args.payload.as_deref() {
        None => Vec::new(),
        Some("-") => {
            let mut bytes = Vec::new();
            io::stdin().lock().read_to_end(&mut bytes)?;
            bytes
        }
        Some(text) => match text.strip_prefix('@') {
            Some(file) => {
                std::fs::read(file).map_err(|error| Failure::Said(format!("{file}: {error}")))?
            }
            None => text.as_bytes().to_vec(),
        },
    };
    let metadata: Vec<_> = args
        .metadata
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()))
        .collect();
    let entry = NewEntry::new(&args.key, &payload).metadata(&metadata);
    // An entry that no context takes creates none.
    entry.validate(&Limits {
        payload_len_max: LIMIT_MAX,
        metadata_len_max: LIMIT_MAX,
    })?;
    let ledger = connect(instance, false)?;
    let context = ledger.context(&args.context).open_or_create()?;
    let appended = context.appender()?.append(&entry)?;
    let mut out = io::stdout().lock();
    match args.output.output() {
        Output::Jsonl => {
            let line = Appended {
                context: &args.context,
                seq: appended.seq,
                lamport: appended.lamport,
                appended_at_ns: appended.appended_at_ns,
            };
            serde_json::to_writer(&mut out, &line)?;
            writeln!(out)?;
        }
        Output::Short | Output::Raw => writeln!(out, "{}", appended.seq)?,
    }
    Ok(())
}
