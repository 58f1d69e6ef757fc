//! Who watches a context, as the watchers say in its bell.

use ledger_client::{Context, NewEntry, Watching};
use ledger_shm::format::ROSTER_LEN;
use ledger_tests::{Peer, eventually};

use crate::started;

fn watching(context: &Context) -> Vec<Watching> {
    context.watchers().expect("a bell").watching
}

/// The line of a peer, once it has been there with this seq.
fn line_of(context: &Context, peer: &Peer, next_seq: u64) -> Watching {
    let pid = peer.pid().as_raw().cast_unsigned();
    eventually("the peer's line", || {
        let mut lines = watching(context).into_iter();
        lines.find(|line| line.client.pid == pid && line.next_seq == next_seq)
    })
}

#[test]
fn a_watcher_is_listed_moves_and_goes() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    for _ in 0..3 {
        appender.append(&NewEntry::new("k", b"v")).expect("room");
    }
    assert_eq!(watching(&context), []);
    let mut watcher = context.watch(1);
    for next_seq in 2..=4 {
        watcher.try_next().expect("readable").expect("an entry");
        assert_eq!(watching(&context)[0].next_seq, next_seq);
    }
    watcher.seek(2);
    watcher.try_next().expect("readable").expect("an entry");
    assert_eq!(watching(&context)[0].next_seq, 3);
    let mut range = context.range(1);
    range.next_entry().expect("readable").expect("an entry");
    assert_eq!(watching(&context).len(), 1, "a range is not listed");
    drop(watcher);
    assert_eq!(watching(&context), []);
}

#[test]
fn what_a_dead_watcher_left_is_cleared_and_the_living_stay() {
    let instance = started(&[]);
    let context = instance.context("log");
    let [mut killed, mut alive] = [instance.peer(), instance.peer()];
    for peer in [&mut killed, &mut alive] {
        peer.must("read log");
        peer.must("watch 1");
        assert_eq!(peer.ask("next"), "waiting");
        line_of(&context, peer, 1);
    }
    killed.kill();
    eventually("the dead one's line to go", || {
        (watching(&context).len() == 1).then_some(())
    });
    line_of(&context, &alive, 1);
}

#[test]
fn a_watcher_is_listed_again_by_the_next_daemon() {
    let mut instance = started(&[]);
    let context = instance.context("log");
    let mut peer = instance.peer();
    peer.must("read log");
    peer.must("watch 1");
    assert_eq!(peer.ask("next"), "waiting");
    let before = line_of(&context, &peer, 1);
    instance.kill_daemon();
    instance.start(&[]);
    // What we still have is the bell of the one before, with its line.
    let later = instance.connect();
    let context = later.context("log").open_read_only().expect("it is there");
    let after = line_of(&context, &peer, 1);
    assert_eq!(after.client.pid, before.client.pid);
}

#[test]
fn who_finds_no_room_is_counted() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut watchers: Vec<_> = (0..=ROSTER_LEN).map(|_| context.watch(1)).collect();
    for watcher in &mut watchers {
        assert!(watcher.try_next().expect("readable").is_none());
    }
    let roster = context.watchers().expect("a bell");
    assert_eq!((roster.watching.len(), roster.unlisted), (ROSTER_LEN, 1));
    // Once, however often it looks.
    let last = watchers.last_mut().expect("there are some");
    assert!(last.try_next().expect("readable").is_none());
    assert_eq!(context.watchers().expect("a bell").unlisted, 1);
}

#[test]
fn the_command_says_who_is_how_far_behind() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    for _ in 0..5 {
        appender.append(&NewEntry::new("k", b"v")).expect("room");
    }
    let mut watcher = context.watch(3);
    watcher.try_next().expect("readable").expect("an entry");
    let printed = instance.printed(&["watchers", "log", "-o", "short"]);
    let row: Vec<&str> = printed
        .lines()
        .nth(1)
        .expect("a row")
        .split_whitespace()
        .collect();
    let pid = std::process::id().to_string();
    assert_eq!(row[..3], [pid.as_str(), "4", "2"]);
    drop(watcher);
    assert_eq!(instance.printed(&["watchers", "log", "-o", "json"]), "[]\n");
}
