//! What `ledgerd` prints, for eyes and for programs.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use ledger_tests::process::{Lines, Process};
use ledger_tests::{Instance, eventually};
use nix::pty::{OpenptyResult, openpty};
use serde_json::Value;

use crate::{PROGRAMS, started};

pub(crate) fn lines(printed: &str) -> Vec<Value> {
    printed
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect()
}

pub(crate) fn three(instance: &Instance) {
    instance.printed(&["append", "log", "facts", "one"]);
    instance.printed(&[
        "append", "log", "traces", "two", "--meta", "a=1", "--meta", "b=x=y",
    ]);
    instance.printed(&["append", "log", "facts"]);
}

#[test]
fn append_takes_its_payload_from_the_line_a_file_or_standard_input() {
    let instance = started(&[]);
    let file = instance.runtime_dir().join("payload");
    std::fs::write(&file, [0, 159, 146, 150]).expect("room");
    instance.printed(&["append", "log", "k", &format!("@{}", file.display())]);
    assert_eq!(
        instance.run(&["get", "log", "1", "-o", "raw"]).stdout,
        [0, 159, 146, 150]
    );
    let mut command = instance.ledgerd(&["append", "log", "k", "-", "-o", "short"]);
    let mut appending = Process::start(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut input = appending.stdin.take().expect("piped");
    input.write_all(b"from a pipe").expect("it reads");
    drop(input);
    assert_eq!(appending.output().stdout, b"2\n");
    assert_eq!(
        instance.printed(&["get", "log", "2", "-o", "raw"]),
        "from a pipe"
    );
    for file in ["/nowhere", ""] {
        let said = instance.complained(&["append", "log", "k", &format!("@{file}")]);
        assert!(said.contains(&format!("file {file:?}")), "{said}");
    }
    let said = instance.complained(&["append", "log", "k", "v", "--meta", "pair"]);
    assert!(said.contains("has no `=`"), "{said}");
    // An option that is none is no payload; a number is, and what follows `--`.
    let said = instance.complained(&["append", "log", "k", "--mata"]);
    assert!(said.contains("unexpected argument '--mata'"), "{said}");
    instance.printed(&["append", "log", "k", "-5"]);
    instance.printed(&["append", "log", "k", "--", "--mata"]);
    assert_eq!(
        instance.printed(&["tail", "log", "-n", "2", "-o", "raw"]),
        "-5--mata"
    );
    let mut command = instance.ledgerd(&["append", "log", "k"]);
    command.arg(OsStr::from_bytes(&[0xFF, 0xFE]));
    let appended = Process::start(command.stdout(Stdio::piped())).output();
    assert!(appended.status.success());
    assert_eq!(
        instance.run(&["get", "log", "5", "-o", "raw"]).stdout,
        [0xFF, 0xFE]
    );
    // What no context takes creates none.
    let said = instance.complained(&["append", "another", "", "v"]);
    assert!(said.contains("the key is empty"), "{said}");
    assert_eq!(instance.printed(&["ls", "-o", "raw"]), "log\n");
}

#[test]
fn get_filters_and_prints_one_object_per_line() {
    let instance = started(&[]);
    three(&instance);
    let all = lines(&instance.printed(&["get", "log", "-o", "jsonl"]));
    assert_eq!(all.len(), 3);
    assert_eq!(all[1]["seq"], 2);
    assert_eq!(all[1]["key"], "traces");
    assert_eq!(all[1]["payload"], "two");
    assert_eq!(
        all[1]["metadata"],
        serde_json::json!([["a", "1"], ["b", "x=y"]])
    );
    assert_eq!(all[2]["payload"], "");
    let seqs = |args: &[&str]| {
        let args = [&["get", "log", "-o", "jsonl"], args].concat();
        let found = lines(&instance.printed(&args));
        found
            .iter()
            .map(|line| line["seq"].as_u64().expect("a number"))
            .collect::<Vec<_>>()
    };
    assert_eq!(seqs(&["--key", "facts"]), [1, 3]);
    assert_eq!(seqs(&["--after", "1"]), [2, 3]);
    assert_eq!(seqs(&["--limit", "2"]), [1, 2]);
    assert_eq!(
        seqs(&["--key", "facts", "--after", "1", "--limit", "9"]),
        [3]
    );
    assert_eq!(seqs(&["2"]), [2]);
    let said = instance.complained(&["get", "log", "4"]);
    assert!(said.contains("no entry 4; the latest is 3"), "{said}");
    let output = instance.run(&["get", "log", "0"]);
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("0 is not in 1.."), "{said}");
}

#[test]
fn for_eyes_there_is_one_aligned_line_each() {
    let instance = started(&[]);
    three(&instance);
    assert_eq!(
        instance.printed(&["get", "log", "-o", "short"]),
        "     1  facts        one\n\
         \x20    2  traces       two  a=1  b=x=y\n\
         \x20    3  facts        \n"
    );
}

