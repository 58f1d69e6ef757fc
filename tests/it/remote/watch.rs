//! Watching through the door: history, then what comes.

use ledger_client::NewEntry;
use ledger_client::remote::proto::WatchRequest;
use ledger_tests::eventually;
use nix::sys::signal::Signal;
use tonic::Code;

use super::{Door, append, connected, from, new, next};

#[test]
fn history_and_what_comes_are_one_sequence_however_it_was_appended() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    let ledger = door.instance.connect();
    let context = ledger.context("log").open_or_create().expect("room");
    let mut appender = context.appender().expect("an appender");
    for n in 0..1000 {
        let key = ["even", "odd"][n % 2];
        appender.append(&NewEntry::new(key, "old")).expect("room");
    }
    door.runtime.block_on(async {
        let watch = client.watch(from("log", 10)).await;
        let mut all = watch.expect("it begins").into_inner();
        let odd = WatchRequest {
            key: "odd".into(),
            ..from("log", 0)
        };
        let mut odd = client.watch(odd).await.expect("it begins").into_inner();
        for n in 1000..2000 {
            let key = ["even", "odd"][n % 2];
            match n % 3 {
                0 => drop(
                    append(&mut client, new("log", key, "new"))
                        .await
                        .expect("appended"),
                ),
                _ => drop(appender.append(&NewEntry::new(key, "new")).expect("room")),
            }
        }
        for seq in 11..=2000 {
            let entry = next(&mut all).await.expect("it goes on").entry;
            assert_eq!(entry.expect("one").sequence, seq);
        }
        for seq in (2..=2000).step_by(2) {
            let entry = next(&mut odd).await.expect("it goes on").entry;
            assert_eq!(entry.expect("one").sequence, seq);
        }
    });
}

#[test]
fn who_watches_a_context_before_there_is_one_sees_its_first_entry() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    door.runtime.block_on(async {
        let mut watching = client.clone();
        let watch = tokio::spawn(async move {
            let watch = watching.watch(from("log", 0)).await;
            let mut watch = watch.expect("it begins").into_inner();
            next(&mut watch).await
        });
        append(&mut client, new("log", "k", "v"))
            .await
            .expect("appended");
        let event = watch.await.expect("it watches").expect("it comes");
        assert_eq!(event.entry.expect("one").sequence, 1);
    });
}

#[test]
fn a_context_that_nobody_asks_for_any_more_can_be_dropped_and_is_another_then() {
    let door = Door::unix(&[]);
    let first = door.runtime.block_on(async {
        // Its end is known when its connection has ended.
        let mut client = connected(&door.uri).await;
        let appended = append(&mut client, new("log", "k", "of the first")).await;
        let watch = client.watch(from("log", 0)).await;
        let mut watch = watch.expect("it begins").into_inner();
        next(&mut watch).await.expect("the first");
        let said = door.instance.complained(&["drop", "log", "--yes"]);
        assert!(said.contains("have the context open"), "{said}");
        appended.expect("appended")
    });
    // What it ran on hangs up with it.
    let Door {
        instance,
        uri,
        runtime,
    } = door;
    drop(runtime);
    eventually("it can be", || {
        let dropped = instance.run(&["drop", "log", "--yes"]);
        dropped.status.success().then_some(())
    });
    super::runtime().block_on(async {
        let mut client = connected(&uri).await;
        let second = append(&mut client, new("log", "k", "of the second")).await;
        let second = second.expect("appended");
        assert_eq!((second.sequence, second.id == first.id), (1, false));
        let watch = client.watch(from("log", 0)).await;
        let mut watch = watch.expect("it begins").into_inner();
        let event = next(&mut watch).await.expect("it comes");
        assert_eq!(event.entry, Some(second));
    });
}

