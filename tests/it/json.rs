//! What the commands print as JSON is what `docs/JSON.md` says, and how they end
//! is what their exit codes say.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use ledger_shm::object::{self, Name};
use ledger_tests::Instance;
use ledger_tests::process::{Lines, Process};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{PROGRAMS, started};

const DOCUMENT: &str = include_str!("../../docs/JSON.md");

/// The fields under a heading: name, type, and whether it may be left out.
fn fields(heading: &str) -> Vec<(&'static str, &'static str, bool)> {
    let (_, section) = DOCUMENT
        .split_once(&format!("# {heading}"))
        .unwrap_or_else(|| panic!("no section {heading:?}"));
    let rows = section
        .lines()
        .skip(1)
        .take_while(|line| !line.starts_with("##"));
    rows.filter_map(|row| {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        let (kind, note) = (cells.next()?, cells.next()?);
        Some((name, kind, note.starts_with("*sometimes*")))
    })
    .collect()
}

/// Every field is documented, has its type, and is there unless it may be left
/// out.
pub(crate) fn check(found: &Value, headings: &[&str]) {
    let fields: Vec<_> = headings
        .iter()
        .flat_map(|heading| fields(heading))
        .collect();
    let object = found.as_object().unwrap_or_else(|| panic!("{found}"));
    let known: BTreeSet<_> = fields.iter().map(|(name, ..)| *name).collect();
    for name in object.keys() {
        assert!(known.contains(name.as_str()), "{name} of {found}");
    }
    for (name, kind, is_optional) in fields {
        let is_right = match (object.get(name), kind) {
            (None, _) => is_optional,
            (Some(Value::String(_)), "string" | "string or number")
            | (Some(Value::Array(_)), "array") => true,
            (Some(Value::Number(number)), "number" | "number or null" | "string or number") => {
                number.is_u64()
            }
            (Some(Value::Object(_)), "object") | (Some(_), "any") => true,
            (Some(Value::Null), "number or null") | (Some(Value::Bool(_)), "boolean") => true,
            _ => false,
        };
        assert!(is_right, "{name} of {found} is no {kind}");
    }
}

pub(crate) fn printed(instance: &Instance, args: &[&str]) -> Value {
    let text = instance.printed(args);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"))
}

/// A measurement takes seconds, and an instance of its own that it removes.
#[test]
fn a_measurement_ends_with_nothing_left_also_when_it_is_interrupted() {
    let instance = Instance::new(PROGRAMS);
    let mut command = instance.ledgerd(&["bench", "roundtrip", "-o", "jsonl"]);
    let mut process = Process::start(command.stdout(Stdio::piped()));
    let mut lines = Lines::of(process.stdout.take().expect("piped"));
    let name = format!("bench_{}", process.pid());
    let own = ledger_shm::object::Instance::own(&name).expect("a name");
    let row = lines.line().expect("a row");
    check(
        &serde_json::from_str(&row).expect("an object"),
        &["A measurement: `bench`"],
    );
    assert!(!object::list(&own).expect("a list").is_empty());
    process.signal(Signal::SIGINT);
    let rows: Vec<String> = std::iter::from_fn(|| lines.line().ok()).collect();
    assert!(process.ended().success());
    assert_eq!(rows.len(), 3, "{rows:?}");
    assert_eq!(object::list(&own).expect("a list"), []);
    let dir = std::env::temp_dir().join(format!("ledger-{name}"));
    assert!(!dir.exists());
    assert!(!instance.state_dir().exists());
}

fn array(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        other => panic!("{other} is no array"),
    }
}