#[test]
fn ls_and_info_describe_contexts() {
    let instance = started(&[]);
    three(&instance);
    instance.printed(&["append", "another", "k", "v"]);
    let listed = lines(&instance.printed(&["ls", "-o", "jsonl"]));
    let names: Vec<_> = listed.iter().map(|line| line["context"].clone()).collect();
    assert_eq!(names, ["another", "log"]);
    let info = lines(&instance.printed(&["info", "log", "-o", "jsonl"]));
    assert_eq!(info[0]["latest"], 3);
    assert_eq!(info[0]["state"], "open");
    assert_eq!(info[0]["epoch"], listed[1]["epoch"]);
    // In the same order, aligned.
    let columns = |printed: String| {
        let lines = printed.lines().map(|line| {
            let words = line.split_whitespace().map(str::to_owned);
            words.collect::<Vec<_>>()
        });
        lines.collect::<Vec<_>>()
    };
    assert_eq!(
        columns(instance.printed(&["ls", "-o", "short"])),
        [
            ["CONTEXT", "STATE", "FIRST", "LATEST"],
            ["another", "open", "1", "1"],
            ["log", "open", "1", "3"]
        ]
    );
    let short = columns(instance.printed(&["info", "log", "-o", "short"]));
    let epoch = info[0]["epoch"].as_str().expect("text");
    for row in [
        &["context", "log"][..],
        &["epoch", epoch],
        &["state", "open"],
        &["first", "available", "1"],
        &["latest", "3"],
        &["largest", "payload", "4194304", "bytes"],
        &["largest", "metadata", "65536", "bytes"],
    ] {
        assert!(
            short.iter().any(|found| found == row),
            "{row:?} in {short:?}"
        );
    }
    let said = instance.complained(&["info", "nobody"]);
    assert!(said.contains("nobody"), "{said}");
}

#[test]
fn inspect_draws_what_is_in_memory() {
    let instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let mut writer = instance.peer();
    writer.must("open log");
    writer.must("fill 200 100");
    let drawing = eventually("two spares", || {
        let drawing = instance.printed(&["inspect", "log"]);
        (drawing.matches("spare").count() == 2).then_some(drawing)
    });
    let (head, rest) = drawing.split_once('\n').expect("lines");
    assert!(
        head.starts_with("context \"log\" open, epoch ") && head.ends_with(", first part 1"),
        "{head}"
    );
    // A record is a header of 48 bytes and an archive of 124, rounded up to 176.
    let expected = concat!(
        "  part   1     16384 B  seq 1..=83           83/153 slots  14720/14720 B  seal -> 2\n",
        "  part   2     65536 B  seq 84..=200         117/626 slots  22080/60096 B  frontier\n",
        "  part   3     65536 B  spare\n",
        "  part   4     65536 B  spare\n",
        "  bell: parked 0, count ",
    );
    assert!(
        rest.starts_with(expected),
        "found:\n{rest}\nexpected:\n{expected}"
    );
}

#[test]
fn what_cannot_be_parsed_says_how_it_is_used() {
    let instance = started(&[]);
    for args in [&["get"][..], &["frobnicate"], &["tail", "log", "-n", "x"]] {
        let output = instance.run(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("--help"),
            "{args:?}"
        );
    }
}

/// What the command says with its output on a terminal.
fn on_a_terminal(command: &mut std::process::Command) -> String {
    let OpenptyResult { master, slave } = openpty(None, None).expect("a terminal");
    let error = slave.try_clone().expect("a descriptor");
    let output = Process::start(command.stdout(slave).stderr(error));
    // Nobody else has the other end once it has ended.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    assert!(output.ended().success());
    let mut said = Vec::new();
    // Which the kernel says by EIO.
    let _ = File::from(master).read_to_end(&mut said);
    String::from_utf8(said).expect("text")
}

#[test]
fn colours_are_for_terminals_whose_user_wants_them() {
    let instance = started(&[]);
    three(&instance);
    const ESCAPE: char = '\u{1b}';
    let help = |colour: &[(&str, &str)]| {
        let mut command = instance.ledgerd(&["get", "--help"]);
        command.env_remove("NO_COLOR").env("TERM", "xterm-256color");
        on_a_terminal(command.envs(colour.iter().copied()))
    };
    assert!(help(&[]).contains(ESCAPE));
    assert!(!help(&[("NO_COLOR", "1")]).contains(ESCAPE));
    assert!(!instance.printed(&["get", "--help"]).contains(ESCAPE));
    // Data has none anywhere.
    let mut get = instance.ledgerd(&["get", "log"]);
    let data = on_a_terminal(get.env("TERM", "xterm-256color"));
    assert!(data.contains("facts") && !data.contains(ESCAPE), "{data}");
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let instance = started(&[]);
    let mut writer = instance.peer();
    writer.must("open log");
    writer.must("fill 5000 100");
    let mut command = instance.ledgerd(&["get", "log", "-o", "jsonl"]);
    let mut getting = Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    let mut printed = Lines::of(getting.stdout.take().expect("piped"));
    printed.line().expect("it prints");
    drop(printed);
    let ended = getting.output();
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
    assert!(ended.status.success(), "{}", ended.status);
}

