//! Several appenders in one log: in threads, in processes, killed, stopped,
//! forked.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};

use ledger_client::NewEntry;
use ledger_tests::{PATIENCE, eventually, parts_in_memory, process};
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;

use crate::archive::SMALL;
use crate::started;

/// How often an appender has to find that the other came in between before it
/// is believed that both ran at once.
const OVERTAKEN: u32 = 100;
/// How often one who appends comes to where another has gone on.
const ROUNDS: usize = 50;
/// Somebody who has appended so much is alone.
const ALONE: u32 = 1_000_000;

#[test]
fn two_threads_share_one_dense_log_and_keep_their_own_order() {
    let instance = started(&["--spare-min", "64K", "--spare-max", "256K"]);
    let context = instance.context("threads");
    let overtaken = [const { AtomicU32::new(0) }; 2];
    let is_enough = |times: &AtomicU32| times.load(Ordering::Relaxed) >= OVERTAKEN;
    let start = Barrier::new(2);
    let appended_by = std::thread::scope(|scope| {
        let threads = [0_u8, 1].map(|thread| {
            let mut appender = context.appender().expect("an appender");
            let (overtaken, start) = (&overtaken, &start);
            scope.spawn(move || {
                start.wait();
                let (mut before, mut n) = (0, 0_u32);
                while n < 20_000 || !overtaken.iter().all(is_enough) {
                    assert!(n < ALONE, "the other was never there");
                    let mut payload = [thread, 0, 0, 0, 0];
                    payload[1..].copy_from_slice(&n.to_le_bytes());
                    let appended = appender
                        .append(&NewEntry::new("k", &payload))
                        .expect("room");
                    assert!(appended.seq > before, "{} after {before}", appended.seq);
                    if n > 0 && appended.seq > before + 1 {
                        overtaken[usize::from(thread)].fetch_add(1, Ordering::Relaxed);
                    }
                    before = appended.seq;
                    n += 1;
                    // Where there is one processor for both.
                    if n.is_multiple_of(100) {
                        std::thread::yield_now();
                    }
                }
                n
            })
        });
        threads.map(|thread| thread.join().expect("its assertions hold"))
    });
    let mut range = context.range(1);
    let mut next = [0_u32; 2];
    let (mut count, mut lamport, mut changes, mut last) = (0, 0, 0, None);
    while let Some(entry) = range.next_entry().expect("readable") {
        count += 1;
        assert_eq!(entry.seq(), count);
        assert!(entry.lamport() > lamport);
        lamport = entry.lamport();
        let (thread, n) = entry.payload().split_first().expect("five bytes");
        let n = u32::from_le_bytes(n.try_into().expect("four bytes"));
        let expected = &mut next[usize::from(*thread)];
        assert_eq!(n, *expected);
        *expected += 1;
        changes += u32::from(last != Some(*thread));
        last = Some(*thread);
    }
    assert_eq!(next, appended_by);
    assert!(changes >= 2 * OVERTAKEN, "{changes}");
}

