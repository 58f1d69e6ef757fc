//! `ledgerd tail`: where it begins, what it prints, and how it ends.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use ledger_client::NewEntry;
use ledger_tests::process::{Lines, Process};
use ledger_tests::{Instance, eventually};

use crate::archive::FORGETFUL;
use crate::commands::{lines, three};
use crate::{IN_MEMORY, started};

#[test]
fn it_begins_where_it_is_told_and_follows() {
    let mut instance = started(&[]);
    three(&instance);
    let raw = |args: &[&str]| instance.printed(&[&["tail", "log", "-o", "raw"], args].concat());
    assert_eq!(raw(&["-n", "2"]), "two");
    assert_eq!(raw(&["--from", "1"]), "onetwo");
    assert_eq!(raw(&["--after", "2"]), "");
    assert_eq!(raw(&["--from", "1", "--key", "traces"]), "two");
    assert_eq!(raw(&["-n", "2", "--key", "facts"]), "one");
    assert_eq!(raw(&["-n", "1", "--key", "traces"]), "two");
    assert_eq!(raw(&["-n", "1", "--key", "nothing"]), "");

    let mut command = instance.ledgerd(&["tail", "log", "-f", "-n", "1", "-o", "jsonl"]);
    let mut following = Process::start(command.stdout(Stdio::piped()));
    let mut printed = Lines::of(following.stdout.take().expect("piped"));
    let mut seq = || lines(&printed.line().expect("it follows"))[0]["seq"].clone();
    assert_eq!(seq(), 3);
    for n in 4..=6 {
        instance.printed(&["append", "log", "k", "v"]);
        assert_eq!(seq(), n);
    }
    instance.kill_daemon();
    instance.start(&[]);
    instance.printed(&["append", "log", "k", "v"]);
    assert_eq!(seq(), 7);
}

#[test]
fn a_follower_ends_when_nobody_reads_it_though_nothing_happens() {
    let instance = started(&[]);
    three(&instance);
    let mut command = instance.ledgerd(&["tail", "log", "-f", "-n", "0", "-o", "raw"]);
    let mut following = Process::start(command.stdout(Stdio::piped()));
    drop(following.stdout.take());
    assert!(following.ended().success());
}

#[test]
fn it_finds_by_text_and_time_and_prints_in_ones_own_words() {
    let instance = started(&[]);
    three(&instance);
    let tail = |args: &[&str]| instance.printed(&[&["tail", "log", "-o", "raw"], args].concat());
    assert_eq!(tail(&["--grep", "^t.o$"]), "two");
    assert_eq!(tail(&["--grep", "(?i)^T"]), "two");
    assert_eq!(tail(&["--grep", "o", "-n", "1"]), "two");
    assert_eq!(tail(&["--grep", "o", "--key", "facts"]), "one");
    assert_eq!(tail(&["--since", "1h"]), "onetwo");
    assert_eq!(tail(&["--until", "1h"]), "");
    let first = lines(&instance.printed(&["get", "log", "1", "-o", "jsonl"]));
    let at = first[0]["appended_at_ns"].as_u64().expect("a number");
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(at);
    let at = humantime::format_rfc3339_nanos(at).to_string();
    assert_eq!(tail(&["--until", &at]), "one");
    assert_eq!(tail(&["--since", &at, "--until", "0s", "-n", "1"]), "");
    let until_now = ["--since", &at, "-f", "--until", "0s"];
    assert_eq!(
        tail(&until_now),
        "onetwo",
        "it does not wait for later ones"
    );

    let template = "{seq} {key} {payload} {meta.b}|{meta.none}";
    let printed = instance.printed(&["tail", "log", "--from", "2", "--template", template]);
    assert_eq!(printed, "2 traces two x=y|\n3 facts  |\n");
    let wrong = instance.run(&["tail", "log", "--template", "{sequence}"]);
    assert_eq!(wrong.status.code(), Some(2));
    for args in [["--grep", "("], ["--since", "yesterday"]] {
        let wrong = instance.run(&[&["tail", "log"][..], &args].concat());
        assert_eq!(wrong.status.code(), Some(2), "{args:?}");
    }
}

/// A story on a log that never pauses.
fn flooded(story: impl FnOnce(&Instance)) {
    let instance = started(&["--memory-budget", "8M", "--spare-max", "256K"]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let entry = NewEntry::new("k", "v");
    for _ in 0..10 {
        appender.append(&entry).expect("room");
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let appending = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                match appender.append(&entry) {
                    Err(error) if !error.is_full() => panic!("{error}"),
                    _ => {}
                }
            }
        });
        let outcome = catch_unwind(AssertUnwindSafe(|| story(&instance)));
        is_over.store(true, Ordering::Relaxed);
        appending.join().expect("no panic");
        outcome.unwrap_or_else(|panic| resume_unwind(panic));
    });
}

