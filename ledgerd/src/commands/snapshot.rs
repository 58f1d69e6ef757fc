//! `ledgerd snapshot`: a context as one file.

mod elsewhere;
mod input;
mod progress;

use std::fs::File;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use ledger_client::{LoadError, Loaded, Progress, Snapshot, SnapshotTo};
use ledger_shm::file::{Damage, Head, SnapshotError, SnapshotReader};
use ledger_shm::merkle::Hash;
use serde::Serialize;

use crate::cli::{Failure, InstanceArgs, Kind, Output, OutputArgs};
use crate::commands::print::{Printer, hex, time};
use crate::commands::target::Target;
use crate::commands::verify::{Found, Verdict};
use crate::commands::{ContextArg, builder, open_to_read, shown};

use self::input::Input;
use self::progress::Bar;

/// How hard zstd tries: its own default.
const ZSTD_LEVEL: i32 = 3;

#[derive(clap::Subcommand, Debug)]
pub(crate) enum Command {
    /// Write all entries of a context, up to one of them, while others append
    Export(Export),
    /// Say what a snapshot is of
    Info(Look),
    /// Verify a snapshot to its last byte
    Verify(Look),
    /// Make a context of a snapshot, or have one go on with it
    Load(Load),
}

impl Command {
    pub(crate) fn output(&self) -> Option<OutputArgs> {
        match self {
            Command::Export(_) => None,
            Command::Info(look) | Command::Verify(look) => Some(look.output),
            Command::Load(load) => Some(load.output),
        }
    }
}

