//! What is in a log, proved to somebody who has it not.

use std::process::Stdio;

use ledger_client::{Context, ReadError};
use ledger_shm::merkle;
use ledger_tests::Instance;
use ledger_tests::process::Process;
use serde_json::Value;
use std::io::Write;
use tlog_tiles::tlog::{Hash, check_record, check_tree, record_hash};

use crate::archive::{FORGETFUL, SMALL, append};
use crate::started;

fn hash(value: &Value) -> Hash {
    let digits = value.as_str().expect("text").as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a digit") as u8;
    let bytes: Vec<u8> = digits
        .as_chunks::<2>()
        .0
        .iter()
        .map(|[high, low]| digit(*high) << 4 | digit(*low))
        .collect();
    Hash(bytes.try_into().expect("32 bytes"))
}

fn path(proof: &Value) -> Vec<Hash> {
    let path = proof["path"].as_array().expect("an array");
    path.iter().map(hash).collect()
}

fn proved(instance: &Instance, args: &[&str]) -> Value {
    let mut all = vec!["prove", "log"];
    all.extend(args);
    serde_json::from_str(&instance.printed(&all)).expect("JSON")
}

/// What `ledgerd check-proof` says, and whether it is content.
fn checked(instance: &Instance, proof: &str, more: &[&str]) -> (bool, String) {
    let mut args = vec!["check-proof", "-", "-o", "jsonl"];
    args.extend(more);
    let mut command = instance.ledgerd(&args);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut check = Process::start(&mut command);
    let mut stdin = check.stdin.take().expect("piped");
    stdin.write_all(proof.as_bytes()).expect("it reads");
    drop(stdin);
    let output = check.output();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).expect("text");
    (output.status.success(), said)
}

/// The content of an entry, as docs/FORMAT.md has it.
fn content(context: &Context, seq: u64) -> Vec<u8> {
    let entry = context.get(seq).expect("readable").expect("there");
    let mut content = Vec::new();
    merkle::content(&entry, |bytes| content.extend_from_slice(bytes));
    content
}

#[test]
fn another_implementation_agrees_with_every_proof() {
    let instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=5000);
    context
        .wait_durable(5000, ledger_tests::PATIENCE)
        .expect("a disk");
    for (seq, last) in [
        (1, 1),
        (1, 5000),
        (17, 4096),
        (4999, 5000),
        (5000, 5000),
        (33, 47),
    ] {
        let proof = proved(&instance, &[&seq.to_string(), "--to", &last.to_string()]);
        let leaf = record_hash(&content(&context, seq));
        check_record(&path(&proof), last, hash(&proof["root"]), seq - 1, leaf)
            .unwrap_or_else(|error| panic!("{seq} in {last}: {error:?}"));
        let root = proof["root"].as_str().expect("text");
        let (is_content, said) = checked(&instance, &proof.to_string(), &["--root", root]);
        assert!(is_content, "{said}");
    }
    for (old, new) in [
        (1, 2),
        (1, 5000),
        (4096, 4999),
        (4097, 5000),
        (5000, 5000),
        (16, 48),
    ] {
        let proof = proved(
            &instance,
            &["--consistency", &old.to_string(), &new.to_string()],
        );
        let (old_root, new_root) = (hash(&proof["old_root"]), hash(&proof["new_root"]));
        check_tree(&path(&proof), new, new_root, old, old_root)
            .unwrap_or_else(|error| panic!("{old} to {new}: {error:?}"));
        let root = proof["old_root"].as_str().expect("text");
        let size = old.to_string();
        let (is_content, said) = checked(
            &instance,
            &proof.to_string(),
            &["--root", root, "--size", &size],
        );
        assert!(is_content, "{said}");
        let new_root = proof["new_root"].as_str().expect("text");
        assert!(
            said.contains(&format!("\"new_root\":\"{new_root}\"")),
            "{said}"
        );
        // The root of what has grown is not the one that was kept.
        if old != new {
            let (is_content, said) = checked(&instance, &proof.to_string(), &["--root", new_root]);
            assert!(!is_content && said.contains("another root"), "{said}");
        }
    }
}

