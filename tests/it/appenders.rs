//! Several appenders in one log: in threads, in processes, killed, stopped,
//! forked.

use std::collections::HashMap;

use ledger_client::NewEntry;
use nix::sys::signal::Signal;

use crate::started;

#[test]
fn two_threads_share_one_dense_log_and_keep_their_own_order() {
    let instance = started(&["--spare-min", "64K", "--spare-max", "256K"]);
    let context = instance.context("threads");
    std::thread::scope(|scope| {
        for thread in 0..2_u8 {
            let mut appender = context.appender().expect("an appender");
            scope.spawn(move || {
                let mut before = 0;
                for n in 0..20_000_u32 {
                    let mut payload = [thread, 0, 0, 0, 0];
                    payload[1..].copy_from_slice(&n.to_le_bytes());
                    let appended = appender
                        .append(&NewEntry::new("k", &payload))
                        .expect("room");
                    assert!(appended.seq > before, "{} after {before}", appended.seq);
                    before = appended.seq;
                }
            });
        }
    });
    let mut range = context.range(1);
    let mut next: HashMap<u8, u32> = HashMap::new();
    let (mut count, mut lamport) = (0, 0);
    while let Some(entry) = range.next_entry().expect("readable") {
        count += 1;
        assert_eq!(entry.seq(), count);
        assert!(entry.lamport() > lamport);
        lamport = entry.lamport();
        let (thread, n) = entry.payload().split_first().expect("five bytes");
        let n = u32::from_le_bytes(n.try_into().expect("four bytes"));
        let expected = next.entry(*thread).or_default();
        assert_eq!(n, *expected);
        *expected += 1;
    }
    assert_eq!(count, 40_000);
}

#[test]
fn two_processes_share_one_dense_log() {
    let instance = started(&["--spare-min", "64K", "--spare-max", "256K"]);
    let (mut one, mut two) = (instance.peer(), instance.peer());
    one.must("open shared");
    two.must("open shared");
    one.tell("fill 5000 100");
    two.tell("fill 5000 300");
    assert!(one.hear().starts_with("ok") && two.hear().starts_with("ok"));
    let (seen_by_one, seen_by_two) = (one.must("digest"), two.must("digest"));
    assert_eq!(seen_by_one, seen_by_two);
    assert!(seen_by_one.starts_with("10000 "), "{seen_by_one}");
}

#[test]
fn a_killed_appender_leaves_a_log_that_goes_on() {
    let instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let mut survivor = instance.peer();
    survivor.must("open log");
    for _ in 0..10 {
        let mut victim = instance.peer();
        victim.must("open log");
        victim.tell("fill 1000000 50");
        survivor.must("fill 200 50");
        victim.kill();
        survivor.must("fill 200 50");
    }
    let digest = survivor.must("digest");
    assert_eq!(instance.peer_digest("log"), digest);
}

#[test]
fn a_stopped_appender_delays_nobody_and_goes_on_with_fresh_numbers() {
    let instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let (mut sleeper, mut other) = (instance.peer(), instance.peer());
    sleeper.must("open log");
    other.must("open log");
    sleeper.tell("fill 3000 50");
    sleeper.signal(Signal::SIGSTOP);
    sleeper.wait_for_state(&['T']);
    other.must("fill 3000 50");
    sleeper.signal(Signal::SIGCONT);
    assert!(sleeper.hear().starts_with("ok"));
    let digest = other.must("digest");
    assert!(digest.starts_with("6000 "), "{digest}");
    assert_eq!(sleeper.must("digest"), digest);
}

#[test]
fn a_forks_child_is_refused_and_takes_nothing_with_it() {
    let instance = started(&[]);
    let mut peer = instance.peer();
    peer.must("open log");
    peer.must("append k before");
    assert_eq!(peer.must("fork"), "0");
    assert_eq!(peer.must("append k after"), "2");
    peer.must("fill 3000 1000");
    let digest = peer.must("digest");
    assert!(digest.starts_with("3002 "), "{digest}");
    assert_eq!(instance.peer_digest("log"), digest);
}
