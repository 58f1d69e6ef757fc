//! What an archive costs an appender, whether it keeps up, and reading from it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ledger_client::{Context, NewEntry};
use ledgerd::{Durability, Options};

use crate::instance::Instance;
use crate::report::{histogram, mean, percentiles, pin, ratio, spent_by};

const PAYLOAD: [u8; 64] = [0x5a; 64];

pub fn archived(options: &mut Options) {
    options.durability = Durability::Archive;
    options.state_dir = options.runtime_dir.join("state");
}

fn append(context: &Context, count: u64) -> Duration {
    let mut appender = context.appender().expect("an appender");
    assert!(appender.wait_ready(Duration::from_secs(10)), "a spare");
    let start = Instant::now();
    for _ in 0..count {
        appender
            .append(&NewEntry::new("facts", &PAYLOAD))
            .expect("room");
    }
    start.elapsed()
}

/// The same appends into a context that is written behind, and into one that is not.
pub fn beside(scale: u64) {
    let count = 1_000_000 / scale;
    let mut ratios = Vec::new();
    for round in 0..7 {
        let of = |durability| {
            let instance = Instance::start(|options| {
                archived(options);
                options.durability = durability;
                options.sizes.spare_len_min = Some(64 << 20);
            });
            pin(1);
            let context = instance.connect().context("log").open_or_create();
            let elapsed = append(&context.expect("room"), count);
            mean(
                &format!("archive/beside {durability:?} {round}"),
                count,
                elapsed,
            );
            crate::report::unpin();
            elapsed.as_secs_f64()
        };
        let without = of(Durability::Memory);
        ratios.push(of(Durability::Archive) / without);
    }
    ratio("archive/beside, with to without", ratios);
}

/// A million appends a second for a minute: how far the archive is behind.
pub fn keeps_up(scale: u64) {
    const EACH: u64 = 1000;
    let instance = Instance::start(|options| {
        archived(options);
        options.sizes.window_len = Some(1 << 30);
    });
    let context = instance.connect().context("log").open_or_create();
    let context = context.expect("room");
    let mut appender = context.appender().expect("an appender");
    pin(1);
    let mut behind = histogram();
    let start = Instant::now();
    let (mut latest, mut late) = (0, 0);
    for millisecond in 1..=60_000 / scale {
        for _ in 0..EACH {
            let entry = NewEntry::new("facts", &PAYLOAD);
            latest = appender.append(&entry).expect("room").seq;
        }
        let durable = context.durable_seq().expect("an archive");
        behind.saturating_record(latest - durable);
        let due = Duration::from_millis(millisecond);
        late += u64::from(start.elapsed() > due + Duration::from_millis(100));
        while start.elapsed() < due {
            std::hint::spin_loop();
        }
    }
    mean("archive/keeps-up, appended", latest, start.elapsed());
    // The kernel keeps 15 bytes of a thread's name.
    let spent = ["ledgerd-archive", "ledgerd-syncer"].map(spent_by);
    println!(
        "archive/keeps-up: of one core {:.2} is spent by the archiver, {:.2} by those who wait for \
         the disk",
        spent[0].div_duration_f64(start.elapsed()),
        spent[1].div_duration_f64(start.elapsed())
    );
    percentiles("archive/keeps-up, entries behind", &behind);
    let start = Instant::now();
    let waited = context.wait_durable(latest, Duration::from_secs(60));
    println!(
        "archive/keeps-up: {late} ms began late; the last entry was durable after {:?}: {waited:?}",
        start.elapsed()
    );
}

/// One entry each, in many contexts at once: how long until all are durable.
pub fn many(scale: u64) {
    let count = 300 / scale;
    let instance = Instance::start(archived);
    let ledger = instance.connect();
    let contexts: Vec<_> = (0..count)
        .map(|number| ledger.context(&format!("log-{number}")).open_or_create())
        .map(|context| context.expect("room"))
        .collect();
    let mut appenders: Vec<_> = contexts
        .iter()
        .map(|context| context.appender().expect("an appender"))
        .collect();
    for seq in 1..=5 {
        let start = Instant::now();
        for appender in &mut appenders {
            let entry = NewEntry::new("facts", &PAYLOAD);
            appender.append(&entry).expect("room");
        }
        let is_durable = |context: &Context| context.durable_seq() >= Some(seq);
        while !contexts.iter().all(is_durable) {
            std::thread::yield_now();
        }
        let elapsed = start.elapsed();
        println!("archive/many {seq}: {count} contexts, all durable after {elapsed:?}");
    }
}

/// A random entry that has left memory.
pub fn get(scale: u64) {
    const READS: u64 = 1_000_000;
    let count = 1_000_000 / scale;
    let instance = Instance::start(|options| {
        archived(options);
        options.sizes.window_len = Some(1 << 20);
        options.sizes.spare_len_max = Some(1 << 20);
    });
    let context = instance.connect().context("log").open_or_create();
    let context = context.expect("room");
    append(&context, count);
    context
        .wait_durable(count, Duration::from_secs(60))
        .expect("a disk");
    let there = count * 9 / 10;
    // The page cache does not keep what was written fast.
    let mut range = context.range(1);
    while range.next_entry().expect("readable").is_some() {}
    for round in 0..3 {
        let (mut seq, mut sum) = (1_u64, 0);
        let start = Instant::now();
        for _ in 0..READS {
            seq = (seq.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1)) | 1;
            let entry = context.get((seq >> 20) % there + 1);
            let entry = entry.expect("readable").expect("there");
            sum += u64::from(entry.payload()[0]);
        }
        let elapsed = start.elapsed();
        black_box(sum);
        mean(&format!("archive/get, round {round}"), READS, elapsed);
    }
}