#[test]
fn what_is_no_question_is_answered_with_one_that_is() {
    let instance = started(&[]);
    append(&instance.context("log"), 1..=3);
    let said = instance.complained(&["prove", "log", "--consistency", "3", "2"]);
    assert!(said.contains("the older end comes first, as 2 3"), "{said}");
    let said = instance.complained(&["prove", "log"]);
    assert!(said.contains("<SEQ|--consistency <OLD> <NEW>>"), "{said}");
}

#[test]
fn a_proof_about_anything_else_does_not_hold() {
    let instance = started(&[]);
    let context = instance.context("log");
    append(&context, 1..=40);
    let proof = proved(&instance, &["7"]).to_string();
    let (is_content, said) = checked(&instance, &proof, &[]);
    assert!(
        is_content && said.contains("\"is_root_given\":false"),
        "{said}"
    );
    let other: Value = serde_json::from_str(&proved(&instance, &["8"]).to_string()).expect("JSON");
    for (field, value) in [
        ("leaf_index", 7.into()),
        ("tree_size", 32.into()),
        ("tree_size", 0.into()),
        ("tree_size", u64::MAX.into()),
        ("leaf_index", u64::MAX.into()),
        ("root", "00".repeat(32).into()),
        ("path", other["path"].clone()),
        ("path", Value::Array(vec![])),
        ("entry", other["entry"].clone()),
    ] {
        let mut changed: Value = serde_json::from_str(&proof).expect("JSON");
        changed[field] = value;
        let (is_content, said) = checked(&instance, &changed.to_string(), &[]);
        assert!(
            !is_content && said.contains("does not hold"),
            "{field}: {said}"
        );
    }
    let (is_content, said) = checked(&instance, &proof, &["--root", &"ab".repeat(32)]);
    assert!(!is_content && said.contains("another root"), "{said}");
    let root = other["root"].as_str().expect("text");
    assert!(checked(&instance, &proof, &["--root", root, "--size", "40"]).0);
    let (is_content, said) = checked(&instance, &proof, &["--root", root, "--size", "41"]);
    assert!(!is_content && said.contains("not one of 41"), "{said}");
    for (text, why) in [
        ("", "EOF"),
        ("{}", "proof"),
        (&*proof.replace("rfc6962-sha256", "md5"), "md5"),
        (
            &*proof.replace("\"path\":[\"", "\"path\":[\"zz"),
            "hexadecimal",
        ),
    ] {
        let (is_content, said) = checked(&instance, text, &[]);
        assert!(
            !is_content && said.contains("is no proof") && said.contains(why),
            "{said}"
        );
    }
    let said = instance.complained(&["prove", "log", "41"]);
    assert!(
        said.contains("ends with entry 40; ask for one from 1 up to that"),
        "{said}"
    );
    let said = instance.complained(&["prove", "log", "--consistency", "3", "99"]);
    assert!(
        said.contains("no entry 99 yet, the latest one is 40"),
        "{said}"
    );
}

#[test]
fn a_root_is_the_same_from_memory_and_from_files() {
    let mut instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=300);
    let before: Vec<_> = (0..=300)
        .map(|seq| context.root(seq).expect("readable"))
        .collect();
    append(&context, 301..=20_000);
    context
        .wait_durable(20_000, ledger_tests::PATIENCE)
        .expect("a disk");
    let root = context.root(20_000).expect("readable");
    for (seq, before) in before.iter().enumerate() {
        assert_eq!(
            context.root(seq as u64).expect("readable"),
            *before,
            "{seq}"
        );
    }
    crate::archive::lose_memory(&mut instance);
    instance.start(&SMALL);
    let again = instance
        .connect()
        .context("log")
        .open_read_only()
        .expect("it is there");
    assert_eq!(again.root(20_000).expect("readable"), root);
    assert!(
        again
            .prove(17, 20_000)
            .expect("readable")
            .holds(&again.get(17).expect("readable").expect("there"))
    );
}

#[test]
fn without_the_first_entries_nothing_is_proved_from_memory() {
    let instance = started(&FORGETFUL);
    let context = instance.context("log");
    append(&context, 1..=20_000);
    ledger_tests::eventually("it is evicted", || {
        context.first_available().ok().filter(|first| *first > 1)
    });
    let error = context
        .root(20_000)
        .expect_err("the beginning is gone")
        .to_string();
    assert!(error.contains("keep an archive"), "{error}");
    assert!(matches!(context.get(1), Err(ReadError::Evicted { .. })));
}
