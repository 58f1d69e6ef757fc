//! Contexts whose entries outlive their memory.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ledger_client::{Context, DurableError, NewEntry};
use ledger_shm::file::{FileName, verify};
use ledger_tests::process::{Lines, Process};
#[cfg(target_arch = "x86_64")]
use ledger_tests::traced::Way;
use ledger_tests::{Instance, PATIENCE, eventually, may_be_others};

use crate::{IN_MEMORY, PROGRAMS, started};

/// A window that a few thousand entries are larger than.
pub(crate) const SMALL: [&str; 8] = [
    "--durability",
    "archive",
    "--window",
    "64K",
    "--spare-min",
    "64K",
    "--spare-max",
    "64K",
];

/// As small, and without files for what leaves it.
pub(crate) const FORGETFUL: [&str; 8] = [
    "--durability",
    "memory",
    "--window",
    "64K",
    "--spare-min",
    "64K",
    "--spare-max",
    "64K",
];

pub(crate) fn append(context: &Context, seqs: std::ops::RangeInclusive<u64>) {
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(PATIENCE);
    for seq in seqs {
        let payload = payload(seq);
        let appended = appender.append(&NewEntry::new("k", &payload));
        assert_eq!(appended.expect("room").seq, seq);
    }
}

pub(crate) fn payload(seq: u64) -> Vec<u8> {
    vec![seq as u8; 100 + seq as usize % 7]
}

/// What a fresh reader sees from the first entry on.
pub(crate) fn check_all(instance: &Instance, latest: u64) {
    let reader = instance.connect().context("log").open_read_only();
    let context = reader.expect("a context");
    assert_eq!(context.first_available().expect("readable"), 1);
    assert_eq!(context.latest().expect("readable"), latest);
    let mut range = context.range(1);
    for seq in 1..=latest {
        let entry = range.next_entry().expect("readable").expect("it is there");
        assert_eq!((entry.seq(), entry.payload()), (seq, &payload(seq)[..]));
        entry.verify().expect("as it was appended");
    }
    assert!(range.next_entry().expect("readable").is_none());
    for seq in [1, latest / 3, latest / 2, latest] {
        let entry = context.get(seq).expect("readable").expect("it is there");
        assert_eq!(entry.payload(), payload(seq));
    }
}

/// Where a context's files are.
pub(crate) fn home(instance: &Instance, context: &Context) -> PathBuf {
    let dir = instance.state_dir().join(instance.name());
    dir.join(context.epoch().to_string())
}

/// The names of its files, in the order of their entries.
pub(crate) fn files(instance: &Instance, context: &Context) -> Vec<FileName> {
    let entries = std::fs::read_dir(home(instance, context)).expect("a home");
    let names = entries.map(|entry| entry.expect("an entry").file_name());
    let mut files: Vec<_> = names
        .filter_map(|name| FileName::parse(name.to_str().expect("text")))
        .collect();
    files.sort_by_key(|name| name.first_seq());
    files
}

#[test]
fn what_has_left_memory_is_read_from_files() {
    let instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=1000);
    let mut behind = context.watch(1);
    let mut follower = context.watch(1001);
    std::thread::scope(|scope| {
        scope.spawn(|| append(&context, 1001..=20_000));
        for seq in 1001..=20_000 {
            let entry = follower.next_timeout(PATIENCE).expect("readable");
            assert_eq!(entry.expect("it comes").seq(), seq);
        }
    });
    has_left_memory(&instance);
    for seq in 1..=20_000 {
        let entry = behind.try_next().expect("readable").expect("it is there");
        assert_eq!((entry.seq(), entry.payload()), (seq, &payload(seq)[..]));
    }
    assert!(behind.try_next().expect("readable").is_none());
    append(&context, 20_001..=20_001);
    let entry = behind.next_timeout(PATIENCE).expect("readable");
    assert_eq!(entry.expect("it comes").seq(), 20_001);
    check_all(&instance, 20_001);
    for name in files(&instance, &context) {
        if let FileName::Finished(_) = name {
            let path = home(&instance, &context).join(name.to_string());
            verify(&std::fs::read(path).expect("ours")[..]).expect("whole");
        }
    }
}

