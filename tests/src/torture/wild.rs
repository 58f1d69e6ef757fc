//! Somebody who may append to a context, and writes anything anywhere into its memory,
//! while others append to it, read it and have commands look at it.

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Instant;

use ledger_client::{Appender, Context};
use ledger_shm::Entry;
use ledger_shm::file::{FileName, Scan, verify};
use ledger_shm::format::{RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader};

use super::observed::{Lateness, another, append_at_once, entries, found};
use super::promises::{CONTAINED, KEPT, NO_PANIC, TRIED, VALID};
use super::{Effort, Verdicts};
use crate::attack::scribble::TARGETS;
use crate::process::Process;
use crate::worker::{Worker, is_restless, whose};
use crate::{Instance, PATIENCE, Programs, eventually, may_be_others};

const OWNER: u32 = 61_001;
const READER: u32 = 61_002;
const APPENDER: u32 = 61_003;
const CONFIGURATION: &str = r#"
spare_min = "16K"
spare_max = "64K"
window = "64K"
archive_file = "64K"
idle_close_after = 1.0
[[rights]]
contexts = ["wild*"]
users = [61003]
right = "append"
[[rights]]
contexts = ["wild*"]
users = [61002]
right = "read"
"#;
/// A context that nobody scribbles into.
const SOUND: &str = "sound";
/// Contexts that are spoilt on one instance.
const ROUND: usize = 25;
/// Contexts that are spoilt in each way.
const CASES: usize = 1000;
/// Entries that a context has before.
const APPENDED: u64 = 30;
/// What looks at a spoilt context.
const LOOKS: [&[&str]; 9] = [
    &["get"],
    &["info"],
    &["inspect"],
    &["verify"],
    &["tail", "--lines", "5"],
    &["watchers"],
    &["timeline"],
    &["snapshot", "export"],
    &["export"],
];

/// Has contexts spoilt in each way there is.
///
/// # Panics
///
/// If it cannot be tried, and everything is wanted.
pub fn wild(programs: Programs, effort: &Effort) -> Verdicts {
    let mut verdicts = Verdicts::new("wild", effort);
    if !may_be_others() {
        return verdicts;
    }
    for (target, _, effort) in effort.kinds(&TARGETS, str::to_owned) {
        let began = Instant::now();
        let mut rng = effort.rng(target);
        let mut left = CASES.min(effort.cases_max);
        loop {
            let count = left.min(ROUND);
            verdicts.tried(&format!("{target}: with {left} left"), |verdicts| {
                round(programs, target, count, &effort, &mut rng, verdicts);
            });
            left -= count;
            if left == 0 || !effort.has_time() {
                break;
            }
        }
        eprintln!("wild: {target}: {:.1} s", began.elapsed().as_secs_f64());
    }
    verdicts
}

fn round(
    programs: Programs,
    target: &str,
    count: usize,
    effort: &Effort,
    rng: &mut fastrand::Rng,
    verdicts: &mut Verdicts,
) {
    let mut instance = Instance::of(OWNER, programs);
    let config = instance.configure(CONFIGURATION);
    let args = ["--config", config.to_str().expect("text")];
    instance.start(&args);
    let sound = instance.context(SOUND);
    let mut appender = sound.appender().expect("an appender");
    // A suite has more to do at the same time than a machine can be on time for.
    let lateness = effort.is_all().then(Lateness::watched);
    let (mut contexts, mut tried) = (0, 0);
    for _ in 0..count {
        // Whoever reads has to come to an end at some time.
        let seed = std::iter::repeat_with(|| rng.u64(..)).find(|who| !is_restless(*who));
        let seed = seed.expect("most rest");
        let case = format!("{target}, {seed}");
        verdicts.meet(&case, |verdicts| {
            contexts += 1;
            let name = format!("wild{contexts}");
            let meanwhile = |verdicts: &mut Verdicts| {
                let lateness = lateness.as_ref();
                check_sound(&instance, &mut appender, &name, lateness, verdicts, &case);
            };
            spoil(&instance, target, &name, seed, meanwhile, verdicts, &case);
            true
        });
        tried += 1;
        if !effort.has_time() {
            break;
        }
    }
    verdicts.check_met(target, tried);
    let before = entries(&sound);
    let status = instance.stop_daemon();
    verdicts.check(NO_PANIC, status.success(), || format!("{target}: {status}"));
    check_files(&instance.state_dir(), verdicts, target);
    // The next one finds all of it.
    instance.start(&args);
    let after = entries(&instance.context(SOUND));
    verdicts.check(KEPT, before.is_ok() && before == after, || {
        format!("{target}: {after:?}, not {before:?}")
    });
    look(&instance, &["ls"], None, verdicts, target);
    look(&instance, &["verify", "--all"], None, verdicts, target);
    verdicts.meet(target, |verdicts| {
        check_sound(
            &instance,
            &mut appender,
            "later",
            lateness.as_ref(),
            verdicts,
            target,
        );
        true
    });
    let status = instance.stop_daemon();
    verdicts.check(NO_PANIC, status.success(), || format!("{target}: {status}"));
    let before = verdicts.counted("files");
    check_files(&instance.state_dir(), verdicts, target);
    let files = verdicts.counted("files") - before;
    verdicts.check(TRIED, files > 0, || format!("{target}: no file"));
}

