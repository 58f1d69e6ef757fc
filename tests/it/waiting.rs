//! Watchers that sleep, are killed in their sleep, or fail to pass a wake on.

use ledger_client::NewEntry;
use ledger_tests::{Instance, Peer, eventually};
use nix::sys::signal::Signal;

use crate::started;

/// A peer asleep on a context, waiting for the seq after `latest`.
fn asleep(instance: &Instance, latest: u64) -> Peer {
    let mut peer = instance.peer();
    peer.must("read log");
    peer.must(&format!("watch {}", latest + 1));
    assert_eq!(peer.ask("next"), "waiting");
    peer.wait_for_state(&['S']);
    peer
}

/// How often the context's bell rang, as its drawing has it.
fn ring_count(instance: &Instance) -> u32 {
    let drawing = instance.printed(&["inspect", "log"]);
    let count = drawing
        .split("count ")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    count
        .and_then(|count| count.parse().ok())
        .unwrap_or_else(|| panic!("no count in {drawing}"))
}

#[test]
fn every_sleeper_wakes_for_one_append() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let mut watchers: Vec<Peer> = (0..8).map(|_| asleep(&instance, 0)).collect();
    appender.append(&NewEntry::new("k", b"v")).expect("room");
    for watcher in &mut watchers {
        assert_eq!(watcher.hear(), "ok 1 k");
    }
}

#[test]
fn a_watcher_killed_in_its_sleep_costs_nobody_an_entry() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    for round in 0..10 {
        let victim = asleep(&instance, round);
        let mut survivor = asleep(&instance, round);
        victim.kill();
        appender.append(&NewEntry::new("k", b"v")).expect("room");
        assert_eq!(survivor.hear(), format!("ok {} k", round + 1));
    }
}

#[test]
fn a_wake_that_goes_to_a_stopped_process_still_reaches_the_others() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    // Whatever the kernel does with a sleeper that is stopped, it cannot relay.
    let relay = asleep(&instance, 0);
    relay.signal(Signal::SIGSTOP);
    relay.wait_for_state(&['T']);
    let mut others: Vec<Peer> = (0..3).map(|_| asleep(&instance, 0)).collect();
    appender.append(&NewEntry::new("k", b"v")).expect("room");
    for other in &mut others {
        assert_eq!(other.hear(), "ok 1 k");
    }
    relay.kill();
}

#[test]
fn the_daemon_rings_for_a_client_that_is_gone() {
    let instance = started(&[]);
    let context = instance.context("log");
    let victim = asleep(&instance, 0);
    let before = ring_count(&instance);
    victim.kill();
    eventually("the daemon rings", || {
        (ring_count(&instance) > before).then_some(())
    });
    drop(context);
}

#[test]
fn nobody_asleep_means_no_ring() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let mut watcher = context.watch(1);
    let before = ring_count(&instance);
    for seq in 1..=1000 {
        appender.append(&NewEntry::new("k", b"v")).expect("room");
        let entry = watcher.try_next().expect("readable").expect("there");
        assert_eq!(entry.seq(), seq);
    }
    let drawing = instance.printed(&["inspect", "log"]);
    // `inspect` itself comes and goes, and the daemon rings for it.
    assert!(ring_count(&instance) <= before + 2, "{drawing}");
}
