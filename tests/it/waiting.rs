//! Watchers that sleep, are woken, are killed in their sleep, or fail to pass a
//! wake on. Where it matters who woke them, they doze: nothing but a ring ends
//! that, while a watcher looks again by itself.

use std::time::Duration;

use ledger_client::NewEntry;
use ledger_tests::sleeper::Sleeper;
use ledger_tests::{Instance, PATIENCE, Peer, eventually};
use nix::sys::signal::Signal;

use crate::{IN_MEMORY, started};

/// A peer asleep on a context, waiting for the seq after `latest`.
fn asleep(instance: &Instance, latest: u64) -> Peer {
    let mut peer = instance.peer();
    peer.must("read log");
    peer.must(&format!("watch {}", latest + 1));
    assert_eq!(peer.ask("next"), "waiting");
    peer.wait_for_state(&['S']);
    peer
}

/// A peer that dozes on a context until its bell rings.
pub(crate) fn dozing(instance: &Instance, context: &str) -> Peer {
    let mut peer = instance.peer();
    peer.doze(context);
    peer
}

fn bell(instance: &Instance) -> Sleeper {
    Sleeper::of(&instance.socket(), "log").expect("the context's bell")
}

#[test]
fn every_sleeper_wakes_for_one_append() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let mut sleepers: Vec<Peer> = (0..8).map(|_| dozing(&instance, "log")).collect();
    let mut watchers: Vec<Peer> = (0..8).map(|_| asleep(&instance, 0)).collect();
    appender.append(&NewEntry::new("k", b"v")).expect("room");
    for sleeper in &mut sleepers {
        assert_eq!(sleeper.hear(), "ok rung");
    }
    for watcher in &mut watchers {
        assert_eq!(watcher.hear(), "ok 1 k");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_watcher_is_woken_rather_than_looking_again() {
    const ROUNDS: u64 = 20;
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let mut peer = instance.peer();
    peer.must("read log");
    peer.must("watch 1");
    let traced = peer.traced();
    let mut woken = 0;
    peer.tell("next");
    traced.run_to_sleep();
    for seq in 1..=ROUNDS {
        assert_eq!(peer.hear(), "waiting");
        traced.sleep();
        // Asleep, or stopped again because its time was up.
        peer.wait_for_state(&['S', 't']);
        appender.append(&NewEntry::new("k", b"v")).expect("room");
        woken += u64::from(traced.woken() == 0);
        // It answers on its way to the next sleep.
        peer.tell("next");
        traced.run_to_sleep();
        assert_eq!(peer.hear(), format!("ok {seq} k"));
    }
    // On a busy machine its time may often be up before the append.
    assert!(woken > 0, "never woken in {ROUNDS} rounds");
}

#[test]
fn who_waits_for_an_entry_far_ahead_gets_it_wherever_the_log_has_gone() {
    let instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    // In the first segment's index, beyond it, and beyond the next one's; the
    // first segment is full after 83 entries.
    let aheads = [100, 300, 2000];
    let mut watchers = aheads.map(|seq| context.watch(seq));
    for watcher in &mut watchers {
        assert!(watcher.try_next().expect("readable").is_none());
    }
    appender.set_wait(ledger_tests::PATIENCE);
    for _ in 0..2000 {
        appender
            .append(&NewEntry::new("k", &[7; 100]))
            .expect("room");
    }
    for (watcher, seq) in watchers.iter_mut().zip(aheads) {
        let entry = watcher.next_timeout(ledger_tests::PATIENCE);
        assert_eq!(entry.expect("readable").expect("there").seq(), seq);
    }
}

#[test]
fn a_batch_wakes_who_sleeps_after_64_entries_and_when_it_ends() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let bell = bell(&instance);
    let before = bell.ring_count();
    // Who leaves has the daemon ring: all of them stay.
    let mut sleepers = vec![dozing(&instance, "log")];
    let mut appended = 0;
    let batch = std::iter::from_fn(|| {
        assert_eq!(bell.ring_count() - before, appended / 64, "{appended}");
        if appended == 64 {
            assert_eq!(sleepers[0].hear(), "ok rung");
            sleepers.push(dozing(&instance, "log"));
        }
        appended += 1;
        (appended <= 100).then(|| NewEntry::new("k", b"v"))
    });
    assert_eq!(appender.append_batch(batch), Ok(100));
    assert_eq!(sleepers[1].hear(), "ok rung");

    // Also by one of which only the beginning is appended.
    let mut sleeper = dozing(&instance, "log");
    let rung = bell.ring_count();
    let [sound, without_a_key] = ["k", ""].map(|key| NewEntry::new(key, b"v"));
    assert_eq!(appender.append_batch([sound; 0]), Ok(0));
    assert_eq!(bell.ring_count(), rung, "for nothing");
    for (batch, count) in [([without_a_key, sound], 0), ([sound, without_a_key], 1)] {
        let refused = appender.append_batch(batch).expect_err("a key is missing");
        assert!(refused.error.is_invalid(), "{refused}");
        assert_eq!(
            (refused.appended, bell.ring_count() - rung),
            (count, count as u32)
        );
    }
    assert_eq!(sleeper.hear(), "ok rung");
}

