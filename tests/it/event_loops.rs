//! Watchers in event loops: poll, epoll in both ways, tokio's and mio's.

use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use ledger_client::{Context, NewEntry, ReadError, Watcher};
use ledger_shm::bell::SLEEP_MAX;
use ledger_tests::{Instance, PATIENCE, Peer, eventually};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::archive::append;
use crate::snapshot::{export, load};
use crate::started;
use crate::waiting::dozing;

const ENTRIES: u64 = 500;

fn timeout<T: TryFrom<Duration>>(timeout: Duration) -> T {
    T::try_from(timeout).unwrap_or_else(|_| panic!("{timeout:?}"))
}

fn is_readable(fd: impl AsFd, patience: Duration) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, timeout::<PollTimeout>(patience)).expect("no signals here") == 1
}

/// A watcher of `log`, and a peer that appends there at its own pace.
fn watched() -> (Instance, Watcher, Peer) {
    let instance = started(&["--spare-min", "16K", "--spare-max", "16K"]);
    let watcher = instance.context("log").watch(1);
    let mut writer = instance.peer();
    writer.must("open log");
    (instance, watcher, writer)
}

/// Reads everything there is; the seq behind it.
fn read_all(watcher: &mut Watcher, mut next: u64) -> u64 {
    while let Some(entry) = watcher.try_next().expect("readable") {
        assert_eq!(entry.seq(), next);
        next += 1;
    }
    next
}

#[test]
fn poll_tells_when_there_is_something_to_look_at() {
    let (_instance, mut watcher, mut writer) = watched();
    assert!(is_readable(&watcher, Duration::ZERO), "at first");
    let mut next = 1;
    for _ in 0..100 {
        eventually("there is nothing more, and it says so", || {
            next = read_all(&mut watcher, next);
            (!is_readable(&watcher, Duration::ZERO)).then_some(())
        });
        writer.must("append k v");
        assert!(is_readable(&watcher, PATIENCE));
        assert_eq!(read_all(&mut watcher, next), next + 1);
        next += 1;
    }
    // Moved to where there are entries, it is worth a look.
    eventually("nothing", || {
        next = read_all(&mut watcher, next);
        (!is_readable(&watcher, Duration::ZERO)).then_some(())
    });
    watcher.seek(50);
    assert!(is_readable(&watcher, Duration::ZERO));
    assert_eq!(read_all(&mut watcher, 50), next);
}

/// Waits with epoll(7) until something is ready.
fn wait(epoll: &Epoll) {
    let mut events = [EpollEvent::empty()];
    let ready = epoll.wait(&mut events, timeout::<EpollTimeout>(PATIENCE));
    assert_eq!(ready, Ok(1), "nothing for {PATIENCE:?}");
}

fn epoll(watcher: &Watcher, flags: EpollFlags) -> Epoll {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).expect("a descriptor");
    epoll
        .add(watcher, EpollEvent::new(flags, 0))
        .expect("an eventfd");
    epoll
}

#[test]
fn a_level_triggered_loop_may_take_one_entry_at_a_time() {
    let (_instance, mut watcher, mut writer) = watched();
    let epoll = epoll(&watcher, EpollFlags::EPOLLIN);
    writer.tell(&format!("fill {ENTRIES} 100"));
    let mut next = 1;
    while next <= ENTRIES {
        wait(&epoll);
        if let Some(entry) = watcher.try_next().expect("readable") {
            assert_eq!(entry.seq(), next);
            next += 1;
        }
    }
    assert_eq!(writer.hear(), format!("ok {ENTRIES}"));
}

#[test]
fn an_edge_triggered_loop_takes_all_there_is() {
    let (_instance, mut watcher, mut writer) = watched();
    let epoll = epoll(&watcher, EpollFlags::EPOLLIN | EpollFlags::EPOLLET);
    let mut next = 1;
    for round in 1..=10 {
        writer.tell(&format!("fill {} 100", ENTRIES / 10));
        while next <= round * ENTRIES / 10 {
            wait(&epoll);
            next = read_all(&mut watcher, next);
        }
        assert_eq!(writer.hear(), format!("ok {}", next - 1));
    }
}

