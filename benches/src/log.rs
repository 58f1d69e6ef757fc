//! Appending and reading, nobody waiting: 64-byte payloads through the whole
//! public API, with rkyv, checksums and the wall clock.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ledger_client::{Appender, NewEntry};

use crate::instance::Instance;
use crate::report::{histogram, mean, percentiles, pin};

const PAYLOAD: [u8; 64] = [0x5a; 64];

fn fill(appender: &mut Appender, count: u64) {
    let mut payload = PAYLOAD;
    for n in 0..count {
        payload[..8].copy_from_slice(&n.to_le_bytes());
        appender
            .append(&NewEntry::new("facts", &payload))
            .expect("room");
    }
}

/// A short loop within memory that is there.
pub fn append(scale: u64) {
    let instance = Instance::start(|options| options.sizes.spare_len_min = Some(64 << 20));
    let ledger = instance.connect();
    pin(1);
    let mut fastest = f64::MAX;
    for round in 0..7 {
        let context = ledger
            .context(&format!("append-{round}"))
            .open_or_create()
            .expect("room");
        let mut appender = context.appender().expect("an appender");
        // Past the small first segment, and warm; and until the spares that this
        // asked for have been zeroed, which takes memory bandwidth.
        fill(&mut appender, 20_000 / scale);
        std::thread::sleep(Duration::from_millis(200));
        let count = 200_000 / scale;
        let mut payload = PAYLOAD;
        let start = Instant::now();
        for n in 0..count {
            payload[..8].copy_from_slice(&n.to_le_bytes());
            appender
                .try_append(&NewEntry::new("facts", &payload))
                .expect("room");
        }
        let elapsed = start.elapsed();
        fastest = fastest.min(elapsed.as_nanos() as f64 / count as f64);
        mean(&format!("log/append round {round}"), count, elapsed);
        let mut latencies = histogram();
        for n in 0..count / 4 {
            payload[..8].copy_from_slice(&n.to_le_bytes());
            let start = Instant::now();
            appender
                .try_append(&NewEntry::new("facts", &payload))
                .expect("room");
            latencies.saturating_record(start.elapsed().as_nanos() as u64);
        }
        percentiles("log/append with its clock", &latencies);
    }
    println!("log/append fastest round: {fastest:.1} ns");
}

/// Many appends across rolls.
pub fn sustained(scale: u64) {
    let instance = Instance::start(|options| options.sizes.window_len = Some(1 << 30));
    let ledger = instance.connect();
    let context = ledger.context("sustained").open_or_create().expect("room");
    let mut appender = context.appender().expect("an appender");
    pin(1);
    let count = 50_000_000 / scale;
    let start = Instant::now();
    fill(&mut appender, count);
    mean("log/sustained", count, start.elapsed());
}

/// A sequential scan, every archive validated in place.
pub fn scan(scale: u64) {
    let instance = Instance::start(|_| {});
    let ledger = instance.connect();
    let context = ledger.context("scan").open_or_create().expect("room");
    let count = 2_000_000 / scale;
    fill(&mut context.appender().expect("an appender"), count);
    let reader = ledger.context("scan").open_read_only().expect("there");
    for round in 0..5 {
        let what = if round == 0 {
            "that maps the segments"
        } else {
            "round"
        };
        let mut range = reader.range(1);
        let (mut sum, mut seen) = (0_u64, 0);
        let start = Instant::now();
        while let Some(entry) = range.next_entry().expect("readable") {
            sum = sum.wrapping_add(u64::from(entry.payload()[0]) + entry.key().len() as u64);
            seen += 1;
        }
        let elapsed = start.elapsed();
        black_box(sum);
        assert_eq!(seen, count);
        mean(&format!("log/scan {what} {round}"), count, elapsed);
    }
    // What it costs to tell others how far one has come.
    for round in 0..3 {
        let mut watcher = reader.watch(1);
        let (mut sum, mut seen) = (0_u64, 0);
        let start = Instant::now();
        while let Some(entry) = watcher.try_next().expect("readable") {
            sum = sum.wrapping_add(u64::from(entry.payload()[0]) + entry.key().len() as u64);
            seen += 1;
        }
        let elapsed = start.elapsed();
        black_box(sum);
        assert_eq!(seen, count);
        mean(&format!("log/scan as a watcher {round}"), count, elapsed);
    }
}

/// A random entry by seq.
pub fn get(scale: u64) {
    for count in [20_000, 1_000_000 / scale] {
        get_of(count);
    }
}

fn get_of(count: u64) {
    const READS: u64 = 1_000_000;
    let instance = Instance::start(|_| {});
    let ledger = instance.connect();
    let context = ledger.context("get").open_or_create().expect("room");
    fill(&mut context.appender().expect("an appender"), count);
    let mut seq = 1_u64;
    for round in 0..3 {
        let mut sum = 0;
        let start = Instant::now();
        for _ in 0..READS {
            seq = (seq.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)) | 1;
            let entry = context
                .get((seq >> 20) % count + 1)
                .expect("readable")
                .expect("there");
            sum += u64::from(entry.payload()[0]);
            // As in `limits::random_reads`.
            seq ^= sum >> 63;
        }
        let elapsed = start.elapsed();
        black_box(sum);
        mean(
            &format!("log/get, {count} there, round {round}"),
            READS,
            elapsed,
        );
    }
}

/// Opening what is there, and creating what is not.
pub fn open(scale: u64) {
    let instance = Instance::start(|_| {});
    let ledger = instance.connect();
    let (mut created, mut opened, mut read) = (histogram(), histogram(), histogram());
    let mut kept = Vec::new();
    for n in 0..500 / scale {
        let name = format!("open-{n}");
        let start = Instant::now();
        kept.push(ledger.context(&name).open_or_create().expect("room"));
        created.saturating_record(start.elapsed().as_nanos() as u64);
    }
    for n in 0..500 / scale {
        let name = format!("open-{n}");
        let start = Instant::now();
        kept.push(ledger.context(&name).open().expect("there"));
        opened.saturating_record(start.elapsed().as_nanos() as u64);
        let start = Instant::now();
        kept.push(ledger.context(&name).open_read_only().expect("there"));
        read.saturating_record(start.elapsed().as_nanos() as u64);
    }
    percentiles("log/create", &created);
    percentiles("log/open", &opened);
    percentiles("log/open read-only", &read);
}
