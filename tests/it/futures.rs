//! Watchers as futures and streams.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use futures_core::Stream;
use ledger_client::{AsyncWatcher, DurableError, NewEntry, ReadError};
use ledger_tests::{Instance, PATIENCE, eventually};
use pollster::block_on;

use crate::{IN_MEMORY, started};

const ENTRIES: u64 = 500;
const SMALL: [&str; 4] = ["--spare-min", "16K", "--spare-max", "16K"];

fn watcher(instance: &Instance) -> AsyncWatcher {
    instance.context("log").watch(1).into_async()
}

/// Wakes the thread that made it.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Unpark>) {
        self.0.unpark();
    }
}

#[test]
fn entries_are_awaited_one_after_the_other() {
    let instance = started(&SMALL);
    let mut watcher = watcher(&instance);
    let mut writer = instance.peer();
    writer.must("open log");
    writer.tell(&format!("fill {ENTRIES} 100"));
    block_on(async {
        for seq in 1..=ENTRIES {
            let entry = watcher.next().await.expect("readable");
            assert_eq!((entry.seq(), entry.key()), (seq, "fill"));
        }
    });
    assert_eq!(watcher.next_seq(), ENTRIES + 1);
}

#[test]
fn a_future_that_is_dropped_at_every_poll_loses_nothing() {
    let instance = started(&SMALL);
    let mut watcher = watcher(&instance);
    let mut writer = instance.peer();
    writer.must("open log");
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let (mut seq, mut dropped) = (1, 0);
    for round in 1..=10 {
        let before = pin!(watcher.next()).poll(&mut Context::from_waker(&waker));
        assert!(before.is_pending());
        dropped += 1;
        writer.tell(&format!("fill {} 100", ENTRIES / 10));
        let start = Instant::now();
        while seq <= round * ENTRIES / 10 {
            match pin!(watcher.next()).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(entry) => {
                    assert_eq!(entry.expect("readable").seq(), seq);
                    seq += 1;
                }
                Poll::Pending => {
                    dropped += 1;
                    std::thread::park_timeout(PATIENCE);
                    assert!(start.elapsed() < PATIENCE, "never woken");
                }
            }
        }
        assert_eq!(writer.hear(), format!("ok {}", seq - 1));
    }
    assert!(dropped >= 10);
}

async fn item<S: Stream + Unpin>(stream: &mut S) -> Option<S::Item> {
    poll_fn(|context| Pin::new(&mut *stream).poll_next(context)).await
}

#[test]
fn a_streams_entries_stay_when_it_has_gone_on() {
    let instance = started(&SMALL);
    let mut watcher = watcher(&instance);
    let mut writer = instance.peer();
    writer.must("open log");
    writer.tell(&format!("fill {ENTRIES} 100"));
    let entries = block_on(async {
        let mut entries = Vec::new();
        while entries.len() < ENTRIES as usize {
            let entry = item(&mut watcher).await.expect("it has no end");
            entries.push(entry.expect("readable"));
        }
        entries
    });
    drop(watcher);
    for (entry, seq) in entries.iter().zip(1..) {
        assert_eq!((entry.seq(), entry.payload()), (seq, &[b'x'; 100][..]));
        entry.verify().expect("whole");
    }
}

#[test]
fn a_stream_ends_after_an_error_until_it_is_moved() {
    let instance = started(&[&SMALL[..], &IN_MEMORY, &["--window", "64K"]].concat());
    let mut writer = instance.peer();
    writer.must("open log");
    writer.must("fill 3000 100");
    let mut watcher = watcher(&instance);
    block_on(async {
        // The window may still be moving on behind the writer.
        let mut moved_to = None;
        let seq = loop {
            match item(&mut watcher).await {
                Some(Err(ReadError::Evicted {
                    first_available, ..
                })) => {
                    assert!(item(&mut watcher).await.is_none());
                    watcher.seek(first_available);
                    moved_to = Some(first_available);
                }
                other => break other.expect("moved").expect("readable").seq(),
            }
        };
        assert_eq!(Some(seq), moved_to, "it began with an error");
    });
}

