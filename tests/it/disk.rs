//! Disks that are full, gone or exchanged, and memory that is damaged while it is
//! written behind: nothing that was durable is lost, and the others go on.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ledger_client::{Context, DurableError, NewEntry, Sizes, State};
use ledger_shm::file::FileName;
use ledger_shm::format::{RECORD_HEADER_LEN, RecordHeader};
use ledger_shm::slot::Slot;
use ledger_tests::damage::Bytes;
use ledger_tests::process::{Lines, Process, where_fdatasync_fails};
use ledger_tests::small_memory::{mount_tmpfs, with_small_memory};
use ledger_tests::{Instance, PATIENCE, eventually, parts_in_memory};
use nix::mount::{MsFlags, umount};

use crate::archive::{
    SMALL, append, check_all, has_left_memory, home, lose_memory, oldest_in_memory, payload,
};
use crate::json::{check, printed};
use crate::{PROGRAMS, started};

const ARCHIVE: [&str; 2] = ["--durability", "archive"];

pub(crate) fn mount_small(dir: &Path, len: &str) {
    std::fs::create_dir_all(dir).expect("ours");
    mount_tmpfs(dir, len, MsFlags::empty()).expect("in a namespace of our own");
}

/// Takes all the room that there is; gone with the file.
fn fill(dir: &Path) -> PathBuf {
    let path = dir.join("filler");
    let mut file = File::create(&path).expect("ours");
    let copied = std::io::copy(&mut std::io::repeat(0), &mut file);
    assert!(copied.is_err(), "it is full");
    path
}

/// Waits until what could not be written has been tried again, in vain. Each try makes a
/// file and takes it away: the last one is under way at first, and the next is whole.
fn fails_again(instance: &Instance, context: &Context) {
    let home = home(instance, context);
    let changed_at = || {
        home.metadata()
            .and_then(|dir| dir.modified())
            .expect("ours")
    };
    for _ in 0..4 {
        let before = changed_at();
        eventually("its directory changes", || {
            (changed_at() != before).then_some(())
        });
    }
}

fn has_failed(instance: &Instance, context: &Context) -> bool {
    let failed = home(instance, context).join(FileName::Failed(1).to_string());
    failed.exists()
}

#[test]
fn a_full_disk_loses_nothing_that_was_durable_and_all_goes_on_when_there_is_room() {
    with_small_memory(
        PROGRAMS,
        "disk::a_full_disk_loses_nothing_that_was_durable_and_all_goes_on_when_there_is_room",
        "64M",
        || {
            let mut instance = Instance::new(PROGRAMS);
            mount_small(&instance.state_dir(), "1M");
            instance.start(&ARCHIVE);
            let context = instance.context("log");
            append(&context, 1..=1000);
            context.wait_durable(1000, PATIENCE).expect("room");
            let filler = fill(&instance.state_dir());
            // Appends do not depend on it.
            append(&context, 1001..=10_000);
            eventually("it fails", || has_failed(&instance, &context).then_some(()));
            fails_again(&instance, &context);
            let waited = context.wait_durable(10_000, Duration::ZERO);
            let Err(DurableError::TimedOut { durable_seq, .. }) = waited else {
                panic!("{waited:?}");
            };
            assert!((1000..10_000).contains(&durable_seq), "{durable_seq}");
            let info = instance.printed(&["info", "log", "-o", "short"]);
            assert!(
                info.contains(&format!("durable          {durable_seq}")),
                "{info}"
            );

            // All memory is lost in the middle of it.
            let epoch = context.epoch();
            lose_memory(&mut instance);
            std::fs::remove_file(filler).expect("ours");
            instance.start(&ARCHIVE);
            let again = instance.context("log");
            assert_ne!(again.epoch(), epoch);
            let latest = again.latest().expect("readable");
            assert!(latest >= durable_seq, "{latest} {durable_seq}");
            check_all(&instance, latest);
            instance.stop_daemon();
            umount(&instance.state_dir()).expect("nobody uses it");
        },
    );
}

