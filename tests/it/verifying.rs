//! `ledgerd verify`: of files and of memory.

use ledger_shm::file::{FileName, Scan};
use ledger_tests::{Instance, PATIENCE};

use crate::archive::{SMALL, append, home};
use crate::started;

/// What `verify` says, and with which exit code it has to end.
fn verdict(instance: &Instance, args: &[&str], code: i32) -> serde_json::Value {
    let output = instance.run(&[&["verify", "-o", "jsonl"], args].concat());
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let line = String::from_utf8(output.stdout).expect("text");
    serde_json::from_str(&line).expect("JSON")
}

#[test]
fn verify_reads_the_file_that_is_not_finished() {
    let mut instance = started(&["--durability", "archive"]);
    let context = instance.context("log");
    append(&context, 1..=100);
    context.wait_durable(100, PATIENCE).expect("a disk");
    let root = &verdict(&instance, &["log"], 0)["root"];
    let path = home(&instance, &context).join(FileName::Open(1).to_string());
    let whole = std::fs::read(&path).expect("it is there");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    let named = path.to_str().expect("text");
    for is_in_memory in [true, false] {
        if !is_in_memory {
            instance.kill_daemon();
            std::fs::write(&path, &whole).expect("ours");
            instance.printed(&["purge"]);
        }
        let sound = verdict(&instance, &["log"], 0);
        assert_eq!((&sound["entries"], &sound["root"]), (&100.into(), root));
        assert_eq!(&verdict(&instance, &[named], 0)["root"], root);
        std::fs::write(&path, &damaged).expect("ours");
        for what in ["log", named] {
            let found = verdict(&instance, &[what], 1);
            let first_bad = found["first_bad"].as_u64().expect("it is named");
            assert!((2..100).contains(&first_bad), "{found}");
        }
    }
    // As a loss of power leaves it.
    std::fs::write(&path, &whole[..whole.len() - 10]).expect("ours");
    for what in ["log", named] {
        let found = verdict(&instance, &[what], 0);
        assert_eq!(
            (&found["entries"], &found["last_seq"]),
            (&99.into(), &99.into())
        );
        assert!(found["torn"].as_u64().is_some_and(|len| len > 0), "{found}");
    }
    // Both: there are whole entries behind what is wrong, though the last is none.
    std::fs::write(&path, &damaged[..whole.len() - 10]).expect("ours");
    let found = verdict(&instance, &["log"], 1);
    let first_bad = found["first_bad"].as_u64().expect("it is named");
    assert!((2..100).contains(&first_bad), "{found}");
}

#[test]
fn verify_names_the_first_entry_that_is_not_as_it_was_appended() {
    let mut instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=5000);
    context.wait_durable(5000, PATIENCE).expect("a disk");
    let sound = verdict(&instance, &["log"], 0);
    assert_eq!(
        (&sound["entries"], &sound["is_quick"]),
        (&5000.into(), &false.into())
    );
    assert_eq!(verdict(&instance, &["--all"], 0)["what"], "log");
    let snapshot = instance.runtime_dir().join("log.ledger");
    let snapshot = snapshot.to_str().expect("text");
    instance.printed(&["snapshot", "export", "log", "-o", snapshot]);
    let refused = instance.run(&["verify", "--quick", snapshot]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");

    let home = home(&instance, &context);
    let finished = FileName::Finished(1).to_string();
    let path = home.join(&finished);
    let whole = std::fs::read(&path).expect("ours");
    let named = path.to_str().expect("text");
    assert_eq!(verdict(&instance, &[named], 0)["is_sound"], true);
    // One bit of one entry.
    let mut bytes = whole.clone();
    let scan = Scan::of(&whole[..]).expect("a head");
    let third = scan.head.data_offset() + 2 * (scan.valid_len() / scan.count() as usize) + 100;
    bytes[third] ^= 1;
    std::fs::write(&path, &bytes).expect("ours");
    for args in [["log"], [named]] {
        let found = verdict(&instance, &args, 1);
        assert_eq!(
            (&found["is_sound"], &found["first_bad"]),
            (&false.into(), &3.into())
        );
    }
    // Who reads no entry does not see it, but the tree over them all.
    let quick = verdict(&instance, &["log", "--quick"], 0);
    assert_eq!(
        (&quick["root"], &quick["is_quick"], &quick["entries"]),
        (&sound["root"], &true.into(), &5000.into())
    );
    let index = whole.len() - (whole.len() - scan.valid_len()) / 2;
    for at in [20, index, whole.len() - 20] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).expect("ours");
        for args in [["log", "--quick"], [named, "--quick"]] {
            let found = verdict(&instance, &args, 1);
            assert_eq!(found["is_sound"], false, "byte {at}: {found}");
        }
    }
    // A file that is not there, and one that has another's name.
    std::fs::remove_file(&path).expect("ours");
    let renamed = home.join(FileName::Finished(5001).to_string());
    std::fs::write(renamed, &whole).expect("ours");
    assert_eq!(verdict(&instance, &["log"], 1)["is_sound"], false);
    instance.kill_daemon();
    let said = instance.complained(&["verify", "none"]);
    assert!(said.contains("there is no context \"none\""), "{said}");
}

#[test]
fn verify_says_the_root_of_a_context_of_any_name_and_of_its_snapshots() {
    let instance = started(&SMALL);
    let name = "loans/7";
    append(&instance.context(name), 1..=5000);
    let path = |file: &str| {
        let path = instance.runtime_dir().join(file);
        path.to_str().expect("text").to_owned()
    };
    let (plain, small) = (path("plain"), path("small"));
    instance.printed(&["snapshot", "export", name, "-o", &plain]);
    instance.printed(&["snapshot", "export", name, "-o", &small, "--zstd"]);
    let proof = instance.printed(&["prove", name, "1", "--to", "5000"]);
    let proof: serde_json::Value = serde_json::from_str(&proof).expect("JSON");
    for what in [name, &plain, &small] {
        let verdict = instance.printed(&["verify", what, "-o", "jsonl"]);
        let verdict: serde_json::Value = serde_json::from_str(&verdict).expect("JSON");
        assert_eq!(verdict["root"], proof["root"], "{what}");
        assert_eq!(verdict["last_seq"], 5000, "{what}");
        assert_eq!(verdict["entries"], 5000, "{what}");
    }
    let said = instance.complained(&["verify", "loans/8"]);
    assert!(
        said.contains("there is no context \"loans/8\"") && said.contains("no file"),
        "{said}"
    );
}

#[test]
fn verify_notices_entries_that_are_nowhere() {
    let instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=5000);
    context.wait_durable(5000, PATIENCE).expect("a disk");
    let home = home(&instance, &context);
    let away = home.with_extension("away");
    std::fs::rename(&home, &away).expect("ours");
    let output = instance.run(&["verify", "log", "-o", "jsonl"]);
    std::fs::rename(&away, &home).expect("ours");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("\"first_bad\":1"), "{said}");
    instance.printed(&["verify", "log"]);
}
