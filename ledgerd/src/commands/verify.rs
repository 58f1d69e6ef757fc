//! `ledgerd verify`: whether entries are as they were appended, in files and in memory.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use ledger_client::{Context, ContextSummary, Ledger, OpenError, ProveError, ReadError, State};
use ledger_shm::file::{Damage, FileName, Head, Scan, Trailer, verify, verify_ends};
use ledger_shm::merkle::Hash;
use ledger_shm::object::MapError;
use serde::Serialize;

use crate::archive::open_to_read;
use crate::cli::{Failure, InstanceArgs, Kind, Output, OutputArgs};
use crate::commands::print::{Printer, hex};
use crate::commands::{connect_to_read, snapshot};

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

/// As `docs/JSON.md` has it.
#[derive(Serialize)]
pub(super) struct Verdict {
    pub(super) what: String,
    pub(super) is_sound: bool,
    is_quick: bool,
    entries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    torn: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_bad: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
}

impl Verdict {
    /// For eyes.
    pub(super) fn line(&self) -> String {
        let what = self.what.escape_debug();
        if let Some(damage) = &self.damage {
            return format!("BAD    {what}  {damage}");
        }
        let mut line = format!("sound  {what}  {} entries", self.entries);
        if let (Some(seq), Some(root)) = (self.last_seq, &self.root) {
            line += &format!(", the last is {seq}, root {root}");
        }
        if let Some(torn) = self.torn {
            line += &format!("; {torn} bytes at the end of its last file are torn");
        }
        if self.is_quick {
            line += "; those in files were not read";
        }
        line
    }
}

/// What was found so far.
#[derive(Default)]
pub(super) struct Found {
    /// Entries in finished files are not read.
    is_quick: bool,
    pub(super) entries: u64,
    /// The last entry, and the root of the tree over all up to that one.
    pub(super) tree: Option<(u64, Hash)>,
    pub(super) bad: Option<(Option<u64>, String)>,
    /// Bytes behind what is valid of an unfinished file.
    torn: Option<u64>,
}

impl Found {
    fn new(is_quick: bool) -> Found {
        Found {
            is_quick,
            ..Found::default()
        }
    }

    /// What an unfinished file holds, as far as it is valid.
    fn take(&mut self, file: &File, scan: &Scan) -> io::Result<()> {
        self.entries = scan.count();
        self.tree = Some((scan.last_seq(), scan.tree().root()));
        let Some(damage) = &scan.damage else {
            return Ok(());
        };
        match scan.goes_on_with(file)? {
            Some(_) => {
                let seq = scan.last_seq() + 1;
                self.bad = Some((Some(seq), format!("entry {seq}: {damage}")));
            }
            None => self.torn = Some(file.metadata()?.len() - scan.valid_len() as u64),
        }
        Ok(())
    }

    fn check(&self, file: &File) -> Result<(Head, Trailer), Damage> {
        match self.is_quick {
            true => verify_ends(file),
            false => verify(file),
        }
    }

    pub(super) fn verdict(self, what: String) -> Verdict {
        let (first_bad, damage) = self.bad.unzip();
        let (last_seq, root) = self.tree.filter(|_| damage.is_none()).unzip();
        Verdict {
            what,
            is_sound: damage.is_none(),
            is_quick: self.is_quick,
            entries: self.entries,
            last_seq,
            root: root.map(|root| hex(&root)),
            torn: self.torn,
            first_bad: first_bad.flatten(),
            damage,
        }
    }
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let mut verdicts = Vec::new();
    match &args.what {
        Some(path) if path.contains('/') && Path::new(path).exists() => {
            verdicts.push(file(Path::new(path), args.quick)?)
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
            verdicts.push(context(&ledger, &found, args.quick)?);
        }
        None => {
            let ledger = connect_to_read(instance)?;
            for found in ledger.contexts()?.readable {
                verdicts.push(context(&ledger, &found, args.quick)?);
            }
        }
    }
    let output = args.output.output();
    let mut printer = Printer::new(output);
    for verdict in &verdicts {
        match output {
            Output::Short => printer.line(&verdict.line())?,
            _ => printer.json(verdict)?,
        }
    }
    printer.finish()?;
    let bad = verdicts.iter().filter(|verdict| !verdict.is_sound).count();
    match bad {
        0 => Ok(()),
        bad => Err(format!("{bad} of {} are not as they were written", verdicts.len()).into()),
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
        Err(damage) => found.bad = Some((None, damage.to_string())),
    }
    Ok(found.verdict(path.display().to_string()))
}