/// Spoils one context while others work on it, and has commands look at it.
fn spoil(
    instance: &Instance,
    target: &str,
    name: &str,
    seed: u64,
    mut meanwhile: impl FnMut(&mut Verdicts),
    verdicts: &mut Verdicts,
    case: &str,
) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let made = instance.context(name);
    let appender = Worker::start_as(APPENDER, instance, "append", name, seed);
    eventually("there is something to spoil", || {
        (made.latest().expect("not spoilt yet") >= APPENDED).then_some(())
    });
    let mut others = vec![
        ("an appender", appender),
        ("a watcher", Worker::start(instance, "watch", name, 1)),
        (
            "another uid's watcher",
            Worker::start_as(READER, instance, "watch", name, 1),
        ),
    ];
    let scribbler = Worker::scribbler(APPENDER, instance, target, name, seed);
    look_at(instance, name, &mut rng, verdicts, case);
    meanwhile(verdicts);
    eventually("it is spoilt", || scribbler.told_last().expect("numbers"));
    meanwhile(verdicts);
    look_at(instance, name, &mut rng, verdicts, case);
    drop(scribbler);
    for (who, worker) in &mut others {
        let ended = worker.process.try_wait().expect("our child");
        let is_fine = ended.is_none_or(|status| !has_panicked(status));
        verdicts.check(NO_PANIC, is_fine, || format!("{case}: {who}: {ended:?}"));
        verdicts.count("went_on", u64::from(ended.is_none()));
        // What it was told otherwise is that it cannot go on, and why.
        let told = worker.told();
        let is_valid = !told.as_ref().is_err_and(|error| is_about_an_entry(error));
        verdicts.check(VALID, is_valid, || format!("{case}: {who}: {told:?}"));
    }
}

/// Whether a watcher says that it was given what nobody has appended.
fn is_about_an_entry(error: &str) -> bool {
    ["came where", "is not what was appended"]
        .iter()
        .any(|said| error.contains(said))
}

/// Some command looks at a spoilt context.
fn look_at(
    instance: &Instance,
    name: &str,
    rng: &mut fastrand::Rng,
    verdicts: &mut Verdicts,
    case: &str,
) {
    let what = LOOKS[rng.usize(..LOOKS.len())];
    look(instance, what, Some(name), verdicts, case);
}

fn look(
    instance: &Instance,
    what: &[&str],
    name: Option<&str>,
    verdicts: &mut Verdicts,
    case: &str,
) {
    let mut command = instance.ledgerd(what);
    command
        .args(name)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let output = Process::start(command.stderr(Stdio::piped())).output();
    let status = output.status;
    let said = String::from_utf8_lossy(&output.stderr);
    // Also in a thread that it goes on without.
    let is_fine = !has_panicked(status) && !said.contains("panicked at");
    verdicts.check(NO_PANIC, is_fine, || {
        format!("{case}: {what:?}: {status}: {said}")
    });
    verdicts.count("looks_that_succeeded", u64::from(status.success()));
    verdicts.count("looks", 1);
}

/// By a signal, or by what Rust ends a program with that panics.
fn has_panicked(status: ExitStatus) -> bool {
    const PANICKED: i32 = 101;
    status.signal().is_some() || status.code() == Some(PANICKED)
}

/// A context beside the spoilt one is appended to, archived and read, and others are made.
fn check_sound(
    instance: &Instance,
    appender: &mut Appender,
    name: &str,
    lateness: Option<&Lateness>,
    verdicts: &mut Verdicts,
    case: &str,
) {
    let context: Context = appender.context().clone();
    let latest = context.latest().expect("readable");
    verdicts.check(CONTAINED, appender.wait_ready(PATIENCE), || {
        format!("{case}: no memory")
    });
    append_at_once(appender, &another(), latest + 1, lateness, verdicts, case);
    let durable = context.wait_durable(latest + 1, PATIENCE);
    verdicts.check(CONTAINED, durable.is_ok(), || {
        format!("{case}: {durable:?}")
    });
    let made = instance
        .connect()
        .context(&format!("beside-{name}"))
        .open_or_create()
        .map_err(|error| error.to_string())
        .and_then(|made| made.appender().map_err(|error| error.to_string()))
        .and_then(|mut made| made.append(&another()).map_err(|error| error.to_string()));
    verdicts.check(CONTAINED, made.is_ok(), || format!("{case}: {made:?}"));
}

/// What is in files is what was appended, all of it valid, and nothing else.
fn check_files(dir: &Path, verdicts: &mut Verdicts, case: &str) {
    for entry in std::fs::read_dir(dir).expect("ours").flatten() {
        let path = entry.path();
        if path.is_dir() {
            check_files(&path, verdicts, case);
            continue;
        }
        let name = entry.file_name();
        let Some(kind) = name.to_str().and_then(FileName::parse) else {
            continue;
        };
        let checked = check_file(kind, &std::fs::read(&path).expect("ours"));
        verdicts.check(VALID, checked.is_ok(), || {
            format!("{case}: {}: {checked:?}", path.display())
        });
        verdicts.count("files", 1);
    }
}

fn check_file(kind: FileName, bytes: &[u8]) -> Result<(), String> {
    if let FileName::Finished(_) = kind {
        verify(bytes).map_err(|why| why.to_string())?;
    }
    let scan = Scan::of(bytes).map_err(|why| why.to_string())?;
    let mut at = scan.head.data_offset();
    while at < scan.valid_len() {
        let header = bytes[at..].first_chunk().ok_or("half a header")?;
        let len = RECORD_HEADER_LEN + RecordHeader::decode(header).body_len as usize;
        let entry = Entry::from_bytes(&bytes[at..][..len]).map_err(|why| why.to_string())?;
        let is_of_another = entry.key() == "other" && found(&entry).is_ok();
        if whose(&entry).is_none() && !is_of_another {
            return Err(format!("{}: nobody has appended it", entry.seq()));
        }
        at += len.next_multiple_of(RECORD_ALIGN);
    }
    match (kind, scan.damage) {
        (FileName::Open(_) | FileName::Failed(_), Some(why)) => Err(why.to_string()),
        _ => Ok(()),
    }
}
