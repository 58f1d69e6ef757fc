//! Contexts that are in files only, read while no daemon runs.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use ledger_client::{Context, Ledger, State};
use ledger_shm::file::FileName;
use ledger_shm::object::{self, Name};
use ledger_tests::{Instance, PATIENCE, eventually};

use crate::archive::{FORGETFUL, append, files, home, payload};
use crate::started;

const ARGS: [&str; 4] = ["--durability", "archive", "--archive-file", "64K"];

fn without_daemon(instance: &Instance) -> Ledger {
    let builder = instance.builder().daemon_optional(true);
    builder.connect().expect("none is needed")
}

/// All but what the daemon has said of where its archive lies, which this process
/// has no other way to know.
fn lose_contexts(instance: &mut Instance) {
    instance.kill_daemon();
    for name in object::list(&instance.objects()).expect("a memory file system") {
        if name != Name::Lock {
            object::unlink(&instance.objects(), name).expect("ours");
        }
    }
}

/// Everything that commands print about a context, none of which asks a daemon.
fn printed(instance: &Instance) -> [String; 4] {
    [
        instance.printed(&["tail", "log", "-n", "3", "-o", "jsonl"]),
        instance.printed(&["get", "log", "4000", "-o", "jsonl"]),
        instance.printed(&["get", "log", "--key", "k", "-o", "jsonl"]),
        instance.printed(&["export", "log", "--format", "jsonl"]),
    ]
}

/// What every file of the archive holds.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(dir).expect("a home");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).expect("ours");
        (path, bytes)
    };
    paths.map(read).collect()
}

#[test]
fn without_a_daemon_a_context_is_read_from_its_files() {
    let mut instance = started(&ARGS);
    let context = instance.context("log");
    append(&context, 1..=5000);
    context.wait_durable(5000, PATIENCE).expect("a disk");
    let home = home(&instance, &context);
    let is_finished = |name: &FileName| matches!(name, FileName::Finished(_));
    let of_both_kinds = files(&instance, &context);
    assert!(of_both_kinds.iter().any(is_finished), "{of_both_kinds:?}");
    assert!(!of_both_kinds.iter().all(is_finished), "{of_both_kinds:?}");
    let before = printed(&instance);
    let (root, epoch) = (context.root(5000).expect("readable"), context.epoch());
    drop(context);
    lose_contexts(&mut instance);
    let on_disk = contents(&home);

    assert_eq!(printed(&instance), before);
    let info = instance.printed(&["info", "log", "-o", "short"]);
    for row in [
        "state            archived\n",
        "first available  1\n",
        "latest           5000\n",
    ] {
        assert!(info.contains(row), "{info}");
    }
    let context = without_daemon(&instance)
        .context("log")
        .open_read_only()
        .expect("files");
    assert_eq!(
        (context.epoch(), context.state().ok()),
        (epoch, Some(State::Archived))
    );
    check_from(&context, 1, 5000);
    assert_eq!(context.root(5000).expect("readable"), root);
    let proof = context.prove(4999, 5000).expect("readable");
    let entry = context.get(4999).expect("readable").expect("there");
    assert!(proof.root == root && proof.holds(&entry));
    let snapshot = context.snapshot_to(std::io::sink()).run();
    assert_eq!(snapshot.expect("readable").root, root);
    assert_eq!(contents(&home), on_disk, "nothing may be changed");
    // Of what is not there it is said that it is not.
    assert!(context.get(5001).expect("readable").is_none());
    let said = instance.complained(&["get", "other", "1"]);
    assert!(said.contains("there is no context \"other\""), "{said}");
}

/// A range, whatever is asked of it, and single entries.
fn check_from(context: &Context, first: u64, latest: u64) {
    assert_eq!(context.first_available().expect("readable"), first);
    assert_eq!(context.latest().expect("readable"), latest);
    let mut range = context.range(first);
    for seq in first..=latest {
        let entry = range.next_entry().expect("readable").expect("it is there");
        assert_eq!((entry.seq(), entry.payload()), (seq, &payload(seq)[..]));
        entry.verify().expect("as it was appended");
    }
    for _ in 0..2 {
        assert!(range.next_entry().expect("an end").is_none());
    }
    assert!(
        context
            .range(latest + 9)
            .next_entry()
            .expect("an end")
            .is_none()
    );
    let mut none = context.range(first).key("another");
    assert!(none.next_entry().expect("an end").is_none());
}

#[test]
fn what_has_left_memory_and_is_in_no_file_is_gone_without_a_daemon_as_well() {
    let mut instance = started(&FORGETFUL);
    let context = instance.context("log");
    append(&context, 1..=5000);
    let is_gone = |context: &Context| {
        let outcome = context.get(1);
        outcome.is_err_and(|error| error.is_evicted())
    };
    eventually("it has left memory", || is_gone(&context).then_some(()));
    instance.kill_daemon();
    assert!(is_gone(&context), "{:?}", context.get(1).map(drop));
}

#[test]
fn of_an_unfinished_file_the_valid_part_is_read_and_left_as_it_is() {
    let mut instance = started(&ARGS);
    let context = instance.context("log");
    append(&context, 1..=100);
    context.wait_durable(100, PATIENCE).expect("a disk");
    let home = home(&instance, &context);
    drop(context);
    lose_contexts(&mut instance);
    let open = home.join(FileName::Open(1).to_string());
    let mut file = OpenOptions::new().append(true).open(&open).expect("ours");
    file.write_all(b"half a record").expect("ours");
    let torn = contents(&home);
    let check = |latest| {
        let opened = without_daemon(&instance).context("log").open_read_only();
        check_from(&opened.expect("a file"), 1, latest);
    };
    check(100);
    assert_eq!(contents(&home), torn);
    // One that could not be written any more holds what was durable.
    let failed = home.join(FileName::Failed(1).to_string());
    std::fs::copy(&open, failed).expect("ours");
    let len = file.metadata().expect("ours").len();
    file.set_len(len / 2).expect("ours");
    check(100);
    // Without its head nothing of a file is valid.
    std::fs::write(&open, b"").expect("ours");
    check(100);
    std::fs::remove_file(home.join(FileName::Failed(1).to_string())).expect("ours");
    let said = instance.complained(&["get", "log", "1"]);
    assert!(said.contains("there is no context \"log\""), "{said}");
}

#[test]
fn who_reads_files_is_told_to_open_again_when_there_is_more() {
    let mut instance = started(&ARGS);
    append(&instance.context("log"), 1..=3000);
    let context = instance.context("log");
    context.wait_durable(3000, PATIENCE).expect("a disk");
    drop(context);
    lose_contexts(&mut instance);
    let ledger = without_daemon(&instance);
    let context = ledger.context("log").open_read_only().expect("files");
    let mut watcher = context.watch(2999);
    for seq in 2999..=3000 {
        assert_eq!(watcher.next().expect("readable").seq(), seq);
    }
    let told = watcher.next_timeout(PATIENCE).expect_err("nobody appends");
    assert!(told.is_closed(), "{told}");
    let refused = context.appender().expect_err("it was opened for reading");
    assert_eq!(refused, ledger_client::AppendError::ReadOnly);

    instance.start(&ARGS);
    append(&instance.context("log"), 3001..=9000);
    eventually("the connection is made", || {
        ledger.is_connected().then_some(())
    });
    // What was opened goes on as it was.
    check_from(&context, 1, 3000);
    let again = ledger.context("log").open_read_only().expect("a daemon");
    check_from(&again, 1, 9000);
}
