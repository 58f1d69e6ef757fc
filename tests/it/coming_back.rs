//! Contexts that leave memory, and come back.

use ledger_shm::object::{self, Name};
#[cfg(target_arch = "x86_64")]
use ledger_tests::traced::TracedThread;
use ledger_tests::{Instance, PATIENCE, eventually};

use crate::archive::{SMALL, append, check_all, check_files_reach, lose_memory};
use crate::started;

#[test]
fn a_context_comes_back_when_all_memory_is_lost() {
    let mut instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=10_000);
    context.wait_durable(10_000, PATIENCE).expect("a disk");
    let before = context.epoch();
    let mut watcher = context.watch(10_001);
    assert!(watcher.try_next().expect("readable").is_none());
    lose_memory(&mut instance);
    let listed = instance.printed(&["ls", "-o", "jsonl"]);
    assert!(
        listed.contains("\"archived\",\"first_available\":1,\"latest\":10000"),
        "{listed}"
    );
    instance.start(&SMALL);
    check_all(&instance, 10_000);
    // Something may have been appended behind that, and somebody may have seen it.
    let again = instance.context("log");
    assert_ne!(again.epoch(), before);
    let told = eventually("who has it open is told", || watcher.try_next().err());
    assert!(told.is_closed(), "{told}");
    let lamport = again
        .get(10_000)
        .expect("readable")
        .expect("there")
        .lamport();
    append(&again, 10_001..=20_000);
    let next = again.get(10_001).expect("readable").expect("there");
    assert_eq!(next.lamport(), lamport + 1);
    again.wait_durable(20_000, PATIENCE).expect("a disk");
    lose_memory(&mut instance);
    instance.start(&SMALL);
    check_all(&instance, 20_000);
    check_files_reach(&instance, &context, 20_000);
}

#[test]
fn a_context_that_is_let_go_of_after_a_restart_leaves_memory() {
    let idle = ["--durability", "archive", "--idle-close-after", "0.01"];
    let mut instance = started(&idle);
    let context = instance.context("log");
    instance.kill_daemon();
    instance.start(&idle);
    let ledger = context.ledger().clone();
    eventually("it is open again", || {
        let status = ledger.status().ok()?;
        (status.attached == 1).then_some(())
    });
    append(&context, 1..=3);
    drop(context);
    // Who had it open is there yet, and has to say that it is let go of.
    has_given_memory_up(&instance);
    assert!(ledger.is_connected());
}

/// Waits until nothing of the instance's contexts is in memory.
fn has_given_memory_up(instance: &Instance) {
    let is_given_up = || {
        let names = object::list(&instance.objects()).expect("a memory file system");
        names.iter().all(|name| *name == Name::Lock).then_some(())
    };
    eventually("its memory is given up", is_given_up);
}

#[test]
fn that_entries_may_be_lost_is_said_and_only_then() {
    let mut instance = started(&["--durability", "archive"]);
    let context = instance.context("log");
    append(&context, 1..=9);
    context.wait_durable(9, PATIENCE).expect("a disk");
    lose_memory(&mut instance);
    let idle = ["--durability", "archive", "--idle-close-after", "0"];
    instance.start(&idle);
    for _ in 0..3 {
        drop(instance.context("log"));
        has_given_memory_up(&instance);
    }
    let said = instance.kill_daemon();
    let of_it = said.iter().filter(|line| line.contains("may have lost"));
    let [line] = &of_it.collect::<Vec<_>>()[..] else {
        panic!("{said:?}");
    };
    assert!(
        line.contains("context=\"log\"") && line.contains("last_seq=9"),
        "{line}"
    );
}

#[test]
fn what_is_left_of_its_memory_keeps_no_context_from_coming_back() {
    let instance = started(&["--durability", "archive", "--idle-close-after", "0"]);
    let context = instance.context("log");
    let epoch = context.epoch();
    append(&context, 1..=9);
    drop(context);
    has_given_memory_up(&instance);
    // Whatever could not be removed.
    let objects = instance.objects();
    for name in [Name::Control(epoch), Name::Part(epoch, 1)] {
        object::Object::create(&objects, name, 4096).expect("room");
    }
    let again = instance.context("log");
    assert_eq!(again.epoch(), epoch);
    append(&again, 10..=12);
    check_all(&instance, 12);
}

