//! `ledgerd import`: a context out of the lines that `ledgerd export --format jsonl`
//! writes: out and in and out again they are the same. Entries keep what the ledger gave
//! them, so they are not appended but become a snapshot, which is loaded.

#[cfg(any(test, fuzzing))]
pub mod round_trip;

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::thread;

use ledger_client::{Entry, LoadError, NewEntry, OpenError};
use ledger_shm::Appended;
use ledger_shm::control::{Facts, InvalidName, Sizes};
use ledger_shm::entry::{LAMPORT_RECEIVED_MAX, LIMIT_MAX, Limits};
use ledger_shm::file::{Head, SectionPlan, SnapshotWriter};
use ledger_shm::format::{RECORD_HEADER_LEN, RecordHeader};
use ledger_shm::merkle::Frontier;
use ledger_shm::object::Epoch;

use crate::cli::{Failure, InstanceArgs, OutputArgs};
use crate::commands::jsonl::{Line, Lines};
use crate::commands::snapshot::report;
use crate::commands::{ContextArg, builder, shown};
use crate::registry::now_ns;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArg,
    /// The file to read; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// Not if there is a context of that name
    #[arg(long)]
    fail_if_exists: bool,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    // Before anything is read: nobody wants to wait for that.
    InvalidName::check(args.context.name.as_bytes()).map_err(OpenError::from)?;
    let ledger = builder(instance)?.connect()?;
    let file = shown(&args.file);
    let named = |failure| match failure {
        Failure::Said(kind, said) => Failure::Said(kind, format!("{file}: {said}")),
        failure => failure,
    };
    let spooled = match args.file.as_path() {
        path if path == Path::new("-") => Spooled::read(io::stdin().lock()),
        path => {
            let unread = |error| format!("cannot read {}: {error}", path.display());
            let mut input = BufReader::new(File::open(path).map_err(unread)?);
            input.fill_buf().map_err(unread)?;
            Spooled::read(input)
        }
    };
    let spooled = spooled.map_err(named)?;
    let (reader, writer) = io::pipe()?;
    let name = args.context.name.clone();
    let loaded = thread::scope(|scope| {
        let write = || spooled.write(name.clone(), writer);
        // Whoever does not want to read it to its end says why.
        thread::Builder::new().spawn_scoped(scope, write)?;
        let mut load = ledger.load_from(reader).name(name.clone());
        if args.fail_if_exists {
            load = load.only_new();
        }
        io::Result::Ok(load.run())
    })?;
    let loaded = loaded.map_err(|error| match error {
        LoadError::NotLoaded(why) => named(why.into()),
        error => error.into(),
    })?;
    report(args.output, &loaded)
}

/// The records of lines that were read, before it is known how they are divided.
struct Spooled {
    records: File,
    plan: SectionPlan,
    limits: Limits,
}

impl Spooled {
    fn read(input: impl BufRead) -> Result<Spooled, Failure> {
        let unwritten = |error| {
            let dir = std::env::temp_dir();
            format!(
                "cannot write to a temporary file in {}: {error}; name another directory with TMPDIR",
                dir.display()
            )
        };
        let records = tempfile::tempfile().map_err(unwritten)?;
        let mut records = BufWriter::new(records);
        let mut plan = SectionPlan::new(1);
        let mut limits = Limits::default();
        let (mut next_seq, mut last_lamport) = (1, 0);
        let mut lines = Lines::of(input);
        while let Some(line) = next(&mut lines)? {
            let record = expect(&line, next_seq, last_lamport).and_then(|appended| {
                (next_seq, last_lamport) = (appended.seq + 1, appended.lamport);
                record(&line, &appended, &mut limits)
            });
            let record = record.map_err(|why| wrong(&lines, &why))?;
            plan.add(record.len());
            records.write_all(&record).map_err(unwritten)?;
        }
        let records = records
            .into_inner()
            .map_err(|error| unwritten(error.into_error()))?;
        Ok(Spooled {
            records,
            plan,
            limits,
        })
    }

