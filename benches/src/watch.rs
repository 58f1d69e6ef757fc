//! Waiting: an append in one process, seen in another.

use std::process::Command;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use ledger_client::{NewEntry, Watcher};

use crate::child::Running;
use crate::instance::{self, Instance};
use crate::limits;
use crate::memory::SharedMemory;
use crate::report::{histogram, percentiles, pin, ratio};

pub fn start(role: &str, rest: &[&str]) -> Running {
    let program = std::env::current_exe().expect("our own path");
    let mut command = Command::new(program);
    command.arg("--role").arg(role).args(rest);
    Running::start(&mut command).expect("a child")
}

/// What a child does.
pub fn play(role: &str, rest: &[String]) {
    pin(1);
    match (role, rest) {
        ("echo", [page, name, dir, mode, blocks]) => {
            echo(
                &SharedMemory::open(page, 4096),
                name,
                dir,
                mode,
                blocks.parse().expect("a number"),
            );
        }
        ("sleep", [name, dir]) => {
            let context = instance::connect(name, dir)
                .context("there")
                .open_read_only()
                .expect("there");
            let mut watcher = context.watch(context.latest().expect("readable") + 1);
            while watcher.next().expect("readable").key() != "end" {}
        }
        other => panic!("no such part: {other:?}"),
    }
}

fn wait(watcher: &mut Watcher, mode: &str) {
    if mode == "parked" {
        let entry = watcher.next().expect("readable");
        std::hint::black_box(entry.payload()[0]);
        return;
    }
    loop {
        if let Some(entry) = watcher.try_next().expect("readable") {
            std::hint::black_box(entry.payload()[0]);
            return;
        }
        std::hint::spin_loop();
    }
}

/// Rounds that a block has of each kind. The raw ones and the log's take turns,
/// so that a change of the machine's mood meets both.
const ROUNDS: u64 = 2_000;

/// Between two rounds with sleepers.
const THINK: Duration = Duration::from_micros(60);

fn is_spinning(mode: &str) -> bool {
    mode == "spinning"
}

fn echo(page: &SharedMemory, name: &str, dir: &str, mode: &str, blocks: u64) {
    let ledger = instance::connect(name, dir);
    let there = ledger.context("there").open().expect("there");
    let mut back = ledger
        .context("back")
        .open()
        .expect("there")
        .appender()
        .expect("an appender");
    let mut watcher = there.watch(1);
    let payload = [1; 64];
    for block in 0..blocks {
        for n in block * ROUNDS + 1..=(block + 1) * ROUNDS {
            if is_spinning(mode) {
                limits::answer_line(page.words64(), n);
            } else {
                limits::answer_futex(page.words32(), n as u32);
            }
        }
        for _ in 0..ROUNDS {
            wait(&mut watcher, mode);
            back.append(&NewEntry::new("facts", &payload))
                .expect("room");
        }
    }
}

fn there_and_back(mode: &str, blocks: u64) {
    let instance = Instance::start(|options| options.sizes.spare_len_min = Some(64 << 20));
    let ledger = instance.connect();
    let there = ledger.context("there").open_or_create().expect("room");
    let back = ledger.context("back").open_or_create().expect("room");
    let mut appender = there.appender().expect("an appender");
    let mut watcher = back.watch(1);
    let page = SharedMemory::create(mode, 4096);
    let dir = instance.dir.to_string_lossy();
    let mut child = start(
        "echo",
        &[page.name(), &instance.name, &dir, mode, &blocks.to_string()],
    );
    pin(0);
    let (mut raw, mut log, mut ratios) = (histogram(), histogram(), Vec::new());
    let payload = [2; 64];
    // Long enough for the other side to be asleep.
    let think = || {
        let start = Instant::now();
        while !is_spinning(mode) && start.elapsed() < THINK {
            std::hint::spin_loop();
        }
    };
    for block in 0..blocks {
        let (mut raw_block, mut log_block) = (histogram(), histogram());
        for n in block * ROUNDS + 1..=(block + 1) * ROUNDS {
            think();
            let start = Instant::now();
            if is_spinning(mode) {
                limits::send_line(page.words64(), n);
            } else {
                limits::send_futex(page.words32(), n as u32);
            }
            raw_block.saturating_record(start.elapsed().as_nanos() as u64);
        }
        for _ in 0..ROUNDS {
            think();
            let start = Instant::now();
            appender
                .append(&NewEntry::new("facts", &payload))
                .expect("room");
            wait(&mut watcher, mode);
            log_block.saturating_record(start.elapsed().as_nanos() as u64);
        }
        let p50 = |block: &Histogram<u64>| block.value_at_quantile(0.5) as f64;
        ratios.push(p50(&log_block) / p50(&raw_block));
        raw.add(raw_block).expect("the same bounds");
        log.add(log_block).expect("the same bounds");
    }
    child.wait().expect("our child");
    let what = if is_spinning(mode) {
        "cache-line"
    } else {
        "futex"
    };
    percentiles(&format!("limit/{what} there and back"), &raw);
    percentiles(&format!("watch/{mode} there and back"), &log);
    ratio(&format!("watch/{mode} to limit/{what}"), ratios);
}

/// Append to a spinning watcher and back, through two logs.
pub fn spinning(scale: u64) {
    there_and_back("spinning", 200 / scale);
}

/// Append to a parked watcher and back; and what sleepers cost the appender.
pub fn parked(scale: u64) {
    there_and_back("parked", 20 / scale);
    for sleepers in [1, 8, 100] {
        let instance = Instance::start(|_| {});
        let ledger = instance.connect();
        let there = ledger.context("there").open_or_create().expect("room");
        let mut appender = there.appender().expect("an appender");
        let dir = instance.dir.to_string_lossy();
        let mut children: Vec<Running> = (0..sleepers)
            .map(|_| start("sleep", &[&instance.name, &dir]))
            .collect();
        pin(0);
        let payload = [2; 64];
        let mut latencies = histogram();
        std::thread::sleep(Duration::from_millis(200));
        for _ in 0..2_000 / scale {
            // Long enough for every sleeper to be asleep again.
            std::thread::sleep(Duration::from_millis(1));
            let start = Instant::now();
            appender
                .append(&NewEntry::new("facts", &payload))
                .expect("room");
            latencies.saturating_record(start.elapsed().as_nanos() as u64);
        }
        appender
            .append(&NewEntry::new("end", &payload))
            .expect("room");
        for child in &mut children {
            child.wait().expect("our child");
        }
        percentiles(&format!("watch/append with {sleepers} parked"), &latencies);
    }
}
