//! Contexts as one file: written while others append, verified, and loaded again.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;

use ledger_client::{LoadError, NewEntry, ReadError};
use ledger_tests::process::Process;
use ledger_tests::small_memory::with_small_memory;
use ledger_tests::{Instance, PATIENCE, eventually};

use crate::archive::{FORGETFUL, SMALL, append, payload};
use crate::disk::mount_small;
use crate::loading::left;
use crate::{PROGRAMS, started};

/// A file of the test's own.
pub(crate) fn file(instance: &Instance, name: &str) -> PathBuf {
    instance.runtime_dir().join(name)
}

pub(crate) fn export(instance: &Instance, context: &str, name: &str, more: &[&str]) -> PathBuf {
    let path = file(instance, name);
    let mut args = vec!["snapshot", "export", context, "-o", text(&path)];
    args.extend(more);
    instance.printed(&args);
    path
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

pub(crate) fn load(instance: &Instance, path: &Path, more: &[&str]) -> serde_json::Value {
    let mut args = vec!["snapshot", "load", text(path), "-o", "jsonl"];
    args.extend(more);
    serde_json::from_str(&instance.printed(&args)).expect("JSON")
}

pub(crate) fn lines(instance: &Instance, context: &str) -> String {
    instance.printed(&["export", context, "--format", "jsonl"])
}

/// Its bytes, but for those that say when it was written and check that.
fn timeless(path: &Path) -> Vec<u8> {
    let mut bytes = fs::read(path).expect("just written");
    bytes[96..104].fill(0);
    bytes[248..252].fill(0);
    bytes
}

#[test]
fn a_snapshot_comes_back_as_it_was_and_goes_on() {
    let instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=10_000);
    let path = export(&instance, "log", "one", &[]);
    let again = export(&instance, "log", "two", &[]);
    assert!(
        timeless(&path) == timeless(&again),
        "the same entries, the same bytes"
    );
    let info = instance.printed(&["snapshot", "info", text(&path), "-o", "jsonl"]);
    let verdict = instance.printed(&["snapshot", "verify", text(&path), "-o", "jsonl"]);
    let [info, verdict]: [serde_json::Value; 2] =
        [info, verdict].map(|line| serde_json::from_str(&line).expect("JSON"));
    assert_eq!(info["context"], "log");
    assert_eq!(
        (&info["first_seq"], &info["last_seq"]),
        (&1.into(), &10_000.into())
    );
    assert_eq!(verdict["entries"], 10_000);
    assert_eq!(info["root"], verdict["root"]);

    let loaded = load(&instance, &path, &["--as", "copy"]);
    assert_eq!(
        (&loaded["new_entries"], &loaded["root"]),
        (&10_000.into(), &info["root"])
    );
    assert_eq!(lines(&instance, "copy"), lines(&instance, "log"));
    assert_eq!(
        instance.printed(&["append", "copy", "k", "next", "-o", "short"]),
        "10001\n"
    );
    let whole = export(&instance, "copy", "three", &["--to", "10000"]);
    let of_copy = instance.printed(&["snapshot", "info", text(&whole), "-o", "jsonl"]);
    let of_copy: serde_json::Value = serde_json::from_str(&of_copy).expect("JSON");
    assert_eq!(
        of_copy["root"], info["root"],
        "a copy has the root of what it is of"
    );
    instance.printed(&["verify", "copy"]);
}

#[test]
fn a_snapshot_may_be_compressed_and_come_through_a_pipe() {
    let instance = started(&SMALL);
    append(&instance.context("log"), 1..=3000);
    let plain = export(&instance, "log", "plain", &[]);
    let small = export(&instance, "log", "small", &["--zstd"]);
    assert!(
        fs::metadata(&small).expect("there").len() < fs::metadata(&plain).expect("there").len()
    );
    instance.printed(&["snapshot", "verify", text(&small)]);
    let out = instance.run(&["snapshot", "export", "log", "--zstd"]);
    assert!(out.status.success());
    let mut command = instance.ledgerd(&["snapshot", "load", "-", "--as", "copy"]);
    let mut loader = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut stdin = loader.stdin.take().expect("piped");
    stdin.write_all(&out.stdout).expect("it reads");
    drop(stdin);
    assert!(loader.output().status.success());
    assert_eq!(lines(&instance, "copy"), lines(&instance, "log"));
}