#[test]
fn who_appends_quietly_wakes_nobody_until_it_rings() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let bell = bell(&instance);
    let mut sleeper = dozing(&instance, "log");
    let before = bell.ring_count();
    let quiet = NewEntry::new("k", b"v");
    appender.try_append_quietly(&quiet).expect("room");
    assert_eq!(bell.ring_count(), before);
    appender.ring();
    assert_eq!(sleeper.hear(), "ok rung");
}

#[test]
fn who_had_a_context_open_rings_the_bell_of_the_daemon_that_is_there() {
    let mut instance = started(&IN_MEMORY);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let entry = NewEntry::new("k", b"v");
    appender.append(&entry).expect("room");
    instance.kill_daemon();
    instance.start(&IN_MEMORY);
    let mut sleeper = dozing(&instance, "log");
    let bell = bell(&instance);
    let before = bell.ring_count();
    eventually("it has taken the new bell", || {
        appender.append(&entry).expect("room");
        (bell.ring_count() > before).then_some(())
    });
    assert_eq!(sleeper.hear(), "ok rung");
}

/// Nobody rings: what a ringer's death or stop leaves is the sleep's own end.
#[cfg(target_arch = "x86_64")]
#[test]
fn without_any_ring_an_entry_is_seen_within_50_ms() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    for round in 0..5 {
        let mut watcher = instance.peer();
        watcher.must("read log");
        watcher.must(&format!("watch {}", round + 1));
        let traced = watcher.traced();
        watcher.tell("next");
        traced.run_to_sleep();
        assert_eq!(watcher.hear(), "waiting");
        let sleep_len = traced.sleep_len().expect("not for ever");
        assert!(sleep_len <= Duration::from_millis(50), "{sleep_len:?}");
        traced.sleep();
        let quiet = NewEntry::new("k", b"v");
        appender.try_append_quietly(&quiet).expect("room");
        assert_eq!(traced.woken(), -i64::from(libc::ETIMEDOUT));
        traced.release();
        assert_eq!(watcher.hear(), format!("ok {} k", round + 1));
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
fn a_stopped_watcher_keeps_no_wake_from_the_others() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let stopped = dozing(&instance, "log");
    stopped.signal(Signal::SIGSTOP);
    stopped.wait_for_state(&['T']);
    let mut others: Vec<Peer> = (0..3).map(|_| dozing(&instance, "log")).collect();
    appender.append(&NewEntry::new("k", b"v")).expect("room");
    for other in &mut others {
        assert_eq!(other.hear(), "ok rung");
    }
    stopped.kill();
}

#[test]
fn the_daemon_rings_for_a_client_that_is_gone() {
    let instance = started(&[]);
    let _context = instance.context("log");
    let victim = dozing(&instance, "log");
    let mut survivors: Vec<Peer> = (0..3).map(|_| dozing(&instance, "log")).collect();
    victim.kill();
    for survivor in &mut survivors {
        assert_eq!(survivor.hear(), "ok rung");
    }
}

#[test]
fn who_sleeps_at_the_bell_of_a_dead_daemon_is_sent_to_that_of_the_next() {
    let mut instance = started(&[]);
    let mut client = instance.peer();
    client.must("open log");
    let mut sleeper = dozing(&instance, "log");
    instance.kill_daemon();
    instance.start(&[]);
    // The client has attached again, and the new daemon does not have this bell.
    assert_eq!(sleeper.hear(), "ok rung");
}

