//! Appending more than any memory that is there already, beside the kernel, which has to make
//! it: commit it, zero it, and map it.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ledger_client::{Appender, NewEntry};

use crate::instance::Instance;
use crate::memory::SharedMemory;
use crate::report::{histogram, pin, unpin};

use super::Piece;
use super::stage::{Stage, median};
use super::table::time;

/// Of a segment, and of what the kernel makes at once.
const SEGMENT_LEN: usize = 64 << 20;
/// Between two looks at the other one.
const PIECE_LEN: usize = 1 << 30;
/// What an entry of 64 bytes takes, its slot included.
const ENTRY_LEN: usize = 144 + 8;

const ENTRIES: u64 = (PIECE_LEN / ENTRY_LEN) as u64;

fn append(appender: &mut Appender, mut timed: Option<&mut Histogram<u64>>) -> Duration {
    let mut payload = [0x5a; 64];
    let start = Instant::now();
    for n in 0..ENTRIES {
        payload[..8].copy_from_slice(&n.to_le_bytes());
        let entry = NewEntry::new("facts", &payload);
        let Some(latencies) = &mut timed else {
            appender.append(&entry).expect("room");
            continue;
        };
        let start = Instant::now();
        appender.append(&entry).expect("room");
        latencies.saturating_record(start.elapsed().as_nanos() as u64);
    }
    start.elapsed()
}

/// As much memory as that, without anything in it.
fn make() -> Duration {
    let start = Instant::now();
    for _ in 0..PIECE_LEN / SEGMENT_LEN {
        let memory = SharedMemory::create_committed("sustained", SEGMENT_LEN);
        memory.populate();
    }
    start.elapsed()
}

/// The machine's own noise: as many calls of nothing.
fn idle() -> Histogram<u64> {
    let mut latencies = histogram();
    for _ in 0..ENTRIES {
        let start = Instant::now();
        latencies.saturating_record(start.elapsed().as_nanos() as u64);
    }
    latencies
}

/// An appender of its own daemon; what it and its daemon start runs where the caller does.
fn appender() -> (Instance, Appender) {
    let instance = Instance::start(|options| {
        // As many as the budget, which is all that this does.
        options.sizes.window_len = Some(PIECE_LEN as u64);
    });
    let context = instance.connect().context("sustained").open_or_create();
    let appender = context.expect("room").appender().expect("an appender");
    (instance, appender)
}

/// Two tables of their own kind.
pub fn text(stage: &Stage) -> Vec<Piece> {
    let pieces = if stage.is_quick() { 2 } else { 10 };
    let (_there, mut helped) = appender();
    pin(1);
    let (_here, mut alone) = appender();
    let (mut appended, mut with_help, mut made) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..pieces {
        appended.push(append(&mut alone, None).as_secs_f64());
        made.push(make().as_secs_f64());
        with_help.push(append(&mut helped, None).as_secs_f64());
    }
    let (mut calls, noise) = (histogram(), idle());
    append(&mut helped, Some(&mut calls));
    unpin();
    let mut text = format!(
        "{pieces} GiB of 64 B entries, {ENTRY_LEN} B each with all that belongs to it, across \
         rolls; and in turn the kernel's own time for as much memory, without anything in it. \
         Medians of the GiB:\n\n\
         | | each | GB/s | kernel |\n|---|---|---|---|\n"
    );
    for (name, seconds) in [
        ("committed, zeroed, mapped and freed, on one core", &made),
        ("appended, with the daemon on the same core", &appended),
        ("appended, with the daemon on another one", &with_help),
    ] {
        let each = median(seconds);
        let ratios = seconds.iter().zip(&made).map(|(one, other)| one / other);
        text += &format!(
            "| {name} | {} | {:.2} | {:.2} × |\n",
            time(each * 1e9 / ENTRIES as f64),
            PIECE_LEN as f64 / each / 1e9,
            median(&ratios.collect::<Vec<_>>()),
        );
    }
    text += "\nSingle calls across rolls, with the daemon on another core, and the same loop around \
             nothing:\n\n\
             | | p50 | p99 | p99.9 | p99.99 | most |\n|---|---|---|---|---|---|\n";
    for (name, latencies) in [("append", &calls), ("nothing", &noise)] {
        let at = |quantile| time(latencies.value_at_quantile(quantile) as f64);
        text += &format!(
            "| {name} | {} | {} | {} | {} | {} |\n",
            at(0.5),
            at(0.99),
            at(0.999),
            at(0.9999),
            time(latencies.max() as f64),
        );
    }
    vec![Piece::Text(text)]
}