#[test]
fn what_could_not_be_written_is_written_when_there_is_room() {
    with_small_memory(
        PROGRAMS,
        "disk::what_could_not_be_written_is_written_when_there_is_room",
        "64M",
        || {
            let mut instance = Instance::new(PROGRAMS);
            mount_small(&instance.state_dir(), "8M");
            instance.start(&SMALL);
            let context = instance.context("log");
            append(&context, 1..=100);
            context.wait_durable(100, PATIENCE).expect("room");
            let filler = fill(&instance.state_dir());
            append(&context, 101..=5000);
            eventually("it fails", || has_failed(&instance, &context).then_some(()));
            std::fs::remove_file(filler).expect("ours");
            context.wait_durable(5000, PATIENCE).expect("room");
            assert!(!has_failed(&instance, &context), "it is elsewhere");
            // One that is sealed is as much as the window; and two spares.
            let parts = || parts_in_memory(&instance.objects(), context.epoch());
            eventually("the rest leaves memory, though nobody asks for any", || {
                (parts().len() <= 1 + 1 + 2).then_some(())
            });
            lose_memory(&mut instance);
            instance.start(&ARCHIVE);
            check_all(&instance, 5000);
            instance.stop_daemon();
            umount(&instance.state_dir()).expect("nobody uses it");
        },
    );
}

#[test]
fn what_cannot_be_written_is_said_as_long_as_that_lasts() {
    with_small_memory(
        PROGRAMS,
        "disk::what_cannot_be_written_is_said_as_long_as_that_lasts",
        "64M",
        || {
            let mut instance = Instance::new(PROGRAMS);
            mount_small(&instance.state_dir(), "8M");
            instance.start(&ARCHIVE);
            let doctor = || {
                let output = instance.run(&["doctor", "-o", "jsonl"]);
                let lines = String::from_utf8(output.stdout).expect("text");
                let is_archive = |line: &&str| line.contains("\"check\":\"archive\"");
                lines
                    .lines()
                    .find(is_archive)
                    .expect("it is checked")
                    .to_owned()
            };
            let info = || printed(&instance, &["info", "log", "-o", "json"]);
            let context = instance.context("log");
            append(&context, 1..=100);
            context.wait_durable(100, PATIENCE).expect("room");
            assert!(doctor().contains("no context is in trouble"));
            assert!(info().get("trouble").is_none());
            let filler = fill(&instance.state_dir());
            append(&context, 101..=5000);
            let since = eventually("it is said", || info().get("trouble_since_ns").cloned());
            let said = info();
            check(&said, &["A context: `ls`", "A context, described: `info`"]);
            assert!(
                said["trouble"]
                    .as_str()
                    .expect("text")
                    .contains("No space left")
            );
            let short = instance.printed(&["info", "log", "-o", "short"]);
            assert!(short.contains("not archived     since 20"), "{short}");
            let found = doctor();
            assert!(
                found.contains("\"bad\"") && found.contains("\\\"log\\\""),
                "{found}"
            );
            fails_again(&instance, &context);
            let waited = context.wait_durable(5000, Duration::ZERO);
            waited.expect_err("there is no room");
            // It is the same trouble.
            assert_eq!(info()["trouble_since_ns"], since);
            std::fs::remove_file(filler).expect("ours");
            context.wait_durable(5000, PATIENCE).expect("room");
            eventually("it is over", || {
                info().get("trouble").is_none().then_some(())
            });
            assert!(doctor().contains("no context is in trouble"));
            // Without a daemon nobody knows.
            instance.stop_daemon();
            assert!(
                printed(&instance, &["info", "log", "-o", "json"])
                    .get("trouble")
                    .is_none()
            );
            umount(&instance.state_dir()).expect("nobody uses it");
        },
    );
}

/// Why the context cannot be written to its files, if it cannot.
fn trouble(instance: &Instance) -> Option<String> {
    let said = printed(instance, &["info", "log", "-o", "json"]);
    said.get("trouble")?.as_str().map(str::to_owned)
}

#[test]
fn what_a_disk_does_not_keep_is_not_called_durable() {
    const COUNT: u64 = 50_000;
    let mut instance = Instance::new(PROGRAMS);
    where_fdatasync_fails(|| {
        instance.start(&ARCHIVE);
        let context = instance.context("log");
        append(&context, 1..=100);
        let said = eventually("it is said", || trouble(&instance));
        assert!(said.contains("Input/output error"), "{said}");
        // So much that it is brought there by the thread beside.
        append(&context, 101..=COUNT);
        fails_again(&instance, &context);
        let waited = context.wait_durable(1, Duration::ZERO);
        waited.expect_err("nothing is durable");
        assert_eq!(context.durable_seq(), Some(0));
        assert!(trouble(&instance).is_some());
        check_all(&instance, COUNT);
        instance.stop_daemon();
    });
    instance.start(&ARCHIVE);
    let context = instance.context("log");
    context.wait_durable(COUNT, PATIENCE).expect("a disk");
    drop(context);
    lose_memory(&mut instance);
    instance.start(&ARCHIVE);
    check_all(&instance, COUNT);
}