#[test]
fn every_command_prints_the_documented_fields() {
    let instance = started(&[]);
    let (entry, context) = ("An entry: `get`, `tail`", "A context: `ls`");
    for payload in ["text", "with \"quotes\"\n"] {
        let args = ["append", "log", "k", payload, "--meta", "a=b", "-o", "json"];
        check(
            &printed(&instance, &args),
            &["An entry that was appended: `append`"],
        );
    }
    let mut command = instance.ledgerd(&["append", "log", "k"]);
    command
        .arg(OsStr::from_bytes(&[0xFF]))
        .stdout(Stdio::null());
    assert!(Process::start(&mut command).ended().success());

    for args in [&["get", "log"][..], &["tail", "log", "-n", "9"]] {
        let document = array(printed(&instance, &[args, &["-o", "json"]].concat()));
        assert_eq!(document.len(), 3);
        for item in &document {
            check(item, &[entry]);
        }
        assert_eq!(document[1]["payload"], "with \"quotes\"\n");
        assert_eq!(document[2]["payload_hex"], "ff");
        // The same, line by line.
        let lines = instance.printed(&[args, &["-o", "jsonl"]].concat());
        let lines: Vec<Value> = lines
            .lines()
            .map(|line| serde_json::from_str(line).expect("an object"))
            .collect();
        assert_eq!(lines, document);
    }
    let none = ["get", "log", "--key", "nothing", "-o", "json"];
    assert_eq!(array(printed(&instance, &none)), [] as [Value; 0]);
    let listed = array(printed(&instance, &["ls", "-o", "json"]));
    check(&listed[0], &[context]);
    let info = printed(&instance, &["info", "log", "-o", "json"]);
    check(&info, &[context, "A context, described: `info`"]);
    let status = printed(&instance, &["status", "-o", "json"]);
    check(&status, &["A daemon: `status`"]);
    assert_eq!(status["pid"], instance.daemon_pid());
    assert_eq!(
        (&status["contexts"], &status["attached"]),
        (&1.into(), &0.into())
    );
    let context = instance.context("log");
    let mut watcher = context.watch(1);
    watcher.try_next().expect("readable").expect("an entry");
    let watching = array(printed(&instance, &["watchers", "log", "-o", "json"]));
    check(&watching[0], &["A watcher: `watchers`"]);
    assert_eq!(watching[0]["behind"], 2);
    assert_eq!(
        instance.printed(&["get", "log", "-o", "hex"]),
        "74657874\n77697468202271756f746573220a\nff\n"
    );
}