#[test]
fn nobody_asleep_means_no_ring() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let mut watcher = context.watch(1);
    let bell = bell(&instance);
    let before = bell.ring_count();
    for seq in 1..=1000 {
        appender.append(&NewEntry::new("k", b"v")).expect("room");
        let entry = watcher.try_next().expect("readable").expect("there");
        assert_eq!(entry.seq(), seq);
    }
    assert_eq!(bell.ring_count(), before);
    // Somebody asleep means one.
    let mut sleeper = dozing(&instance, "log");
    appender.append(&NewEntry::new("k", b"v")).expect("room");
    assert_eq!(sleeper.hear(), "ok rung");
    assert_eq!(bell.ring_count(), before + 1);
}

#[test]
fn an_append_that_goes_on_in_another_part_rings_once() {
    let instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    assert!(appender.wait_ready(PATIENCE));
    let bell = bell(&instance);
    // More than the first part has room for.
    for _ in 0..8 {
        let mut sleeper = dozing(&instance, "log");
        let before = bell.ring_count();
        appender
            .try_append(&NewEntry::new("k", &[0; 3000]))
            .expect("room");
        assert_eq!(sleeper.hear(), "ok rung");
        assert_eq!(bell.ring_count(), before + 1);
    }
}

/// Sleepers of which the first is woken, and stopped on its way to the others.
#[cfg(target_arch = "x86_64")]
mod relay {
    use ledger_client::Appender;
    use ledger_tests::traced::Traced;

    use super::*;

    /// A peer that dozes, and that is stopped when it is woken.
    fn relay(instance: &Instance) -> (Peer, Traced) {
        let mut peer = instance.peer();
        let traced = peer.traced();
        peer.tell("doze log");
        traced.run_to_sleep();
        assert_eq!(peer.hear(), "waiting");
        traced.sleep();
        peer.wait_for_state(&['S']);
        (peer, traced)
    }

    /// Appends, and has the relay run so far after it is woken.
    fn wake(appender: &mut Appender, relay: &Traced, instructions: usize) {
        appender.append(&NewEntry::new("k", b"v")).expect("room");
        // Linux wakes who has slept longest.
        assert_eq!(relay.woken(), 0, "it is the first to be woken");
        relay.step(instructions);
    }

    /// The instructions between its being woken and its waking the others.
    fn length(instance: &Instance, appender: &mut Appender) -> usize {
        let (mut peer, traced) = relay(instance);
        wake(appender, &traced, 0);
        let mut steps = 0;
        while !traced.is_about_to_call() {
            traced.step(1);
            steps += 1;
        }
        traced.release();
        assert_eq!(peer.hear(), "ok rung");
        steps
    }

    #[test]
    fn killed_or_stopped_anywhere_it_leaves_nobody_asleep() {
        let instance = started(&[]);
        let context = instance.context("log");
        let mut appender = context.appender().expect("an appender");
        let bell = bell(&instance);
        let length = length(&instance, &mut appender);
        let (mut early, mut late) = (0, 0);
        for at in 0..=length {
            for is_killed in [false, true] {
                let (mut peer, traced) = relay(&instance);
                let mut others = [dozing(&instance, "log"), dozing(&instance, "log")];
                wake(&mut appender, &traced, at);
                if bell.is_relayed() {
                    late += 1;
                } else {
                    early += 1;
                }
                if is_killed {
                    peer.kill();
                } else {
                    traced.release();
                    assert_eq!(peer.hear(), "ok rung");
                }
                for other in &mut others {
                    assert_eq!(other.hear(), "ok rung", "killed: {is_killed}, at {at}");
                }
            }
        }
        assert!(
            early > 0 && late > 0,
            "{early} before it says so, {late} after"
        );
    }

    #[test]
    fn while_it_is_stopped_the_others_look_for_themselves() {
        let instance = started(&[]);
        let context = instance.context("log");
        let mut appender = context.appender().expect("an appender");
        let (mut peer, traced) = relay(&instance);
        let mut others = [asleep(&instance, 0), asleep(&instance, 0)];
        wake(&mut appender, &traced, 0);
        for other in &mut others {
            assert_eq!(other.hear(), "ok 1 k");
        }
        traced.release();
        assert_eq!(peer.hear(), "ok rung");
    }
}
