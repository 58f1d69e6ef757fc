//! A ledger elsewhere, with the verbs of one that is here.

use std::collections::BTreeMap;
use std::time::Duration;

use ledger_client::NewEntry;
use ledger_client::remote::{RemoteError, RemoteLedger};
use ledger_tests::{Instance, PATIENCE, eventually};
use tonic::Code;

use super::{Door, TOKEN};
use crate::PROGRAMS;

impl Door {
    fn ledger(&self) -> RemoteLedger {
        RemoteLedger::connect(&*self.uri).expect("it is heard")
    }
}

/// What a program sees that appends, reads, watches, snapshots and loads: the same lines for
/// any ledger.
macro_rules! seen {
    ($ledger:expr, $until_now:expr) => {{
        let ledger = $ledger;
        let mut seen = Vec::new();
        let context = ledger.context("log").open_or_create().expect("a name");
        let mut appender = context.appender().expect("an appender");
        let new = NewEntry::new("first", &[0, 159, 255]);
        let new = new.metadata(&[("agent", "credit"), ("ключ", "")]);
        let first = appender.append(&new.received_lamport(41)).expect("room");
        seen.push(format!("{} {}", first.seq, first.lamport));
        for n in 2..=20_u32 {
            let key = ["even", "odd"][n as usize % 2];
            let appended = appender.append(&NewEntry::new(key, &n.to_string()));
            assert_eq!(appended.expect("room").seq, u64::from(n));
        }
        let typed = NewEntry::typed("typed", &7_u32);
        seen.push(format!("{}", appender.append(&typed).expect("room").seq));

        seen.push(format!(
            "{} {}",
            context.name(),
            context.latest().expect("readable")
        ));
        let available = context.first_available().expect("readable");
        seen.push(format!("from {available}"));
        let found = context.get(1).expect("readable").expect("there");
        assert_eq!(found.appended_at_ns(), first.appended_at_ns);
        let metadata: BTreeMap<_, _> = found.metadata().collect();
        seen.push(format!(
            "{} {:?} {metadata:?}",
            found.key(),
            found.payload()
        ));
        let typed = context.get(21).expect("readable").expect("there");
        seen.push(format!("{}", typed.typed::<u32>().expect("one")));
        assert!(context.get(22).expect("readable").is_none());
        assert!(context.get(0).expect("readable").is_none());

        let mut range = context.range(2).key("odd").after(4).limit(3);
        while let Some(entry) = range.next_entry().expect("readable") {
            seen.push(format!("{} {:?}", entry.seq(), entry.payload()));
        }
        let mut range = $until_now(context.range(20));
        while let Some(entry) = range.next_entry().expect("readable") {
            let echo = NewEntry::new("echo", entry.payload());
            seen.push(format!("{}", appender.append(&echo).expect("room").seq));
        }

        let mut watcher = context.watch(19).key("even");
        seen.push(format!("{}", watcher.next().expect("readable").seq()));
        seen.push(format!("{}", watcher.next_seq()));
        let wait = Duration::from_millis(10);
        assert!(watcher.next_timeout(wait).expect("readable").is_none());
        appender
            .append(&NewEntry::new("even", "new"))
            .expect("room");
        let next = watcher.next_timeout(PATIENCE).expect("readable");
        seen.push(format!("{:?}", next.expect("it comes").payload()));
        watcher.seek(2);
        seen.push(format!("{}", watcher.next().expect("readable").seq()));

        let mut bytes = Vec::new();
        let snapshot = context.snapshot_to(&mut bytes).run().expect("written");
        assert_eq!(snapshot.len, bytes.len() as u64);
        seen.push(format!("{} {}", snapshot.first_seq, snapshot.last_seq));
        let loaded = ledger
            .load_from(&bytes[..])
            .name("copy")
            .run()
            .expect("loaded");
        assert_eq!(loaded.root, snapshot.root);
        seen.push(format!(
            "{} {} {}",
            loaded.name, loaded.last_seq, loaded.new_count
        ));
        let again = ledger.load_from(&bytes[..]).name("copy").only_new().run();
        again.expect_err("it exists");
        let cut = ledger
            .load_from(&bytes[..bytes.len() - 1])
            .name("cut")
            .run();
        cut.expect_err("it is none");
        let copy = ledger.context("copy").open().expect("there");
        seen.push(format!("{}", copy.latest().expect("readable")));
        let unknown = ledger.context("cut").open().expect_err("there is none");
        assert!(unknown.is_unknown(), "{unknown}");
        seen
    }};
}