#[test]
fn snapshots_and_proofs_print_the_documented_fields() {
    let instance = started(&[]);
    for payload in ["one", "two", "three"] {
        instance.printed(&["append", "log", "k", payload]);
    }
    let path = |file: &str| {
        let path = instance.runtime_dir().join(file);
        path.to_str().expect("text").to_owned()
    };
    let (plain, small, lines, proof) = (path("plain"), path("small"), path("lines"), path("proof"));
    let exported = printed(&instance, &["snapshot", "export", "log", "-o", &plain]);
    check(&exported, &["A snapshot, written: `snapshot export`"]);
    instance.printed(&["snapshot", "export", "log", "-o", &small, "--zstd"]);
    for (file, has_root) in [(&plain, true), (&small, false)] {
        let info = printed(&instance, &["snapshot", "info", file, "-o", "json"]);
        check(&info, &["A snapshot, described: `snapshot info`"]);
        assert_eq!(info.get("root").is_some(), has_root, "{info}");
        for command in [&["verify", file][..], &["snapshot", "verify", file]] {
            let verdict = printed(&instance, &[command, &["-o", "jsonl"]].concat());
            check(&verdict, &["A verdict: `verify`"]);
            assert_eq!(verdict["root"], exported["root"]);
        }
    }
    let bytes = std::fs::read(&plain).expect("just written");
    let torn = path("torn");
    std::fs::write(&torn, &bytes[..bytes.len() - 1]).expect("ours");
    let output = instance.run(&["snapshot", "verify", &torn, "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let verdict: Value = serde_json::from_slice(&output.stdout).expect("an object");
    check(&verdict, &["A verdict: `verify`"]);
    assert_eq!(verdict["is_sound"], false);

    let loaded = "What was loaded: `snapshot load`, `import`";
    for args in [
        &["snapshot", "load", &plain, "--as", "copy"][..],
        &["snapshot", "load", &small, "--as", "copy"],
    ] {
        let found = printed(&instance, &[args, &["-o", "json"]].concat());
        check(&found, &[loaded]);
        assert_eq!(found["root"], exported["root"]);
    }
    instance.printed(&["export", "log", "--format", "jsonl", "-o", &lines]);
    let imported = printed(&instance, &["import", "again", &lines, "-o", "json"]);
    check(&imported, &[loaded]);
    assert_eq!(imported["root"], exported["root"]);

    std::fs::write(&proof, instance.printed(&["prove", "log", "2"])).expect("ours");
    let root = exported["root"].as_str().expect("text");
    for (more, is_root_given) in [(&[][..], false), (&["--root", root], true)] {
        let args = [&["check-proof", &proof, "-o", "json"], more].concat();
        let checked = printed(&instance, &args);
        check(&checked, &["A proof, checked: `check-proof`"]);
        assert_eq!(checked["is_root_given"], is_root_given);
    }
}

/// How a command ends, and what it says as JSON.
fn ends(instance: &Instance, args: &[&str], code: i32, kind: &str) {
    let output = instance.run(&[args, &["-o", "json"]].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
    let error: Value =
        serde_json::from_str(&said).unwrap_or_else(|error| panic!("{args:?}: {error}: {said}"));
    check(&error, &["An error"]);
    assert_eq!(error["kind"], kind, "{args:?}");
    let row = format!("| {code} | `{kind}` |");
    assert!(DOCUMENT.contains(&row), "{row}");
}

#[test]
fn exit_codes_and_errors_say_what_kind_of_failure_it_was() {
    let instance = Instance::new(PROGRAMS);
    ends(&instance, &["append", "log", "k"], 3, "unreachable");
    ends(&instance, &["get", "log"], 1, "failed");
    let instance = started(&["--memory-budget", "64K", "--window", "1G"]);
    instance.printed(&["append", "log", "k", "v"]);
    ends(&instance, &["get", "log", "2"], 1, "failed");
    let late = ["get", "log", "2", "--timeout", "0.05"];
    ends(&instance, &late, 4, "timed_out");
    let late = ["tail", "log", "-f", "--timeout", "0.05"];
    let output = instance.run(&[&late[..], &["-o", "jsonl"]].concat());
    assert_eq!(output.status.code(), Some(4));
    assert!(!output.stdout.is_empty(), "what there was");
    let endless = ["tail", "log", "-f"];
    ends(&instance, &endless, 2, "usage");
    ends(&instance, &["append", "log"], 2, "usage");
    ends(&instance, &["get", "log", "--quux"], 2, "usage");
    ends(&instance, &["append", "", "k", "v"], 2, "usage");
    ends(&instance, &["ls", "--instance", "a-b"], 2, "usage");
    let large = "x".repeat(60_000);
    ends(&instance, &["append", "log", "k", &large], 1, "failed");
    let late = ["append", "log", "k", &large, "--timeout", "2"];
    ends(&instance, &late, 4, "timed_out");
    instance.pause_daemon();
    let late = ["append", "log", "k", "v", "--timeout", "0.05"];
    ends(&instance, &late, 3, "unreachable");
    instance.resume_daemon();
    // In words for those who have not asked for JSON.
    let said = instance.complained(&["get", "log", "2"]);
    assert!(said.starts_with("ledgerd: there is no entry 2"), "{said}");
}

#[test]
fn get_waits_for_an_entry_that_comes_in_time() {
    let instance = started(&[]);
    instance.printed(&["append", "log", "k", "first"]);
    let mut command = instance.ledgerd(&["get", "log", "2", "--timeout", "30", "-o", "raw"]);
    let getting = Process::start(command.stdout(Stdio::piped()));
    instance.printed(&["append", "log", "k", "second"]);
    assert_eq!(getting.output().stdout, b"second");
}

#[test]
fn what_get_prints_can_be_appended_elsewhere() {
    let instance = started(&[]);
    let run = |args: &[&str], input: &str| {
        let mut command = instance.ledgerd(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut running = Process::start(&mut command);
        let mut pipe = running.stdin.take().expect("piped");
        pipe.write_all(input.as_bytes()).expect("it reads");
        drop(pipe);
        running.output()
    };
    let lines = concat!(
        "{\"key\":\"k\",\"payload\":\"text\",\"metadata\":[[\"a\",\"b\"],[\"a\",\"c\"]]}\n",
        "\n",
        "{\"key\":\"k\",\"payload_hex\":\"00ff\",\"received_lamport\":41}\n",
        "{\"key\":\"none\"}",
    );
    let appended = run(&["append", "one", "--jsonl", "-o", "json"], lines);
    let printed: Value = serde_json::from_slice(&appended.stdout).expect("a document");
    let printed = array(printed);
    let lamports: Vec<_> = printed
        .iter()
        .map(|line| line["lamport"].as_u64())
        .collect();
    assert_eq!(lamports, [Some(1), Some(42), Some(43)]);
    check(&printed[0], &["An entry that was appended: `append`"]);

    let first = instance.printed(&["get", "one", "-o", "jsonl"]);
    assert!(run(&["append", "two", "--jsonl"], &first).status.success());
    let second = instance.printed(&["get", "two", "-o", "jsonl"]);
    let given = |text: &str| {
        let lines = text.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).expect("an object");
            let fields = line.as_object_mut().expect("an object");
            fields.retain(|name, _| !["appended_at_ns", "lamport"].contains(&name.as_str()));
            line
        });
        lines.collect::<Vec<_>>()
    };
    assert_eq!(given(&second), given(&first));

    for (line, reason) in [
        (
            "{\"key\":\"k\",\"payload_hex\":\"0\"}",
            "line 2: `payload_hex` \"0\" is no pairs",
        ),
        ("{\"paylod\":\"k\"}", "line 2: unknown field `paylod`"),
        ("{\"key\":\"\"}", "line 2: the key is empty"),
        ("[\"key\"]", "line 2: a line is an object and no array"),
    ] {
        let input = format!("{{\"key\":\"good\"}}\n{line}\n{{\"key\":\"after\"}}\n");
        let refused = run(&["append", "three", "--jsonl", "-o", "short"], &input);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(said.contains(reason), "{said}");
        assert!(!refused.status.success());
        assert!(said.contains("what comes before it is appended"), "{said}");
    }
    assert_eq!(
        instance.printed(&["get", "three", "-o", "hex"]),
        "\n\n\n\n",
        "the good ones only"
    );
}

#[test]
fn doctor_says_what_is_wrong_and_what_to_do() {
    let mut instance = started(&[]);
    instance.printed(&["append", "log", "k", "v"]);
    let findings = |instance: &Instance| {
        let output = instance.run(&["doctor", "-o", "json"]);
        let found: Value = serde_json::from_slice(&output.stdout).expect("a document");
        let found = array(found);
        for finding in &found {
            check(finding, &["A finding: `doctor`"]);
            let is_fine = finding["verdict"] == "ok";
            assert_eq!(finding.get("remedy").is_none(), is_fine, "{finding}");
        }
        let is_bad = found.iter().any(|finding| finding["verdict"] == "bad");
        assert_eq!(output.status.code(), Some(i32::from(is_bad)));
        found
    };
    let verdict = |found: &[Value], what: &str| {
        let of = |finding: &&Value| finding["check"] == what;
        let last = found
            .iter()
            .rfind(of)
            .unwrap_or_else(|| panic!("no {what}"));
        last["verdict"].as_str().expect("a word").to_owned()
    };
    let served = findings(&instance);
    assert_ne!(verdict(&served, "shared memory"), "bad", "{served:?}");
    for what in ["daemon", "objects", "runtime dir"] {
        assert_eq!(verdict(&served, what), "ok", "{served:?}");
    }
    let epoch = instance.context("log").epoch();
    instance.stop_daemon();
    let left = findings(&instance);
    assert_eq!(verdict(&left, "daemon"), "warning", "{left:?}");
    assert_eq!(verdict(&left, "objects"), "warning", "{left:?}");
    let set = |path: &Path, mode| {
        let permissions = Permissions::from_mode(mode);
        std::fs::set_permissions(path, permissions).expect("ours");
    };
    let control = Name::Control(epoch).path_in(&instance.objects());
    set(&control, 0o666);
    set(instance.runtime_dir(), 0o777);
    let spoilt = findings(&instance);
    assert_eq!(verdict(&spoilt, "objects"), "bad", "{spoilt:?}");
    assert_eq!(verdict(&spoilt, "runtime dir"), "bad", "{spoilt:?}");
    set(instance.runtime_dir(), 0o700);
    let said = instance.complained(&["doctor", "-o", "short"]);
    assert!(said.contains("findings are bad"), "{said}");
}
