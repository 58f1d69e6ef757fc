//! `ledgerd --remote`: a ledger elsewhere, on the command line.

use std::io::Write as _;
use std::process::Stdio;

use ledger_tests::Instance;
use ledger_tests::process::{Lines, Process};
use nix::sys::signal::Signal;

use super::{Door, TOKEN, right};
use crate::PROGRAMS;

#[test]
fn commands_print_the_same_of_a_ledger_elsewhere() {
    let door = Door::unix(&[]);
    let uri = &*door.uri;
    let here = |args: &[&str]| door.instance.printed(args);
    let there = |args: &[&str]| here(&[&["--remote", uri], args].concat());
    assert_eq!(there(&["append", "log", "k", "1", "-o", "short"]), "1\n");
    let lines = "{\"key\":\"k\",\"payload\":\"2\"}\n{\"key\":\"other\",\"payload_hex\":\"00ff\"}\n";
    let mut command = door
        .instance
        .ledgerd(&["append", "log", "--jsonl", "--remote", uri]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut bulk = command.spawn().expect("it runs");
    let mut input = bulk.stdin.take().expect("piped");
    input.write_all(lines.as_bytes()).expect("it reads");
    drop(input);
    let output = bulk.wait_with_output().expect("it ends");
    assert_eq!(
        output.stdout.iter().filter(|byte| **byte == b'\n').count(),
        2
    );
    for n in 4..=30 {
        here(&["append", "log", "k", &n.to_string(), "--meta", "a=b"]);
    }
    for args in [
        &["ls"][..],
        &["ls", "-o", "short"],
        &["ls", "-o", "raw"],
        &["get", "log"],
        &["get", "log", "3"],
        &["get", "log", "--key", "k", "--after", "10", "--limit", "3"],
        &["get", "log", "-o", "json"],
        &["tail", "log"],
        &["tail", "log", "-n", "3", "-o", "short"],
        &["tail", "log", "--key", "other"],
        &["tail", "log", "--grep", "^2", "-n", "2"],
        &["tail", "log", "--from", "28"],
        &[
            "tail",
            "log",
            "--after",
            "28",
            "--template",
            "{seq} {key} {payload} {meta.a}",
        ],
        &["tail", "log", "--since", "1h"],
    ] {
        assert_eq!(there(args), here(args), "{args:?}");
    }
    let dir = door.instance.runtime_dir();
    let file = |name: &str| dir.join(name).to_str().expect("text").to_owned();
    let (of_here, of_there, packed) = (file("here"), file("there"), file("packed"));
    let exported = here(&["snapshot", "export", "log", "--output", &of_here]);
    let same = there(&["snapshot", "export", "log", "--output", &of_there]);
    assert_eq!(exported, same);
    there(&["snapshot", "export", "log", "--zstd", "--output", &packed]);
    let read = |path: &str| std::fs::read(path).expect("it was written");
    assert_eq!(read(&of_here).len(), read(&of_there).len());
    let loaded = there(&["snapshot", "load", &packed, "--as", "copy"]);
    assert!(loaded.contains("\"last_seq\":30"), "{loaded}");
    assert_eq!(
        here(&["get", "copy", "3"]),
        here(&["get", "log", "3"]).replace("log", "copy")
    );
}

#[test]
fn a_tail_of_a_ledger_elsewhere_follows() {
    let door = Door::unix(&[]);
    door.instance.printed(&["append", "log", "k", "old"]);
    let args = ["--remote", &door.uri, "tail", "log", "-f", "-o", "raw"];
    let mut command = door.instance.ledgerd(&args);
    let mut tail = Process::start(command.stdout(Stdio::piped()));
    let mut lines = Lines::of(tail.stdout.take().expect("piped"));
    let mut expected = String::from("old");
    for text in ["new", "newer"] {
        // It is delivered though nothing follows.
        door.instance
            .printed(&["append", "log", "k", &format!("{text}\n")]);
        expected += text;
        assert_eq!(lines.line().expect("it comes"), expected);
        expected.clear();
    }
    tail.signal(Signal::SIGTERM);
    tail.ended();
    let args = [
        "--remote",
        &door.uri,
        "tail",
        "log",
        "-f",
        "--timeout",
        "0.2",
    ];
    let output = door.instance.run(&args);
    assert_eq!(output.status.code(), Some(4), "nothing comes");
}

#[test]
fn a_command_says_what_is_not_done_elsewhere() {
    let instance = Instance::new(PROGRAMS);
    let complained = |args: &[&str], code: i32, said: &str| {
        let output = instance.run(args);
        let complaint = String::from_utf8(output.stderr).expect("text");
        assert!(complaint.contains(said), "{complaint}");
        assert_eq!(output.status.code(), Some(code), "{complaint}");
    };
    let nowhere = "unix:/nowhere/at/all";
    complained(
        &["--remote", nowhere, "status"],
        2,
        "--remote is for ls, append",
    );
    complained(&["--remote", nowhere, "ls"], 3, "cannot reach the ledger");
    complained(&["--remote", "nowhere", "ls"], 2, "is no address such as");
    complained(
        &["--remote", nowhere, "--uid", "7", "ls"],
        2,
        "--remote names a ledger, and so do",
    );
    complained(
        &["--remote", nowhere, "--token-file", "/nowhere", "ls"],
        2,
        "cannot read \"/nowhere\"",
    );
}

#[test]
fn a_command_shows_its_token() {
    let door = Door::tcp(&right("append"));
    let token = door.instance.runtime_dir().join("token");
    std::fs::write(&token, format!("{TOKEN}\n")).expect("written");
    let token = token.to_str().expect("text");
    let args = ["--remote", &door.uri, "append", "log", "k", "v"];
    let said = door.instance.complained(&args);
    assert!(said.contains("needs a token"), "{said}");
    let shown = [&args[..], &["--token-file", token, "-o", "short"]].concat();
    assert_eq!(door.instance.printed(&shown), "1\n");
}
