//! `ledgerd bench`: what the ledger costs here, beside what the machine itself
//! takes for the same, measured the same way: if both are slow, it is the machine.
//!
//! It runs a daemon and an instance of its own, and removes both.

use std::hint::spin_loop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use crossbeam_utils::CachePadded;
use hdrhistogram::Histogram;
use ledger_client::{Context, Ledger, NewEntry, Watcher};
use ledger_shm::object::Instance;
use nix::sys::signal::{SigSet, Signal};
use serde::Serialize;

use crate::cli::{Failure, Output, OutputArgs};
use crate::commands::print::Printer;
use crate::{Daemon, Durability, Options};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// What to measure
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    pub(crate) output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// One append, of three sizes, beside reading the clock
    Append,
    /// From an append until a watcher that slept has the entry, beside waking a
    /// thread
    Watch,
    /// There and back through two contexts, spinning and asleep, beside a word in
    /// memory and beside waking threads
    Roundtrip,
}

/// Each row takes so long.
const ROW: Duration = Duration::from_millis(1500);
/// Longer than it takes to fall asleep.
const PAUSE: Duration = Duration::from_millis(2);

/// As `docs/JSON.md` has it.
#[derive(Serialize)]
struct Line {
    row: &'static str,
    is_machine: bool,
    count: u64,
    p50_ns: u64,
    p99_ns: u64,
    max_ns: u64,
}

/// Times of one kind of step.
struct Times {
    histogram: Histogram<u64>,
    ends: Instant,
    is_interrupted: Arc<AtomicBool>,
}

impl Times {
    fn is_over(&self) -> bool {
        Instant::now() >= self.ends || self.is_interrupted.load(Ordering::Relaxed)
    }

    fn note(&mut self, since: Instant) {
        let elapsed = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.histogram.saturating_record(elapsed);
    }
}

/// Of nanoseconds, up to a minute.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_max(60_000_000_000, 3).expect("bounds that are possible")
}

struct Bench {
    printer: Printer,
    is_interrupted: Arc<AtomicBool>,
    ledgers: [Ledger; 2],
}

pub(crate) fn run(args: Args) -> Result<(), Failure> {
    // What is measured in is removed also when somebody loses patience.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().map_err(std::io::Error::from)?;
    let is_interrupted = Arc::new(AtomicBool::new(false));
    let interrupted = Arc::clone(&is_interrupted);
    thread::Builder::new().spawn(move || {
        // Whatever it says, waiting on makes no sense.
        let _ = signals.wait();
        interrupted.store(true, Ordering::Relaxed);
    })?;

    let name = format!("bench_{}", std::process::id());
    let dir = std::env::temp_dir().join(format!("ledger-{name}"));
    let mut options = Options::new(&name);
    options.runtime_dir.clone_from(&dir);
    options.durability = Durability::Memory;
    let daemon = Daemon::start(options)?;
    let outcome = measure(&args, &name, &dir, is_interrupted);
    let stopped = daemon.stop();
    let purged = crate::purge(&Instance::own(&name)?, &dir);
    let removed = std::fs::remove_dir(&dir);
    outcome?;
    purged?;
    Ok(stopped.and(removed)?)
}

fn measure(
    args: &Args,
    name: &str,
    dir: &std::path::Path,
    is_interrupted: Arc<AtomicBool>,
) -> Result<(), Failure> {
    let connect = || Ledger::builder().instance(name).runtime_dir(dir).connect();
    let output = args.output.output();
    let mut bench = Bench {
        printer: Printer::new(output),
        is_interrupted,
        ledgers: [connect()?, connect()?],
    };
    if output == Output::Short {
        bench.printer.line(&format!(
            "{:<38} {:>9} {:>11} {:>11} {:>11}",
            "", "COUNT", "P50 NS", "P99 NS", "MAX NS"
        ))?;
    }
    match args.what {
        What::Append => bench.append()?,
        What::Watch => bench.watch()?,
        What::Roundtrip => bench.roundtrip()?,
    }
    Ok(bench.printer.finish()?)
}