#[test]
fn two_thousand_contexts_are_watched_in_one_process() {
    const CONTEXTS: usize = 2000;
    // 24 MiB of shared memory, once nobody holds spares.
    let instance = started(&[
        "--memory-budget",
        "48M",
        "--first-segment",
        "8K",
        "--spare-min",
        "8K",
        "--spare-max",
        "8K",
        "--idle-close-after",
        "0.01",
    ]);
    let ledger = instance.connect();
    let names: Vec<String> = (0..CONTEXTS).map(|n| format!("context-{n}")).collect();
    let open = |name| ledger.context(name).open_or_create().expect("a context");
    let contexts: Vec<_> = names
        .iter()
        .map(|name| {
            drop(open(name));
            let context = ledger.context(name).open_read_only();
            context.expect("made above")
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let mut tasks: Vec<_> = contexts
            .iter()
            .map(|context| {
                let mut watcher = context.watch(1).into_async();
                Box::pin(async move { watcher.next().await.map(|entry| entry.payload().to_vec()) })
            })
            .collect();
        poll_fn(|context| {
            for task in &mut tasks {
                assert!(task.as_mut().poll(context).is_pending());
            }
            Poll::Ready(())
        })
        .await;
        // Of each thread's, some.
        for (task, name) in tasks.into_iter().zip(&names).step_by(20) {
            let mut appender = open(name).appender().expect("an appender");
            appender
                .append(&NewEntry::new("k", name.as_bytes()))
                .expect("room");
            let payload = tokio::time::timeout(PATIENCE, task).await.expect("woken");
            assert_eq!(payload.expect("readable"), name.as_bytes());
        }
    });
}

#[test]
fn all_watchers_of_one_context_share_one_thread() {
    let instance = started(&[]);
    let mut peer = instance.peer();
    peer.must("open log");
    // However many watch, a thread sleeps at 127 bells.
    for (count, threads) in [(0, "0"), (1, "1"), (300, "1"), (10, "1")] {
        peer.must(&format!("loop {count}"));
        eventually("as many threads as it takes", || {
            (peer.must("dispatchers") == threads).then_some(())
        });
    }
    peer.must("open another");
    peer.must("loop 0");
    eventually("it ends with the last watcher", || {
        (peer.must("dispatchers") == "0").then_some(())
    });
}

/// All of these futures, polled by one thread.
fn all<T>(futures: impl IntoIterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = futures.into_iter().map(Box::pin).collect();
    let mut outcomes = Vec::new();
    block_on(poll_fn(move |task| {
        waiting.retain_mut(|future| match future.as_mut().poll(task) {
            Poll::Ready(outcome) => {
                outcomes.push(outcome);
                false
            }
            Poll::Pending => true,
        });
        match waiting.is_empty() {
            true => Poll::Ready(std::mem::take(&mut outcomes)),
            false => Poll::Pending,
        }
    }))
}

#[test]
fn stable_storage_is_awaited_by_many_and_nobody_is_forgotten() {
    let mut instance = started(&[]);
    // More than one thread can sleep for.
    let contexts: Vec<_> = (0..150)
        .map(|n| instance.context(&format!("log-{n}")))
        .collect();
    let mut appenders: Vec<_> = contexts
        .iter()
        .map(|context| context.appender().expect("an appender"))
        .collect();
    std::thread::scope(|scope| {
        let awaited = scope.spawn(|| {
            let twice = contexts.iter().chain(&contexts);
            all(twice.map(|context| context.durable(3, PATIENCE)))
        });
        for _ in 1..=3 {
            for appender in &mut appenders {
                appender.append(&NewEntry::new("k", b"v")).expect("room");
            }
        }
        let outcomes = awaited.join().expect("no panic");
        assert_eq!(outcomes, vec![Ok(()); 300]);
    });
    let [context, ..] = &contexts[..] else {
        panic!("there are some");
    };
    assert_eq!(context.durable_seq(), Some(3));

    // What never comes ends in time, also without a daemon.
    instance.kill_daemon();
    assert_eq!(block_on(context.durable(3, PATIENCE)), Ok(()));
    let later = block_on(context.durable(4, Duration::from_millis(50)));
    let expected = DurableError::TimedOut {
        seq: 4,
        durable_seq: 3,
    };
    assert_eq!(later, Err(expected));
    // One that was let go of has no part in what comes.
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let dropped = pin!(context.durable(4, PATIENCE)).poll(&mut Context::from_waker(&waker));
    assert!(dropped.is_pending());
    appenders[0]
        .append(&NewEntry::new("k", b"v"))
        .expect("room");
    std::thread::scope(|scope| {
        let awaited = scope.spawn(|| block_on(context.durable(4, PATIENCE)));
        instance.start(&[]);
        assert_eq!(awaited.join().expect("no panic"), Ok(()));
    });

    let memory = started(&IN_MEMORY).context("log");
    let never = block_on(memory.durable(1, PATIENCE));
    assert_eq!(never, Err(DurableError::MemoryOnly));
}