/// Runs a command until it is not told that what it reads has left memory.
fn not_evicted(instance: &Instance, args: &[&str]) -> Output {
    eventually("memory lasts", || {
        let output = instance.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        (!said.contains("has left memory")).then_some(output)
    })
}

#[test]
fn it_ends_though_the_log_never_does() {
    flooded(|instance| {
        let args = ["tail", "log", "-o", "raw", "-n", "5"];
        for more in [&[][..], &["--key", "k"]] {
            let output = not_evicted(instance, &[&args, more].concat());
            assert!(output.status.success(), "{output:?}");
            assert_eq!(String::from_utf8_lossy(&output.stdout), "vvvvv");
        }
    });
}

#[test]
fn a_follower_that_prints_nothing_ends_though_the_log_never_pauses() {
    flooded(|instance| {
        let args = ["tail", "log", "-f", "-n", "0", "--grep", "nothing"];
        let output = not_evicted(instance, &[&args[..], &["--timeout", "0.3"]].concat());
        assert_eq!(output.status.code(), Some(4), "{output:?}");

        let output = not_evicted(instance, &[&args[..], &["--until", "0s"]].concat());
        assert!(output.status.success(), "{output:?}");

        eventually("memory lasts", || {
            let mut command = instance.ledgerd(&args);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut following = Process::start(&mut command);
            drop(following.stdout.take());
            let output = following.output();
            let said = String::from_utf8_lossy(&output.stderr);
            (!said.contains("has left memory")).then(|| {
                assert!(output.status.success() && said.is_empty(), "{output:?}");
            })
        });
    });
}

#[test]
fn a_cursor_file_whose_place_has_left_memory_is_named() {
    let instance = started(&FORGETFUL);
    let mut writer = instance.peer();
    writer.must("open log");
    writer.must("fill 10 100");
    let file = instance.runtime_dir().join("cursor");
    let path = file.to_str().expect("text").to_owned();
    let args = ["tail", "log", "-o", "raw", "--cursor-file", &path];
    instance.printed(&args);
    writer.must("fill 10000 100");
    let context = instance.context("log");
    eventually("what it wants is retired", || {
        (context.first_available().expect("readable") > 11).then_some(())
    });
    let said = instance.complained(&args);
    assert!(said.contains("entry 11 has left memory"), "{said}");
    assert!(
        said.contains(&format!("{path} says to go on there")),
        "{said}"
    );
}

#[test]
fn what_could_not_be_written_is_written_the_next_time() {
    let instance = started(&[]);
    // Larger than what is gathered before it is written.
    let payload = "v".repeat(20_000);
    instance.printed(&["append", "log", "k", &payload]);
    let file = instance.runtime_dir().join("cursor");
    let path = file.to_str().expect("text").to_owned();
    let args = ["tail", "log", "-o", "raw", "--cursor-file", &path];
    let full = File::options().write(true).open("/dev/full");
    let mut command = instance.ledgerd(&args);
    command
        .stdout(full.expect("/dev/full"))
        .stderr(Stdio::piped());
    let output = Process::start(&mut command).output();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(instance.printed(&args), payload);
    assert_eq!(instance.printed(&args), "");
}

#[test]
fn its_timeout_begins_when_everything_old_is_printed() {
    let instance = started(&[]);
    three(&instance);
    let args = ["tail", "log", "-f", "--from", "1", "-o", "raw"];
    for more in [&[][..], &["--key", "traces"]] {
        let output = instance.run(&[&args, more, &["--timeout", "0"]].concat());
        assert_eq!(output.status.code(), Some(4), "{output:?}");
        let all = if more.is_empty() { "onetwo" } else { "two" };
        assert_eq!(String::from_utf8_lossy(&output.stdout), all);
    }
}

#[test]
fn it_goes_on_where_its_cursor_file_says() {
    let mut instance = started(&IN_MEMORY);
    three(&instance);
    let file = instance.runtime_dir().join("cursor");
    let path = file.to_str().expect("text").to_owned();
    let args = ["tail", "log", "-o", "raw", "--cursor-file", &path];
    assert_eq!(instance.printed(&args), "onetwo");
    assert_eq!(instance.printed(&args), "");
    instance.printed(&["append", "log", "k", "four"]);
    instance.printed(&["append", "log", "k", "five"]);
    assert_eq!(instance.printed(&args), "fourfive");
    // It is another context's now.
    instance.stop_daemon();
    instance.printed(&["purge"]);
    instance.start(&IN_MEMORY);
    instance.printed(&["append", "log", "k", "anew"]);
    let said = instance.complained(&args);
    assert!(said.contains("made anew since"), "{said}");
    std::fs::write(&file, "nonsense").expect("our file");
    let said = instance.complained(&args);
    assert!(said.contains("is no cursor file"), "{said}");
    std::fs::remove_file(&file).expect("our file");
    assert_eq!(instance.printed(&args), "anew");
}