impl Bench {
    fn times(&self) -> Times {
        Times {
            histogram: histogram(),
            ends: Instant::now() + ROW,
            is_interrupted: Arc::clone(&self.is_interrupted),
        }
    }

    fn print(&mut self, row: &'static str, is_machine: bool, times: &Times) -> Result<(), Failure> {
        let line = Line {
            row,
            is_machine,
            count: times.histogram.len(),
            p50_ns: times.histogram.value_at_quantile(0.5),
            p99_ns: times.histogram.value_at_quantile(0.99),
            max_ns: times.histogram.max(),
        };
        if self.printer.output() != Output::Short {
            self.printer.json(&line)?;
        } else {
            let text = format!(
                "{:<38} {:>9} {:>11} {:>11} {:>11}",
                line.row, line.count, line.p50_ns, line.p99_ns, line.max_ns
            );
            self.printer.line(&text)?;
        }
        // A row at a time, for who watches.
        Ok(self.printer.flush()?)
    }

    fn context(&self, end: usize, name: &str) -> Result<Context, Failure> {
        Ok(self.ledgers[end].context(name).open_or_create()?)
    }

    fn append(&mut self) -> Result<(), Failure> {
        let mut times = self.times();
        while !times.is_over() {
            times.note(Instant::now());
        }
        self.print("machine: reading the clock", true, &times)?;
        for (row, len) in [
            ("append of 64 bytes", 64),
            ("append of 1 KiB", 1 << 10),
            ("append of 64 KiB", 64 << 10),
        ] {
            let mut appender = self.context(0, row)?.appender()?;
            let payload = vec![0x5A; len];
            let entry = NewEntry::new("bench", &payload);
            appender.append(&entry)?;
            let mut times = self.times();
            while !times.is_over() {
                let start = Instant::now();
                // Where memory is made more slowly than it is filled, it waits.
                appender.append(&entry)?;
                times.note(start);
            }
            self.print(row, false, &times)?;
        }
        Ok(())
    }

    fn watch(&mut self) -> Result<(), Failure> {
        let mut times = self.times();
        let sent = Arc::new(AtomicU64::new(0));
        let begun = Instant::now();
        let now = move || u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (called, is_over) = (Arc::clone(&sent), Arc::new(AtomicBool::new(false)));
        let over = Arc::clone(&is_over);
        let sleeper = thread::Builder::new().spawn(move || {
            let mut seen = histogram();
            while !over.load(Ordering::Acquire) {
                thread::park();
                let at = called.swap(0, Ordering::AcqRel);
                if at != 0 {
                    seen.saturating_record(now() - at);
                }
            }
            seen
        })?;
        while !times.is_over() {
            thread::sleep(PAUSE);
            sent.store(now(), Ordering::Release);
            sleeper.thread().unpark();
        }
        is_over.store(true, Ordering::Release);
        sleeper.thread().unpark();
        times.histogram = joined(sleeper)?;
        self.print("machine: waking a thread", true, &times)?;

        let mut appender = self.context(0, "watch")?.appender()?;
        let mut watcher = self.context(1, "watch")?.watch(1);
        let mut times = self.times();
        let follower =
            thread::Builder::new().spawn(move || -> Result<Histogram<u64>, Failure> {
                let mut seen = histogram();
                loop {
                    let entry = watcher.next()?;
                    let Some(at) = entry.payload().first_chunk() else {
                        return Ok(seen);
                    };
                    seen.saturating_record(now() - u64::from_le_bytes(*at));
                }
            })?;
        while !times.is_over() {
            thread::sleep(PAUSE);
            appender.append(&NewEntry::new("at", &now().to_le_bytes()))?;
        }
        appender.append(&NewEntry::new("end", b""))?;
        times.histogram = joined(follower)??;
        self.print("append, until a sleeping watcher has it", false, &times)
    }

