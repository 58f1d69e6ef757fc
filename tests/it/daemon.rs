//! The daemon absent, killed, stopped, restarted, started twice.

use std::process::Stdio;
use std::time::{Duration, Instant};

use ledger_client::wire::RECONNECT_PAUSE_MAX;
use ledger_client::{ConnectError, NewEntry};
use ledger_shm::control::State;
use ledger_tests::process::{Lines, Process};
#[cfg(target_arch = "x86_64")]
use ledger_tests::traced::TracedThread;
use ledger_tests::{Instance, PATIENCE, Peer, eventually, sleeps};
use nix::sys::signal::Signal;

use crate::archive::lose_memory;
use crate::{IN_MEMORY, PROGRAMS, started};

#[test]
fn without_a_daemon_connecting_says_where_it_looked_and_what_to_do() {
    let instance = Instance::new(PROGRAMS);
    let error = instance.builder().connect().expect_err("no daemon");
    assert!(
        matches!(error, ConnectError::DaemonDown { .. }),
        "{error:?}"
    );
    let said = error.to_string();
    assert!(
        said.contains(".sock") && said.contains("ledgerd run"),
        "{said}"
    );
    let said = instance.complained(&["append", "c", "k", "v"]);
    assert!(said.contains("ledgerd run"), "{said}");
}

#[test]
fn a_second_daemon_is_refused_and_the_first_goes_on() {
    let instance = started(&[]);
    let said = instance.complained(&["run"]);
    let pid = instance.daemon_pid();
    let expected = format!("has a daemon already, process {pid}; stop it");
    assert!(said.contains(&expected), "{said}");
    assert_eq!(
        instance.printed(&["append", "c", "k", "v", "-o", "short"]),
        "1\n"
    );
}

#[test]
fn of_daemons_that_start_at_once_one_stays() {
    for _ in 0..10 {
        let instance = Instance::new(PROGRAMS);
        let mut candidates: Vec<Process> = (0..4)
            .map(|_| Process::start(instance.ledgerd(&["run"]).stderr(Stdio::piped())))
            .collect();
        let mut first_lines = candidates.iter_mut().map(|candidate| {
            let mut lines = Lines::of(candidate.stderr.take().expect("piped"));
            lines.line().expect("it says how it went")
        });
        let said: Vec<String> = first_lines.by_ref().collect();
        let are = |what: &str| said.iter().filter(|line| line.contains(what)).count();
        let counts = (are(" listens at "), are("has a daemon already"));
        assert_eq!(counts, (1, 3), "{said:?}");
        instance.printed(&["append", "c", "k", "v"]);
    }
}

#[test]
fn clients_go_on_while_the_daemon_is_dead_and_after_it_is_back() {
    let mut instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let (mut writer, mut watcher) = (instance.peer(), instance.peer());
    writer.must("open log");
    writer.must("fill 10 10");
    watcher.must("read log");
    watcher.must("watch 1");
    for _ in 0..10 {
        assert_eq!(watcher.ask("next"), "waiting");
        assert!(watcher.hear().starts_with("ok"));
    }
    instance.kill_daemon();
    writer.must("fill 50 10");
    for seq in 11..=60 {
        assert_eq!(watcher.ask("next"), "waiting");
        assert_eq!(watcher.hear(), format!("ok {seq} fill"));
    }
    // Reading commands need nobody.
    assert_eq!(
        instance.printed(&["get", "log", "60", "-o", "raw"]),
        "xxxxxxxxxx"
    );
    let drawing = instance.printed(&["inspect", "log"]);
    assert!(drawing.contains("bell: unknown"), "{drawing}");
    let all = instance.printed(&["tail", "log", "-n", "100", "-o", "jsonl"]);
    assert_eq!(all.lines().count(), 60);
    for listing in [&["ls", "-o", "jsonl"][..], &["info", "log", "-o", "jsonl"]] {
        let listed = instance.printed(listing);
        assert!(listed.contains("\"latest\":60"), "{listed}");
    }

    instance.start(&["--spare-min", "64K", "--spare-max", "64K"]);
    // More than all spares hold: only with a daemon.
    writer.must("fill 3000 100");
    assert!(writer.must("digest").starts_with("3060 "));
    for seq in 61..=3060 {
        assert_eq!(watcher.ask("next"), "waiting");
        assert_eq!(watcher.hear(), format!("ok {seq} fill"));
    }
}

