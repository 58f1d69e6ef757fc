//! `ledgerd export`: what is in each format, and that a file is whole or not there.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use ledger_client::{Context, NewEntry};
use ledger_tests::process::{Lines, Process};
use ledger_tests::small_memory::with_small_memory;
use ledger_tests::{Instance, PATIENCE, eventually};
use nix::sys::signal::Signal;

use crate::archive::{FORGETFUL, SMALL, append, lose_memory};
use crate::commands::{lines, three};
use crate::disk::mount_small;
use crate::{PROGRAMS, started};

#[cfg(feature = "parquet")]
mod parquet;

type Pairs = &'static [(&'static str, &'static str)];

/// What is hard to quote, and what is no text.
const HARD: [(&str, &[u8], Pairs); 6] = [
    (
        "facts",
        b"income: 4200",
        &[("agent", "credit"), ("b", "x,y")],
    ),
    ("a \"b\",\n\0", b"\"one\",\r\ntwo\n\0 ", &[("", "\"\n\0,")]),
    ("traces", &[0, 159, 146, 150], &[]),
    (
        "empty",
        b"",
        &[("again", "1"), ("again", "2"), ("again", "1")],
    ),
    (" ", b" \xff\"\n", &[]),
    ("\u{1f600}", "\u{1f600}".as_bytes(), &[("\u{e4}", "\u{7f}")]),
];

fn append_hard(context: &Context) {
    let mut appender = context.appender().expect("an appender");
    for (key, payload, metadata) in HARD {
        let entry = NewEntry::new(key, payload).metadata(metadata);
        appender.append(&entry).expect("room");
    }
}

fn export(instance: &Instance, format: &str, args: &[&str]) -> Output {
    instance.run(&[&["export", "log", "--format", format], args].concat())
}

