//! How much of an archived context is kept: at least what was asked for, not much more,
//! and whoever wants what is older is told where it begins.

use std::path::PathBuf;
use std::process::Stdio;

use ledger_client::{Context, ReadError};
use ledger_shm::file::{FileName, verify};
use ledger_tests::process::{Lines, Process};
use ledger_tests::{Instance, PATIENCE, eventually, may_be_others};

use crate::archive::{SMALL, append, files, home, lose_memory, payload};
use crate::{PROGRAMS, started};

/// Windows, and files, that some hundred entries fill.
const FILES: [&str; 2] = ["--archive-file", "64K"];

fn kept(limits: &[&'static str]) -> Vec<&'static str> {
    [&SMALL[..], &FILES, limits].concat()
}

/// First seqs of the finished files.
fn finished(instance: &Instance, context: &Context) -> Vec<u64> {
    let finished = |name| match name {
        FileName::Finished(first_seq) => Some(first_seq),
        _ => None,
    };
    let files = files(instance, context).into_iter();
    files.filter_map(finished).collect()
}

fn path(instance: &Instance, context: &Context, first_seq: u64) -> PathBuf {
    home(instance, context).join(FileName::Finished(first_seq).to_string())
}

/// The last seq in the finished files.
fn finished_seq(instance: &Instance, context: &Context) -> u64 {
    let last = *finished(instance, context).last().expect("a file");
    let bytes = std::fs::read(path(instance, context, last)).expect("ours");
    last + verify(&bytes[..]).expect("whole").1.count - 1
}

/// Waits until no more is kept than has to be; the oldest seq that is in a file then.
fn until_kept(instance: &Instance, context: &Context, count: u64) -> u64 {
    eventually("what is older goes", || {
        let [oldest, second, ..] = finished(instance, context)[..] else {
            return None;
        };
        let is_enough = finished_seq(instance, context) - (second - 1) >= count;
        (!is_enough).then_some(oldest)
    })
}

/// Everything from the oldest entry on is as it was appended, everything older is
/// evicted, and all who look say the same. Returns the oldest seq.
fn check_from_oldest(instance: &Instance, latest: u64) -> u64 {
    eventually("all who look say the same", || try_check(instance, latest))
}

/// None if somebody says something else, as while a file goes.
fn try_check(instance: &Instance, latest: u64) -> Option<u64> {
    let context = instance.connect().context("log").open_read_only();
    let context = context.expect("a context");
    let oldest = context.first_available().expect("readable");
    let told = |error| match error {
        ReadError::Evicted {
            first_available, ..
        } => first_available,
        error => panic!("{error}"),
    };
    for seq in [1, oldest / 2, oldest - 1] {
        if seq == 0 || seq >= oldest {
            continue;
        }
        let got = told(context.get(seq).expect_err("it is gone"));
        let ranged = told(context.range(seq).next_entry().expect_err("it is gone"));
        let watched = told(context.watch(seq).try_next().expect_err("it is gone"));
        if [got, ranged, watched] != [oldest; 3] {
            return None;
        }
    }
    let mut range = context.range(oldest);
    for seq in oldest..=latest {
        match range.next_entry() {
            Ok(entry) => {
                let entry = entry.expect("it is there");
                assert_eq!((entry.seq(), entry.payload()), (seq, &payload(seq)[..]));
            }
            Err(error) => {
                assert!(told(error) > oldest);
                return None;
            }
        }
    }
    assert!(range.next_entry().expect("readable").is_none());
    instance.printed(&["verify", "log"]);
    let expected = format!("\"first_available\":{oldest},\"latest\":{latest}");
    let mut said = [&["ls", "-o", "jsonl"][..], &["info", "log", "-o", "json"]].into_iter();
    let is_said = said.all(|args| instance.printed(args).contains(&expected));
    is_said.then_some(oldest)
}

#[test]
fn the_last_entries_are_kept_and_readers_are_told_where_they_begin() {
    let args = kept(&["--retain-entries", "2000"]);
    let mut instance = started(&args);
    let context = instance.context("log");
    append(&context, 1..=400);
    let held = context.get(1).expect("readable").expect("it is there");
    let mut behind = context.watch(1);
    assert_eq!(
        behind.try_next().expect("readable").expect("there").seq(),
        1
    );
    append(&context, 401..=20_000);
    context.wait_durable(20_000, PATIENCE).expect("a disk");
    until_kept(&instance, &context, 2000);
    let oldest = check_from_oldest(&instance, 20_000);
    assert!(oldest > 1 && oldest <= 20_000 - 2000 + 1, "{oldest}");
    // What somebody holds stays as it is.
    assert_eq!(held.payload(), payload(1));
    held.verify().expect("as it was appended");
    // Who is behind goes on from there, or, where its memory is mapped yet, everywhere.
    let mut next_seq = 2;
    while next_seq < oldest {
        match behind.try_next() {
            Ok(entry) => {
                assert_eq!(entry.expect("it is there").seq(), next_seq);
                next_seq += 1;
            }
            Err(told) => {
                let ReadError::Evicted {
                    first_available, ..
                } = told
                else {
                    panic!("{told}");
                };
                assert_eq!(first_available, oldest);
                behind.seek(first_available);
                next_seq = first_available;
            }
        }
    }
    for seq in next_seq..=20_000 {
        let entry = behind.try_next().expect("readable").expect("it is there");
        assert_eq!(entry.seq(), seq);
    }
    // The same for the next daemon, and for one that finds files only.
    instance.kill_daemon();
    instance.start(&args);
    assert_eq!(check_from_oldest(&instance, 20_000), oldest);
    lose_memory(&mut instance);
    instance.start(&args);
    assert!(check_from_oldest(&instance, 20_000) >= oldest);
    append(&instance.context("log"), 20_001..=20_010);
    check_from_oldest(&instance, 20_010);
}

#[test]
fn the_last_bytes_are_kept() {
    const KEPT: u64 = 512 << 10;
    let instance = started(&kept(&["--retain-bytes", "512K"]));
    let context = instance.context("log");
    append(&context, 1..=20_000);
    context.wait_durable(20_000, PATIENCE).expect("a disk");
    let lens = eventually("what is older goes", || {
        let len = |first_seq: &u64| std::fs::metadata(path(&instance, &context, *first_seq));
        let lens = finished(&instance, &context).iter().map(len).collect();
        let lens: Result<Vec<_>, _> = lens;
        // Not while one of them is being removed.
        let lens: Vec<u64> = lens.ok()?.iter().map(std::fs::Metadata::len).collect();
        let is_enough = lens[1..].iter().sum::<u64>() >= KEPT;
        (!is_enough).then_some(lens)
    });
    assert!(lens.iter().sum::<u64>() >= KEPT, "{lens:?}");
    assert!(check_from_oldest(&instance, 20_000) > 1);
}

#[test]
fn what_is_young_is_kept_and_a_reload_says_how_young() {
    let mut instance = Instance::new(PROGRAMS);
    let config = instance.configure("retain_age = \"1h\"\n");
    let args = ["--config", config.to_str().expect("text")];
    instance.start(&[&SMALL[..], &FILES, &args].concat());
    let context = instance.context("log");
    append(&context, 1..=5000);
    context.wait_durable(5000, PATIENCE).expect("a disk");
    assert!(finished(&instance, &context).len() > 3);
    assert_eq!(check_from_oldest(&instance, 5000), 1);
    instance.configure("retain_age = \"1s\"\n");
    instance.reload_daemon();
    // The last file stays, whatever its age.
    eventually("all but one have gone", || {
        (finished(&instance, &context).len() == 1).then_some(())
    });
    assert!(check_from_oldest(&instance, 5000) > 1);
    append(&context, 5001..=5010);
    check_from_oldest(&instance, 5010);
}

#[test]
fn a_context_that_nobody_has_open_ages_too() {
    let args = kept(&["--retain-age", "2s", "--idle-close-after", "0.05"]);
    let mut instance = started(&args);
    let context = instance.context("log");
    append(&context, 1..=3000);
    let home = home(&instance, &context);
    drop(context);
    let finished = || {
        let entries = std::fs::read_dir(&home).expect("a home").flatten();
        let names = entries.filter_map(|entry| FileName::parse(entry.file_name().to_str()?));
        let mut finished: Vec<u64> = names
            .filter_map(|name| match name {
                FileName::Finished(first_seq) => Some(first_seq),
                _ => None,
            })
            .collect();
        finished.sort_unstable();
        finished
    };
    eventually("it is in files only", || {
        let listed = instance.printed(&["ls", "-o", "jsonl"]);
        listed.contains("\"archived\"").then_some(())
    });
    let is_left_empty = |first_seq: u64| first_seq > 3000;
    let left = eventually("all but the last entries have gone", || {
        let finished = finished();
        let with_entries = finished
            .iter()
            .filter(|first_seq| !is_left_empty(**first_seq));
        (with_entries.count() == 1).then_some(finished)
    });
    let listed = instance.printed(&["ls", "-o", "jsonl"]);
    let expected = format!(
        "\"archived\",\"first_available\":{},\"latest\":3000",
        left[0]
    );
    assert!(left[0] > 1 && listed.contains(&expected), "{listed}");
    instance.kill_daemon();
    instance.start(&args);
    let again = instance.context("log");
    assert_eq!(again.first_available().expect("readable"), left[0]);
    let entry = again.get(3000).expect("readable").expect("it is there");
    assert_eq!(entry.payload(), payload(3000));
    append(&again, 3001..=3010);
    check_from_oldest(&instance, 3010);
}

#[test]
fn some_contexts_are_kept_whole() {
    let mut instance = Instance::new(PROGRAMS);
    let config = instance.configure(
        "retain_entries = 500\n[[contexts]]\nnames = [\"audit\"]\nretain_entries = \"all\"\n",
    );
    let args = ["--config", config.to_str().expect("text")];
    instance.start(&[&SMALL[..], &FILES, &args].concat());
    let [audit, log] = ["audit", "log"].map(|name| instance.context(name));
    for context in [&audit, &log] {
        append(context, 1..=5000);
        context.wait_durable(5000, PATIENCE).expect("a disk");
    }
    until_kept(&instance, &log, 500);
    assert!(check_from_oldest(&instance, 5000) > 1);
    assert_eq!(audit.first_available().expect("readable"), 1);
    assert_eq!(audit.get(1).expect("readable").expect("there").seq(), 1);
}

#[test]
fn nothing_is_removed_while_a_newer_file_is_missing() {
    let all = kept(&[]);
    let mut instance = started(&all);
    let context = instance.context("log");
    append(&context, 1..=5000);
    context.wait_durable(5000, PATIENCE).expect("a disk");
    instance.stop_daemon();
    let before = finished(&instance, &context);
    assert!(before.len() > 3);
    let missing = path(&instance, &context, before[2]);
    let away = instance.runtime_dir().join("away");
    std::fs::rename(&missing, &away).expect("one disk");
    let args = [&["run"], &all[..], &["--retain-entries", "1"]].concat();
    let mut daemon = Process::start(instance.ledgerd(&args).stderr(Stdio::piped()));
    let mut said = Lines::of(daemon.stderr.take().expect("piped"));
    while !said
        .line()
        .expect("it says so")
        .contains("cannot be removed")
    {}
    drop(daemon);
    std::fs::rename(&away, &missing).expect("one disk");
    assert_eq!(finished(&instance, &context), before);
    instance.start(&all);
    assert_eq!(check_from_oldest(&instance, 5000), 1);
}

#[test]
fn a_reader_of_another_uid_is_told_where_it_begins() {
    if !may_be_others() {
        return;
    }
    const READER: u32 = 1008;
    let mut instance = Instance::new(PROGRAMS);
    let rights = format!("[[rights]]\ncontexts = [\"*\"]\nusers = [{READER}]\nright = \"read\"\n");
    let config = instance.configure(&rights);
    let config = ["--config", config.to_str().expect("text")];
    instance.start(&[&kept(&["--retain-entries", "500"])[..], &config].concat());
    let context = instance.context("log");
    append(&context, 1..=5000);
    context.wait_durable(5000, PATIENCE).expect("a disk");
    until_kept(&instance, &context, 500);
    let oldest = check_from_oldest(&instance, 5000);
    let run = |args: &[&str]| {
        let mut command = instance.ledgerd_as(READER, args);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Process::start(command).output()
    };
    let told = run(&["get", "log", "1"]);
    let said = String::from_utf8_lossy(&told.stderr);
    let expected = format!("the oldest one there is {oldest}");
    assert!(!told.status.success() && said.contains(&expected), "{said}");
    let read = run(&["get", "log", "-o", "jsonl"]);
    let lines = String::from_utf8(read.stdout).expect("text");
    assert_eq!(lines.lines().count() as u64, 5000 - oldest + 1);
}

/// Entries that are not in memory, nor in one file, together.
const FAR: u64 = 5000;

#[test]
fn nobody_who_reads_while_files_go_misses_anything_in_between() {
    let instance = started(&kept(&["--retain-entries", "1"]));
    let context = instance.context("log");
    std::thread::scope(|scope| {
        scope.spawn(|| append(&context, 1..=30_000));
        // One that is slow: it falls behind, and goes on where it is told to. Whatever it
        // has read by then, so much is appended that this goes.
        let is_slow_at = |seq: u64| seq.is_multiple_of(1000) && seq <= 30_000 - 2 * FAR;
        let mut watcher = context.watch(1);
        let (mut next_seq, mut gap_count) = (1, 0);
        while next_seq <= 30_000 {
            match watcher.next_timeout(PATIENCE) {
                Ok(entry) => {
                    let entry = entry.expect("it comes");
                    assert_eq!(
                        (entry.seq(), entry.payload()),
                        (next_seq, &payload(next_seq)[..])
                    );
                    next_seq += 1;
                    if is_slow_at(next_seq) {
                        eventually("what it reads next goes", || {
                            let first_available = context.first_available().expect("readable");
                            (first_available > next_seq + FAR).then_some(())
                        });
                    }
                }
                Err(ReadError::Evicted {
                    seq,
                    first_available,
                }) => {
                    assert_eq!(seq, next_seq);
                    assert!(first_available > next_seq, "{first_available} {next_seq}");
                    watcher.seek(first_available);
                    next_seq = first_available;
                    gap_count += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(gap_count > 0);
    });
}

#[test]
fn a_snapshot_of_what_is_left_has_the_root_of_all_and_loads() {
    let instance = started(&kept(&["--retain-entries", "1000"]));
    let context = instance.context("log");
    append(&context, 1..=10_000);
    context.wait_durable(10_000, PATIENCE).expect("a disk");
    until_kept(&instance, &context, 1000);
    let oldest = check_from_oldest(&instance, 10_000);
    assert!(oldest > 1 && finished(&instance, &context).len() > 1);
    let path = instance.runtime_dir().join("snapshot");
    let path = path.to_str().expect("text");
    instance.printed(&["snapshot", "export", "log", "-o", path]);
    let verified = instance.printed(&["snapshot", "verify", path, "-o", "jsonl"]);
    let verified: serde_json::Value = serde_json::from_str(&verified).expect("JSON");
    instance.printed(&["snapshot", "load", path, "--as", "copy"]);
    let copy = instance.connect().context("copy").open().expect("loaded");
    assert_eq!(copy.first_available().expect("readable"), oldest);
    let root = context.root(10_000).expect("readable");
    assert_eq!(copy.root(10_000).expect("readable"), root);
    let digits = root.map(|byte| format!("{byte:02x}")).concat();
    assert_eq!(verified["root"], digits, "{verified}");

    // What is there can be proved in both, and what was there before is extended.
    for context in [&context, &copy] {
        for seq in [oldest, 9_999] {
            let proof = context.prove(seq, 10_000).expect("readable");
            let entry = context.get(seq).expect("readable").expect("there");
            assert!(proof.root == root && proof.holds(&entry), "entry {seq}");
        }
        let consistency = context.prove_consistency(9_500, 10_000).expect("readable");
        assert!(consistency.holds() && consistency.new_root == root);
    }
    // Who has appended may have memory mapped that holds it yet.
    let told = copy.prove(oldest - 1, 10_000).expect_err("it is gone");
    let is_told = told
        .to_string()
        .contains(&format!("the oldest one there is {oldest}"));
    assert!(is_told, "{told}");
    let said = instance.complained(&["prove", "copy", "1"]);
    assert!(said.contains("entry 1 has left memory"), "{said}");
    // The copy is a context like any other.
    append(&copy, 10_001..=10_002);
    assert_eq!(copy.latest().expect("readable"), 10_002);
}

#[test]
fn what_is_loaded_of_what_was_left_is_counted_from_where_it_begins() {
    let instance = started(&kept(&["--retain-entries", "1000"]));
    let context = instance.context("log");
    append(&context, 1..=5000);
    context.wait_durable(5000, PATIENCE).expect("a disk");
    let snapshot = |last_seq: u64, latest: u64| {
        until_kept(&instance, &context, 1000);
        let oldest = check_from_oldest(&instance, latest);
        let mut bytes = Vec::new();
        let snapshot = context.snapshot_to(&mut bytes).up_to(last_seq);
        assert_eq!(snapshot.run().expect("whole").first_seq, oldest);
        (oldest, bytes)
    };
    let (oldest, some) = snapshot(4800, 5000);
    let (_, all) = snapshot(5000, 5000);
    append(&context, 5001..=8000);
    context.wait_durable(8000, PATIENCE).expect("a disk");
    let (later, rest) = snapshot(8000, 8000);
    assert!(1 < oldest && oldest < later, "{oldest} {later}");

    // Somewhere where nothing is removed.
    let other = started(&SMALL);
    let load = |name: &str, bytes: &[u8]| {
        let loaded = other.connect().load_from(bytes).name(name).run();
        loaded.map(|loaded| loaded.new_count)
    };
    let first = |name: &str| {
        let context = other.connect().context(name).open_read_only();
        context
            .expect("loaded")
            .first_available()
            .expect("readable")
    };
    assert_eq!(load("copy", &some).expect("a place"), 4800 - (oldest - 1));
    assert_eq!(load("copy", &all).expect("it extends that"), 200);
    assert_eq!(first("copy"), oldest);
    // A context without an entry begins where the snapshot does.
    drop(other.context("empty"));
    assert_eq!(
        load("empty", &rest).expect("nothing is older"),
        8000 - (later - 1)
    );
    assert_eq!(first("empty"), later);
    let refused = load("copy", &rest).expect_err("what is older would be gone");
    let why = format!(
        "the snapshot begins with entry {later}, the context has older ones from {oldest} on"
    );
    assert!(refused.to_string().contains(&why), "{refused}");
    assert_eq!(first("copy"), oldest);
}