#[test]
#[allow(
    deprecated,
    reason = "its successor is unsafe: who calls it vouches that the descriptor lives as long as \
              its owner, as a watcher's does"
)]
fn tokio_waits_for_the_descriptor() {
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    let (_instance, watcher, mut writer) = watched();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    writer.tell(&format!("fill {ENTRIES} 100"));
    runtime.block_on(async {
        let mut watcher = AsyncFd::with_interest(watcher, Interest::READABLE).expect("an eventfd");
        let mut next = 1;
        while next <= ENTRIES {
            let ready = tokio::time::timeout(PATIENCE, watcher.readable_mut()).await;
            let mut ready = ready.expect("in time").expect("an eventfd");
            next = read_all(ready.get_inner_mut(), next);
            ready.clear_ready();
        }
    });
}

#[test]
fn mio_waits_for_the_descriptor() {
    use mio::unix::SourceFd;
    use mio::{Events, Interest, Poll, Token};

    let (_instance, mut watcher, mut writer) = watched();
    let mut poll = Poll::new().expect("an epoll");
    let fd = watcher.as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&fd), Token(7), Interest::READABLE)
        .expect("an eventfd");
    writer.tell(&format!("fill {ENTRIES} 100"));
    let (mut next, mut events) = (1, Events::with_capacity(8));
    while next <= ENTRIES {
        poll.poll(&mut events, Some(PATIENCE)).expect("no signals");
        assert!(!events.is_empty(), "nothing for {PATIENCE:?}");
        next = read_all(&mut watcher, next);
    }
}

#[test]
fn a_descriptor_outlives_the_daemon_and_finds_the_next_ones_bell() {
    let (mut instance, mut watcher, mut writer) = watched();
    let mut next = 1;
    for _ in 0..3 {
        eventually("nothing", || {
            next = read_all(&mut watcher, next);
            (!is_readable(&watcher, Duration::ZERO)).then_some(())
        });
        instance.kill_daemon();
        writer.must("append k v");
        assert!(is_readable(&watcher, PATIENCE), "without a daemon");
        next = read_all(&mut watcher, next);
        instance.start(&[]);
        writer.must("append k v");
        assert!(is_readable(&watcher, PATIENCE), "with the next one");
    }
    read_all(&mut watcher, next);
}

#[test]
fn filtered_watchers_of_one_context_are_told_apart() {
    let (instance, watcher, mut writer) = watched();
    let context = instance.context("log");
    drop(watcher);
    let mut watchers: Vec<Watcher> = (0..100)
        .map(|n| context.watch(1).key(format!("key-{n}")))
        .collect();
    for watcher in &mut watchers {
        watcher.event_fd().expect("a descriptor");
        assert!(watcher.try_next().expect("readable").is_none());
    }
    for n in [0, 99, 50] {
        writer.must(&format!("append key-{n} v"));
        let watcher = &mut watchers[n];
        let found = eventually("its entry", || {
            assert!(is_readable(&*watcher, PATIENCE));
            let entry = watcher.try_next().expect("readable");
            entry.map(|entry| entry.key().to_owned())
        });
        assert_eq!(found, format!("key-{n}"));
    }
    for (n, watcher) in watchers.iter_mut().enumerate() {
        let entry = watcher.try_next().expect("readable");
        assert!(entry.is_none(), "{n}");
    }
}

#[test]
fn an_appender_of_this_process_wakes_its_own_loop() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let mut watcher = context.watch(1);
    let mut next = 1;
    for _ in 0..100 {
        eventually("nothing", || {
            next = read_all(&mut watcher, next);
            (!is_readable(&watcher, Duration::ZERO)).then_some(())
        });
        appender.append(&NewEntry::new("k", b"v")).expect("room");
        assert!(is_readable(&watcher, PATIENCE));
    }
}

/// A watcher of a context that nobody has open for appending, from behind its end, which its
/// loop waits at.
fn at_the_end(context: &Context) -> Watcher {
    let mut watcher = context.watch(context.latest().expect("readable") + 1);
    eventually("it is told of nothing", || {
        assert!(watcher.try_next().expect("readable").is_none());
        (!is_readable(&watcher, Duration::ZERO)).then_some(())
    });
    watcher
}