#[test]
fn a_program_sees_the_same_whether_its_ledger_is_here_or_elsewhere() {
    let here = Instance::started(PROGRAMS, &[]);
    let here = seen!(here.connect(), |range: ledger_client::Range| range
        .until_now());
    let there = Door::unix(&[]);
    let there = seen!(there.ledger(), |range: ledger_client::remote::Range| {
        range.until_now().expect("readable")
    });
    assert_eq!(here, there);
}

#[test]
fn contexts_are_listed_as_far_as_they_may_be_read() {
    let rights =
        "[[rights]]\ncontexts = [\"loan-*\"]\nclients = [\"reporter\"]\nright = \"read\"\n";
    let door = Door::tcp(rights);
    for name in ["loan-2", "audit", "loan-1"] {
        door.instance.printed(&["append", name, "k", "v"]);
    }
    let ledger = RemoteLedger::builder(&*door.uri).token(TOKEN);
    let ledger = ledger.connect().expect("it is heard");
    let listed = ledger.contexts().expect("it may");
    let shown: Vec<_> = listed
        .iter()
        .map(|found| {
            (
                &*found.name,
                &*found.state,
                found.first_available,
                found.latest,
            )
        })
        .collect();
    let expected = |name| (name, "open", Some(1), Some(1));
    assert_eq!(shown, [expected("loan-1"), expected("loan-2")]);
    let context = door.instance.context("loan-1");
    assert_eq!(listed[0].epoch, context.epoch().to_string());

    let denied = ledger.context("audit").open().expect_err("it may not");
    assert!(denied.is_not_allowed(), "{denied}");
    let nobody = RemoteLedger::connect(&*door.uri).expect("it is heard");
    let denied = nobody.contexts().expect_err("it shows nothing");
    assert!(denied.is_not_allowed(), "{denied}");
}

#[test]
fn an_append_that_is_asked_for_twice_is_there_once() {
    let door = Door::unix(&[]);
    let context = door
        .ledger()
        .context("log")
        .open_or_create()
        .expect("a name");
    let mut appender = context.appender().expect("an appender");
    let entry = NewEntry::new("k", "v");
    let first = appender.append_once(&entry, "a").expect("room");
    assert_eq!(appender.append_once(&entry, "a").expect("known"), first);
    assert_eq!(appender.append_once(&entry, "b").expect("room").seq, 2);
    assert_eq!(context.latest().expect("readable"), 2);
    let error = appender
        .append_once(&entry, "Schlüssel\n")
        .expect_err("no text");
    assert!(matches!(error, RemoteError::InvalidKey), "{error}");
    let error = appender
        .append(&NewEntry::new("", "v"))
        .expect_err("no key");
    assert!(matches!(error, RemoteError::Refused(_)), "{error}");
    let large = vec![0; (4 << 20) + 1];
    let error = appender
        .append(&NewEntry::new("k", &large))
        .expect_err("too large");
    assert!(error.is_full(), "{error}");
}

#[test]
fn it_may_be_asked_within_another_runtime() {
    let door = Door::unix(&[]);
    door.runtime.block_on(async {
        let ledger = door.ledger();
        let context = ledger.context("log").open_or_create().expect("a name");
        let mut appender = context.appender().expect("an appender");
        appender.append(&NewEntry::new("k", "v")).expect("room");
        assert_eq!(context.watch(1).next().expect("readable").seq(), 1);
    });
}