/// What the daemon of an instance says in its log of one context, until what could not be
/// written has been tried again; `act` makes the trouble.
fn said_of_trouble(instance: &mut Instance, act: impl FnOnce(&Instance)) -> Vec<String> {
    instance.start(&ARCHIVE);
    let context = instance.context("log");
    act(instance);
    append(&context, 1..=5000);
    eventually("it is said", || trouble(instance));
    fails_again(instance, &context);
    let waited = context.wait_durable(5000, Duration::ZERO);
    waited.expect_err("it cannot be written");
    let lines = instance.kill_daemon();
    let of_it: Vec<_> = lines
        .into_iter()
        .filter(|line| line.contains("cannot be archived"))
        .collect();
    let names_context = |line: &String| line.contains("context=\"log\"");
    assert!(of_it.iter().all(names_context), "{of_it:?}");
    of_it
}

#[test]
fn what_a_disk_does_not_keep_is_said_in_the_log_once() {
    let mut instance = Instance::new(PROGRAMS);
    where_fdatasync_fails(|| {
        let said = said_of_trouble(&mut instance, |_| {});
        let [line] = &said[..] else {
            panic!("{said:?}");
        };
        assert!(
            line.contains("ERROR") && line.contains("cannot write the archive: Input/output error"),
            "{line}"
        );
    });
}

#[test]
fn what_a_full_disk_does_not_take_is_said_in_the_log_once() {
    with_small_memory(
        PROGRAMS,
        "disk::what_a_full_disk_does_not_take_is_said_in_the_log_once",
        "64M",
        || {
            let mut instance = Instance::new(PROGRAMS);
            mount_small(&instance.state_dir(), "1M");
            let said = said_of_trouble(&mut instance, |instance| {
                drop(fill(&instance.state_dir()));
            });
            let [line] = &said[..] else {
                panic!("{said:?}");
            };
            assert!(
                line.contains("ERROR")
                    && line.contains("cannot write the archive: No space left on device"),
                "{line}"
            );
            umount(&instance.state_dir()).expect("nobody uses it");
        },
    );
}

/// Appends until there is no room for what cannot be written; the last seq that was
/// acknowledged. All of them are there then, and memory has what the disk has not.
fn append_to_the_end(instance: &Instance, context: &Context) -> u64 {
    let mut latest = context.latest().expect("readable");
    let mut appender = context.appender().expect("an appender");
    let why = "by what cannot be written to the archive";
    eventually("there is no room", || {
        let payload = payload(latest + 1);
        match appender.append(&NewEntry::new("k", &payload)) {
            Ok(appended) => {
                assert_eq!(appended.seq, latest + 1);
                latest = appended.seq;
                None
            }
            Err(error) => error.to_string().contains(why).then_some(()),
        }
    });
    check_all(instance, latest);
    let fresh = instance.connect().context("log").open_read_only();
    let fresh = fresh.expect("a context");
    for seq in 1..=latest {
        let entry = fresh.get(seq).expect("readable").expect("it is there");
        assert_eq!((entry.seq(), entry.payload()), (seq, &payload(seq)[..]));
        entry.verify().expect("as it was appended");
    }
    let durable_seq = context.durable_seq().expect("it is archived");
    assert!(durable_seq < latest);
    let oldest = oldest_in_memory(instance);
    assert!(oldest <= durable_seq + 1, "{oldest} {durable_seq}");
    latest
}

/// As `SMALL`, with memory that some thousand entries fill.
fn little_memory() -> Vec<&'static str> {
    [
        &SMALL[..],
        &["--archive-file", "64K", "--memory-budget", "4M"],
    ]
    .concat()
}

#[test]
fn nothing_leaves_memory_before_a_full_disk_has_it() {
    with_small_memory(
        PROGRAMS,
        "disk::nothing_leaves_memory_before_a_full_disk_has_it",
        "64M",
        || {
            let mut instance = Instance::new(PROGRAMS);
            mount_small(&instance.state_dir(), "8M");
            instance.start(&little_memory());
            let context = instance.context("log");
            append(&context, 1..=5000);
            context.wait_durable(5000, PATIENCE).expect("room");
            has_left_memory(&instance);
            let filler = fill(&instance.state_dir());
            let latest = append_to_the_end(&instance, &context);
            assert!(latest > 6000, "{latest}");
            // And it goes on where there is room.
            std::fs::remove_file(filler).expect("ours");
            append(&context, latest + 1..=latest + 5000);
            context.wait_durable(latest + 5000, PATIENCE).expect("room");
            check_all(&instance, latest + 5000);
            instance.stop_daemon();
            umount(&instance.state_dir()).expect("nobody uses it");
        },
    );
}