fn exported(instance: &Instance, format: &str, args: &[&str]) -> Vec<u8> {
    let output = export(instance, format, args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{format} {args:?}: {said}");
    output.stdout
}

/// What it says when it fails as what it cannot do, and that nothing is there.
fn refused(instance: &Instance, format: &str, args: &[&str], code: i32) -> String {
    let output = export(instance, format, args);
    assert_eq!(output.status.code(), Some(code), "{args:?} {output:?}");
    String::from_utf8(output.stderr).expect("text")
}

/// What lies in a directory.
fn listed(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("ours").path()).collect();
    paths.sort();
    paths
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

#[test]
fn lines_are_those_that_get_and_tail_print() {
    let mut instance = started(&[]);
    append_hard(&instance.context("log"));
    let printed = instance.printed(&["get", "log", "-o", "jsonl"]);
    assert_eq!(printed.lines().count(), HARD.len());
    let tailed = instance.printed(&["tail", "log", "--from", "1", "-o", "jsonl"]);
    assert_eq!(tailed, printed);
    assert_eq!(exported(&instance, "jsonl", &[]), printed.as_bytes());
    // Also into a file, and without a daemon.
    let path = instance.runtime_dir().join("out.jsonl");
    instance.kill_daemon();
    assert!(exported(&instance, "jsonl", &["-o", text(&path)]).is_empty());
    assert_eq!(std::fs::read(&path).expect("whole"), printed.as_bytes());
}

/// What `verify` finds to be the root of a context, and how many entries it has.
fn root(instance: &Instance, context: &str) -> (String, u64) {
    let verdict = instance.printed(&["verify", context, "-o", "jsonl"]);
    let verdict = &lines(&verdict)[0];
    let root = verdict["root"].as_str().expect("text").to_owned();
    (root, verdict["entries"].as_u64().expect("a number"))
}

#[test]
fn lines_that_go_out_and_in_and_out_again_are_the_same() {
    let instance = started(&SMALL);
    let context = instance.context("log");
    append_hard(&context);
    // In files, too.
    append_more(&context, 2000);
    append_hard(&context);
    let [out, again] = ["a.jsonl", "b.jsonl"].map(|name| instance.runtime_dir().join(name));
    instance.printed(&["export", "log", "--format", "jsonl", "-o", text(&out)]);
    instance.printed(&["import", "other", text(&out)]);
    instance.printed(&["export", "other", "--format", "jsonl", "-o", text(&again)]);
    let whole = std::fs::read(&out).expect("whole");
    assert!(whole == std::fs::read(&again).expect("whole"));
    let count = 2000 + 2 * HARD.len() as u64;
    assert_eq!(root(&instance, "log").1, count);
    assert_eq!(root(&instance, "other"), root(&instance, "log"));
    // Every entry is what it was, whatever the lines say.
    let other = instance.connect().context("other").open().expect("there");
    for first_seq in [1, count - HARD.len() as u64 + 1] {
        for ((key, payload, metadata), seq) in HARD.into_iter().zip(first_seq..) {
            let entry = other.get(seq).expect("readable").expect("it is there");
            assert_eq!((entry.key(), entry.payload()), (key, payload));
            assert!(entry.metadata().eq(metadata.iter().copied()));
        }
    }
}

fn append_more(context: &Context, count: u64) {
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(PATIENCE);
    for _ in 0..count {
        appender
            .append(&NewEntry::new("more", &[7; 100]))
            .expect("room");
    }
}

/// The rows of a table, by the names of its columns.
fn rows(table: &[u8]) -> Vec<Vec<(String, String)>> {
    let mut reader = csv::Reader::from_reader(table);
    let header = reader.headers().expect("a header").clone();
    let row = |record: Result<csv::StringRecord, csv::Error>| {
        let record = record.expect("a row");
        let cells = header.iter().zip(record.iter());
        cells
            .map(|(name, cell)| (name.to_owned(), cell.to_owned()))
            .collect()
    };
    reader.records().map(row).collect()
}

#[test]
fn a_table_in_text_holds_every_entry_whatever_is_in_it() {
    let instance = started(&[]);
    append_hard(&instance.context("log"));
    let rows = rows(&exported(&instance, "csv", &["--output", "-"]));
    let entries = lines(&instance.printed(&["get", "log", "-o", "jsonl"]));
    assert_eq!(rows.len(), HARD.len());
    for ((row, entry), (key, payload, metadata)) in rows.iter().zip(&entries).zip(HARD) {
        let at = entry["appended_at_ns"].as_u64().expect("a number");
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(at);
        let (payload, payload_hex) = match std::str::from_utf8(payload) {
            Ok(text) => (text, String::new()),
            Err(_) => (
                "",
                payload.iter().map(|byte| format!("{byte:02x}")).collect(),
            ),
        };
        let expected = [
            ("seq", entry["seq"].to_string()),
            (
                "appended_at",
                humantime::format_rfc3339_nanos(at).to_string(),
            ),
            ("lamport", entry["lamport"].to_string()),
            ("key", key.to_owned()),
            ("payload", payload.to_owned()),
            ("payload_hex", payload_hex),
            ("metadata", serde_json::json!(metadata).to_string()),
        ];
        let expected = expected.map(|(name, cell)| (name.to_owned(), cell));
        assert_eq!(row[..], expected);
    }
}

#[test]
fn an_export_is_of_all_that_was_asked_for() {
    let instance = started(&[]);
    instance.context("log");
    let header = "seq,appended_at,lamport,key,payload,payload_hex,metadata\n";
    assert_eq!(exported(&instance, "csv", &[]), header.as_bytes());
    assert!(exported(&instance, "jsonl", &["--from", "1"]).is_empty());
    three(&instance);
    let seqs = |args: &[&str]| {
        let printed = String::from_utf8(exported(&instance, "jsonl", args)).expect("text");
        let found = lines(&printed);
        let seqs = found.iter().map(|line| line["seq"].as_u64());
        seqs.map(|seq| seq.expect("a number")).collect::<Vec<_>>()
    };
    assert_eq!(seqs(&[]), [1, 2, 3]);
    assert_eq!(seqs(&["--from", "2"]), [2, 3]);
    assert_eq!(seqs(&["--to", "2"]), [1, 2]);
    assert_eq!(seqs(&["--from", "2", "--to", "2"]), [2]);
    // Nothing new since the last time.
    assert!(seqs(&["--from", "4"]).is_empty());
    let path = instance.runtime_dir().join("out");
    let before = listed(instance.runtime_dir());
    for (args, code, reason) in [
        (
            &["--from", "5"][..],
            1,
            "there is no entry 5; the latest is 3",
        ),
        (&["--to", "4"], 1, "there is no entry 4; the latest is 3"),
        (
            &["--from", "3", "--to", "2"],
            2,
            "--to 2 is before --from 3",
        ),
        (&["--from", "0"], 2, "0 is not in 1.."),
    ] {
        let args = [args, &["-o", text(&path)]].concat();
        let said = refused(&instance, "jsonl", &args, code);
        assert!(said.contains(reason), "{said}");
        assert_eq!(listed(instance.runtime_dir()), before, "{args:?}");
    }
    let said = instance.complained(&["export", "nobody", "--format", "csv", "-o", text(&path)]);
    assert!(said.contains("there is no context \"nobody\""), "{said}");
    assert_eq!(listed(instance.runtime_dir()), before);
}

#[test]
fn what_has_left_memory_comes_from_files_or_is_missed() {
    let mut instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=5000);
    context.wait_durable(5000, PATIENCE).expect("a disk");
    drop(context);
    let whole = exported(&instance, "jsonl", &[]);
    assert_eq!(whole.split(|byte| *byte == b'\n').count(), 5001);
    lose_memory(&mut instance);
    instance.start(&SMALL);
    assert_eq!(exported(&instance, "jsonl", &[]), whole);

    let forgetful = started(&FORGETFUL);
    let context = forgetful.context("log");
    append(&context, 1..=5000);
    eventually("some have left memory", || {
        let first = context.first_available().expect("readable");
        (first > 1).then_some(())
    });
    let there = exported(&forgetful, "jsonl", &[]);
    let there = lines(&String::from_utf8(there).expect("text"));
    let first = there[0]["seq"].as_u64().expect("a number");
    assert!(first > 1);
    for (line, seq) in there.iter().zip(first..) {
        assert_eq!(line["seq"], seq);
    }
    assert_eq!(there[there.len() - 1]["seq"], 5000);
    for args in [&["--from", "1"][..], &["--to", "1"]] {
        let said = refused(&forgetful, "csv", args, 1);
        assert!(said.contains("entry 1 has left memory"), "{said}");
    }
}