#[test]
fn two_processes_share_one_dense_log() {
    let instance = started(&["--spare-min", "64K", "--spare-max", "256K"]);
    let (mut one, mut two) = (instance.peer(), instance.peer());
    one.must("open shared");
    two.must("open shared");
    one.tell(&format!("contend {OVERTAKEN} 100"));
    two.tell(&format!("contend {OVERTAKEN} 300"));
    let counts: [u64; 2] = [&mut one, &mut two].map(|peer| {
        let answer = peer.hear();
        let count = answer.strip_prefix("ok ").and_then(|n| n.parse().ok());
        count.unwrap_or_else(|| panic!("{answer}"))
    });
    let total: u64 = counts.iter().sum();
    let digest = one.must("digest");
    assert!(digest.starts_with(&format!("{total} ")), "{digest}");
    assert_eq!(two.must("digest"), digest);
    // What a third reads says the same of who came when.
    let context = instance.context("shared");
    let mut range = context.range(1).key("contend");
    let (mut changes, mut last) = (0, None);
    let mut calls: BTreeMap<usize, Vec<Call>> = BTreeMap::new();
    while let Some(entry) = range.next_entry().expect("readable") {
        let len = entry.payload().len();
        changes += u32::from(last != Some(len));
        last = Some(len);
        let (stamps, _) = entry.payload().as_chunks();
        let [called_at, before_returned_at] = [0, 1].map(|n| u64::from_le_bytes(stamps[n]));
        let calls = calls.entry(len).or_default();
        if let Some(before) = calls.last_mut() {
            before.returned_at = before_returned_at;
        }
        calls.push(Call {
            seq: entry.seq(),
            called_at,
            returned_at: u64::MAX,
        });
    }
    assert!(changes >= 2 * OVERTAKEN, "{changes}");
    let [one, two] = &calls.into_values().collect::<Vec<_>>()[..] else {
        panic!("two lengths");
    };
    check_order(one, two);
    check_order(two, one);
}

/// An append, by a clock that both processes share.
struct Call {
    seq: u64,
    called_at: u64,
    returned_at: u64,
}

/// Whatever had returned before one of the later calls has a lower seq.
fn check_order(earlier: &[Call], later: &[Call]) {
    let mut compared = 0;
    for call in later {
        let returned = earlier.partition_point(|other| other.returned_at < call.called_at);
        if let Some(before) = earlier[..returned].last() {
            assert!(before.seq < call.seq, "{} before {}", before.seq, call.seq);
            compared += 1;
        }
    }
    assert!(compared >= OVERTAKEN, "{compared}");
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
fn who_ends_a_part_where_others_have_gone_on_has_memory_made_for_the_next() {
    let instance = started(&SMALL);
    let context = instance.context("log");
    let mut behind = context.appender().expect("an appender");
    // One to a part.
    let large = [0; 30 << 10];
    let large = NewEntry::new("k", &large);
    // Its background thread may have asked for something else just before.
    for _ in 0..ROUNDS {
        // Over another connection, so that it does not know what is mapped there.
        let elsewhere = instance.context("log");
        let mut ahead = elsewhere.appender().expect("an appender");
        for _ in 0..4 {
            ahead.append(&large).expect("room");
        }
        drop((ahead, elsewhere));
        // It maps the part where the log ends, and lets go of what came before.
        assert!(behind.wait_ready(PATIENCE));
        let parts = || parts_in_memory(&instance.objects(), context.epoch());
        let made = parts().into_iter().max().expect("spares");
        behind.try_append(&large).expect("a spare");
        eventually("another spare is made", || {
            parts().iter().any(|part| *part > made).then_some(())
        });
    }
}

#[test]
fn an_appender_without_a_descriptor_left_is_told_so_and_goes_on_when_it_has_one() {
    let instance = started(&SMALL);
    let mut peer = instance.peer();
    peer.must("open log");
    let pid = peer.pid();
    let limit = |most| process::limit(pid, Resource::RLIMIT_NOFILE, most);
    limit(0).expect("it lives");
    let said = peer.ask("fill 1000 1000");
    assert!(said.contains("Too many open files"), "{said}");
    limit(100).expect("it lives");
    peer.must("fill 1000 1000");
    let digest = peer.must("digest");
    assert_eq!(instance.peer_digest("log"), digest);
}

#[test]
fn a_forks_child_is_refused_and_takes_nothing_with_it() {
    let instance = started(&[]);
    let mut peer = instance.peer();
    peer.must("open log");
    peer.must("append k before");
    eventually("nobody wants memory", || {
        (peer.writable_part_count(&instance) == 3).then_some(())
    });
    assert_eq!(peer.must("fork"), "0");
    assert_eq!(peer.must("append k after"), "2");
    peer.must("fill 3000 1000");
    let digest = peer.must("digest");
    assert!(digest.starts_with("3002 "), "{digest}");
    assert_eq!(instance.peer_digest("log"), digest);
}