#[test]
fn an_empty_context_is_a_valid_snapshot() {
    let instance = started(&SMALL);
    instance.context("log");
    let path = export(&instance, "log", "empty", &[]);
    instance.printed(&["snapshot", "verify", text(&path)]);
    assert_eq!(load(&instance, &path, &["--as", "copy"])["new_entries"], 0);
    assert_eq!(
        instance.printed(&["append", "copy", "k", "first", "-o", "short"]),
        "1\n"
    );
    // Any context goes on with it: it has nothing else.
    assert_eq!(load(&instance, &path, &[])["new_entries"], 0);
}

#[test]
fn a_snapshot_is_the_exact_prefix_while_others_append() {
    let instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=2000);
    thread::scope(|scope| {
        scope.spawn(|| append(&context, 2001..=20_000));
        for seq in [1, 15, 16, 17, 1999, 2000] {
            let mut bytes = Vec::new();
            let snapshot = context.snapshot_to(&mut bytes).up_to(seq).run();
            assert_eq!(snapshot.expect("readable").last_seq, seq);
            let name = format!("copy-{seq}");
            let loaded = context.ledger().load_from(&bytes[..]).name(&name).run();
            assert_eq!(loaded.expect("a place").new_count, seq);
            let copy = context
                .ledger()
                .context(&name)
                .open_read_only()
                .expect("loaded");
            assert_eq!(copy.latest().expect("readable"), seq);
            let entry = copy.get(seq).expect("readable").expect("there");
            assert_eq!(entry.payload(), payload(seq));
        }
    });
}

#[test]
fn what_is_not_a_whole_snapshot_is_called_what_it_is() {
    let instance = started(&SMALL);
    append(&instance.context("log"), 1..=3);
    let path = export(&instance, "log", "whole", &[]);
    let whole = std::fs::read(&path).expect("just written");
    instance.printed(&["snapshot", "info", text(&path)]);
    let (cut, longer) = (&whole[..whole.len() - 1], [&whole[..], b"x"].concat());
    std::fs::write(&path, cut).expect("ours");
    let said = instance.complained(&["snapshot", "info", text(&path)]);
    assert!(said.contains("cut short, or damaged"), "{said}");
    for (bytes, is_called, first_bad) in [
        // All of its entries are whole.
        (cut, "ends behind entry 3", None),
        (&whole[..whole.len() / 2], "ends behind entry", Some(())),
        (&longer, "ends with entry 3, and bytes follow", None),
        (b"", "it is empty", None),
        (b"else", "it begins with \"else\"", None),
    ] {
        std::fs::write(&path, bytes).expect("ours");
        let output = instance.run(&["snapshot", "verify", text(&path), "-o", "jsonl"]);
        let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let damage = verdict["damage"].as_str().expect("text");
        assert!(damage.contains(is_called), "{damage}");
        assert_eq!(
            verdict["first_bad"].as_u64().map(drop),
            first_bad,
            "{verdict}"
        );
    }
}