#[test]
fn who_follows_others_into_memory_that_they_were_given_needs_no_daemon() {
    let mut instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let (mut before, mut busy) = (instance.peer(), instance.peer());
    before.must("open log");
    before.must("fill 10 10");
    busy.must("open log");
    busy.must("fill 1000 1000");
    instance.kill_daemon();
    assert_eq!(before.must("append k v"), "1011");
    assert_eq!(busy.must("append k v"), "1012");
}

#[test]
fn who_had_a_context_open_that_is_gone_asks_for_it_once() {
    let mut instance = started(&IN_MEMORY);
    let mut peer = instance.peer();
    peer.must("open log");
    lose_memory(&mut instance);
    instance.start(&IN_MEMORY);
    eventually("it is connected, and has nothing left to ask", || {
        let call = peer.sleeps_in("ledger-provision", libc::SYS_poll)?;
        let [_, descriptors, timeout, ..] = &call[..] else {
            panic!("{call:?}");
        };
        // The daemon's end, too; and no end of its own.
        (descriptors == "0x2" && timeout.ends_with("ffffffff")).then_some(())
    });
}

#[test]
fn who_has_only_contexts_open_that_are_gone_is_connected_all_the_same() {
    let mut instance = started(&[]);
    let context = instance.context("log");
    let appender = context.appender().expect("an appender");
    // Who wants memory would ask for it.
    assert!(appender.wait_ready(PATIENCE));
    instance.kill_daemon();
    instance.printed(&["purge"]);
    assert!(matches!(context.state(), Ok(State::Dropped)));
    instance.start(&[]);
    eventually("it is connected", || {
        context.ledger().is_connected().then_some(())
    });
}

#[test]
fn who_had_a_context_open_comes_back_before_it_is_taken_for_idle() {
    let at_once = [&IN_MEMORY[..], &["--idle-close-after", "0"]].concat();
    let mut instance = started(&at_once);
    let mut peer = instance.peer();
    peer.must("open log");
    assert_eq!(peer.must("append k v"), "1");
    // Only a context that has one is closed for being idle.
    eventually("it has a spare mapped", || {
        (peer.writable_part_count(&instance) > 1).then_some(())
    });
    instance.kill_daemon();
    let longest = format!("{:#x}", RECONNECT_PAUSE_MAX.as_millis());
    eventually("it is looked for as seldom as ever", || {
        let call = peer.sleeps_in("ledger-provision", libc::SYS_poll)?;
        (call.get(2) == Some(&longest)).then_some(())
    });
    instance.start(&at_once);
    let mut seq = 1;
    eventually("it has it open again", || {
        seq += 1;
        // One that does not wait.
        assert_eq!(peer.must("marked 1 1"), seq.to_string());
        let status = instance.printed(&["status", "-o", "jsonl"]);
        status.contains("\"attached\":1").then_some(())
    });
}

#[test]
fn who_was_not_answered_comes_back_before_a_context_is_taken_for_idle() {
    let at_once = [
        "--spare-min",
        "64K",
        "--spare-max",
        "64K",
        "--idle-close-after",
        "0",
    ];
    let instance = started(&at_once);
    let ledger = instance.connect();
    let context = ledger.context("log").open_or_create().expect("room");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(PATIENCE);
    // Of another one a reader is all that has it open.
    instance.printed(&["append", "read", "k", "v"]);
    let reader = instance.connect();
    let read = reader.context("read").open_read_only().expect("there");
    let mut watcher = read.watch(2);
    instance.pause_daemon();
    // The daemon comes to the reader first: what is due later keeps others waiting.
    for ledger in [&reader, &ledger] {
        let error = ledger.context("other").open().map(drop);
        let error = error.expect_err("nobody answers").to_string();
        assert!(error.contains("does not answer"), "{error}");
    }
    instance.resume_daemon();
    eventually("both are back", || {
        let are_back = ledger.is_connected() && reader.is_connected();
        are_back.then_some(())
    });
    // More than all spares hold.
    for seq in 1..=3000 {
        let appended = appender.append(&NewEntry::new("k", &[7; 100]));
        assert_eq!(appended.map(|appended| appended.seq), Ok(seq));
    }
    instance.printed(&["append", "read", "k", "v"]);
    assert_eq!(watcher.next().expect("readable").seq(), 2);
}

