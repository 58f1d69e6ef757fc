//! Contexts that are dropped, and what is left of them.

use std::process::Stdio;

use ledger_client::{OpenError, ReadError};
use ledger_tests::process::Process;
use ledger_tests::{Instance, PATIENCE, eventually, may_be_others};
use nix::sys::signal::Signal;

use crate::archive::{SMALL, append, check_all, has_left_memory, home};
use crate::{PROGRAMS, started};

#[test]
fn a_dropped_context_is_gone_from_memory_and_disk() {
    let mut instance = started(&["--durability", "archive"]);
    let said = instance.complained(&["drop", "log", "--yes"]);
    assert!(said.contains("there is no context \"log\""), "{said}");
    let context = instance.context("log");
    append(&context, 1..=100);
    context.wait_durable(100, PATIENCE).expect("a disk");
    let home = home(&instance, &context);
    let du = instance.printed(&["du", "-o", "jsonl"]);
    assert!(du.contains("\"files\":1}"), "{du}");
    let said = instance.complained(&["drop", "log", "--yes"]);
    assert!(said.contains("1 have the context open"), "{said}");
    let unsure = instance.run(&["drop", "log"]);
    assert_eq!(unsure.status.code(), Some(2), "{unsure:?}");
    // Somebody has it mapped without the daemon's knowledge.
    let listed = instance.connect().contexts().expect("listed");
    let held = listed.readable[0].open(&instance.connect()).expect("there");
    drop(context);
    eventually("nobody has it open", || {
        let dropped = instance.run(&["drop", "log", "--yes"]);
        dropped.status.success().then_some(())
    });
    eventually("its files are removed", || {
        let dir = home.parent().expect("an archive");
        let mut left = std::fs::read_dir(dir).expect("an archive");
        left.all(|entry| entry.expect("an entry").file_name() == "lock")
            .then_some(())
    });
    assert_eq!(instance.printed(&["ls", "-o", "raw"]), "");
    assert_eq!(
        held.state().expect("readable"),
        ledger_client::State::Dropped
    );
    // Its name is free, also after a loss of memory.
    append(&instance.context("log"), 1..=5);
    check_all(&instance, 5);
    instance.stop_daemon();
    instance.printed(&["purge"]);
    instance.start(&["--durability", "archive"]);
    check_all(&instance, 5);
}

#[test]
fn what_had_left_memory_is_closed_when_its_context_is_dropped() {
    let instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=10_000);
    has_left_memory(&instance);
    // Somebody has it mapped without the daemon's knowledge.
    let listed = instance.connect().contexts().expect("listed");
    let held = listed.readable[0].open(&instance.connect()).expect("there");
    for seq in [10_000, 1] {
        assert!(held.get(seq).expect("readable").is_some());
    }
    drop(context);
    eventually("nobody has it open", || {
        let dropped = instance.run(&["drop", "log", "--yes"]);
        dropped.status.success().then_some(())
    });
    let read = held.get(1);
    assert!(matches!(read, Err(ReadError::Closed)), "{read:?}");
}

#[test]
fn who_appends_where_the_daemon_does_not_know_of_it_is_refused_after_a_drop() {
    let mut instance = started(&["--durability", "archive"]);
    let mut appender = instance.peer();
    appender.must("open log");
    appender.must("append k v");
    appender.signal(Signal::SIGSTOP);
    appender.wait_for_state(&['T']);
    // The next daemon does not hear of it.
    instance.kill_daemon();
    instance.start(&["--durability", "archive"]);
    instance.printed(&["drop", "log", "--yes"]);
    appender.signal(Signal::SIGCONT);
    let appended = appender.ask("try k late");
    assert!(
        appended.starts_with("error") && appended.contains("dropped"),
        "{appended}"
    );
}

#[test]
fn it_takes_a_right_to_drop_a_context() {
    if !may_be_others() {
        return;
    }
    let mut instance = Instance::new(PROGRAMS);
    let config = instance.configure(
        "[[rights]]\ncontexts = [\"*\"]\nusers = [1008]\nright = \"append\"\n\
         [[rights]]\ncontexts = [\"mine\"]\nusers = [1009]\nright = \"admin\"\n",
    );
    instance.start(&["--config", config.to_str().expect("text")]);
    for name in ["mine", "log"] {
        instance.printed(&["append", name, "k", "v"]);
    }
    let drop = |uid, name| {
        let mut command = instance.ledgerd_as(uid, &["drop", name, "--yes"]);
        let output = Process::start(command.stderr(Stdio::piped())).output();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    for (uid, name) in [(1008, "log"), (1008, "mine"), (1009, "log")] {
        let (is_done, said) = drop(uid, name);
        assert!(
            !is_done && said.contains(&format!("uid {uid} may not administer")),
            "{said}"
        );
    }
    eventually("who appended has left", || {
        drop(1009, "mine").0.then_some(())
    });
    assert_eq!(instance.printed(&["ls", "-o", "raw"]), "log\n");
}

#[test]
fn a_context_that_was_being_dropped_when_its_daemon_died_is_gone() {
    let mut instance = started(&["--durability", "archive"]);
    let context = instance.context("log");
    append(&context, 1..=100);
    context.wait_durable(100, PATIENCE).expect("a disk");
    let home = home(&instance, &context);
    append(&instance.context("other"), 1..=5);
    instance.kill_daemon();
    // It had come so far.
    std::fs::rename(&home, home.with_extension("dropped")).expect("ours");
    instance.start(&["--durability", "archive"]);
    assert_eq!(instance.printed(&["ls", "-o", "raw"]), "other\n");
    assert!(!home.exists() && !home.with_extension("dropped").exists());
    append(&instance.context("log"), 1..=3);
    check_all(&instance, 3);
}

#[test]
fn a_dropped_context_does_not_come_back_though_it_was_being_written() {
    let mut instance = started(&["--durability", "archive", "--idle-close-after", "0"]);
    let ledger = instance.connect();
    for round in 1..=30 {
        let context = ledger.context("log").open_or_create().expect("a context");
        append(&context, 1..=round);
        drop(context);
        eventually(
            "nobody has it open",
            || match ledger_client::admin::drop_context(&ledger, "log") {
                Ok(()) => Some(()),
                Err(OpenError::InUse { .. }) => None,
                Err(error) => panic!("{error}"),
            },
        );
    }
    drop(ledger);
    instance.stop_daemon();
    instance.start(&["--durability", "archive"]);
    assert_eq!(instance.printed(&["ls", "-o", "raw"]), "");
}
