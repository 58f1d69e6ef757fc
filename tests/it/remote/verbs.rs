//! The five operations, beside those of who maps memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use ledger_client::NewEntry;
use ledger_client::remote::proto::{GetRequest, LoadRequest, SnapshotRequest};
use ledger_shm::merkle::leaf_hash;
use ledger_tests::eventually;
use tonic::{Code, Request};

use super::{Door, append, connected, from, get, new, next, runtime};

#[test]
fn what_is_appended_through_the_door_lies_in_memory_as_it_was() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    let key = "ключ\n".repeat(50);
    let name = "n".repeat(1000);
    let metadata: BTreeMap<String, String> = (0..100)
        .map(|n| (format!("name {n}"), format!("значение\0{n}")))
        .collect();
    let all_bytes: Vec<u8> = (0..=255).collect();
    let before = ledger_tests::now_ns().expect("a clock");
    for (seq, payload) in [(1, Bytes::new()), (2, Bytes::from(all_bytes))] {
        let mut request = new(&name, &key, payload.clone());
        request.metadata.clone_from(&metadata);
        let entry = door.runtime.block_on(append(&mut client, request));
        let entry = entry.expect("it is appended");
        let context = door.instance.context(&name);
        assert_eq!(entry.id, format!("{}-{seq}", context.epoch()));
        assert_eq!((&entry.key, &entry.payload), (&key, &payload));
        assert_eq!((entry.sequence, &entry.metadata), (seq, &metadata));
        assert!(entry.appended_at_ns >= before);
        let found = context.get(seq).expect("readable").expect("there");
        assert_eq!(found.key(), entry.key);
        assert_eq!(found.payload(), entry.payload);
        assert_eq!(found.appended_at_ns(), entry.appended_at_ns);
        assert_eq!(found.lamport(), entry.lamport);
        assert_eq!(leaf_hash(&found)[..], entry.content_hash[..]);
        let page = door.runtime.block_on(get(&mut client, &name, seq - 1));
        assert_eq!(page.expect("a page").entries, [entry]);
    }
}

#[test]
fn the_lamport_time_of_a_cause_is_exceeded() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    let mut request = new("c", "k", "v");
    request.received_lamport = 1000;
    let entry = door.runtime.block_on(append(&mut client, request));
    assert_eq!(entry.expect("it is appended").lamport, 1001);
}

#[test]
fn appends_of_all_kinds_are_one_dense_sequence() {
    let door = Door::unix(&[]);
    let context = door.instance.connect();
    let context = context.context("log").open_or_create().expect("room");
    let mut seqs: Vec<u64> = std::thread::scope(|scope| {
        let remote = (0..4).map(|_| {
            scope.spawn(|| {
                runtime().block_on(async {
                    let mut client = connected(&door.uri).await;
                    let mut seqs = Vec::new();
                    for _ in 0..500 {
                        let entry = append(&mut client, new("log", "remote", "x")).await;
                        seqs.push(entry.expect("it is appended").sequence);
                    }
                    seqs
                })
            })
        });
        let remote: Vec<_> = remote.collect();
        let mut appender = context.appender().expect("an appender");
        let entry = NewEntry::new("local", "x");
        let local = (0..2000).map(|_| appender.append(&entry).expect("room").seq);
        let mut seqs: Vec<u64> = local.collect();
        for thread in remote {
            seqs.extend(thread.join().expect("it appends"));
        }
        seqs
    });
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=4000).collect::<Vec<u64>>());
    assert_eq!(context.latest().expect("readable"), 4000);
}