    fn roundtrip(&mut self) -> Result<(), Failure> {
        self.words()?;
        self.contexts("there and back, spinning", Duration::ZERO, |watcher| {
            loop {
                if let Some(entry) = watcher.try_next()? {
                    return Ok(entry.key() == "end");
                }
                spin_loop();
            }
        })?;
        self.threads()?;
        self.contexts("there and back, asleep", PAUSE, |watcher| {
            Ok(watcher.next()?.key() == "end")
        })
    }

    /// A word on one cache line goes there, one on another comes back.
    fn words(&mut self) -> Result<(), Failure> {
        const END: u64 = u64::MAX;
        let mut times = self.times();
        let words = Arc::new([(); 2].map(|()| CachePadded::new(AtomicU64::new(0))));
        let there = Arc::clone(&words);
        let echo = thread::Builder::new().spawn(move || {
            let mut next = 1;
            loop {
                match there[0].load(Ordering::Acquire) {
                    END => return,
                    found if found == next => {
                        there[1].store(next, Ordering::Release);
                        next += 1;
                    }
                    _ => spin_loop(),
                }
            }
        })?;
        let mut next = 1;
        while !times.is_over() {
            let start = Instant::now();
            words[0].store(next, Ordering::Release);
            while words[1].load(Ordering::Acquire) != next {
                spin_loop();
            }
            times.note(start);
            next += 1;
        }
        words[0].store(END, Ordering::Release);
        joined(echo)?;
        self.print("machine: a word there and back", true, &times)
    }

    /// One thread wakes another, which wakes the first.
    fn threads(&mut self) -> Result<(), Failure> {
        let mut times = self.times();
        let (turn, is_over) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (theirs, over) = (Arc::clone(&turn), Arc::clone(&is_over));
        let here = thread::current();
        let echo = thread::Builder::new().spawn(move || {
            while !over.load(Ordering::Acquire) {
                thread::park();
                if theirs.load(Ordering::Acquire) % 2 == 1 {
                    theirs.fetch_add(1, Ordering::AcqRel);
                    here.unpark();
                }
            }
        })?;
        while !times.is_over() {
            thread::sleep(PAUSE);
            let start = Instant::now();
            turn.fetch_add(1, Ordering::AcqRel);
            echo.thread().unpark();
            while turn.load(Ordering::Acquire) % 2 == 1 {
                thread::park();
            }
            times.note(start);
        }
        is_over.store(true, Ordering::Release);
        echo.thread().unpark();
        joined(echo)?;
        self.print("machine: waking threads there and back", true, &times)
    }

    /// An entry in one context is answered by one in another.
    fn contexts(
        &mut self,
        row: &'static str,
        pause: Duration,
        wait: fn(&mut Watcher) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let (there, back) = (format!("{row}, there"), format!("{row}, back"));
        let mut ping = self.context(0, &there)?.appender()?;
        let mut pong = self.context(1, &back)?.appender()?;
        let mut here = self.context(0, &back)?.watch(1);
        let mut other = self.context(1, &there)?.watch(1);
        let mut times = self.times();
        let echo = thread::Builder::new().spawn(move || -> Result<(), Failure> {
            while !wait(&mut other)? {
                pong.append(&NewEntry::new("pong", b"12345678"))?;
            }
            Ok(())
        })?;
        while !times.is_over() {
            if !pause.is_zero() {
                thread::sleep(pause);
            }
            let start = Instant::now();
            ping.append(&NewEntry::new("ping", b"12345678"))?;
            wait(&mut here)?;
            times.note(start);
        }
        ping.append(&NewEntry::new("end", b""))?;
        joined(echo)??;
        self.print(row, false, &times)
    }
}

fn joined<T>(thread: thread::JoinHandle<T>) -> Result<T, Failure> {
    let panicked = |_| Failure::from("a measuring thread panicked".to_owned());
    thread.join().map_err(panicked)
}