#[test]
fn an_idle_context_gives_up_its_memory_and_comes_back_as_it_was() {
    let idle = ["--durability", "archive", "--idle-close-after", "0.05"];
    let mut instance = started(&idle);
    let context = instance.context("log");
    let epoch = context.epoch();
    append(&context, 1..=500);
    let lamport = context
        .get(500)
        .expect("readable")
        .expect("there")
        .lamport();
    drop(context);
    for round in 1..=3 {
        has_given_memory_up(&instance);
        let listed = instance.printed(&["ls", "-o", "jsonl"]);
        let latest = 499 + round;
        let expected = format!("\"archived\",\"first_available\":1,\"latest\":{latest}");
        assert!(listed.contains(&expected), "{listed}");
        // Nothing was lost, and it is known that nothing was.
        if round == 2 {
            instance.kill_daemon();
            instance.start(&idle);
        }
        let again = instance.context("log");
        assert_eq!(again.epoch(), epoch);
        let in_files = (again.archived_seq(), again.durable_seq());
        assert_eq!(in_files, (Some(latest), Some(latest)));
        append(&again, latest + 1..=latest + 1);
        let entry = again.get(latest + 1).expect("readable").expect("there");
        assert_eq!(entry.lamport(), lamport + round);
        check_all(&instance, latest + 1);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn who_asks_for_it_just_after_it_has_left_is_told_and_keeps_nobody_from_giving_it_up() {
    let idle = [&SMALL[..], &["--idle-close-after", "0.05"]].concat();
    let mut instance = started(&idle);
    let mut peer = instance.peer();
    peer.must("open log");
    // Beyond its first part, the number of which another one has when it comes back.
    peer.must("fill 2000 100");
    let context = instance.connect().context("log").open_read_only();
    let epoch = context.expect("there").epoch();
    let provision = TracedThread::attach(peer.pid().as_raw() as u32, "ledger-provision");
    let run_to = |nr: i64| while provision.run_to_call().nr as i64 != nr {};
    provision.run_to_rest();
    instance.kill_daemon();
    // It has looked by then whether its context is gone.
    run_to(libc::SYS_connect);
    // Until its memory is full; then it waits for more.
    peer.tell("marked-wait 5000 100");
    eventually("it waits", || peer.sleeps_in("peer", libc::SYS_futex));
    instance.start(&idle);
    has_given_memory_up(&instance);
    assert_eq!(provision.call(), 0, "it is connected");
    run_to(libc::SYS_recvmsg);
    assert!(provision.call() > 0, "it is greeted");
    run_to(libc::SYS_recvmsg);
    assert!(provision.call() > 0, "it is answered");
    let control = Name::Control(epoch);
    let names = object::list(&instance.objects()).expect("a memory file system");
    assert!(names.contains(&control), "it is back: {names:?}");
    drop(provision);
    // In other memory than that which it still has.
    let told = peer.hear();
    assert!(told.contains("has left memory"), "{told}");
    has_given_memory_up(&instance);
    // What it had before is let go of, and what it has now is not.
    peer.must("open log");
    let provision = TracedThread::attach(peer.pid().as_raw() as u32, "ledger-provision");
    provision.run_to_rest();
    drop(provision);
    let status = instance.printed(&["status", "-o", "jsonl"]);
    assert!(status.contains("\"attached\":1"), "{status}");
    peer.must("append k v");
    instance.printed(&["verify", "log"]);
}

#[test]
fn who_opens_a_context_while_it_leaves_finds_it_whole() {
    let idle = ["--durability", "archive", "--idle-close-after", "0"];
    let instance = started(&idle);
    let ledger = instance.connect();
    for latest in 1..=300 {
        let context = ledger.context("log").open_or_create().expect("a context");
        append(&context, latest..=latest);
        drop(context);
        if latest % 3 == 0 {
            let reading = ledger.context("log").open_read_only().expect("a context");
            assert_eq!(reading.latest().expect("readable"), latest);
        }
    }
    check_all(&instance, 300);
}