#[test]
fn a_context_larger_than_a_message_is_read_page_by_page() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    let ledger = door.instance.connect();
    let context = ledger.context("log").open_or_create().expect("room");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(ledger_tests::PATIENCE);
    for n in 0..300_u32 {
        let key = if n % 3 == 0 { "third" } else { "other" };
        appender
            .append(&NewEntry::new(key, &vec![n as u8; 50_000]))
            .expect("room");
    }
    door.runtime.block_on(async {
        // What a client takes that says nothing else.
        client = client.clone().max_decoding_message_size(4 << 20);
        for (key, limit, expected) in [
            ("", 0, (1..=300).collect::<Vec<u64>>()),
            ("third", 0, (1..=300).step_by(3).collect()),
            ("third", 7, (1..=21).step_by(3).collect()),
        ] {
            let mut request = GetRequest {
                context_id: "log".into(),
                key: key.into(),
                limit,
                ..GetRequest::default()
            };
            let (mut found, mut pages) = (Vec::new(), 0);
            loop {
                let page = client
                    .get(request.clone())
                    .await
                    .expect("a page")
                    .into_inner();
                assert_eq!(page.latest_sequence, 300);
                found.extend(page.entries.iter().map(|entry| entry.sequence));
                pages += 1;
                if page.next_after_sequence == 0 {
                    break;
                }
                request.after_sequence = page.next_after_sequence;
            }
            assert_eq!(found, expected);
            assert_eq!(pages > 1, limit == 0, "{pages} pages");
        }
    });
}

#[test]
fn the_largest_entry_goes_in_and_comes_back_to_who_takes_as_much() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    let payload = vec![7; 4 << 20];
    door.runtime.block_on(async {
        let mut usual = client.clone().max_decoding_message_size(4 << 20);
        let error = append(&mut usual, new("c", "k", payload.clone())).await;
        assert_eq!(
            error.expect_err("more than it takes").code(),
            Code::OutOfRange
        );
        let page = get(&mut client, "c", 0).await.expect("a page");
        assert_eq!(page.latest_sequence, 1, "it was stored");
        assert_eq!(page.entries[0].payload, payload);
        let again = append(&mut client, new("c", "k", payload.clone())).await;
        assert_eq!(again.expect("it is appended").payload, payload);
    });
}

#[test]
fn what_does_not_exist_is_empty() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    door.runtime.block_on(async {
        let page = get(&mut client, "none", 0).await.expect("a page");
        assert_eq!((page.entries.len(), page.latest_sequence), (0, 0));
        let context_id = "none".to_owned();
        let snapshot = client.snapshot(SnapshotRequest { context_id }).await;
        let snapshot = snapshot.expect("an empty one").into_inner();
        assert_eq!(snapshot.metadata.expect("some").entry_count, 0);
        let load = LoadRequest {
            context_id: "copy".into(),
            snapshot: snapshot.snapshot,
            fail_if_exists: true,
        };
        let loaded = client.load(load).await.expect("loaded").into_inner();
        assert_eq!((loaded.entries_restored, loaded.latest_sequence), (0, 0));
    });
}

#[test]
fn a_snapshot_is_loaded_and_extends_what_it_begins_with() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    door.runtime.block_on(async {
        for n in 1..=10 {
            let appended = append(&mut client, new("log", "k", format!("{n}"))).await;
            appended.expect("it is appended");
        }
        let snapshot = async |client: &mut super::Client| {
            let context_id = "log".to_owned();
            let taken = client.snapshot(SnapshotRequest { context_id }).await;
            taken.expect("one").into_inner()
        };
        let first = snapshot(&mut client).await;
        let metadata = first.metadata.expect("some");
        assert_eq!((first.sequence, metadata.entry_count), (10, 10));
        let context = door.instance.context("log");
        let root = context.root(10).expect("all is there");
        assert_eq!(metadata.merkle_root, root[..]);
        let load = LoadRequest {
            context_id: "copy".into(),
            snapshot: first.snapshot,
            fail_if_exists: true,
        };
        let loaded = client
            .load(load.clone())
            .await
            .expect("loaded")
            .into_inner();
        assert_eq!((loaded.entries_restored, loaded.latest_sequence), (10, 10));
        let again = client.load(load).await.expect_err("it exists");
        assert_eq!(again.code(), Code::AlreadyExists);
        let [of_log, of_copy] = [
            get(&mut client, "log", 0).await,
            get(&mut client, "copy", 0).await,
        ]
        .map(|page| page.expect("a page").entries);
        for (a, b) in of_log.iter().zip(&of_copy) {
            assert_eq!(
                b,
                &ledger_client::remote::proto::Entry {
                    id: b.id.clone(),
                    ..a.clone()
                }
            );
        }
        // It was appended to through the door a moment ago.
        for n in 11..=20 {
            let appended = append(&mut client, new("log", "k", format!("{n}"))).await;
            appended.expect("it is appended");
        }
        let second = snapshot(&mut client).await;
        let load = LoadRequest {
            context_id: "copy".into(),
            snapshot: second.snapshot,
            fail_if_exists: false,
        };
        let loaded = client.load(load).await.expect("loaded").into_inner();
        assert_eq!((loaded.entries_restored, loaded.latest_sequence), (10, 20));
        let appended = append(&mut client, new("copy", "k", "then")).await;
        assert_eq!(appended.expect("it goes on").sequence, 21);
    });
}

