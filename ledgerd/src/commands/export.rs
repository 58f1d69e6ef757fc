//! `ledgerd export`: entries for programs that know nothing of the ledger.
//! `docs/EXPORT.md` says what each format holds.

mod csv;
mod jsonl;
#[cfg(feature = "parquet")]
mod parquet;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::path::PathBuf;

use clap::ValueEnum;
use ledger_client::{Context, Entry, ReadError};

use crate::cli::{Failure, InstanceArgs, Kind};
use crate::commands::print::verify;
use crate::commands::target::Target;
use crate::commands::{ContextArg, open_to_read};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArg,
    /// What to write
    #[arg(long, value_enum)]
    format: Format,
    /// The file to write, whole or not at all; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Begin with this seq [default: the oldest there is]
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    from: Option<u64>,
    /// End with this seq [default: the latest there is when it begins]
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    to: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Format {
    /// The lines that `get -o jsonl` prints
    Jsonl,
    /// A table in text, with a header
    Csv,
    /// A table for analysis; no terminal shows it
    Parquet,
}

impl Format {
    /// Whether it can be written there at all.
    fn check(self, output: &Target) -> Result<(), Failure> {
        if self != Format::Parquet {
            return Ok(());
        }
        if !cfg!(feature = "parquet") {
            let message = "this program was built without parquet; build it with `cargo install \
                           --locked --path ledgerd --features parquet`";
            return Err(message.to_owned().into());
        }
        if output.file().is_terminal() {
            let message = "parquet is nothing that a terminal shows: name a file with --output, \
                           or pipe it into a program";
            return Err(Failure::Said(Kind::Usage, message.to_owned()));
        }
        Ok(())
    }

    fn begin(self, file: File) -> io::Result<Box<dyn Rows>> {
        Ok(match self {
            Format::Jsonl => Box::new(jsonl::Lines::begin(file)),
            Format::Csv => Box::new(csv::Table::begin(file)?),
            #[cfg(feature = "parquet")]
            Format::Parquet => Box::new(parquet::Table::begin(file)?),
            #[cfg(not(feature = "parquet"))]
            Format::Parquet => return Err(io::ErrorKind::Unsupported.into()),
        })
    }
}

/// What entries are written as. Holds some of them, never all.
trait Rows {
    fn push(&mut self, entry: &Entry<'_>) -> io::Result<()>;
    /// Writes what it holds, and what comes at the end.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// Which entries were asked for.
#[derive(Clone, Copy)]
struct Wanted {
    from: Option<u64>,
    to: Option<u64>,
}

/// Which entries that is: none if the last is before the first.
struct Span {
    first: u64,
    last: u64,
}

impl Span {
    /// All that was asked for, or an error: nobody looks at what is missing in a file.
    fn of(context: &Context, Wanted { from, to }: Wanted) -> Result<Span, Failure> {
        let latest = context.latest()?;
        let missing = |seq| format!("there is no entry {seq}; the latest is {latest}").into();
        let first = match from {
            Some(from) if from > latest + 1 => return Err(missing(from)),
            Some(from) => from,
            None => context.first_available()?,
        };
        match to {
            Some(to) if to > latest => Err(missing(to)),
            Some(to) if to < first && from.is_some() => {
                let message = format!("--to {to} is before --from {first}");
                Err(Failure::Said(Kind::Usage, message))
            }
            Some(to) if to < first => Err(evicted(to, first).into()),
            to => Ok(Span {
                first,
                last: to.unwrap_or(latest),
            }),
        }
    }
}

fn evicted(seq: u64, first_available: u64) -> ReadError {
    ReadError::Evicted {
        seq,
        first_available,
    }
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let target = Target::open(&args.output)?;
    args.format.check(&target)?;
    let context = open_to_read(instance, &args.context.name)?;
    let rows = target.file().try_clone();
    let rows = rows.and_then(|file| args.format.begin(file));
    let mut rows = rows.map_err(|error| target.unwritten(error))?;
    let wanted = Wanted {
        from: args.from,
        to: args.to,
    };
    let span = Span::of(&context, wanted)?;
    for_each(&context, wanted, span, |entry| {
        verify(entry)?;
        rows.push(entry).map_err(|error| target.unwritten(error))
    })?;
    rows.finish().map_err(|error| target.unwritten(error))?;
    target.keep()
}

/// Shows every entry of a span, which is taken anew where memory has been faster.
fn for_each(
    context: &Context,
    wanted: Wanted,
    mut span: Span,
    mut show: impl FnMut(&Entry<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut range = context.range(span.first);
    let mut next_seq = span.first;
    while next_seq <= span.last {
        match range.next_entry() {
            Ok(Some(entry)) => {
                show(&entry)?;
                next_seq += 1;
            }
            Ok(None) => return Err(format!("entry {next_seq} is not there any more").into()),
            // It has left memory before it was read, and nobody has named it.
            Err(ReadError::Evicted { .. }) if wanted.from.is_none() && next_seq == span.first => {
                span = Span::of(context, wanted)?;
                range = context.range(span.first);
                next_seq = span.first;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::thread::yield_now;
    use std::time::{Duration, Instant};

    use ledger_client::{NewEntry, Sizes};

    use super::{Span, Wanted, for_each};
    use crate::cli::Failure;

    /// The seqs that are shown when the first has left memory meanwhile.
    fn shown(wanted: Wanted) -> Result<Vec<u64>, Failure> {
        let mut outcome = None;
        ledger_tests::example_in_memory(|ledger| {
            let small = Sizes {
                first_len: Some(16 << 10),
                spare_len_min: Some(64 << 10),
                spare_len_max: Some(64 << 10),
                window_len: Some(64 << 10),
            };
            let context = ledger.context("log").sizes(small).open_or_create()?;
            let mut appender = context.appender()?;
            let entry = NewEntry::new("k", &[0; 1000]);
            appender.append(&entry)?;
            let span = Span::of(&context, wanted).expect("it is there");
            let patience = Instant::now() + Duration::from_secs(60);
            while context.get(1).is_ok() {
                appender.append(&entry)?;
                assert!(Instant::now() < patience, "entry 1 stays");
                yield_now();
            }
            let mut seqs = Vec::new();
            let shown = for_each(&context, wanted, span, |entry| {
                seqs.push(entry.seq());
                Ok(())
            });
            outcome = Some(shown.map(|()| seqs));
            Ok(())
        });
        outcome.expect("it ran")
    }

    #[test]
    fn a_beginning_that_nobody_named_is_chosen_anew_when_it_has_left_memory() {
        let all = |to| Wanted { from: None, to };
        // More may leave memory while it is read, which is an error.
        let seqs = ledger_tests::eventually("all is shown", || shown(all(None)).ok());
        assert!(seqs[0] > 1 && seqs.windows(2).all(|two| two[1] == two[0] + 1));
        for wanted in [
            all(Some(1)),
            Wanted {
                from: Some(1),
                to: None,
            },
        ] {
            match shown(wanted) {
                Err(Failure::Said(_, said)) => {
                    assert!(said.starts_with("entry 1 has left memory"), "{said}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