/// The seq of the oldest entry in memory.
pub(crate) fn oldest_in_memory(instance: &Instance) -> u64 {
    let inspected = instance.printed(&["inspect", "log"]);
    let part = inspected.lines().nth(1).expect("the first part");
    let (_, seqs) = part.split_once(" seq ").expect("it is in the chain");
    let (oldest, _) = seqs.split_once("..").expect("a range");
    oldest.parse().expect("a number")
}

/// Waits until the first entries are in files only.
pub(crate) fn has_left_memory(instance: &Instance) {
    eventually("the window moves", || {
        (oldest_in_memory(instance) > 1).then_some(())
    });
}

#[cfg(target_arch = "x86_64")]
#[test]
fn what_was_read_from_a_file_is_read_again_without_a_system_call() {
    let instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=10_000);
    has_left_memory(&instance);
    let mut peer = instance.peer();
    peer.must("read log");
    let mut calls_of_a_get = || {
        peer.must("get 1");
        let traced = peer.traced();
        peer.tell("get 1");
        let way = match traced.run_to_marker() {
            Way::Marker(_) => traced.run_to_marker(),
            past => past,
        };
        let calls = match way {
            Way::Marker(calls) => calls,
            // Its background thread was told that the window has moved.
            Way::Past(calls) => [calls, vec![libc::SYS_write as u64]].concat(),
        };
        traced.release();
        assert_eq!(peer.hear(), "ok 1");
        calls
    };
    let mut costs_nothing = || {
        eventually("it costs none", || {
            calls_of_a_get().is_empty().then_some(())
        })
    };
    costs_nothing();
    // Also when the window has moved, once that is noticed.
    let before = oldest_in_memory(&instance);
    append(&context, 10_001..=20_000);
    eventually("the window moves", || {
        (oldest_in_memory(&instance) > before).then_some(())
    });
    costs_nothing();
}

#[test]
fn an_archive_goes_on_with_the_next_daemon() {
    let mut instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=5000);
    for round in 1..=3_u64 {
        let appender = context.appender().expect("an appender");
        assert!(appender.wait_ready(PATIENCE), "a spare");
        instance.kill_daemon();
        // Without one, as far as the spares go.
        append(&context, round * 5000 + 1..=round * 5000 + 50);
        instance.start(&SMALL);
        append(&context, round * 5000 + 51..=(round + 1) * 5000);
    }
    check_all(&instance, 20_000);
    instance.stop_daemon();
    check_files_reach(&instance, &context, 20_000);
    instance.start(&SMALL);
    check_all(&instance, 20_000);
}

/// Whether finished and open files hold everything, each entry once.
pub(crate) fn check_files_reach(instance: &Instance, context: &Context, latest: u64) {
    let mut next_seq = 1;
    for name in files(instance, context) {
        assert_eq!(name.first_seq(), next_seq, "{name}");
        let bytes = std::fs::read(home(instance, context).join(name.to_string())).expect("ours");
        next_seq = match name {
            FileName::Finished(_) => next_seq + verify(&bytes[..]).expect("whole").1.count,
            _ => {
                let scan = ledger_shm::file::Scan::of(&bytes[..]).expect("a head");
                assert_eq!(scan.valid_len(), bytes.len());
                scan.last_seq() + 1
            }
        };
    }
    assert_eq!(next_seq, latest + 1);
}

