//! `ledgerd prove` and `ledgerd check-proof`: what is in a log, shown to somebody who has
//! it not. `docs/PROOFS.md` has the format.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use ledger_client::{Appended, Consistency, Entry, Inclusion, NewEntry};
use ledger_shm::entry::{LIMIT_MAX, Limits};
use ledger_shm::merkle::Hash;
use serde::{Deserialize, Serialize};

use crate::cli::{Failure, InstanceArgs, Kind};
use crate::cli::{Output, OutputArgs};
use crate::commands::print::{self, Printer, hex, verify};
use crate::commands::{ContextArg, get, jsonl, open_to_read, shown};

/// Bytes of a proof, at most: that of the largest entry.
const PROOF_LEN_MAX: u64 = 8 * LIMIT_MAX as u64;

#[derive(clap::Args, Debug)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["seq", "consistency"]))]
pub(crate) struct Args {
    #[command(flatten)]
    context: ContextArg,
    /// Prove that this entry is in the context
    seq: Option<u64>,
    /// The context as it was when it ended with this seq [default: the latest]
    #[arg(long, value_name = "SEQ", conflicts_with = "consistency")]
    to: Option<u64>,
    /// Prove that what ended with NEW begins with what ended with OLD
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"])]
    consistency: Option<Vec<u64>>,
}

/// As `docs/PROOFS.md` has it.
#[derive(Serialize, Deserialize)]
#[serde(tag = "proof", rename_all = "snake_case", deny_unknown_fields)]
enum Proof<E> {
    Inclusion {
        tree: Tree,
        leaf_index: u64,
        tree_size: u64,
        root: String,
        path: Vec<String>,
        entry: E,
    },
    Consistency {
        tree: Tree,
        old_size: u64,
        new_size: u64,
        old_root: String,
        new_root: String,
        path: Vec<String>,
    },
}

/// Which tree is meant.
#[derive(Serialize, Deserialize)]
enum Tree {
    #[serde(rename = "rfc6962-sha256")]
    Rfc6962Sha256,
}

pub(crate) fn run(instance: &InstanceArgs, args: &Args) -> Result<(), Failure> {
    if let Some([old, new]) = args.consistency.as_deref()
        && old > new
    {
        let message =
            format!("--consistency {old} {new}: the older end comes first, as {new} {old}");
        return Err(Failure::Said(Kind::Usage, message));
    }
    let context = open_to_read(instance, &args.context.name)?;
    let mut printer = Printer::new(Output::Jsonl);
    match (args.seq, args.consistency.as_deref()) {
        (_, Some([old, new])) => {
            let proof = context.prove_consistency(*old, *new)?;
            printer.json(&Proof::<print::Line<'_>>::Consistency {
                tree: Tree::Rfc6962Sha256,
                old_size: proof.old_seq,
                new_size: proof.new_seq,
                old_root: hex(&proof.old_root),
                new_root: hex(&proof.new_root),
                path: path(&proof.path),
            })?;
        }
        (seq, _) => {
            let seq = seq.unwrap_or_default();
            let last_seq = args.to.map_or_else(|| context.latest(), Ok)?;
            let proof = context.prove(seq, last_seq)?;
            let entry = get(&context, seq)?;
            let entry = entry.ok_or_else(|| format!("entry {seq} is not there any more"))?;
            verify(&entry)?;
            printer.json(&Proof::Inclusion {
                tree: Tree::Rfc6962Sha256,
                leaf_index: proof.seq - 1,
                tree_size: proof.last_seq,
                root: hex(&proof.root),
                path: path(&proof.path),
                entry: print::Line::of(&entry),
            })?;
        }
    }
    Ok(printer.finish()?)
}

fn path(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(|hash| hex(hash)).collect()
}

