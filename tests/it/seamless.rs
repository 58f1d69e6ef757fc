//! Who reads from the first entry on sees every one once and in order, wherever it is by
//! then: in files, in memory that is sealed, or only just appended.

use std::sync::mpsc;

use ledger_client::Watcher;
use ledger_tests::{PATIENCE, eventually};

use crate::archive::{SMALL, append, check_all, files, has_left_memory, oldest_in_memory, payload};
use crate::started;

/// What is there when the watcher begins.
const BEFORE: u64 = 10_000;
/// More than memory holds.
const ROUND: u64 = 1000;
const ROUNDS: u64 = 12;
/// What is appended as fast as can be, at the end.
const LIVE: u64 = 10_000;

fn read(watcher: &mut Watcher, seqs: std::ops::RangeInclusive<u64>) {
    for seq in seqs {
        let entry = watcher.next_timeout(PATIENCE).expect("readable");
        let entry = entry.expect("it comes");
        assert_eq!(entry.seq(), seq, "another entry is next");
        assert_eq!(entry.payload(), &payload(seq)[..]);
        entry.verify().expect("as it was appended");
    }
}

#[test]
fn a_slow_watcher_comes_from_the_oldest_file_to_the_frontier_and_misses_nothing() {
    let instance = started(&[&SMALL[..], &["--archive-file", "64K"]].concat());
    let context = instance.context("log");
    append(&context, 1..=BEFORE);
    has_left_memory(&instance);
    let files_before = files(&instance, &context).len();
    assert!((2..=BEFORE).contains(&oldest_in_memory(&instance)));

    // Somebody who has never seen any of it.
    let reader = instance.connect().context("log").open_read_only();
    let mut watcher = reader.expect("a context").watch(1);
    let (go_on, rounds) = mpsc::channel();
    let (done, appended) = mpsc::channel();
    std::thread::scope(|scope| {
        let context = &context;
        scope.spawn(move || {
            for seqs in rounds {
                append(context, seqs);
                // Nobody waits for the last one.
                let _ = done.send(());
            }
        });
        // As slow as a round of appends and whatever becomes of the memory behind it.
        let mut latest = BEFORE;
        let mut round = || {
            go_on.send(latest + 1..=latest + ROUND).expect("it listens");
            latest += ROUND;
            appended.recv_timeout(PATIENCE).expect("it appends");
            latest
        };
        let mut next_seq = 1;
        for _ in 0..ROUNDS {
            let before = oldest_in_memory(&instance);
            round();
            eventually("what is older leaves memory", || {
                (oldest_in_memory(&instance) > before).then_some(())
            });
            read(&mut watcher, next_seq..=next_seq + ROUND / 2 - 1);
            next_seq += ROUND / 2;
        }
        let after = oldest_in_memory(&instance);
        assert!(after > BEFORE, "of what it began with some is in memory");
        assert!(next_seq < after, "it is not behind memory");
        // From files into the middle of what is in memory, which is retired under it.
        let latest = round();
        let middle = oldest_in_memory(&instance).midpoint(latest);
        read(&mut watcher, next_seq..=middle);
        eventually("where it stands leaves memory", || {
            round();
            (oldest_in_memory(&instance) > middle + 1).then_some(())
        });
        // And from there on to what is being appended.
        let latest = round();
        go_on.send(latest + 1..=latest + LIVE).expect("it listens");
        drop(go_on);
        read(&mut watcher, middle + 1..=latest + LIVE);
        assert!(watcher.try_next().expect("readable").is_none());
    });
    let latest = context.latest().expect("readable");
    assert!(files(&instance, &context).len() > files_before);
    assert!(oldest_in_memory(&instance) > BEFORE);
    check_all(&instance, latest);
}