#[test]
fn what_is_no_snapshot_is_refused_by_name() {
    let instance = started(&SMALL);
    append(&instance.context("log"), 1..=50);
    let whole = fs::read(export(&instance, "log", "whole", &[])).expect("just written");
    let zeros = vec![0; 64 << 20];
    let bomb = zstd::encode_all(&zeros[..], 3).expect("memory");
    let behind_a_head = zstd::encode_all(&[&whole[..4096], &zeros[..]].concat()[..], 3);
    let mut other_version = whole.clone();
    other_version[8] = 77;
    let mut other_order = whole.clone();
    other_order[..8].reverse();
    for (what, bytes, said) in [
        ("nothing", vec![], "this is no snapshot"),
        (
            "garbage",
            b"\x7fELF and more".to_vec(),
            "this is no snapshot",
        ),
        ("another version", other_version, "version 77"),
        ("another byte order", other_order, "this is no snapshot"),
        ("a bomb", bomb, "this is no snapshot"),
        (
            "a bomb behind a head",
            behind_a_head.expect("memory"),
            "damaged",
        ),
        (
            "half of one",
            whole[..whole.len() / 2].to_vec(),
            "ends behind entry",
        ),
        (
            "compressed garbage",
            b"\x28\xb5\x2f\xfd not zstd".to_vec(),
            "cannot read the snapshot",
        ),
    ] {
        let path = file(&instance, "bad");
        fs::write(&path, bytes).expect("ours");
        for command in [
            &["snapshot", "load", text(&path), "--as", "copy"][..],
            &["snapshot", "verify", text(&path)],
        ] {
            let output = instance.run(command);
            assert_eq!(output.status.code(), Some(1), "{what}");
            let printed = [output.stdout, output.stderr].concat();
            let printed = String::from_utf8(printed).expect("text");
            assert!(printed.contains(said), "{what}: {printed}");
        }
    }
    assert_eq!(instance.printed(&["ls", "-o", "raw"]), "log\n");
}

#[test]
fn a_full_disk_is_named_by_export_and_by_load() {
    with_small_memory(
        PROGRAMS,
        "snapshot::a_full_disk_is_named_by_export_and_by_load",
        "64M",
        || {
            let mut instance = Instance::new(PROGRAMS);
            mount_small(&instance.state_dir(), "2M");
            instance.start(&["--durability", "archive"]);
            let context = instance.context("log");
            let mut appender = context.appender().expect("an appender");
            appender.set_wait(PATIENCE);
            for _ in 0..12 {
                appender
                    .append(&NewEntry::new("k", &vec![7; 100_000]))
                    .expect("room");
            }
            let (small, large) = (
                instance.runtime_dir().join("small"),
                file(&instance, "large"),
            );
            mount_small(&small, "1M");
            let target = small.join("snapshot");
            let said = instance.complained(&["snapshot", "export", "log", "-o", text(&target)]);
            assert!(
                said.contains("cannot write") && said.contains("No space left"),
                "{said}"
            );
            assert_eq!(
                fs::read_dir(&small).expect("ours").count(),
                0,
                "nothing is left"
            );
            instance.printed(&["snapshot", "export", "log", "-o", text(&large)]);
            let said = instance.complained(&["snapshot", "load", text(&large), "--as", "copy"]);
            assert!(said.contains("No space left"), "{said}");
            assert_eq!(left(&instance), [""; 0]);
            assert_eq!(instance.printed(&["ls", "-o", "raw"]), "log\n");
            nix::mount::umount(&small).expect("nobody uses it");
        },
    );
}

#[test]
fn a_snapshot_of_what_was_evicted_says_what_is_missing() {
    let instance = started(&FORGETFUL);
    let context = instance.context("log");
    append(&context, 1..=20_000);
    let first = eventually("it is evicted", || {
        context.first_available().ok().filter(|first| *first > 1)
    });
    let error = context
        .snapshot_to(std::io::sink())
        .run()
        .expect_err("the beginning is gone");
    assert!(
        error.to_string().contains("entries before"),
        "{error} {first}"
    );
}

#[test]
fn a_damaged_archive_is_not_exported_as_if_it_were_whole() {
    let instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=20_000);
    let dir = crate::archive::home(&instance, &context);
    let finished = eventually("a file is finished", || {
        let path = dir.join("00000000000000000001.ledger");
        path.exists().then_some(path)
    });
    let mut bytes = fs::read(&finished).expect("ours");
    let at = bytes.len() / 3;
    bytes[at] ^= 1;
    fs::write(&finished, bytes).expect("ours");
    let reader = instance
        .connect()
        .context("log")
        .open_read_only()
        .expect("it is there");
    let error = reader
        .snapshot_to(std::io::sink())
        .run()
        .expect_err("damaged");
    assert!(
        matches!(
            &error,
            ledger_client::SnapshotError::Read(ReadError::Corrupt(_) | ReadError::Map(_))
        ),
        "{error:?}"
    );
    let loaded = reader.ledger().load_from(&b"not one"[..]).run();
    assert!(matches!(loaded, Err(LoadError::Snapshot(_))));
}