fn context(ledger: &Ledger, summary: &ContextSummary, is_quick: bool) -> Result<Verdict, Failure> {
    let mut found = Found::new(is_quick);
    let mut next_seq = 1;
    if let Some(dir) = summary.files_dir() {
        next_seq = files(dir, &mut found)?;
    }
    let is_in_memory = !matches!(summary.state(), Ok(State::Archived));
    if let Some(dir) = summary.files_dir().filter(|_| found.bad.is_none()) {
        unfinished(dir, next_seq, is_in_memory, &mut found)?;
    }
    if found.bad.is_none() && is_in_memory {
        match summary.open(ledger) {
            Ok(context) => memory(&context, summary.files_dir(), next_seq, &mut found),
            // It has left memory meanwhile, and all of it is in files.
            Err(OpenError::Map(error)) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(found.verdict(summary.name().to_owned()))
}

/// First seqs of the finished files that there are now, in order.
fn first_seqs(dir: &Path) -> std::io::Result<Vec<u64>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        if let Some(FileName::Finished(seq)) = entry?.file_name().to_str().and_then(FileName::parse)
        {
            names.push(seq);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Whether what is left begins behind this entry: what is older was not to be kept.
fn begins_behind(dir: &Path, seq: u64) -> std::io::Result<bool> {
    let oldest = first_seqs(dir)?.first().copied();
    Ok(oldest.is_some_and(|oldest| oldest > seq))
}

/// Verifies finished files, and that each begins where the one before ended. Returns
/// the seq that follows.
fn files(dir: &Path, found: &mut Found) -> Result<u64, Failure> {
    let mut next_seq = None;
    let mut before: Option<(String, Trailer)> = None;
    for first_seq in first_seqs(dir)? {
        let path: PathBuf = dir.join(FileName::Finished(first_seq).to_string());
        let bad = |seq, damage: String| Some((seq, format!("{}: {damage}", path.display())));
        let file = match open_to_read(dir, FileName::Finished(first_seq)) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // Or the context was dropped.
                if begins_behind(dir, first_seq)? || !dir.exists() {
                    (next_seq, before) = (None, None);
                    continue;
                }
                found.bad = bad(Some(first_seq), format!("entry {first_seq} is in no file"));
                break;
            }
            Err(error) => {
                found.bad = bad(Some(first_seq), error.to_string());
                break;
            }
            Ok(file) => file,
        };
        match found.check(&file) {
            Ok((head, trailer)) => {
                let expected = next_seq.unwrap_or(first_seq);
                if trailer.first_seq != first_seq || first_seq != expected {
                    found.bad = bad(Some(expected), format!("entry {expected} is in no file"));
                    break;
                }
                let follows = |(name, before): &(String, Trailer)| {
                    *name == head.facts.name
                        && before.last_lamport == head.base_lamport
                        && before.root == head.before.root()
                };
                if !before.as_ref().is_none_or(follows) {
                    let what = "it does not follow the file before".to_owned();
                    found.bad = bad(Some(first_seq), what);
                    break;
                }
                before = Some((head.facts.name, trailer));
                found.entries += trailer.count;
                found.tree = Some((trailer.last_seq(), trailer.root));
                next_seq = Some(first_seq + trailer.count);
            }
            Err(Damage::Entry { seq, damage }) => {
                found.bad = bad(Some(seq), format!("entry {seq}: {damage}"));
                break;
            }
            Err(damage) => {
                found.bad = bad(Some(first_seq), damage.to_string());
                break;
            }
        }
    }
    Ok(next_seq.unwrap_or(1))
}

/// Verifies the file that is not finished. Where there is memory it may be behind, and
/// only what is damaged in it is of interest.
fn unfinished(
    dir: &Path,
    first_seq: u64,
    is_in_memory: bool,
    found: &mut Found,
) -> Result<(), Failure> {
    let mut best: Option<(PathBuf, File, Scan)> = None;
    for name in [FileName::Open(first_seq), FileName::Failed(first_seq)] {
        let path = dir.join(name.to_string());
        let file = match open_to_read(dir, name) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            file => file?,
        };
        let scan = match Scan::of(&file) {
            // It has only just been begun.
            Err(MapError::Unfinished) => continue,
            Err(error) => {
                found.bad = Some((Some(first_seq), format!("{}: {error}", path.display())));
                return Ok(());
            }
            Ok(scan) => scan,
        };
        let reaches = |(_, _, best): &(_, _, Scan)| best.last_seq() >= scan.last_seq();
        if !best.as_ref().is_some_and(reaches) {
            best = Some((path, file, scan));
        }
    }
    let Some((path, file, scan)) = best else {
        return Ok(());
    };
    let mut here = Found::new(found.is_quick);
    here.take(&file, &scan)?;
    if let Some((seq, damage)) = here.bad {
        found.bad = Some((seq, format!("{}: {damage}", path.display())));
    } else if !is_in_memory {
        found.entries += here.entries;
        (found.tree, found.torn) = (here.tree, here.torn);
    }
    Ok(())
}

/// Verifies what is in memory from a seq on, or from the oldest there is.
fn memory(context: &Context, dir: Option<&Path>, next_seq: u64, found: &mut Found) {
    // What is kept in memory only and has left it is not there to be verified.
    let has_gone = |seq| dir.is_none_or(|dir| begins_behind(dir, seq).unwrap_or(false));
    let mut seq = next_seq;
    let mut range = context.range(seq);
    loop {
        match range.next_entry() {
            Ok(None) => {
                match context.root(seq - 1) {
                    Ok(root) => found.tree = Some((seq - 1, root)),
                    // It has none where the beginning is gone and in no file.
                    Err(ProveError::Beginning { .. } | ProveError::Read(ReadError::Closed)) => {
                        found.tree = None;
                    }
                    Err(damage) => found.bad = Some((None, damage.to_string())),
                }
                return;
            }
            Ok(Some(entry)) => {
                seq = entry.seq();
                if let Err(damage) = entry.verify() {
                    found.bad = Some((Some(seq), format!("entry {seq}: {damage}")));
                    return;
                }
                found.entries += 1;
                seq += 1;
            }
            // It has left memory meanwhile.
            Err(ReadError::Closed) => return,
            Err(ReadError::Evicted {
                first_available, ..
            }) if seq < first_available && has_gone(seq) => {
                seq = first_available;
                range = context.range(seq);
            }
            Err(damage) => {
                found.bad = Some((Some(seq), format!("entry {seq}: {damage}")));
                return;
            }
        }
    }
}