    /// Writes a snapshot of a context of this name.
    fn write<W: Write>(&self, name: String, out: W) -> io::Result<W> {
        let head = Head {
            facts: Facts {
                name,
                // Of no context yet.
                epoch: Epoch([0; 16]),
                limits: self.limits,
                sizes: Sizes::default(),
                has_foreign_writers: false,
                created_at_ns: now_ns(),
            },
            before: Frontier::default(),
            base_lamport: 0,
            begun_at_ns: now_ns(),
            snapshot: None,
        };
        let mut records = &self.records;
        records.rewind()?;
        let mut records = BufReader::new(records);
        let mut writer = SnapshotWriter::begin(BufWriter::new(out), &head, &self.plan)?;
        let mut record = Vec::new();
        for _ in 0..self.plan.counts().iter().sum() {
            record.resize(RECORD_HEADER_LEN, 0);
            records.read_exact(&mut record)?;
            let header = record.first_chunk().map(RecordHeader::decode);
            let body_len = header.expect("as long as one").body_len as usize;
            record.resize(RECORD_HEADER_LEN + body_len, 0);
            records.read_exact(&mut record[RECORD_HEADER_LEN..])?;
            let entry = Entry::from_bytes(&record).map_err(io::Error::other)?;
            writer.push(&entry)?;
        }
        let out = writer.finish()?.target;
        out.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

fn next<R: BufRead>(lines: &mut Lines<R>) -> Result<Option<Line<u64>>, Failure> {
    let line = lines.next();
    let line = line.map_err(|error| format!("cannot read the next line: {error}"))?;
    let line = line.transpose();
    line.map_err(|why| wrong(lines, &why))
}

fn wrong<R: BufRead>(lines: &Lines<R>, why: &str) -> Failure {
    format!("line {}: {why}; nothing is imported", lines.number()).into()
}

fn kept(name: &str, value: Option<u64>) -> Result<u64, String> {
    value.ok_or_else(|| {
        format!("no `{name}`, and an import gives none; `append --jsonl` gives entries new ones")
    })
}

/// What the ledger has given the entry, if it can be the next one.
fn expect(line: &Line<u64>, next_seq: u64, last_lamport: u64) -> Result<Appended, String> {
    let appended = Appended {
        seq: kept("seq", line.seq)?,
        lamport: kept("lamport", line.lamport)?,
        appended_at_ns: kept("appended_at_ns", line.appended_at_ns)?,
    };
    if appended.seq != next_seq {
        let remedy = match next_seq {
            1 => "; an import begins with the first entry, take a snapshot of what has lost it",
            _ => "",
        };
        let seq = appended.seq;
        return Err(format!("`seq` is {seq}, expected {next_seq}{remedy}"));
    }
    // Each of the entries so far may have received the largest there is, at most.
    let (min, max) = (last_lamport + 1, LAMPORT_RECEIVED_MAX - 1 + next_seq);
    if !(min..=max).contains(&appended.lamport) {
        let lamport = appended.lamport;
        return Err(format!("`lamport` is {lamport}, expected {min} to {max}"));
    }
    if line.received_lamport != 0 {
        let received = line.received_lamport;
        return Err(format!(
            "`received_lamport` is {received}, expected none; it is for `append --jsonl`"
        ));
    }
    Ok(appended)
}

/// The entry's record. The context allows for it, whatever was allowed where it is from.
fn record(line: &Line<u64>, appended: &Appended, limits: &mut Limits) -> Result<Vec<u8>, String> {
    const ALL: Limits = Limits {
        payload_len_max: LIMIT_MAX,
        metadata_len_max: LIMIT_MAX,
    };
    let payload = line.payload()?;
    let metadata = line.metadata();
    let entry = NewEntry::new(&line.key, &payload).metadata(&metadata);
    let record = entry.record(appended, &ALL);
    let record = record.map_err(|refused| refused.to_string())?;
    limits.payload_len_max = limits.payload_len_max.max(payload.len());
    limits.metadata_len_max = limits.metadata_len_max.max(entry.metadata_len());
    Ok(record)
}

#[cfg(test)]
mod tests {
    use ledger_client::NewEntry;

    use super::round_trip::{lines_of, snapshot};
    use crate::commands::print;

    #[test]
    fn lines_come_back_byte_for_byte() {
        let mut lines = String::new();
        ledger_tests::example(|ledger| {
            let context = ledger.context("loan-7").open_or_create()?;
            let mut appender = context.appender()?;
            let twice = [("a", "1"), ("", "\n\"\0"), ("a", "a value of some length")];
            appender.append(&NewEntry::new("facts", "income: 4200").metadata(&twice))?;
            appender.append(&NewEntry::new("k\0\"\n", &[0, 159, 146, 150]))?;
            appender.append(&NewEntry::new("empty", "").received_lamport(1 << 40))?;
            appender.append(&NewEntry::new("long", &"\u{1f600}\u{7f}".repeat(1000)))?;
            let mut range = context.range(1);
            while let Some(entry) = range.next_entry()? {
                lines += &serde_json::to_string(&print::Line::of(&entry))?;
                lines.push('\n');
            }
            Ok(())
        });
        for count in 0..=4 {
            let taken: usize = lines.split_inclusive('\n').take(count).map(str::len).sum();
            let snapshot = snapshot(&lines.as_bytes()[..taken]).expect("lines");
            assert_eq!(lines_of(&snapshot), lines[..taken]);
        }
    }

    #[test]
    fn what_cannot_be_the_next_entry_is_named_with_its_line() {
        let line = |seq: u64, lamport: u64| {
            format!("{{\"seq\":{seq},\"appended_at_ns\":5,\"lamport\":{lamport},\"key\":\"k\"}}\n")
        };
        for (lines, said) in [
            (
                line(0, 1),
                "line 1: `seq` is 0, expected 1; an import begins with the first entry",
            ),
            (
                line(1, 1) + "\n" + &line(3, 2),
                "line 3: `seq` is 3, expected 2",
            ),
            (line(4, 9), "line 1: `seq` is 4, expected 1"),
            (line(1, 9) + &line(1, 10), "line 2: `seq` is 1, expected 2"),
            (
                line(1, 9) + &line(2, 9),
                "line 2: `lamport` is 9, expected 10 to 9223372036854775809",
            ),
            (line(1, 0), "line 1: `lamport` is 0, expected 1 to"),
            (
                line(1, (1 << 63) + 1),
                "`lamport` is 9223372036854775809, expected 1 to 9223372036854775808",
            ),
            (
                "{\"key\":\"k\"}".to_owned(),
                "line 1: no `seq`, and an import",
            ),
            (
                line(1, 1).replace("\"lamport\"", "\"received_lamport\":3,\"lamport\""),
                "line 1: `received_lamport` is 3, expected none",
            ),
            (
                line(1, 1).replace("lamport", "lampart"),
                "line 1: unknown field `lampart`",
            ),
            (
                line(1, 1).replace("\"k\"", "\"\""),
                "line 1: the key is empty",
            ),
            (line(1, 1) + "{", "line 2: EOF"),
            (
                r#"["k", "p", null, [], 0, 1, 5, 7]"#.to_owned(),
                "line 1: a line is an object and no array",
            ),
        ] {
            match snapshot(lines.as_bytes()) {
                Err(found) => assert!(found.contains(said), "{found}"),
                Ok(_) => panic!("{said}"),
            }
        }
    }
}