#[test]
fn who_waits_for_stable_storage_is_told() {
    let mut instance = started(&["--durability", "archive"]);
    let context = instance.context("log");
    append(&context, 1..=1000);
    context.wait_durable(1000, PATIENCE).expect("a disk");
    assert_eq!(context.durable_seq(), Some(1000));
    let later = context.wait_durable(1001, Duration::from_millis(1));
    let expected = DurableError::TimedOut {
        seq: 1001,
        durable_seq: 1000,
    };
    assert_eq!(later, Err(expected));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| context.wait_durable(1001, PATIENCE));
        append(&context, 1001..=1001);
        waiting.join().expect("no panic").expect("a disk");
    });
    let info = instance.printed(&["info", "log", "-o", "short"]);
    assert!(info.contains("durable          1001"), "{info}");
    // What was said stays so, whatever becomes of the daemon.
    instance.kill_daemon();
    assert_eq!(context.wait_durable(1001, PATIENCE), Ok(()));
    instance.start(&["--durability", "archive"]);
    append(&context, 1002..=1002);
    context.wait_durable(1002, PATIENCE).expect("a disk");

    let memory = started(&IN_MEMORY).context("log");
    assert_eq!(
        memory.wait_durable(1, PATIENCE),
        Err(DurableError::MemoryOnly)
    );
}

#[test]
fn a_torn_end_is_kept_aside_and_never_served() {
    let mut instance = started(&["--durability", "archive"]);
    let context = instance.context("log");
    append(&context, 1..=100);
    context.wait_durable(100, PATIENCE).expect("a disk");
    instance.stop_daemon();
    let home = home(&instance, &context);
    let open = home.join(FileName::Open(1).to_string());
    let mut file = OpenOptions::new().append(true).open(&open).expect("ours");
    file.write_all(b"half a record").expect("ours");
    let with_torn_end = std::fs::read(&open).expect("ours").len();
    instance.start(&["--durability", "archive"]);
    append(&context, 101..=200);
    context.wait_durable(200, PATIENCE).expect("a disk");
    let said = instance.kill_daemon();
    let of_it = |line: &&String| line.contains("the end of a file is torn");
    let line = said.iter().find(of_it).expect("it is said");
    assert!(
        line.contains("context=\"log\"") && line.contains("torn_len=13"),
        "{line}"
    );
    instance.start(&["--durability", "archive"]);
    let torn = home.join("00000000000000000001.open.torn-0");
    assert_eq!(std::fs::read(torn).expect("kept"), b"half a record");
    let doctor = instance.run(&["doctor", "-o", "jsonl"]).stdout;
    let doctor = String::from_utf8(doctor).expect("text");
    assert!(
        doctor.contains("context \\\"log\\\" has torn ends in"),
        "{doctor}"
    );
    instance.stop_daemon();
    assert!(std::fs::read(&open).expect("ours").len() > with_torn_end);
    check_files_reach(&instance, &context, 200);
}

#[test]
fn a_reader_of_another_uid_gets_files_from_the_daemon() {
    if !may_be_others() {
        return;
    }
    const READER: u32 = 1008;
    let mut instance = Instance::new(PROGRAMS);
    let rights = format!("[[rights]]\ncontexts = [\"*\"]\nusers = [{READER}]\nright = \"read\"\n");
    let config = instance.configure(&rights);
    let config = ["--config", config.to_str().expect("text")];
    instance.start(&[&SMALL[..], &config].concat());
    let context = instance.context("log");
    append(&context, 1..=10_000);
    let mut own = instance.peer();
    own.must("read log");
    let mut reader = instance.peer_as(READER);
    reader.must("read log");
    assert_eq!(reader.must("digest"), own.must("digest"));
}

#[test]
fn a_reader_of_another_uid_needs_no_daemon_for_what_is_in_memory() {
    if !may_be_others() {
        return;
    }
    let mut instance = Instance::new(PROGRAMS);
    let rights = "[[rights]]\ncontexts = [\"*\"]\nusers = [1008]\nright = \"read\"\n";
    let config = instance.configure(rights);
    instance.start(&["--config", config.to_str().expect("text")]);
    append(&instance.context("log"), 1..=10);
    let mut reader = instance.peer_as(1008);
    reader.must("read log");
    // Memory it is given by the daemon.
    let digest = reader.must("digest");
    assert!(digest.starts_with("10 "), "{digest}");
    instance.kill_daemon();
    assert_eq!(reader.must("oldest"), "1");
    assert_eq!(reader.must("digest"), digest);
}

