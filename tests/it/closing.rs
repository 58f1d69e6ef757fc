//! Contexts that are closed, by the daemon when they are idle and by `purge`, and memory that
//! is retired, though that was cut short.

use std::fs::Permissions;
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use ledger_client::NewEntry;
use ledger_client::wire::{Reply, Request};
use ledger_shm::format::ControlHeader;
use ledger_shm::object::{Epoch, Name, list};
use ledger_shm::slot::Slot;
use ledger_tests::damage::Bytes;
use ledger_tests::held_disk::HeldDisk;
use ledger_tests::process::state;
use ledger_tests::spoken::{greeted, open, reply};
use ledger_tests::{Instance, PATIENCE, eventually};
use ledgerd::Daemon;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{IN_MEMORY, PROGRAMS, archive, started};

#[test]
fn purge_frees_a_stopped_instance_and_refuses_a_running_one() {
    let mut instance = started(&[]);
    instance.printed(&["append", "c", "k", "v"]);
    assert!(
        instance
            .complained(&["purge"])
            .contains("has a daemon already")
    );
    instance.kill_daemon();
    assert!(instance.socket().exists());
    instance.printed(&["purge"]);
    assert_eq!(
        ledger_shm::object::list(&instance.objects()).expect("listed"),
        []
    );
    assert!(!instance.socket().exists());
}

/// A context over several parts, and its control object's bytes.
fn several_parts(instance: &Instance) -> (Epoch, Bytes) {
    let mut writer = instance.peer();
    writer.must("open log");
    writer.must("fill 1000 100");
    let epoch = instance.context("log").epoch();
    (epoch, Bytes::of(&instance.objects(), Name::Control(epoch)))
}

#[test]
fn a_retirement_that_was_cut_short_is_finished_by_the_next_daemon() {
    let mut instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let (epoch, control) = several_parts(&instance);
    instance.kill_daemon();
    // It moves the first part, then removes the name of the one before.
    control.set_word(offset_of!(ControlHeader, first_part_word) as u64, 2);
    let oldest = Name::Part(epoch, 1).path_in(&instance.objects());
    assert!(oldest.exists());
    instance.start(&[]);
    assert!(!oldest.exists());
    let context = instance.context("log");
    assert_eq!(context.first_available().expect("readable"), 84);
    assert_eq!(context.get(84).expect("readable").expect("there").seq(), 84);
    assert_eq!(context.latest().expect("readable"), 1000);
}

#[test]
fn a_closing_that_was_cut_short_is_finished_by_the_next_daemon() {
    let mut instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let mut writer = instance.peer();
    writer.must("open log");
    writer.must("append k v");
    let epoch = instance.context("log").epoch();
    let is_spare = |name: &Name| matches!(name, Name::Part(_, number) if *number > 1);
    let objects = instance.objects();
    let spares = || {
        let names = list(&objects).expect("listed");
        names.iter().filter(|name| is_spare(name)).count()
    };
    eventually("two spares", || (spares() == 2).then_some(()));
    writer.kill();
    instance.kill_daemon();
    // It closes the frontier, then withdraws the spares.
    let part = Bytes::of_first_part(&instance.objects(), epoch);
    part.set_word(Bytes::slot_at(1), Slot::Closed.encode());
    instance.start(&["--spare-min", "64K", "--spare-max", "64K"]);
    assert_eq!(spares(), 0);
    assert!(
        instance
            .printed(&["ls", "-o", "jsonl"])
            .contains("\"idle\"")
    );
    // Whoever wants to append has it continued where it ended.
    assert_eq!(
        instance.printed(&["append", "log", "k", "v", "-o", "short"]),
        "2\n"
    );
    let digest = instance.peer_digest("log");
    assert!(digest.starts_with("2 "), "{digest}");
}

#[test]
fn an_idle_context_gives_up_its_spares_and_comes_back_when_appended_to() {
    let instance = started(&[&IN_MEMORY[..], &["--idle-close-after", "0.01"]].concat());
    for seq in 1..=5 {
        let mut writer = instance.peer();
        writer.must("open log");
        assert_eq!(writer.must("append k v"), seq.to_string());
        eventually("spares are mapped", || {
            (writer.writable_part_count(&instance) >= 3).then_some(())
        });
        writer.end().expect("a clean end");
        eventually("the context is closed", || {
            instance
                .printed(&["ls", "-o", "jsonl"])
                .contains("\"idle\"")
                .then_some(())
        });
        eventually("its spares are gone", || {
            let drawing = instance.printed(&["inspect", "log"]);
            (!drawing.contains("spare")).then_some(())
        });
        // Reading does not wake it.
        assert_eq!(
            instance.printed(&["get", "log", "-o", "raw"]),
            "v".repeat(seq)
        );
    }
}

