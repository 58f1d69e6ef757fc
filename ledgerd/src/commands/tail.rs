//! `ledgerd tail`: the last entries, and new ones as they come.

mod begin;
mod elsewhere;
mod filter;
mod reading;

use std::path::PathBuf;
use std::time::Duration;

use begin::Begin;
use elsewhere::Elsewhere;
use filter::Filter;
use reading::Reading;

use crate::cli::{Failure, InstanceArgs, Kind, Output, OutputArgs};
use crate::commands::cursor_file::CursorFile;
use crate::commands::template::Template;
use crate::commands::{ContextArg, open_to_read, seconds};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArg,
    /// Wait for new entries until interrupted
    #[arg(short, long)]
    follow: bool,
    /// How many of the last entries to begin with, counted after the filters
    /// [default: 10, or all if something else says where to begin]
    #[arg(short = 'n', long, value_name = "N", conflicts_with_all = ["from", "after"])]
    lines: Option<u64>,
    /// Begin with this seq
    #[arg(long, value_name = "SEQ", conflicts_with = "after")]
    from: Option<u64>,
    /// Begin after this seq
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// Begin where the last time ended, which this file remembers
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from", "after", "lines"])]
    cursor_file: Option<PathBuf>,
    #[command(flatten)]
    filter: Filter,
    /// Stop following when nothing has come for so long
    #[arg(long, value_name = "SECONDS", value_parser = seconds, requires = "follow")]
    timeout: Option<Duration>,
    /// How each entry is printed: text with {seq}, {time}, {lamport}, {key},
    /// {payload} and {meta.NAME} in it
    #[arg(long, value_name = "TEXT", value_parser = Template::parse, conflicts_with = "output")]
    template: Option<Template>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let output = args.output.output();
    if args.follow && output == Output::Json {
        let message = "a document that has no end: use --output jsonl with --follow";
        return Err(Failure::Said(Kind::Usage, message.to_owned()));
    }
    if let Some(ledger) = instance.remote(None)? {
        let context = ledger.context(&args.context.name).open()?;
        return Elsewhere::new(context, args)?.run();
    }
    let context = open_to_read(instance, &args.context.name)?;
    let cursor_file = args.cursor_file.map(CursorFile::new);
    let remembered = match &cursor_file {
        Some(file) => file.read(context.epoch())?,
        None => None,
    };
    let is_told = args.filter.since.is_some() || cursor_file.is_some();
    let begin = Begin::told(remembered.or(args.from), args.after, args.lines, is_told);
    let reading = Reading::new(&context, begin, &args.filter, output)?;
    reading
        .template(args.template)
        .cursor_file(cursor_file)
        .follow(args.follow, args.timeout)
        .run()
}