#[test]
fn nothing_leaves_memory_that_a_disk_does_not_keep() {
    let mut instance = Instance::new(PROGRAMS);
    let mut latest = 0;
    where_fdatasync_fails(|| {
        instance.start(&little_memory());
        let context = instance.context("log");
        latest = append_to_the_end(&instance, &context);
        assert_eq!(
            (context.durable_seq(), oldest_in_memory(&instance)),
            (Some(0), 1)
        );
        instance.stop_daemon();
    });
    instance.start(&little_memory());
    let context = instance.context("log");
    context.wait_durable(latest, PATIENCE).expect("a disk");
    append(&context, latest + 1..=latest + 5000);
    has_left_memory(&instance);
    check_all(&instance, latest + 5000);
}

#[test]
fn what_is_damaged_on_the_disk_is_written_anew_from_memory() {
    let mut instance = started(&ARCHIVE);
    let context = instance.context("log");
    append(&context, 1..=100);
    context.wait_durable(100, PATIENCE).expect("a disk");
    instance.kill_daemon();
    for at in ["head", "middle"] {
        let open = home(&instance, &context).join(FileName::Open(1).to_string());
        let mut bytes = std::fs::read(&open).expect("it is there");
        let at = if at == "head" { 20 } else { bytes.len() / 2 };
        bytes[at] ^= 1;
        std::fs::write(&open, bytes).expect("ours");
        instance.start(&ARCHIVE);
        let latest = context.latest().expect("readable");
        append(&context, latest + 1..=latest + 100);
        let waited = context.wait_durable(latest + 100, PATIENCE);
        waited.expect("a disk");
        assert!(!has_failed(&instance, &context));
        let said = instance.kill_daemon();
        let is_of_it = |line: &&String| line.contains("a file is damaged that was on stable");
        let line = said.iter().find(is_of_it).expect("it is said");
        assert!(
            line.contains("context=\"log\"") && line.contains("first_seq=1"),
            "{line}"
        );
    }
    instance.printed(&["purge"]);
    instance.start(&ARCHIVE);
    check_all(&instance, 300);
}

#[test]
fn who_opens_a_context_is_refused_in_time_when_nothing_can_be_written() {
    with_small_memory(
        PROGRAMS,
        "disk::who_opens_a_context_is_refused_in_time_when_nothing_can_be_written",
        "64M",
        || {
            let mut instance = Instance::new(PROGRAMS);
            mount_small(&instance.state_dir(), "1M");
            instance.start(&[&ARCHIVE[..], &["--memory-budget", "4M"]].concat());
            let context = instance.context("log");
            let filler = fill(&instance.state_dir());
            let mut appender = context.appender().expect("an appender");
            let why = "by what cannot be written to the archive; `ledgerd doctor` says why";
            eventually("who appends is told why", || {
                let appended = appender.append(&NewEntry::new("k", &[7; 10_000]));
                let said = appended.err()?.to_string();
                said.contains(why).then_some(())
            });
            let large = Sizes {
                first_len: Some(1 << 20),
                ..Sizes::default()
            };
            let ledger = instance.connect();
            let open = || ledger.context("other").sizes(large).open_or_create();
            let error = open().expect_err("there is no memory");
            // Said by the daemon, which is there.
            let said = error.to_string();
            assert!(said.contains(why), "{said}");
            std::fs::remove_file(filler).expect("ours");
            drop(appender);
            instance.stop_daemon();
            umount(&instance.state_dir()).expect("nobody uses it");
        },
    );
}

#[test]
fn files_that_are_gone_are_no_damage_and_may_come_back() {
    let mut instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=5000);
    context.wait_durable(5000, PATIENCE).expect("a disk");
    instance.stop_daemon();
    let elsewhere = instance.runtime_dir().join("elsewhere");
    let wrong = ["--state-dir", elsewhere.to_str().expect("text")];
    instance.start(&[&SMALL[..], &wrong].concat());
    // As far as memory goes; nothing more is promised meanwhile.
    append(&context, 5001..=5010);
    let waited = context.wait_durable(5010, Duration::from_millis(500));
    assert!(
        matches!(waited, Err(DurableError::TimedOut { .. })),
        "{waited:?}"
    );
    assert_eq!(context.state().expect("readable"), State::Open);
    instance.stop_daemon();
    instance.start(&SMALL);
    append(&context, 5011..=6000);
    context.wait_durable(6000, PATIENCE).expect("the disk");
    check_all(&instance, 6000);
}