#[test]
fn an_append_with_a_key_is_done_once() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    door.runtime.block_on(async {
        let keyed = |key: &str, payload: &'static str| {
            let mut request = Request::new(new("c", "k", payload));
            let key = key.parse().expect("ASCII");
            request.metadata_mut().insert("ledger-idempotency-key", key);
            request
        };
        let mut entries = Vec::new();
        for (key, payload) in [("a", "first"), ("a", "again"), ("b", "second")] {
            let appended = client.append(keyed(key, payload)).await.expect("appended");
            entries.push(appended.into_inner().entry.expect("it"));
        }
        assert_eq!(entries[0], entries[1]);
        assert_eq!((entries[0].sequence, entries[2].sequence), (1, 2));
        let long = "k".repeat(257);
        let error = client
            .append(keyed(&long, "x"))
            .await
            .expect_err("too long");
        assert_eq!(error.code(), Code::InvalidArgument);
        // What was refused is tried again.
        let mut request = keyed("c", "x");
        request.get_mut().key.clear();
        let error = client.append(request).await.expect_err("no key");
        assert_eq!(error.code(), Code::InvalidArgument);
        let appended = client.append(keyed("c", "third")).await.expect("appended");
        assert_eq!(appended.into_inner().entry.expect("it").sequence, 3);
    });
}

#[test]
fn a_context_that_nobody_asks_for_leaves_memory_and_is_found_again() {
    let door = Door::unix(&["--idle-close-after", "0"]);
    let mut client = door.client();
    door.runtime.block_on(async {
        append(&mut client, new("log", "k", "1"))
            .await
            .expect("appended");
    });
    door.instance.printed(&["append", "other", "k", "v"]);
    eventually("the other has left memory", || {
        let listed = door.instance.printed(&["ls"]);
        let mut lines = listed.lines();
        let other = lines.find(|line| line.contains("\"other\""));
        other.filter(|line| line.contains("archived")).map(drop)
    });
    door.runtime.block_on(async {
        for seq in [2, 3] {
            let entry = append(&mut client, new("other", "k", "v")).await;
            assert_eq!(entry.expect("appended").sequence, seq);
        }
    });
}

#[test]
fn what_retention_has_removed_is_told_to_who_asks_for_it() {
    let door = Door::unix(&[
        "--archive-file",
        "64K",
        "--window",
        "64K",
        "--spare-min",
        "64K",
        "--spare-max",
        "64K",
        "--retain-entries",
        "10",
    ]);
    let mut client = door.client();
    let context = door.instance.context("log");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(ledger_tests::PATIENCE);
    let first = eventually("some of it has gone", || {
        let appended = appender.append(&NewEntry::new("k", &[7; 8000]));
        appended.expect("room");
        let first = context.first_available().expect("readable");
        (first > 2).then_some(first)
    });
    door.runtime.block_on(async {
        let page = get(&mut client, "log", 0).await.expect("what is left");
        assert!(page.entries[0].sequence >= first);
        let status = get(&mut client, "log", 1).await.expect_err("it is gone");
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
        let watch = client.watch(from("log", 0)).await;
        let mut watch = watch.expect("it begins").into_inner();
        let entry = next(&mut watch).await.expect("what is left").entry;
        assert!(entry.expect("one").sequence >= first);
        let watch = client.watch(from("log", 1)).await;
        let mut watch = watch.expect("it begins").into_inner();
        let status = next(&mut watch).await.expect_err("it is gone");
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
    });
}