#[test]
fn who_asks_for_a_context_that_leaves_memory_is_answered_once_it_has() {
    let instance = Instance::new(PROGRAMS);
    let disk = Arc::new(HeldDisk::default());
    let mut options = instance.options();
    options.file_system = Arc::clone(&disk) as _;
    options.idle_close_after = Duration::from_millis(10);
    let daemon = Daemon::start(options).expect("it starts");
    let drops = Request::Drop { name: "log".into() };
    for (request, seqs) in [(open("log", false), 1..=3), (drops, 4..=6)] {
        let context = instance.context("log");
        archive::append(&context, seqs.clone());
        let durable = context.wait_durable(*seqs.end(), PATIENCE);
        durable.expect("it is written");
        let held = disk.hold();
        drop(context);
        eventually("it is closed, to leave", || {
            instance
                .printed(&["ls", "-o", "jsonl"])
                .contains("\"idle\"")
                .then_some(())
        });
        let connection = greeted(&instance.socket()).expect("the daemon answers");
        connection.send(&request.encode(), None).expect("room");
        // Whatever comes later is answered later.
        instance.connect().status().expect("an answer");
        let mut answer = [PollFd::new(connection.as_fd(), PollFlags::POLLIN)];
        let answered = poll(&mut answer, PollTimeout::ZERO).expect("a poll");
        assert_eq!(answered, 0, "{request:?} is answered at once");
        drop(held);
        match reply(&connection).expect("an answer") {
            (Reply::Opened { created: false, .. } | Reply::Dropped, _) => {}
            (other, _) => panic!("{request:?}: {other:?}"),
        }
        drop(connection);
        if *seqs.start() == 1 {
            archive::check_all(&instance, 3);
        }
    }
    assert_eq!(instance.printed(&["ls", "-o", "raw"]), "");
    daemon.stop().expect("it ends");
}

#[test]
fn a_closing_that_failed_half_way_is_tried_again() {
    let instance = started(&["--idle-close-after", "0.01"]);
    let mut writer = instance.peer();
    writer.must("open log");
    eventually("spares are mapped", || {
        (writer.writable_part_count(&instance) >= 3).then_some(())
    });
    let part = |number| {
        let epoch = instance.connect().contexts().expect("listed").readable[0].epoch();
        Name::Part(epoch, number).path_in(&instance.objects())
    };
    let allow = |mode| std::fs::set_permissions(part(2), Permissions::from_mode(mode));
    // The daemon takes it for somebody else's.
    allow(0o666).expect("our file");
    writer.end().expect("a clean end");
    eventually("the context is closed, and one spare given up", || {
        let is_idle = instance
            .printed(&["ls", "-o", "jsonl"])
            .contains("\"idle\"");
        (is_idle && !part(3).exists()).then_some(())
    });
    assert!(part(2).exists());
    allow(0o600).expect("our file");
    eventually("the other one is given up, too", || {
        (!part(2).exists()).then_some(())
    });
}

#[test]
fn a_daemon_that_closes_at_once_or_never_goes_on_answering() {
    for wait in ["0", "1e19"] {
        let large = ["--memory-budget", "1G", "--spare-min", "32M"];
        let instance = started(&[&["--idle-close-after", wait][..], &large].concat());
        for seq in 1..=5 {
            let mut writer = instance.peer();
            writer.must("open log");
            assert_eq!(writer.must("append k v"), seq.to_string());
            // Its spares are still being made.
            writer.kill();
            instance.printed(&["append", "other", "k", "v"]);
        }
    }
}

#[test]
fn purge_tells_clients_that_are_still_attached() {
    let mut instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(Duration::from_millis(100));
    appender.append(&NewEntry::new("k", b"v")).expect("room");
    instance.stop_daemon();
    instance.printed(&["purge"]);
    let refused = appender.append(&NewEntry::new("k", b"lost"));
    let said = refused.expect_err("nobody could read it").to_string();
    assert!(said.contains("was dropped"), "{said}");
}

#[test]
fn purge_tells_who_waits_for_room_at_once() {
    let mut instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    assert!(appender.wait_ready(PATIENCE));
    instance.stop_daemon();
    static LARGE: [u8; 8 << 10] = [0; 8 << 10];
    let large = NewEntry::new("k", &LARGE);
    while appender.try_append(&large).is_ok() {}
    appender.set_wait(PATIENCE * 10);
    let (told, outcome) = mpsc::channel();
    let (begins, begun) = mpsc::channel();
    std::thread::spawn(move || {
        // Nobody listens if the test is over.
        let _ = begins.send(nix::unistd::gettid());
        let _ = told.send(appender.append(&large));
    });
    let thread = begun.recv_timeout(PATIENCE).expect("it begins");
    let thread = format!("/proc/self/task/{thread}");
    eventually("it waits", || {
        (state(thread.as_ref()) == Some('S')).then_some(())
    });
    instance.printed(&["purge"]);
    let outcome = outcome.recv_timeout(PATIENCE).expect("it is told");
    let said = outcome.expect_err("nobody could read it").to_string();
    assert!(said.contains("was dropped"), "{said}");
}
