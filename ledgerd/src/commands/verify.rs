//! `ledgerd verify`: whether entries are as they were appended, in files and in memory.

mod context;
mod found;

use std::fs::File;
use std::path::Path;

use ledger_shm::file::{Damage, FileName, Scan};
use ledger_shm::object::MapError;

use crate::cli::{Failure, InstanceArgs, Kind, Output, OutputArgs};
use crate::commands::print::Printer;
use crate::commands::{connect_to_read, snapshot};

use self::context::context;
pub(super) use self::found::{Found, Verdict};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A context's name, or the path of a file, with a `/` in it: of a snapshot or of an archive
    #[arg(required_unless_present = "all")]
    what: Option<String>,
    /// Every context of the instance
    #[arg(long, conflicts_with = "what")]
    all: bool,
    /// Believe what finished files say of themselves, by checksums and trees, and read none of
    /// the entries in them
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let mut told = Told {
        printer: Printer::new(args.output.output()),
        count: 0,
        bad_count: 0,
    };
    match &args.what {
        Some(path) if path.contains('/') && Path::new(path).exists() => {
            told.push(&file(Path::new(path), args.quick)?)?;
        }
        Some(name) => {
            let ledger = connect_to_read(instance)?;
            let found = ledger.contexts()?.readable;
            let of_name = found.into_iter().rfind(|found| found.name() == name);
            let found = of_name.ok_or_else(|| {
                let instance = ledger.instance().name();
                let file = match name.contains('/') {
                    true => ", and no file of that path".to_owned(),
                    false => format!("; a file's path has a `/` in it, such as ./{name}"),
                };
                format!("there is no context {name:?} in instance {instance:?}{file}")
            })?;
            told.push(&context(&ledger, &found, args.quick)?)?;
        }
        None => {
            // One that cannot be read keeps nobody from the others.
            let unread = |what: String, why: String| {
                let mut unread = Found::new(args.quick);
                unread.bad = Some((None, format!("it cannot be read: {why}")));
                unread.verdict(what)
            };
            let ledger = connect_to_read(instance)?;
            let contexts = ledger.contexts()?;
            for found in contexts.readable {
                let verdict = match context(&ledger, &found, args.quick) {
                    Err(Failure::Said(_, why)) => unread(found.name().to_owned(), why),
                    verdict => verdict?,
                };
                told.push(&verdict)?;
            }
            for (epoch, why) in contexts.unreadable {
                told.push(&unread(epoch.to_string(), why.to_string()))?;
            }
        }
    }
    told.finish()
}

/// Verdicts, each printed as soon as it is known.
struct Told {
    printer: Printer,
    count: u64,
    bad_count: u64,
}

impl Told {
    fn push(&mut self, verdict: &Verdict) -> Result<(), Failure> {
        self.count += 1;
        self.bad_count += u64::from(!verdict.is_sound);
        match self.printer.output() {
            Output::Short => self.printer.line(&verdict.line())?,
            _ => self.printer.json(verdict)?,
        }
        Ok(self.printer.flush()?)
    }

    fn finish(self) -> Result<(), Failure> {
        self.printer.finish()?;
        match self.bad_count {
            0 => Ok(()),
            bad => Err(format!("{bad} of {} are not as they were written", self.count).into()),
        }
    }
}

fn file(path: &Path, is_quick: bool) -> Result<Verdict, Failure> {
    let unread = |error: MapError| {
        let message = format!("cannot read {}: {error}", path.display());
        Failure::Said(Kind::Failed, message)
    };
    let file = File::open(path).map_err(|error| unread(error.into()))?;
    if snapshot::is_one(&file) {
        if is_quick {
            let why = "a snapshot is verified whole, without --quick; what it says of itself \
                       `ledgerd snapshot info` prints";
            return Err(Failure::Said(Kind::Usage, why.to_owned()));
        }
        return snapshot::verdict(path);
    }
    let mut found = Found::new(is_quick);
    let name = path.file_name().and_then(|name| name.to_str());
    if let Some(FileName::Open(_) | FileName::Failed(_)) = name.and_then(FileName::parse) {
        found.take(&file, &Scan::of(&file).map_err(unread)?)?;
        return Ok(found.verdict(path.display().to_string()));
    }
    match found.check(&file) {
        Ok((_, trailer)) => {
            found.entries = trailer.count;
            found.tree = Some((trailer.last_seq(), trailer.root));
        }
        Err(Damage::Entry { seq, damage }) => {
            found.bad = Some((Some(seq), format!("entry {seq}: {damage}")));
        }
        Err(Damage::File(error @ MapError::Io(_))) => return Err(unread(error)),
        Err(damage) => found.bad = Some((None, damage.to_string())),
    }
    Ok(found.verdict(path.display().to_string()))
}