#[derive(clap::Args, Debug)]
pub(crate) struct Export {
    #[command(flatten)]
    context: ContextArg,
    /// The file to write, whole or not at all; `-` is standard output
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// End with this seq; 0: without entries [default: the latest there is]
    #[arg(long, value_name = "SEQ")]
    to: Option<u64>,
    /// Compress it
    #[arg(long)]
    zstd: bool,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Look {
    /// The snapshot, compressed or not; `-` is standard input
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(clap::Args, Debug)]
pub(crate) struct Load {
    /// The snapshot, compressed or not; `-` is standard input
    file: PathBuf,
    /// What the context is called [default: what it was called]
    #[arg(long, value_name = "NAME")]
    r#as: Option<String>,
    /// Not if there is a context of that name
    #[arg(long)]
    fail_if_exists: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, command: Command) -> Result<(), Failure> {
    match command {
        Command::Export(args) => export(instance, args),
        Command::Info(args) => info(&args),
        Command::Verify(args) => verify(&args),
        Command::Load(args) => load(instance, args),
    }
}

/// What a snapshot is of, as `docs/JSON.md` has it.
#[derive(Serialize)]
struct Described {
    context: String,
    epoch: String,
    first_seq: u64,
    last_seq: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_entries: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    len: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<String>,
}

impl Described {
    fn print(&self, output: Output) -> Result<(), Failure> {
        let mut printer = Printer::new(output.of_one());
        if output != Output::Short {
            printer.json(self)?;
            return Ok(printer.finish()?);
        }
        let entries = match self.last_seq + 1 - self.first_seq {
            0 => "0".to_owned(),
            count => format!("{count}, {} to {}", self.first_seq, self.last_seq),
        };
        let mut rows = vec![
            ("context", self.context.escape_debug().to_string()),
            ("epoch", self.epoch.clone()),
            ("entries", entries),
        ];
        let number = |value: u64| value.to_string();
        rows.extend(self.new_entries.map(|new| ("new entries", number(new))));
        rows.extend(self.created_at_ns.map(|at| ("created", time(at))));
        rows.extend(self.len.map(|len| ("bytes", number(len))));
        rows.extend(self.root.clone().map(|root| ("root", root)));
        for (name, value) in rows {
            printer.line(&format!("{name:<12} {value}"))?;
        }
        Ok(printer.finish()?)
    }
}

fn export(instance: &InstanceArgs, args: Export) -> Result<(), Failure> {
    let target = Target::open(&args.output)?;
    if target.file().is_terminal() {
        let message = "a snapshot is nothing that a terminal shows: name a file with --output, or \
                       pipe it into a program";
        return Err(Failure::Said(Kind::Usage, message.to_owned()));
    }
    if let Some(ledger) = instance.remote(None)? {
        let context = ledger.context(&args.context.name).open()?;
        return elsewhere::export(&context, &args, target);
    }
    let context = open_to_read(instance, &args.context.name)?;
    let write = |error: ledger_client::SnapshotError| match error {
        ledger_client::SnapshotError::Write(error) => target.unwritten(error),
        error => error.into(),
    };
    let file = target.file().try_clone()?;
    let bar = Bar::new();
    let on_progress = |progress: Progress| bar.show(progress.done_len, progress.total_len);
    let up_to = args.to;
    let snapshot = if args.zstd {
        let compressed = |error| write(ledger_client::SnapshotError::Write(error));
        let mut encoder = zstd::Encoder::new(file, ZSTD_LEVEL).map_err(compressed)?;
        let mut snapshot = ended(context.snapshot_to(&mut encoder), up_to);
        // Whoever decompresses it knows then how much that will be.
        let len = snapshot.total_len().map_err(write)?;
        let pledged = snapshot.writer().set_pledged_src_size(Some(len));
        pledged.map_err(compressed)?;
        let snapshot = snapshot.on_progress(on_progress).run().map_err(write)?;
        encoder.finish().map_err(compressed)?;
        snapshot
    } else {
        let snapshot = ended(context.snapshot_to(file), up_to);
        snapshot.on_progress(on_progress).run().map_err(write)?
    };
    bar.finish();
    written(target, snapshot)
}

/// Has what was written kept, and says what it is.
fn written(target: Target, snapshot: Snapshot) -> Result<(), Failure> {
    let is_file = target.is_kept();
    target.keep()?;
    if !is_file {
        return Ok(());
    }
    let described = Described {
        context: snapshot.name,
        epoch: snapshot.epoch.to_string(),
        first_seq: snapshot.first_seq,
        last_seq: snapshot.last_seq,
        created_at_ns: None,
        new_entries: None,
        len: Some(snapshot.len),
        root: Some(hex(&snapshot.root)),
    };
    described.print(OutputArgs::default().output())
}

fn ended<W: std::io::Write>(snapshot: SnapshotTo<'_, W>, up_to: Option<u64>) -> SnapshotTo<'_, W> {
    match up_to {
        Some(seq) => snapshot.up_to(seq),
        None => snapshot,
    }
}

fn info(args: &Look) -> Result<(), Failure> {
    let input = Input::open(&args.file)?;
    let end = input.end();
    let mut reader = SnapshotReader::new(input);
    let head = reader
        .next_section()
        .map_err(|error| named(&args.file, &error))?;
    let head = head.expect("a snapshot has a file");
    let span = head.snapshot.expect("a snapshot's");
    let is_whole = |end: &Result<(u64, Hash), _>| {
        let ends_with = end.as_ref().map(|(last_seq, _)| *last_seq);
        ends_with.is_ok_and(|last_seq| last_seq == span.last_seq)
    };
    let is_cut = !end.as_ref().is_none_or(is_whole);
    let root = end.and_then(Result::ok).filter(|_| !is_cut);
    let described = Described {
        context: head.facts.name.clone(),
        epoch: head.facts.epoch.to_string(),
        first_seq: span.first_seq,
        last_seq: span.last_seq,
        created_at_ns: Some(head.begun_at_ns),
        new_entries: None,
        len: None,
        root: root.map(|(_, root)| hex(&root)),
    };
    described.print(args.output.output())?;
    match is_cut {
        false => Ok(()),
        true => Err(format!(
            "{} does not end as a snapshot of these entries does: it is cut short, or damaged; \
             `ledgerd snapshot verify` says where",
            shown(&args.file)
        )
        .into()),
    }
}

fn verify(args: &Look) -> Result<(), Failure> {
    let verdict = verdict(&args.file)?;
    let output = args.output.output();
    let mut printer = Printer::new(output.of_one());
    match output {
        Output::Short => printer.line(&verdict.line())?,
        _ => printer.json(&verdict)?,
    }
    printer.finish()?;
    match verdict.is_sound {
        true => Ok(()),
        false => Err(format!("{} is not as it was written", verdict.what).into()),
    }
}

/// Whether a file begins as a snapshot does, compressed or not.
pub(super) fn is_one(file: &File) -> bool {
    Input::is_compressed(file) || Head::read(file).is_ok_and(|head| head.snapshot.is_some())
}

/// Reads a snapshot to its last byte.
pub(super) fn verdict(path: &Path) -> Result<Verdict, Failure> {
    let input = Input::open(path)?;
    let bar = Bar::new();
    let total_len = input.total_len();
    let mut reader = SnapshotReader::new(input);
    let mut found = Found::default();
    let (mut done_len, mut last_seq) = (0, 0);
    let mut read_all = || -> Result<(), SnapshotError> {
        while let Some(head) = reader.next_section()? {
            last_seq = head.snapshot.map_or(0, |span| span.last_seq);
            reader.read_section(|_, padded| {
                found.entries += 1;
                done_len += padded.len() as u64;
                if found.entries % 1024 == 0 {
                    bar.show(done_len, total_len);
                }
                Ok(())
            })?;
        }
        Ok(())
    };
    let outcome = read_all();
    bar.finish();
    match outcome {
        Ok(()) => found.tree = reader.tree().map(|tree| (tree.count(), tree.root())),
        Err(damage) => {
            let first_bad = match &damage {
                SnapshotError::Damaged(Damage::Entry { seq, .. }) => Some(*seq),
                SnapshotError::Short { last_seq: last } => Some(last + 1),
                _ => None,
            };
            // What is behind its last entry is none.
            let first_bad = first_bad.filter(|seq| *seq <= last_seq);
            found.bad = Some((first_bad, damage.to_string()));
        }
    }
    Ok(found.verdict(path.display().to_string()))
}

fn named(file: &Path, error: &SnapshotError) -> Failure {
    format!("{}: {error}", shown(file)).into()
}

fn load(instance: &InstanceArgs, args: Load) -> Result<(), Failure> {
    let input = Input::open(&args.file)?;
    if let Some(ledger) = instance.remote(None)? {
        return elsewhere::load(&ledger, args, input);
    }
    let total_len = input.total_len();
    let ledger = builder(instance)?.connect()?;
    let bar = Bar::new();
    let mut load = ledger
        .load_from(input)
        .on_progress(|progress| bar.show(progress.done_len, total_len));
    if let Some(name) = args.r#as {
        load = load.name(name);
    }
    if args.fail_if_exists {
        load = load.only_new();
    }
    let loaded = load.run();
    bar.finish();
    let loaded = loaded.map_err(|error| match error {
        LoadError::Snapshot(error) => named(&args.file, &error),
        LoadError::NotLoaded(why) => format!("{}: {why}", shown(&args.file)).into(),
        error => error.into(),
    })?;
    report(args.output, &loaded)
}

/// Says what was loaded.
pub(super) fn report(output: OutputArgs, loaded: &Loaded) -> Result<(), Failure> {
    let described = Described {
        context: loaded.name.clone(),
        epoch: loaded.epoch.to_string(),
        first_seq: loaded.first_seq,
        last_seq: loaded.last_seq,
        created_at_ns: None,
        new_entries: Some(loaded.new_count),
        len: None,
        root: Some(hex(&loaded.root)),
    };
    described.print(output.output())
}