#[test]
fn a_file_is_replaced_by_a_whole_one_and_nothing_else_is() {
    let instance = started(&[]);
    three(&instance);
    let whole = exported(&instance, "csv", &[]);
    let dir = instance.runtime_dir().join("out");
    std::fs::create_dir(&dir).expect("ours");
    let (file, link) = (dir.join("table.csv"), dir.join("link"));
    std::fs::write(&file, "what was there before, and is longer than a table").expect("ours");
    symlink("table.csv", &link).expect("ours");
    exported(&instance, "csv", &["-o", text(&link)]);
    assert_eq!(std::fs::read(&file).expect("whole"), whole);
    assert!(link.is_symlink());
    // As any new file.
    let other = dir.join("other");
    std::fs::write(&other, "").expect("ours");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode();
    assert_eq!(mode(&file), mode(&other));
    std::fs::remove_file(&other).expect("ours");
    assert_eq!(listed(&dir), [link, file]);

    // In the directory that it is run in.
    let mut command = instance.ledgerd(&["export", "log", "--format", "csv", "-o", "here"]);
    let ended = Process::start(command.current_dir(&dir)).ended();
    assert!(ended.success());
    assert_eq!(std::fs::read(dir.join("here")).expect("whole"), whole);

    // What is no file stays what it is.
    exported(&instance, "csv", &["-o", "/dev/null"]);
    assert!(!Path::new("/dev/null").is_file());
    for (path, reason) in [
        (text(&dir), "Is a directory"),
        ("/nowhere/table.csv", "No such file or directory"),
        ("/dev/full", "No space left on device"),
    ] {
        let said = refused(&instance, "csv", &["-o", path], 1);
        assert!(said.contains(&format!("cannot write {path}: ")), "{said}");
        assert!(said.contains(reason), "{said}");
    }
}

#[test]
fn a_full_disk_is_named_and_nothing_is_left_on_it() {
    with_small_memory(
        PROGRAMS,
        "export::a_full_disk_is_named_and_nothing_is_left_on_it",
        "64M",
        || {
            let instance = started(&[]);
            let dir = instance.runtime_dir().join("small");
            mount_small(&dir, "64K");
            append(&instance.context("log"), 1..=5000);
            for format in FORMATS {
                let path = dir.join("out");
                let said = refused(&instance, format, &["-o", text(&path)], 1);
                let expected = format!(
                    "ledgerd: cannot write {}: No space left on device",
                    path.display()
                );
                assert!(said.starts_with(&expected), "{said}");
                assert_eq!(listed(&dir), [] as [PathBuf; 0]);
            }
            nix::mount::umount(&dir).expect("nobody uses it");
        },
    );
}

