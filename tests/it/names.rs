//! Names of contexts and instances.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;

use ledger_client::{ConnectError, Ledger, OpenError};
use ledger_shm::control::InvalidName;
use ledger_tests::process::Process;

use crate::started;

#[test]
fn a_name_is_1_to_1024_bytes_of_utf8() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let refused = |name: &[u8]| match ledger.context(name).open_or_create() {
        Err(OpenError::InvalidName(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(b""), InvalidName::Empty);
    assert_eq!(refused(&[b'x'; 1025]), InvalidName::TooLong { len: 1025 });
    assert_eq!(refused(b"ab\xff"), InvalidName::NotUtf8 { valid_up_to: 2 });
    for name in ["x".repeat(1024), "ünï/cödé \n".to_owned()] {
        let context = ledger
            .context(&name)
            .open_or_create()
            .expect("a valid name");
        assert_eq!(context.name(), name);
        assert_eq!(
            ledger.context(&name).open().expect("it exists").epoch(),
            context.epoch()
        );
    }
}

#[test]
fn commands_say_what_is_wrong_with_a_name() {
    let instance = started(&[]);
    let too_long = "x".repeat(1025);
    for (name, reason) in [("", "is empty"), (&too_long, "has 1025 bytes")] {
        for args in [&["append", name, "k", "v"][..], &["get", name]] {
            let said = instance.complained(args);
            assert!(said.contains(reason), "{args:?}: {said}");
        }
    }
    let mut command = instance.ledgerd(&["append"]);
    command.arg(OsStr::from_bytes(b"ab\xff")).args(["k", "v"]);
    let output = Process::start(command.stderr(Stdio::piped())).output();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("<CONTEXT>': not UTF-8"), "{said}");
}

#[test]
fn an_unknown_context_is_an_error_that_says_how_to_make_one() {
    let mut instance = started(&[]);
    let ledger = instance.connect();
    for outcome in [
        ledger.context("none").open(),
        ledger.context("none").open_read_only(),
    ] {
        let error = outcome.expect_err("there is none");
        assert!(error.is_unknown(), "{error}");
    }
    for command in ["get", "tail", "info", "inspect"] {
        let said = instance.complained(&[command, "none"]);
        assert!(
            said.contains("no context \"none\"")
                && said.contains(instance.name())
                && said.contains("`ledgerd ls` lists those there are"),
            "{said}"
        );
    }
    // It may have been the wrong place.
    let empty = instance.run(&["ls"]);
    let said = String::from_utf8_lossy(&empty.stderr).into_owned();
    assert!(empty.status.success() && empty.stdout.is_empty(), "{said}");
    assert!(said.contains("has no contexts"), "{said}");
    // Nor is there one to be made of nothing.
    let lines = instance.runtime_dir().join("lines");
    std::fs::write(&lines, "").expect("ours");
    for name in ["", &"x".repeat(1025)] {
        let output = instance.run(&["import", name, lines.to_str().expect("text")]);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("the context name "), "{said}");
    }
    instance.stop_daemon();
    for args in [&["get", "none"][..], &["ls"]] {
        let said = String::from_utf8(instance.run(args).stderr).expect("text");
        assert!(
            said.contains(instance.name()) && said.contains("no daemon answers there"),
            "{said}"
        );
    }
}

#[test]
fn an_instance_name_with_other_characters_is_refused() {
    let outcome = Ledger::builder().instance("a-b").connect();
    assert!(
        matches!(outcome, Err(ConnectError::InvalidInstance(_))),
        "{outcome:?}"
    );
}
