//! Memory that runs out, and what makes room.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ledger_client::{AppendError, Appender, Full, NewEntry, ReadError, Sizes};
use ledger_shm::Refused;
use ledger_shm::format::{PAGE_LEN, SEGMENT_LEN_MAX};
use ledger_shm::object::{MEMORY_DIR, list};
use ledger_tests::held_disk::HeldDisk;
use ledger_tests::process::Process;
use ledger_tests::small_memory::with_small_memory;
use ledger_tests::{Instance, PATIENCE, eventually, parts_in_memory};
use ledgerd::Daemon;

use nix::sys::resource::{UsageWho, getrusage};

use crate::{IN_MEMORY, PROGRAMS, started};

/// A budget that one context can spend, and keep.
const TIGHT: [&str; 6] = [
    "--memory-budget",
    "2M",
    "--window",
    "2M",
    "--spare-min",
    "64K",
];

/// What an append is told for which there is no room; that it does not wait.
fn refused_at_once(appender: &mut Appender) -> String {
    let start = Instant::now();
    let refused = appender.try_append(&NewEntry::new("fill", &[7; 1000]));
    // An `append` would wait for a second.
    assert!(start.elapsed() < Duration::from_millis(500));
    refused.expect_err("no room").to_string()
}

/// Appends until there is no room for a while; how many entries, and why.
fn fill(appender: &mut Appender, payload_len: usize) -> (u64, Full) {
    let payload = vec![7; payload_len];
    appender.set_wait(Duration::from_millis(300));
    let mut appended = 0;
    loop {
        match appender.append(&NewEntry::new("fill", &payload)) {
            Ok(_) => appended += 1,
            Err(AppendError::Refused(Refused::Full(why))) => return (appended, why),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn a_full_memory_file_system_refuses_at_once_and_appends_resume_when_there_is_room() {
    with_small_memory(
        PROGRAMS,
        "memory::a_full_memory_file_system_refuses_at_once_and_appends_resume_when_there_is_room",
        "8M",
        || {
            let ballast = Path::new(MEMORY_DIR).join("ballast");
            std::fs::write(&ballast, vec![1; 2 << 20]).expect("room for ballast");
            let args = ["--memory-budget", "1G", "--spare-min", "256K"];
            let instance = started(&args);
            let context = instance.context("log");
            let mut appender = context.appender().expect("an appender");
            let (appended, why) = fill(&mut appender, 1000);
            assert_eq!(why, Full::NoMemory);
            assert!(appended > 3000, "{appended}");

            // Nothing else breaks meanwhile, in this process or another.
            let error = refused_at_once(&mut appender);
            assert!(error.contains("/dev/shm"), "{error}");
            assert!(
                instance
                    .peer_digest("log")
                    .starts_with(&format!("{appended} "))
            );
            let said = instance.complained(&["append", "another", "k", &"x".repeat(100_000)]);
            assert!(said.contains("memory file system is full"), "{said}");

            let newest = || {
                parts_in_memory(&instance.objects(), context.epoch())
                    .into_iter()
                    .max()
            };
            let before = newest();
            std::fs::remove_file(&ballast).expect("ours");
            eventually("memory is made that nobody asks for once more", || {
                (newest() > before).then_some(())
            });
            appender.set_wait(PATIENCE);
            let resumed = appender.append(&NewEntry::new("fill", &[7; 1000]));
            assert_eq!(resumed.expect("room again").seq, appended + 1);
            assert!(
                instance
                    .peer_digest("log")
                    .starts_with(&format!("{} ", appended + 1))
            );
        },
    );
}

#[test]
fn the_defaults_work_where_shared_memory_has_64_mib() {
    with_small_memory(
        PROGRAMS,
        "memory::the_defaults_work_where_shared_memory_has_64_mib",
        "64M",
        || {
            let instance = started(&[]);
            let context = instance.context("log");
            let mut appender = context.appender().expect("an appender");
            appender.set_wait(PATIENCE);
            let largest = vec![1; context.limits().payload_len_max];
            appender
                .append(&NewEntry::new("largest", &largest))
                .expect("room");
            for n in 0..200_000_u32 {
                let entry = NewEntry::new("fill", &[2; 100]);
                appender
                    .append(&entry)
                    .unwrap_or_else(|error| panic!("{n}: {error}"));
            }
            assert_eq!(context.latest().expect("readable"), 200_001);
        },
    );
}

#[test]
fn the_demo_works_where_shared_memory_has_64_mib() {
    let test = std::env::current_exe().expect("our own path");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<us>");
    let demo = profile.join("examples/demo");
    let remedy = "build it with `cargo build --package ledgerd --example demo`";
    assert!(demo.exists(), "{} is missing; {remedy}", demo.display());
    with_small_memory(
        PROGRAMS,
        "memory::the_demo_works_where_shared_memory_has_64_mib",
        "64M",
        || {
            let mut command = Command::new(&demo);
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            let ended = Process::start(&mut command).output();
            let [said, errors] =
                [&ended.stdout, &ended.stderr].map(|it| String::from_utf8_lossy(it));
            assert!(ended.status.success(), "{said}{errors}");
            assert!(said.contains("agree"), "{said}");
        },
    );
}

#[test]
fn a_spent_budget_refuses_at_once_and_appends_resume_when_it_is_raised() {
    let mut instance = started(&TIGHT);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let (appended, why) = fill(&mut appender, 1000);
    assert_eq!(why, Full::Budget);
    assert!(appended > 1000, "{appended}");
    let error = refused_at_once(&mut appender);
    assert!(error.contains("--memory-budget"), "{error}");
    let said = instance.complained(&["append", "another", "k", &"x".repeat(100_000)]);
    assert!(said.contains("--memory-budget"), "{said}");
    assert!(
        instance
            .peer_digest("log")
            .starts_with(&format!("{appended} "))
    );

    instance.stop_daemon();
    instance.start(&["--memory-budget", "64M"]);
    appender.set_wait(PATIENCE);
    let resumed = appender.append(&NewEntry::new("fill", &[7; 1000]));
    assert_eq!(resumed.expect("room again").seq, appended + 1);
}

#[test]
fn the_window_moves_on_and_says_what_is_still_there() {
    let instance = started(&[
        "--durability",
        "memory",
        "--window",
        "256K",
        "--spare-min",
        "64K",
        "--spare-max",
        "64K",
    ]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(PATIENCE);
    appender
        .append(&NewEntry::new("k", b"the first one"))
        .expect("room");
    let first = context.get(1).expect("readable").expect("there");
    let mut behind = context.watch(1);
    let reader = instance.connect().context("log").open_read_only();
    let mut follower = reader.expect("there").watch(2);
    for _ in 2..=20_000 {
        appender
            .append(&NewEntry::new("k", &[7; 100]))
            .expect("room");
        assert!(follower.try_next().expect("readable").is_some());
    }
    let available = eventually("the window moves", || {
        let available = context.first_available().expect("readable");
        (available > 10_000).then_some(available)
    });
    match context.get(1) {
        Err(ReadError::Evicted {
            seq: 1,
            first_available,
        }) => assert!(first_available >= available),
        other => panic!("{other:?}"),
    }
    // Whoever holds an entry keeps it, and that is shown.
    assert_eq!(first.payload(), b"the first one");
    first.verify().expect("as it was");
    let held = || {
        let info = instance.printed(&["info", "log", "-o", "jsonl"]);
        let info: serde_json::Value = serde_json::from_str(&info).expect("JSON");
        let by = info["retired_mapped_by"].as_array().expect("pids").clone();
        (info["retired_mapped_len"].as_u64().expect("bytes"), by)
    };
    let (len, by) = held();
    assert!(len >= 16 << 10, "{len}");
    assert_eq!(by, [std::process::id()]);
    // A watcher that fell behind is told, and goes on from where it likes.
    let first_available = loop {
        match behind.try_next() {
            Ok(entry) => assert!(entry.is_some(), "it waits although it fell behind"),
            Err(ReadError::Evicted {
                first_available, ..
            }) => break first_available,
            Err(other) => panic!("{other}"),
        }
    };
    drop(first);
    behind.seek(first_available);
    let mut expected = first_available;
    while let Some(entry) = behind.try_next().expect("readable") {
        assert_eq!(entry.seq(), expected);
        expected += 1;
    }
    assert_eq!(expected, 20_001);
    drop(behind);
    // Who follows lets go of what it has left behind, also when nothing comes.
    eventually("nothing is held", || {
        let waited = follower.next_timeout(Duration::from_millis(1));
        assert!(waited.expect("readable").is_none());
        (held().0 == 0).then_some(())
    });
    // The window, the current part, two spares and the control object, give or
    // take a part that is being retired.
    let parts = list(&instance.objects()).expect("listed").len();
    assert!(parts <= 4 + 1 + 2 + 1 + 2 + 1, "{parts} objects");
}

#[test]
fn a_context_keeps_the_sizes_it_was_created_with() {
    let mut instance = started(&IN_MEMORY);
    let sizes = Sizes {
        first_len: Some(64 << 10),
        spare_len_min: Some(32 << 10),
        spare_len_max: Some(32 << 10),
        window_len: Some(128 << 10),
    };
    let parts = |instance: &Instance| {
        let drawing = instance.printed(&["inspect", "small"]);
        let parts = drawing.lines().filter(|line| line.contains(" B  "));
        let lens = parts.map(|line| line.split_whitespace().nth(2).map(str::to_owned));
        lens.map(|len| len.expect("a length")).collect::<Vec<_>>()
    };
    let ledger = instance.connect();
    let create = |sizes| ledger.context("small").sizes(sizes).open_or_create();
    let context = create(sizes).expect("a context");
    // Whoever comes second has no say.
    create(Sizes::default()).expect("it exists");
    eventually("two spares", || {
        (parts(&instance) == ["65536", "32768", "32768"]).then_some(())
    });
    instance.kill_daemon();
    instance.start(&["--spare-min", "256K"]);
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(PATIENCE);
    for _ in 0..5_000 {
        let entry = NewEntry::new("k", &[7; 100]);
        appender.append(&entry).expect("room");
    }
    // Four sealed ones, the current one, two spares, and one more while the
    // oldest is on its way out.
    eventually("the window moves", || {
        (parts(&instance).len() <= 8).then_some(())
    });
    assert!(
        parts(&instance).iter().all(|len| len == "32768"),
        "{:?}",
        parts(&instance)
    );
    assert!(context.first_available().expect("readable") > 3_000);
}

#[test]
fn nobody_loses_entries_for_a_wish_that_cannot_be_met() {
    let instance = started(&["--memory-budget", "32M"]);
    let ledger = instance.connect();
    // With five in use a share is 3.2 MiB; the first has up to 8 MiB.
    let [rich, ..] = ["rich", "b", "c", "d", "e"].map(|name| {
        let context = ledger.context(name).open_or_create().expect("room");
        let mut appender = context.appender().expect("an appender");
        appender.set_wait(PATIENCE);
        let count = if name == "rich" { 200 } else { 1 };
        for _ in 0..count {
            let entry = NewEntry::new("k", &[7; 60_000]);
            appender.append(&entry).expect("room");
        }
        context
    });
    let first_available = || rich.first_available().expect("readable");
    let before = first_available();
    let wish = |sizes| ledger.context("greedy").sizes(sizes).open_or_create();
    for (len, reason) in [(1 << 40, "choose from"), (64 << 20, "budget")] {
        let refused = wish(Sizes {
            first_len: Some(len),
            ..Sizes::default()
        });
        let error = refused.map(drop).expect_err("more than there is");
        assert!(error.to_string().contains(reason), "{error}");
        assert_eq!(first_available(), before);
    }
    let context = wish(Sizes {
        spare_len_min: Some(SEGMENT_LEN_MAX as u64),
        spare_len_max: Some(SEGMENT_LEN_MAX as u64),
        ..Sizes::default()
    });
    let context = context.expect("a small first segment");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(PATIENCE);
    for _ in 0..100 {
        appender
            .append(&NewEntry::new("k", &[7; 1000]))
            .expect("room");
    }
    // Spares of a quarter of a share fit without anybody's loss.
    assert_eq!(first_available(), before);
}

/// A budget for the first part and one for a large entry, and for nothing beside them.
const FEW_PARTS: [&str; 8] = [
    "--first-segment",
    "1M",
    "--spare-min",
    "1M",
    "--spare-max",
    "1M",
    "--memory-budget",
    "3M",
];
/// Takes a part of its own.
static LARGE: [u8; 3 << 19] = [7; 3 << 19];

#[test]
fn a_spare_is_given_though_there_is_no_room_for_another_and_none_beyond_the_budget() {
    let instance = started(&[&IN_MEMORY[..], &FEW_PARTS].concat());
    let mut appender = instance.context("log").appender().expect("an appender");
    let large = NewEntry::new("large", &LARGE);
    // It asks for memory beside what was asked for when the context was opened.
    appender.set_wait(PATIENCE);
    assert_eq!(appender.append(&large).expect("room for one").seq, 1);
    appender.set_wait(Duration::from_secs(1));
    let refused = appender.append(&large);
    let no_room = AppendError::Refused(Refused::Full(Full::Budget));
    assert_eq!(refused.expect_err("no room for two"), no_room);
    let status = instance.connect().status().expect("a daemon");
    assert!(status.committed <= status.budget, "{status:?}");
}

#[test]
fn a_budget_that_was_lowered_makes_room_all_the_same() {
    // Also where it has to be written first.
    for durability in ["memory", "archive"] {
        let durability = ["--durability", durability, "--memory-budget"];
        let mut instance = started(&[&durability[..], &["32M"]].concat());
        let mut writer = instance.peer();
        writer.must("open log");
        writer.must("fill 200 60000");
        writer.end().expect("a clean end");
        instance.kill_daemon();
        // Less than its sealed segments take.
        instance.start(&[&durability[..], &["7M"]].concat());
        let appended = instance.printed(&["append", "another", "k", "v", "-o", "short"]);
        assert_eq!(appended, "1\n", "{durability:?}");
    }
}

#[test]
fn appends_resume_when_somebody_else_gives_memory_up() {
    let instance = started(&TIGHT);
    // Spares of its own, for as long as somebody may append to it.
    let other = instance.context("other").appender().expect("an appender");
    assert!(other.wait_ready(PATIENCE));
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let (appended, why) = fill(&mut appender, 1000);
    assert_eq!(why, Full::Budget);
    drop(other);
    appender.set_wait(PATIENCE);
    let resumed = appender.append(&NewEntry::new("fill", &[7; 1000]));
    assert_eq!(resumed.expect("room again").seq, appended + 1);
    let digest = instance.peer_digest("log");
    assert!(
        digest.starts_with(&format!("{} ", appended + 1)),
        "{digest}"
    );
}

#[test]
fn contexts_share_a_budget_that_is_too_small_for_all_of_them() {
    let short = ["--memory-budget", "16M", "--spare-min", "64K"];
    let instance = started(&[&IN_MEMORY[..], &short].concat());
    let ledger = instance.connect();
    let mut appenders: Vec<Appender> = (0..8)
        .map(|n| {
            let context = ledger.context(&format!("context-{n}")).open_or_create();
            let mut appender = context.expect("room").appender().expect("an appender");
            appender.set_wait(PATIENCE);
            appender
        })
        .collect();
    // Four times the budget, one context after the other, twice.
    for round in 1..=2_u64 {
        for (n, appender) in appenders.iter_mut().enumerate() {
            for _ in 0..4000 {
                let appended = appender.append(&NewEntry::new("k", &[7; 1000]));
                appended.unwrap_or_else(|error| panic!("context {n}: {error}"));
            }
            let context = appender.context();
            assert_eq!(context.latest().expect("readable"), round * 4000);
        }
    }
    for appender in &appenders {
        let first = appender.context().first_available().expect("readable");
        assert!(first > 1, "the oldest entries of all of them have gone");
        let entry = appender.context().get(8000).expect("readable");
        entry.expect("the newest is there").verify().expect("whole");
    }
}

#[test]
fn who_opens_a_context_gets_memory_that_has_to_be_written_first() {
    let instance = started(&["--memory-budget", "16M", "--spare-min", "64K"]);
    let ledger = instance.connect();
    let context = instance.context("busy");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(PATIENCE);
    let large = Sizes {
        first_len: Some(1 << 20),
        ..Sizes::default()
    };
    // Each takes what the busy one has just filled; all of them fit beside its window.
    for n in 0..5 {
        for _ in 0..4000 {
            appender
                .append(&NewEntry::new("k", &[7; 1000]))
                .expect("room");
        }
        let name = format!("other-{n}");
        let other = ledger.context(&name).sizes(large);
        other.open_or_create().expect("memory that is written");
    }
    assert_eq!(context.first_available().expect("readable"), 1);
}

#[test]
fn who_waits_for_memory_that_nobody_can_write_is_refused_in_the_end() {
    let instance = Instance::new(PROGRAMS);
    let disk = Arc::new(HeldDisk::default());
    let mut options = instance.options();
    options.file_system = Arc::clone(&disk) as _;
    options.memory_budget = Some(16 << 20);
    options.sizes.spare_len_min = Some(64 << 10);
    let daemon = Daemon::start(options).expect("it starts");
    let context = instance.context("busy");
    let mut appender = context.appender().expect("an appender");
    let held = disk.hold();
    let (_, why) = fill(&mut appender, 1000);
    assert_eq!(why, Full::Budget);
    drop(appender);
    let ledger = instance.connect();
    let large = Sizes {
        first_len: Some(4 << 20),
        ..Sizes::default()
    };
    let open = || ledger.context("other").sizes(large).open_or_create();
    let error = open().expect_err("there is no memory");
    let said = error.to_string();
    assert!(
        said.contains("the instance's memory budget is spent"),
        "{said}"
    );
    drop(held);
    open().expect("memory that is written");
    daemon.stop().expect("it ends");
}

#[test]
fn an_append_faults_in_no_page_that_the_background_thread_has_seen() {
    const PAGES: i64 = 2048;
    let instance = started(&["--spare-min", "1M", "--spare-max", "1M"]);
    // The first part too is more than an opening waits for.
    let large = Sizes {
        first_len: Some(1 << 20),
        ..Sizes::default()
    };
    let ledger = instance.connect();
    let context = ledger.context("log").sizes(large);
    let context = context.open_or_create().expect("a context");
    let mut appender = context.appender().expect("an appender");
    let faults = || {
        let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("our own");
        usage.minor_page_faults() + usage.major_page_faults()
    };
    let payload = [7; 3000];
    let mut during = 0;
    for seq in 1..=PAGES as u64 * PAGE_LEN as u64 / payload.len() as u64 {
        assert!(appender.wait_ready(PATIENCE));
        let before = faults();
        let appended = appender.try_append(&NewEntry::new("k", &payload));
        during += faults() - before;
        assert_eq!(appended.expect("a spare is ready").seq, seq);
    }
    // Its own first touches of code, stack and control object; not the 2048
    // pages and more that it has written to.
    assert!(during < PAGES / 20, "{during}");
}