/// The formats that this program has been built for.
const FORMATS: &[&str] = if cfg!(feature = "parquet") {
    &["jsonl", "csv", "parquet"]
} else {
    &["jsonl", "csv"]
};

/// An export whose process has a limit, as a shell sets it.
fn limited(instance: &Instance, limit: &str, args: &[&str]) -> Output {
    let ledgerd = instance.ledgerd(&[&["export", "log"], args].concat());
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            &format!("ulimit -c 0 && ulimit {limit} && exec \"$0\" \"$@\""),
        ])
        .arg(ledgerd.get_program())
        .args(ledgerd.get_args())
        .envs(
            ledgerd
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Process::start(&mut command).output()
}

#[test]
fn who_is_killed_in_the_middle_leaves_nothing_that_looks_whole() {
    let instance = started(&[]);
    append(&instance.context("log"), 1..=5000);
    let dir = instance.runtime_dir().join("out");
    std::fs::create_dir(&dir).expect("ours");
    let path = dir.join("table");
    for format in FORMATS {
        // The kernel kills it at the first byte beyond the limit.
        let args = ["--format", format, "-o", text(&path)];
        let killed = limited(&instance, "-f 64", &args);
        assert_eq!(killed.status.signal(), Some(libc::SIGXFSZ), "{killed:?}");
        let left = listed(&dir);
        assert_eq!(left.len(), 1, "{left:?}");
        let name = text(&left[0]);
        assert!(
            name.ends_with(".part") && name.contains("/table."),
            "{name}"
        );
        std::fs::remove_file(&left[0]).expect("ours");
    }
}

#[test]
fn who_is_interrupted_leaves_nothing_at_all() {
    let instance = started(&[]);
    append(&instance.context("log"), 1..=20_000);
    let dir = instance.runtime_dir().join("out");
    std::fs::create_dir(&dir).expect("ours");
    let path = dir.join("table");
    eventually("it is interrupted before it is done", || {
        let args = ["export", "log", "--format", "csv", "-o", text(&path)];
        // Who only reads does without a daemon, but waits a moment for it.
        instance.pause_daemon();
        let exporting = Process::start(&mut instance.ledgerd(&args));
        eventually("it has begun", || (!listed(&dir).is_empty()).then_some(()));
        exporting.signal(Signal::SIGINT);
        let ended = exporting.ended();
        instance.resume_daemon();
        if ended.success() {
            std::fs::remove_file(&path).expect("whole");
            return None;
        }
        assert_eq!(ended.code(), Some(128 + libc::SIGINT));
        assert_eq!(listed(&dir), [] as [PathBuf; 0]);
        Some(())
    });
}

#[test]
fn a_closed_pipe_ends_it_quietly() {
    let instance = started(&[]);
    append(&instance.context("log"), 1..=5000);
    for format in ["jsonl", "csv"] {
        let mut command = instance.ledgerd(&["export", "log", "--format", format]);
        let mut exporting = Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
        let mut printed = Lines::of(exporting.stdout.take().expect("piped"));
        printed.line().expect("it writes");
        drop(printed);
        let ended = exporting.output();
        assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
        assert!(ended.status.success(), "{}", ended.status);
    }
}

#[test]
fn it_holds_some_entries_and_never_all() {
    let instance = started(&["--window", "1G"]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(PATIENCE);
    let payload = vec![b'x'; 1 << 16];
    for _ in 0..LARGE_COUNT {
        let appended = appender.append(&NewEntry::new("k", &payload));
        appended.expect("room");
    }
    for format in FORMATS {
        let args = ["--format", format, "-o", "/dev/null"];
        let output = limited(&instance, &format!("-d {}", DATA_LEN_MAX >> 10), &args);
        assert!(output.status.success(), "{format}: {output:?}");
    }
}

/// Of 64 KiB each.
const LARGE_COUNT: usize = 768;
/// Of a process: less than they have together, and more than it takes without them.
const DATA_LEN_MAX: usize = 32 << 20;

#[cfg(not(feature = "parquet"))]
#[test]
fn a_program_that_cannot_write_parquet_says_which_one_can() {
    let instance = started(&[]);
    three(&instance);
    let said = refused(&instance, "parquet", &[], 1);
    assert!(said.contains("--path ledgerd --features parquet"), "{said}");
}