#[test]
fn two_daemons_keep_no_archive_in_one_place() {
    let instance = started(&["--durability", "archive"]);
    let other = Instance::new(PROGRAMS);
    let dir = instance.state_dir().join(instance.name());
    // As if the other one had the same name on a machine that shares the disk.
    let theirs = other.state_dir();
    std::fs::create_dir_all(&theirs).expect("ours");
    std::os::unix::fs::symlink(&dir, theirs.join(other.name())).expect("ours");
    let said = other.complained(&["run", "--durability", "archive"]);
    assert!(said.contains("is a symbolic link"), "{said}");
    std::fs::remove_file(theirs.join(other.name())).expect("ours");
    std::fs::create_dir(theirs.join(other.name())).expect("ours");
    let lock = theirs.join(other.name()).join("lock");
    std::fs::hard_link(dir.join("lock"), lock).expect("one disk");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(theirs.join(other.name()), mode).expect("ours");
    let said = other.complained(&["run", "--durability", "archive"]);
    assert!(said.contains("another daemon keeps its archive"), "{said}");
}

/// As after a loss of power, or a removal of all memory: only files are left.
pub(crate) fn lose_memory(instance: &mut Instance) {
    instance.kill_daemon();
    instance.printed(&["purge"]);
}

#[test]
fn what_was_reported_durable_survives_whatever_else_is_lost() {
    let mut instance = started(&["--durability", "archive"]);
    let context = instance.context("log");
    append(&context, 1..=50);
    context.wait_durable(50, PATIENCE).expect("a disk");
    let open = home(&instance, &context).join(FileName::Open(1).to_string());
    let durable_len = std::fs::metadata(&open).expect("ours").len();
    append(&context, 51..=90);
    lose_memory(&mut instance);
    // Of what was not durable, any part may be there, and anything behind it.
    let file = OpenOptions::new().write(true).open(&open).expect("ours");
    file.set_len(durable_len + 100).expect("ours");
    file.set_len(durable_len + 4000).expect("ours");
    instance.start(&["--durability", "archive"]);
    let again = instance.context("log");
    let latest = again.latest().expect("readable");
    assert_eq!(latest, 50);
    append(&again, 51..=60);
    check_all(&instance, 60);
}

#[test]
fn contexts_without_an_entry_are_no_archive() {
    let mut instance = started(&["--durability", "archive"]);
    drop(instance.context("empty"));
    lose_memory(&mut instance);
    instance.start(&["--durability", "archive"]);
    assert_eq!(instance.printed(&["ls", "-o", "raw"]), "");
    append(&instance.context("log"), 1..=3);
    check_all(&instance, 3);
}

/// A service manager names the directory, as one of several.
#[test]
fn an_archive_lies_where_a_service_manager_says() {
    let instance = Instance::new(PROGRAMS);
    let dir = instance.runtime_dir().join("var");
    let dirs = format!("{}:/nonexistent", dir.display());
    let mut command = instance.ledgerd(&["run", "--durability", "archive"]);
    command
        .env_remove("LEDGER_STATE_DIR")
        .env("STATE_DIRECTORY", dirs)
        .stderr(Stdio::piped());
    let mut daemon = Process::start(&mut command);
    let mut said = Lines::of(daemon.stderr.take().expect("piped"));
    while !said.line().expect("it starts").contains(" listens at ") {}
    append(&instance.context("log"), 1..=3);
    assert!(dir.join(instance.name()).join("lock").exists());
}

#[test]
fn without_an_archive_what_has_files_stays_in_memory_and_can_be_opened() {
    let mut instance = started(&["--durability", "archive"]);
    append(&instance.context("log"), 1..=10);
    instance.kill_daemon();
    let elsewhere = instance.runtime_dir().join("elsewhere");
    let elsewhere = elsewhere.to_str().expect("text");
    let idle = ["--state-dir", elsewhere, "--idle-close-after", "0"];
    instance.start(&[&IN_MEMORY[..], &idle].concat());
    let ledger = instance.connect();
    for latest in 11..=30 {
        let context = ledger.context("log").open().expect("it can be opened");
        append(&context, latest..=latest);
    }
    check_all(&instance, 30);
    assert!(!Path::new(elsewhere).exists());
}