#[test]
fn a_thousand_watch_and_none_misses_anything() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    let threads = || {
        let tasks = format!("/proc/{}/task", door.instance.daemon_pid());
        std::fs::read_dir(tasks).expect("it runs").count()
    };
    door.instance.printed(&["append", "log", "k", "first"]);
    let before = threads();
    door.runtime.block_on(async {
        let mut watches = Vec::new();
        for _ in 0..1000 {
            let watch = client.watch(from("log", 0)).await;
            watches.push(watch.expect("it begins").into_inner());
        }
        for n in 2..=20 {
            let appended = append(&mut client, new("log", "k", format!("{n}"))).await;
            appended.expect("appended");
        }
        for watch in &mut watches {
            for seq in 1..=20 {
                let entry = next(watch).await.expect("it goes on").entry;
                assert_eq!(entry.expect("one").sequence, seq);
            }
        }
    });
    let now = threads();
    assert!(now < before + 20, "{before} threads, then {now}");
}

/// Entries that nobody takes are not taken from the log.
#[test]
fn who_does_not_read_costs_little_and_holds_nobody_up() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    let ledger = door.instance.connect();
    let context = ledger.context("log").open_or_create().expect("room");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(ledger_tests::PATIENCE);
    let large = vec![7; 4 << 20];
    for _ in 0..5 {
        appender.append(&NewEntry::new("k", &large)).expect("room");
    }
    let resident = || {
        let status = format!("/proc/{}/status", door.instance.daemon_pid());
        let status = std::fs::read_to_string(status).expect("it runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"));
        let kib = line.expect("a line").trim().trim_end_matches(" kB");
        kib.parse::<u64>().expect("a number") << 10
    };
    let before = resident();
    door.runtime.block_on(async {
        let mut unread = Vec::new();
        for _ in 0..100 {
            // On one connection it would be the client that holds its other streams up.
            let mut client = connected(&door.uri).await;
            for _ in 0..2 {
                let watch = client.watch(from("log", 0)).await;
                unread.push(watch.expect("it begins").into_inner());
            }
        }
        for _ in 0..2 {
            let watch = client.watch(from("log", 0)).await;
            let mut watch = watch.expect("it begins").into_inner();
            for seq in 1..=5 {
                let entry = next(&mut watch).await.expect("it goes on").entry;
                let entry = entry.expect("one");
                assert_eq!((entry.sequence, entry.payload.len()), (seq, 4 << 20));
            }
        }
        let now = resident();
        assert!(now < before + (64 << 20), "{before} bytes, then {now}");
        drop(unread);
    });
}

#[test]
fn a_daemon_that_stops_tells_those_who_watch_and_another_goes_on() {
    let mut door = Door::unix(&[]);
    let mut client = door.client();
    let (mut watch, mut of_none) = door.runtime.block_on(async {
        let appended = append(&mut client, new("log", "k", "1")).await;
        appended.expect("appended");
        let watch = client.watch(from("log", 0)).await;
        // It is heard at once, and waits for the context.
        let of_none = client.watch(from("none", 0)).await;
        let begun = [watch, of_none].map(|watch| watch.expect("it begins").into_inner());
        begun.into()
    });
    assert!(door.instance.stop_daemon_with(Signal::SIGTERM).success());
    let said = door.runtime.block_on(async {
        let of_none = next(&mut of_none).await;
        let mut of_log = next(&mut watch).await;
        while of_log.is_ok() {
            of_log = next(&mut watch).await;
        }
        [of_none.map(drop), of_log.map(drop)]
    });
    for said in said {
        let status = said.expect_err("it ends");
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert!(status.message().contains("the daemon stops"), "{status}");
    }
    let args = [
        "--grpc",
        &format!("unix://{}/door", door.instance.runtime_dir().display()),
    ];
    door.instance.start(&args);
    let mut client = door.client();
    eventually("it is served again", || {
        door.runtime.block_on(async {
            let entry = append(&mut client, new("log", "k", "2")).await.ok()?;
            assert_eq!(entry.sequence, 2);
            let watch = client.watch(from("log", 1)).await;
            let mut watch = watch.expect("it begins").into_inner();
            let entry = next(&mut watch).await.expect("it goes on").entry;
            assert_eq!(entry.expect("one").sequence, 2);
            Some(())
        })
    });
}