#[test]
fn what_is_no_address_and_who_does_not_answer_is_told() {
    for (uri, said) in [
        ("ledger.example:50051", "it begins with none of these"),
        ("unix:ledger.sock", "begins with /"),
        ("http://", "is no address such as"),
        (
            "unix:/nowhere/at/all",
            "cannot reach the ledger at unix:/nowhere/at/all",
        ),
    ] {
        let error = RemoteLedger::connect(uri).expect_err("nobody is there");
        assert!(error.to_string().contains(said), "{error}");
    }
    let builder = RemoteLedger::builder("http://127.0.0.1:1").authorities("");
    let error = builder.connect().expect_err("nothing is enciphered there");
    assert!(
        error.to_string().contains("certificates are for https"),
        "{error}"
    );
    let builder = RemoteLedger::builder("http://127.0.0.1:1").token("\n");
    let error = builder.connect().expect_err("no header has it");
    assert!(matches!(error, RemoteError::InvalidToken), "{error}");
}

#[test]
fn what_has_left_memory_for_good_is_told() {
    let small = [
        "--archive-file",
        "64K",
        "--window",
        "64K",
        "--spare-min",
        "64K",
    ];
    let door = Door::unix(
        &[
            &small[..],
            &["--spare-max", "64K", "--retain-entries", "10"],
        ]
        .concat(),
    );
    let context = door.instance.context("log");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(PATIENCE);
    let ledger = door.ledger();
    let there = ledger.context("log").open().expect("it is there");
    eventually("the first has gone", || {
        let appended = appender.append(&NewEntry::new("k", &[0; 10_000]));
        appended.expect("room");
        (there.first_available().expect("readable") > 1).then_some(())
    });
    let error = there.get(1).expect_err("it has gone");
    assert!(error.is_evicted(), "{error}");
    let error = there.get(2).expect_err("it has gone");
    assert!(error.is_evicted(), "{error}");
    // From the beginning is from the first one there is.
    let first = there.watch(1).next().expect("readable").seq();
    assert!(first > 1);
}

/// Appends, each entry once, to a daemon that is killed and started again meanwhile.
#[test]
fn killed_under_load_a_daemon_keeps_what_was_acknowledged_and_watchers_go_on() {
    let mut door = Door::unix(&[]);
    let (rounds, each) = (3, 300);
    let ledger = door.ledger();
    let context = ledger.context("log").open_or_create().expect("a name");
    let (acknowledged, seen) = std::thread::scope(|scope| {
        let mut appender = context.appender().expect("an appender");
        let appending = scope.spawn(move || {
            let mut acknowledged = BTreeMap::new();
            for n in 0..rounds * each {
                let text = n.to_string();
                let entry = NewEntry::new("k", &text);
                let appended = loop {
                    match appender.append_once(&entry, &text) {
                        Ok(appended) => break appended,
                        Err(error) if is_interruption(&error) => {
                            std::thread::sleep(Duration::from_millis(10));
                        }
                        Err(error) => panic!("{error}"),
                    }
                };
                acknowledged.insert(appended.seq, text);
            }
            acknowledged
        });
        let mut watcher = context.watch(1);
        let watching = scope.spawn(move || {
            let last = (rounds * each - 1).to_string();
            let mut seen = BTreeMap::new();
            loop {
                let entry = watcher.next().expect("it goes on");
                assert_eq!(entry.seq(), seen.len() as u64 + 1);
                let text = String::from_utf8(entry.payload().to_vec()).expect("text");
                let is_last = text == last;
                seen.insert(entry.seq(), text);
                if is_last {
                    return seen;
                }
            }
        });
        for round in 1..rounds {
            let local = door.instance.context("log");
            eventually("some were appended", || {
                (local.latest().expect("readable") > round * each).then_some(())
            });
            door.instance.kill_daemon();
            door.instance.start(&["--grpc", &door.uri]);
        }
        let acknowledged = appending.join().expect("it appends");
        (acknowledged, watching.join().expect("it watches"))
    });
    assert_eq!(acknowledged.len() as u64, rounds * each);
    for (seq, text) in &acknowledged {
        assert_eq!(seen.get(seq), Some(text));
    }
    // What was appended before a daemon died that had not said so is there twice.
    let repeated = seen.len() - acknowledged.len();
    assert!(repeated < rounds as usize, "{repeated}");
}

/// A daemon that died while it answered.
fn is_interruption(error: &RemoteError) -> bool {
    matches!(
        error,
        RemoteError::Status {
            code: Code::Unknown | Code::Cancelled,
            ..
        }
    ) || error.is_unreachable()
}