#[test]
fn without_a_daemon_appends_end_with_the_reason_when_the_spares_are_full() {
    let mut instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(Duration::from_millis(200));
    instance.kill_daemon();
    let (mut appended, mut slept_before) = (0, sleeps());
    let error = loop {
        match appender.append(&NewEntry::new("k", &[7; 1000])) {
            Ok(_) => appended += 1,
            Err(error) => break error,
        }
        slept_before = sleeps();
    };
    assert!(error.is_full(), "{error}");
    // It looks again each 5 ms, and is asleep in between.
    assert!(sleeps() - slept_before > 3);
    assert!(error.to_string().contains("ledgerd run"), "{error}");
    assert_eq!(context.latest().expect("readable"), appended);
    instance.start(&[]);
    appender.set_wait(ledger_tests::PATIENCE);
    let seq = appender
        .append(&NewEntry::new("k", b"back"))
        .expect("room again")
        .seq;
    assert_eq!(seq, appended + 1);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn killed_or_stopped_before_any_of_its_system_calls_it_loses_nothing() {
    use ledger_tests::torture::{Effort, daemon};

    daemon::daemon(PROGRAMS, &Effort::little(15)).assert_hold();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn whichever_of_its_system_calls_fails_it_goes_on_when_there_is_enough() {
    use ledger_tests::torture::{Effort, starve};

    starve::starve(PROGRAMS, &Effort::little(15)).assert_hold();
}

#[cfg(target_arch = "x86_64")]
#[test]
fn however_little_there_is_it_goes_on_when_there_is_enough() {
    use ledger_tests::may_be_others;
    use ledger_tests::torture::{Effort, scarce};

    // Who may not mount, and give, cannot have too little of it.
    if !may_be_others() {
        return;
    }
    scarce::scarce(PROGRAMS, &Effort::little(5)).assert_hold();
}

#[test]
fn a_stopped_daemon_delays_no_append_and_no_read() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    appender
        .append(&NewEntry::new("k", b"before"))
        .expect("room");
    instance.pause_daemon();
    let started = Instant::now();
    for n in 2..=100 {
        assert_eq!(
            appender
                .try_append(&NewEntry::new("k", b"during"))
                .expect("room")
                .seq,
            n
        );
    }
    assert_eq!(context.latest().expect("readable"), 100);
    let entry = context.get(50).expect("readable").expect("it is there");
    assert_eq!(entry.payload(), b"during");
    let mut range = context.range(1);
    let mut seqs = 0;
    while let Some(entry) = range.next_entry().expect("readable") {
        seqs += entry.seq();
    }
    assert_eq!(seqs, 5050);
    let mut watcher = context.watch(100);
    assert_eq!(watcher.next().expect("readable").seq(), 100);
    // The shortest wait for a daemon is 2 s.
    assert!(started.elapsed() < Duration::from_secs(1));
    instance.resume_daemon();
}

#[test]
fn commands_tell_a_daemon_that_is_stopped_from_one_that_is_not_there() {
    let instance = started(&[]);
    instance.printed(&["append", "log", "k", "seen"]);
    instance.pause_daemon();
    for args in [
        &["get", "log", "-o", "raw"][..],
        &["tail", "log", "-o", "raw"],
    ] {
        let started = Instant::now();
        assert_eq!(instance.printed(args), "seen");
        // Who must have the daemon waits for it 2 s.
        assert!(started.elapsed() < Duration::from_secs(1), "{args:?}");
    }
    let said = instance.complained(&["append", "log", "k", "v"]);
    assert!(
        said.contains("does not answer") && !said.contains("ledgerd run"),
        "{said}"
    );
    instance.resume_daemon();
    assert_eq!(
        instance.printed(&["append", "log", "k", "v", "-o", "short"]),
        "2\n"
    );
}

/// Has a peer wish for a spare that fits none, so that its background thread
/// asks a daemon that does not answer.
fn has_asked(peer: &mut Peer) {
    assert!(peer.ask("marked 1 4000000").contains("no room"));
    eventually("the background thread waits for an answer", || {
        peer.sleeps_in("ledger-provision", libc::SYS_recvmsg)
    });
}

#[test]
fn an_append_follows_others_while_the_background_thread_waits_for_a_stopped_daemon() {
    let instance = started(&["--spare-min", "16K", "--spare-max", "16K"]);
    let (mut waiting, mut other) = (instance.peer(), instance.peer());
    waiting.must("open log");
    other.must("open log");
    other.must("fill 1000 100");
    eventually("the other has mapped the next two spares", || {
        let drawing = instance.printed(&["inspect", "log"]);
        let mut spares = drawing.lines().filter(|line| line.ends_with("spare"));
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", other.pid())).expect("it runs");
        let mut is_next_mapped = || {
            let part = spares.next()?.split_whitespace().nth(1)?;
            maps.contains(&format!("-{part}\n")).then_some(())
        };
        is_next_mapped().and_then(|()| is_next_mapped())
    });
    instance.pause_daemon();
    has_asked(&mut waiting);
    other.must("fill 100 100");
    assert_eq!(waiting.must("append k v"), "1101");
    instance.resume_daemon();
}

/// As that, for who does not wait: it is refused once, and has what is in memory then.
#[cfg(target_arch = "x86_64")]
#[test]
fn an_append_that_is_refused_has_memory_mapped_though_the_daemon_is_stopped() {
    let instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let (mut left_behind, mut other) = (instance.peer(), instance.peer());
    left_behind.must("open log");
    other.must("open log");
    eventually("two spares are mapped", || {
        (left_behind.writable_part_count(&instance) == 3).then_some(())
    });
    let provision = TracedThread::attach(left_behind.pid().as_raw() as u32, "ledger-provision");
    provision.run_to_rest();
    // Beyond both.
    other.must("fill 3000 100");
    instance.pause_daemon();
    drop(provision);
    assert!(left_behind.ask("try k v").contains("no room"));
    eventually("it goes on where the other is", || {
        (left_behind.ask("try k v") == "ok 3001").then_some(())
    });
    instance.resume_daemon();
}

#[test]
fn closing_the_ledger_waits_for_no_answer() {
    let instance = started(&[]);
    let mut closing = instance.peer();
    closing.must("open log");
    instance.pause_daemon();
    has_asked(&mut closing);
    let started = Instant::now();
    closing.end().expect("a clean end");
    // A daemon that runs is given 5 s to answer.
    assert!(started.elapsed() < Duration::from_secs(2));
    instance.resume_daemon();
}

#[test]
fn the_connection_comes_back_though_nothing_is_open() {
    let mut instance = Instance::new(PROGRAMS);
    let ledger = instance.builder().daemon_optional(true).connect();
    let ledger = ledger.expect("no daemon is fine");
    for _ in 0..2 {
        assert!(!ledger.is_connected());
        instance.start(&[]);
        eventually("it is connected", || ledger.is_connected().then_some(()));
        instance.kill_daemon();
        eventually("it is not", || (!ledger.is_connected()).then_some(()));
    }
}

#[test]
fn a_process_that_was_not_answered_goes_on_when_the_daemon_does() {
    let instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let ledger = instance.connect();
    let context = ledger.context("log").open_or_create().expect("room");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(ledger_tests::PATIENCE);
    let mut reader = instance.peer();
    instance.pause_daemon();
    let outcome = ledger.context("other").open_or_create();
    let error = outcome.map(drop).expect_err("nobody answers");
    assert!(error.to_string().contains("does not answer"), "{error}");
    reader.must("read log");
    instance.resume_daemon();
    // More than all spares hold.
    for _ in 0..3000 {
        appender
            .append(&NewEntry::new("k", &[7; 100]))
            .expect("room");
    }
    eventually("the daemon is asked again", || {
        ledger.context("other").open_or_create().ok()
    });
    // The reader has got a bell by now, or gets one.
    reader.must("watch 3001");
    assert_eq!(reader.ask("next"), "waiting");
    appender.append(&NewEntry::new("k", b"v")).expect("room");
    assert_eq!(reader.hear(), "ok 3001 k");
}

#[test]
fn a_graceful_stop_keeps_every_context_for_the_next_daemon() {
    let mut instance = started(&[]);
    instance.printed(&["append", "kept", "k", "v"]);
    for (signal, seq) in [(Signal::SIGTERM, "2\n"), (Signal::SIGINT, "3\n")] {
        assert!(instance.stop_daemon_with(signal).success());
        assert!(!instance.socket().exists());
        instance.start(&[]);
        let appended = instance.printed(&["append", "kept", "k", "v", "-o", "short"]);
        assert_eq!(appended, seq);
    }
}

#[test]
fn a_killed_daemon_finds_chain_and_spares_again() {
    let mut instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let mut writer = instance.peer();
    writer.must("open log");
    writer.must("fill 3000 100");
    let drawing = eventually("two spares", || {
        let drawing = instance.printed(&["inspect", "log"]);
        (drawing.matches("spare").count() == 2).then_some(drawing)
    });
    instance.kill_daemon();
    instance.start(&["--spare-min", "64K", "--spare-max", "64K"]);
    let parts = |drawing: &str| {
        drawing
            .lines()
            .filter(|line| line.contains("part "))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        parts(&instance.printed(&["inspect", "log"])),
        parts(&drawing)
    );
    writer.must("fill 3000 100");
    assert!(writer.must("digest").starts_with("6000 "));
}

#[test]
fn a_daemon_out_of_descriptors_listens_again_when_it_has_some() {
    let instance = started(&[]);
    let ledger = instance.connect();
    instance.limit_descriptors(30);
    let mut held = Vec::new();
    let refused = loop {
        let name = format!("context-{}", held.len());
        match ledger.context(&name).open_or_create() {
            Ok(context) => held.push(context),
            Err(error) => break error,
        }
    };
    assert!(
        refused.to_string().contains("Too many open files"),
        "{refused}"
    );
    // Some are refused, and one may have been left waiting.
    let mut others = Vec::new();
    while let Ok(other) = instance.builder().connect() {
        others.push(other);
    }
    // Nobody goes, but there is room again.
    held.clear();
    eventually("it listens", || instance.builder().connect().ok());
    drop(others);
}

#[test]
fn every_context_is_attached_again_whoever_connects_first() {
    let small = ["--spare-min", "16K", "--spare-max", "16K"];
    let mut instance = started(&small);
    let ledger = instance.connect();
    let mut appenders = ["one", "two", "three"].map(|name| {
        let context = ledger.context(name).open_or_create().expect("a context");
        let mut appender = context.appender().expect("an appender");
        appender.set_wait(ledger_tests::PATIENCE);
        appender
    });
    for round in 0..5 {
        instance.kill_daemon();
        instance.start(&small);
        // This connects before anybody else may have noticed.
        let name = format!("new-{round}");
        ledger.context(&name).open_or_create().expect("a context");
        // More than all spares hold.
        for appender in &mut appenders {
            for _ in 0..600 {
                appender
                    .append(&NewEntry::new("k", &[7; 100]))
                    .expect("room");
            }
        }
    }
    for appender in &appenders {
        assert_eq!(appender.context().latest().expect("readable"), 3000);
    }
}

#[test]
fn a_limit_that_the_format_cannot_hold_is_refused() {
    let instance = Instance::new(PROGRAMS);
    let said = instance.complained(&["run", "--payload-max", "3G"]);
    assert!(
        said.contains("largest payload") && said.contains("536870912"),
        "{said}"
    );
    for (args, reason) in [
        (
            &["--memory-budget", "19K"][..],
            "holds no context; the first takes 20480",
        ),
        (&["--first-segment", "9G"], "choose from 8192 to 67108864"),
        (&["--spare-min", "4K"], "choose from 8192 to"),
        (&["--spare-max", "4K"], "choose from 8192 to"),
        (
            &["--spare-min", "2M", "--spare-max", "1M"],
            "choose from 8192 to 1048576",
        ),
    ] {
        let said = instance.complained(&[&["run"], args].concat());
        assert!(said.contains(reason), "{args:?}: {said}");
    }
    for args in [
        &["--memory-budget", "0"][..],
        &["--spare-min", "0"],
        &["--idle-close-after", "-1"],
    ] {
        let output = instance.run(&[&["run"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
}