#[test]
fn every_command_ends_quietly_where_nobody_reads() {
    let mut instance = started(&[]);
    three(&instance);
    let unread = |instance: &Instance, args: &[&str], code: i32| {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut command = instance.ledgerd(args);
        command.stdout(writer.try_clone().expect("a descriptor"));
        if code != 0 {
            command.stderr(writer);
        } else {
            command.stderr(Stdio::piped());
        }
        let output = Process::start(&mut command).output();
        assert_eq!(output.status.code(), Some(code), "{args:?} {output:?}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{args:?}");
    };
    for args in [
        &["ls"][..],
        &["info", "log"],
        &["get", "log"],
        &["tail", "log"],
        &["export", "log", "--format", "jsonl"],
        &["export", "log", "--format", "csv"],
        &["watchers", "log"],
        &["inspect", "log"],
        &["status"],
        &["config", "check"],
        &["config", "show"],
        &["config", "show", "-o", "json"],
        &["completions", "bash"],
    ] {
        unread(&instance, args, 0);
    }
    unread(&instance, &["get", "none"], 1);
    unread(&instance, &["get", "none", "-o", "json"], 1);
    instance.stop_daemon();
    unread(&instance, &["purge"], 0);
}

#[test]
fn an_append_that_cannot_be_printed_says_that_it_was_appended() {
    let instance = started(&[]);
    let mut command = instance.ledgerd(&["append", "log", "k", "v"]);
    let full = File::options().write(true).open("/dev/full");
    command
        .stdout(full.expect("/dev/full"))
        .stderr(Stdio::piped());
    let output = Process::start(&mut command).output();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("entry 1 is appended, but: "), "{said}");
    assert_eq!(instance.printed(&["get", "log", "-o", "raw"]), "v");
}

#[test]
fn a_shell_completes_commands_options_and_the_names_of_contexts() {
    let instance = started(&[]);
    for name in ["loan-7", "loan-8", "other"] {
        instance.printed(&["append", name, "k", "v"]);
    }
    let script = instance.printed(&["completions", "bash"]);
    assert!(script.contains("LEDGERD_COMPLETE="), "{script}");
    let completed = |words: &[&str]| {
        let mut command = instance.ledgerd(&[&["--", "ledgerd"], words].concat());
        command
            .env("LEDGERD_COMPLETE", "fish")
            .stdout(Stdio::piped());
        let output = Process::start(&mut command).output();
        let printed = String::from_utf8(output.stdout).expect("text");
        let names = printed.lines().map(|line| line.split('\t').next());
        names
            .map(|name| name.expect("a name").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(completed(&["ins"]), ["inspect"]);
    assert_eq!(completed(&["get", "loan"]), ["loan-7", "loan-8"]);
    assert_eq!(completed(&["gates", "loan"]), ["loan-7", "loan-8"]);
    assert_eq!(completed(&["diff", "other", "loan"]), ["loan-7", "loan-8"]);
    assert_eq!(completed(&["tail", "log", "--ti"]), ["--timeout"]);
    // The instance that the line says, and no name that is not one word.
    instance.printed(&["append", "loan 9", "k", "v"]);
    let other = started(&[]);
    other.printed(&["append", "loan-other", "k", "v"]);
    let dir = other.runtime_dir().to_str().expect("text");
    let named = format!("--instance={}", other.name());
    let line = ["--runtime-dir", dir, &named, "get", "loan"];
    assert_eq!(completed(&line), ["loan-other"]);
    assert_eq!(completed(&["get", "loan"]), ["loan-7", "loan-8"]);
}

#[test]
fn the_manual_has_a_page_for_each_command() {
    let instance = Instance::new(PROGRAMS);
    let dir = instance.runtime_dir().join("man1");
    instance.printed(&["man", dir.to_str().expect("text")]);
    for name in ["ledgerd.1", "ledgerd-append.1", "ledgerd-run.1"] {
        let page = std::fs::read_to_string(dir.join(name)).expect(name);
        assert!(page.contains(".SH NAME"), "{page}");
    }
    let page = std::fs::read_to_string(dir.join("ledgerd-run.1")).expect("written");
    assert!(page.contains("memory\\-budget"), "{page}");
}