#[test]
fn an_archive_in_a_relative_place_is_found_from_everywhere() {
    let instance = Instance::new(PROGRAMS);
    let mut command = instance.ledgerd(&[&["run"], &SMALL[..], &["--state-dir", "here"]].concat());
    command
        .current_dir(instance.runtime_dir())
        .stderr(Stdio::piped());
    let mut daemon = Process::start(&mut command);
    let mut said = Lines::of(daemon.stderr.take().expect("piped"));
    while !said.line().expect("it starts").contains(" listens at ") {}
    append(&instance.context("log"), 1..=5000);
    check_all(&instance, 5000);
}

/// Another context, to whom nothing of this happens.
fn others_go_on(instance: &Instance) {
    let other = instance.context("other");
    let latest = other.latest().expect("readable");
    append(&other, latest + 1..=latest + 10);
    other.wait_durable(latest + 10, PATIENCE).expect("a disk");
}

fn is_quarantined(context: &Context) -> Option<()> {
    (context.state().expect("readable") == State::Quarantined).then_some(())
}

#[test]
fn a_chain_that_leads_back_stops_its_own_context_only() {
    let mut instance = started(&ARCHIVE);
    let context = instance.context("log");
    let appender = context.appender().expect("an appender");
    let bytes = Bytes::of_first_part(&instance.objects(), context.epoch());
    bytes.set_word(Bytes::slot_at(0), Slot::Seal(1).encode());
    eventually("it is noticed", || is_quarantined(&context));
    others_go_on(&instance);
    drop(appender);
    assert!(instance.stop_daemon().success());
}

#[test]
fn a_lamport_time_that_does_not_grow_never_becomes_durable() {
    let mut instance = started(&ARCHIVE);
    let context = instance.context("log");
    append(&context, 1..=2);
    context.wait_durable(2, PATIENCE).expect("a disk");
    instance.pause_daemon();
    append(&context, 3..=5);
    let bytes = Bytes::of_first_part(&instance.objects(), context.epoch());
    let (at, _) = bytes.record_at(3);
    let header = bytes.get(at, RECORD_HEADER_LEN);
    let mut header: [u8; RECORD_HEADER_LEN] = header.try_into().expect("a header");
    let wrong = RecordHeader {
        lamport: 2,
        ..RecordHeader::decode(&header)
    };
    wrong.write_to(&mut header);
    bytes.set(at, &header);
    instance.resume_daemon();
    eventually("it is noticed", || is_quarantined(&context));
    // What came before it is sound, and kept.
    eventually("it is kept", || {
        (context.durable_seq() == Some(3)).then_some(())
    });
    others_go_on(&instance);
    assert_eq!(context.durable_seq(), Some(3));
    let listed = instance.printed(&["ls", "-o", "jsonl"]);
    assert!(listed.contains("quarantined"), "{listed}");
    let said = instance.complained(&["append", "log", "k", "v"]);
    assert!(said.contains("record lamport is damaged"), "{said}");
    instance.kill_daemon();
}

#[test]
fn a_record_that_is_damaged_is_never_written() {
    let instance = started(&ARCHIVE);
    let context = instance.context("log");
    instance.pause_daemon();
    append(&context, 1..=5);
    let bytes = Bytes::of_first_part(&instance.objects(), context.epoch());
    let (at, _) = bytes.record_at(2);
    let payload_at = at + RECORD_HEADER_LEN as u64;
    bytes.set(payload_at, &[!bytes.get(payload_at, 1)[0]]);
    instance.resume_daemon();
    eventually("it is noticed", || is_quarantined(&context));
    eventually("it is kept", || {
        (context.durable_seq() == Some(2)).then_some(())
    });
    others_go_on(&instance);
}

#[test]
fn a_file_whose_head_is_damaged_is_kept_when_its_context_comes_back() {
    let mut instance = started(&ARCHIVE);
    let context = instance.context("log");
    let home = home(&instance, &context);
    append(&context, 1..=12_000);
    // One is finished when the last appender leaves.
    drop(context);
    let finished = home.join(FileName::Finished(1).to_string());
    eventually("it is finished", || finished.exists().then_some(()));
    let context = instance.context("log");
    append(&context, 12_001..=12_100);
    context.wait_durable(12_100, PATIENCE).expect("a disk");
    lose_memory(&mut instance);
    let open = FileName::Open(12_001);
    let mut bytes = std::fs::read(home.join(open.to_string())).expect("ours");
    bytes[40] ^= 1;
    std::fs::write(home.join(open.to_string()), &bytes).expect("ours");
    instance.start(&ARCHIVE);
    check_all(&instance, 12_000);
    let kept = home.join(format!("{open}.torn-0"));
    assert_eq!(std::fs::read(kept).expect("kept"), bytes);
}