#[test]
fn a_loop_is_told_of_what_a_snapshot_brings() {
    let instance = started(&["--durability", "archive"]);
    append(&instance.context("log"), 1..=20);
    let some = export(&instance, "log", "some", &["--to", "10"]);
    let all = export(&instance, "log", "all", &[]);
    load(&instance, &some, &["--as", "copy"]);
    let copy = instance.connect();
    let copy = copy.context("copy").open_read_only().expect("loaded");
    let mut watcher = at_the_end(&copy);
    load(&instance, &all, &["--as", "copy"]);
    assert!(is_readable(&watcher, PATIENCE));
    assert_eq!(read_all(&mut watcher, 11), 21);
}

#[test]
fn a_loop_is_told_that_its_context_is_dropped() {
    let instance = started(&["--durability", "archive"]);
    append(&instance.context("log"), 1..=10);
    // Somebody has it mapped without the daemon's knowledge.
    let listed = instance.connect().contexts().expect("listed");
    let held = listed.readable[0].open(&instance.connect()).expect("there");
    let mut watcher = at_the_end(&held);
    eventually("nobody has it open", || {
        let dropped = instance.run(&["drop", "log", "--yes"]);
        dropped.status.success().then_some(())
    });
    assert!(is_readable(&watcher, PATIENCE));
    let told = watcher.try_next();
    assert!(matches!(told, Err(ReadError::Closed)), "{told:?}");
}

/// Waits until the thread of a peer that sleeps for its event loop does; whether without an
/// end.
fn sleeps_for_good(peer: &Peer) -> bool {
    let call = eventually("it sleeps", || {
        peer.sleeps_in("ledger-dispatch", libc::SYS_futex_waitv)
    });
    call[3] == "0x0"
}

#[test]
fn a_loop_that_waits_for_nothing_sleeps_and_wakes_who_sleeps_after_it() {
    let (instance, watcher, mut writer) = watched();
    drop(watcher);
    let mut looped = instance.peer();
    looped.must("read log");
    looped.must("loop 3");
    eventually("it looks now and then", || {
        (!sleeps_for_good(&looped)).then_some(())
    });
    writer.must("append k v");
    // One after the other.
    eventually("all are told", || {
        (looped.must("told") == "3").then_some(())
    });
    let is_idle = || sleeps_for_good(&looped).then_some(());
    // Nobody takes what they were told of.
    eventually("it has nothing to look for", is_idle);
    let mut dozing = dozing(&instance, "log");
    writer.must("append k v");
    assert_eq!(dozing.hear(), "ok rung");
    eventually("it has nothing to look for", is_idle);
}

#[test]
fn a_loop_is_told_of_an_entry_that_nobody_rings_for() {
    let instance = started(&[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let mut looped = instance.peer();
    looped.must("read log");
    for _ in 0..10 {
        looped.must("loop 1");
        sleeps_for_good(&looped);
        let appended = appender.try_append_quietly(&NewEntry::new("k", b"v"));
        appended.expect("room");
        assert_eq!(looped.must("told"), "1");
    }
}

#[test]
fn a_loop_is_woken_rather_than_told_at_the_next_look() {
    const ROUNDS: usize = 20;
    let (mut instance, mut watcher, mut writer) = watched();
    let mut next = 1;
    for has_restarted in [false, true] {
        if has_restarted {
            instance.kill_daemon();
            instance.start(&[]);
            // Attached again, and so is this process's bell the next daemon's.
            eventually("a bell of the next daemon", || {
                writer.must("append k v");
                let start = Instant::now();
                assert!(is_readable(&watcher, PATIENCE));
                next = read_all(&mut watcher, next);
                (start.elapsed() < SLEEP_MAX / 2).then_some(())
            });
        }
        let mut soon = 0;
        for _ in 0..ROUNDS {
            eventually("nothing", || {
                next = read_all(&mut watcher, next);
                (!is_readable(&watcher, Duration::ZERO)).then_some(())
            });
            writer.must("append k v");
            let start = Instant::now();
            assert!(is_readable(&watcher, PATIENCE));
            soon += usize::from(start.elapsed() < SLEEP_MAX / 2);
        }
        // The next look is 40 ms after the one at which it was told.
        assert!(soon > ROUNDS / 2, "{soon} of {ROUNDS}: {has_restarted}");
    }
}