#[derive(clap::Args, Debug)]
pub(crate) struct CheckArgs {
    /// The proof; `-` is standard input
    #[arg(default_value = "-")]
    file: PathBuf,
    /// The root that you have kept: of the log that the entry is in, or of the one that has
    /// only grown. Without it a proof only proves something about the root that it says itself
    #[arg(long, value_name = "HEX", value_parser = root)]
    root: Option<Hash>,
    /// How many entries the log had that this is the root of
    #[arg(long, value_name = "COUNT", requires = "root")]
    size: Option<u64>,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

fn root(digits: &str) -> Result<Hash, String> {
    let bytes = jsonl::bytes(digits)?;
    let len = bytes.len();
    bytes
        .try_into()
        .map_err(|_| format!("a root is 64 digits, these are {}", 2 * len))
}

/// As `docs/JSON.md` has it.
#[derive(Serialize)]
struct Checked {
    is_valid: bool,
    /// What is proved.
    says: String,
    size: u64,
    root: String,
    is_root_given: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_root: Option<String>,
}

impl Checked {
    /// For eyes.
    fn line(&self) -> String {
        let Checked { says, root, .. } = self;
        let mut line = match self.is_valid {
            true => format!("valid  {says}, root {root}"),
            false => format!("INVALID  it does not show that {says}, root {root}"),
        };
        if let Some(new_root) = &self.new_root {
            line += &format!("; root {new_root} now");
        }
        if !self.is_root_given {
            line += "; whatever that is worth: no --root is given";
        }
        line
    }
}

pub(crate) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let text = read(&args.file)?;
    let wrong = |why: String| format!("{} is no proof: {why}", shown(&args.file));
    let proof: Proof<jsonl::Line<u64>> =
        serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    let mut checked = check_one(proof).map_err(wrong)?;
    let is_same = |trusted: &Hash| hex(trusted) == checked.root;
    let why = if !checked.is_valid {
        Some("the proof does not hold".to_owned())
    } else if !args.root.as_ref().is_none_or(is_same) {
        Some("the proof is about another root than the one given".to_owned())
    } else if let Some(size) = args.size.filter(|size| *size != checked.size) {
        let of = checked.size;
        Some(format!(
            "the proof is about a log of {of}, not one of {size}"
        ))
    } else {
        None
    };
    checked.is_valid = why.is_none();
    checked.is_root_given = args.root.is_some();
    let output = args.output.output();
    let mut printer = Printer::new(output.of_one());
    match output {
        Output::Short => printer.line(&checked.line())?,
        _ => printer.json(&checked)?,
    }
    printer.finish()?;
    why.map_or(Ok(()), |why| Err(why.into()))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let outcome = match path == Path::new("-") {
        true => io::stdin()
            .lock()
            .take(PROOF_LEN_MAX)
            .read_to_end(&mut text),
        false => File::open(path).and_then(|file| file.take(PROOF_LEN_MAX).read_to_end(&mut text)),
    };
    outcome.map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        Failure::Said(Kind::Failed, message)
    })?;
    Ok(text)
}

/// Whether a proof holds, for the root that it says itself.
fn check_one(proof: Proof<jsonl::Line<u64>>) -> Result<Checked, String> {
    let hashes = |path: Vec<String>| -> Result<Vec<Hash>, String> {
        path.iter().map(|hash| root(hash)).collect()
    };
    match proof {
        Proof::Inclusion {
            leaf_index,
            tree_size,
            root: of,
            path,
            entry,
            ..
        } => {
            let proof = Inclusion {
                seq: leaf_index.saturating_add(1),
                last_seq: tree_size,
                root: root(&of)?,
                path: hashes(path)?,
            };
            let record = record(&entry)?;
            let entry = Entry::from_bytes(&record).map_err(|corrupt| corrupt.to_string())?;
            Ok(Checked {
                is_valid: proof.holds(&entry),
                says: format!("entry {} is in a log of {tree_size}", entry.seq()),
                size: tree_size,
                root: hex(&proof.root),
                is_root_given: false,
                new_root: None,
            })
        }
        Proof::Consistency {
            old_size,
            new_size,
            old_root,
            new_root,
            path,
            ..
        } => {
            let proof = Consistency {
                old_seq: old_size,
                new_seq: new_size,
                old_root: root(&old_root)?,
                new_root: root(&new_root)?,
                path: hashes(path)?,
            };
            Ok(Checked {
                is_valid: proof.holds(),
                says: format!("a log of {new_size} begins with one of {old_size}"),
                size: old_size,
                root: hex(&proof.old_root),
                is_root_given: false,
                new_root: Some(hex(&proof.new_root)),
            })
        }
    }
}

fn record(line: &jsonl::Line<u64>) -> Result<Vec<u8>, String> {
    let number = |name: &str, value: Option<u64>| value.ok_or(format!("the entry has no `{name}`"));
    let appended = Appended {
        seq: number("seq", line.seq)?,
        lamport: number("lamport", line.lamport)?,
        appended_at_ns: number("appended_at_ns", line.appended_at_ns)?,
    };
    const ALL: Limits = Limits {
        payload_len_max: LIMIT_MAX,
        metadata_len_max: LIMIT_MAX,
    };
    let (payload, metadata) = (line.payload()?, line.metadata());
    let entry = NewEntry::new(&line.key, &payload).metadata(&metadata);
    let record = entry.record(&appended, &ALL);
    record.map_err(|refused| refused.to_string())
}
