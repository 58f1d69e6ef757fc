//! Snapshots: writing and loading one beside copying it, and beside hashing what it
//! holds. A restart with an archive.

use std::fs::{self, File};
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ledger_client::{Context, NewEntry};
use ledger_shm::merkle::{Frontier, Hash, content};
use ledgerd::Durability;
use sha2::{Digest, Sha256};

use crate::archive::archived;
use crate::child::Running;
use crate::instance::Instance;
use crate::report::{mean, ratio};

const ROUNDS: usize = 5;

fn fill(context: &Context, count: u64, payload: &[u8]) {
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(Duration::from_secs(60));
    for _ in 0..count {
        appender
            .append(&NewEntry::new("facts", payload))
            .expect("room");
    }
    drop(appender);
    if context.durable_seq().is_some() {
        context
            .wait_durable(count, Duration::from_secs(120))
            .expect("a disk");
    }
}

fn timed<R>(act: impl FnOnce() -> R) -> (Duration, R) {
    let start = Instant::now();
    let outcome = act();
    (start.elapsed(), outcome)
}

/// What `cp` takes, and `sync` behind it.
fn copy(from: &Path, to: &Path) -> (Duration, Duration) {
    let run = |program: &str, args: &[&Path]| {
        let mut command = Command::new(program);
        let running = Running::start(command.args(args));
        let status = running.and_then(|mut running| running.wait());
        assert!(status.expect("it is there").success(), "{program}");
    };
    let _ = fs::remove_file(to);
    let (copied, ()) = timed(|| run("cp", &[Path::new("--reflink=never"), from, to]));
    let (synced, ()) = timed(|| run("sync", &[to]));
    fs::remove_file(to).expect("ours");
    (copied, copied + synced)
}

fn export(context: &Context, path: &Path) -> Duration {
    let _ = fs::remove_file(path);
    let (elapsed, outcome) = timed(|| {
        let file = File::create(path).expect("ours");
        context.snapshot_to(file).run()
    });
    outcome.expect("readable");
    elapsed
}

fn load(context: &Context, path: &Path, name: &str) -> Duration {
    let file = File::open(path).expect("ours");
    let (elapsed, outcome) = timed(|| context.ledger().load_from(file).name(name).run());
    outcome.expect("a place");
    ledger_client::admin::drop_context(context.ledger(), name).expect("nobody has it");
    elapsed
}

fn dir(instance: &Instance) -> PathBuf {
    instance.dir.clone()
}

/// Payloads of 4 KiB, beside `cp` of the same file.
pub fn large(scale: u64) {
    let count = 500_000 / scale;
    let instance = Instance::start(|options| {
        archived(options);
        options.sizes.window_len = Some(64 << 20);
    });
    let context = instance
        .connect()
        .context("log")
        .open_or_create()
        .expect("room");
    fill(&context, count, &[0x5a; 4096]);
    let (path, other) = (dir(&instance).join("snapshot"), dir(&instance).join("copy"));
    export(&context, &path);
    let len = fs::metadata(&path).expect("ours").len();
    println!("snapshot/large: {count} entries, {len} bytes");
    let (mut exports, mut loads) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let (copied, synced) = copy(&path, &other);
        let exported = export(&context, &other);
        let loaded = load(&context, &path, "loaded");
        let speed = |elapsed: Duration| len as f64 / elapsed.as_secs_f64() / 1e6;
        println!(
            "snapshot/large {round}: cp {:.0} MB/s, cp and sync {:.0}, export {:.0}, load {:.0}",
            speed(copied),
            speed(synced),
            speed(exported),
            speed(loaded)
        );
        exports.push(copied.as_secs_f64() / exported.as_secs_f64());
        loads.push(synced.as_secs_f64() / loaded.as_secs_f64());
    }
    ratio("snapshot/large, speed of export to that of cp", exports);
    ratio(
        "snapshot/large, speed of load to that of cp and sync",
        loads,
    );
}

/// What hashing the same leaves and nodes takes, and nothing else.
fn hash(contents: &[Vec<u8>]) -> (Duration, Hash) {
    timed(|| {
        let mut tree = Frontier::default();
        for content in contents {
            let mut hasher = Sha256::new_with_prefix([0]);
            hasher.update(content);
            tree.push(hasher.finalize().into(), |node| {
                black_box(node);
            });
        }
        tree.root()
    })
}

/// Payloads of 64 bytes, beside SHA-256 of the same leaves and nodes.
pub fn small(scale: u64) {
    let count = 1_000_000 / scale;
    for durability in [Durability::Memory, Durability::Archive] {
        let instance = Instance::start(|options| {
            archived(options);
            options.durability = durability;
            options.sizes.window_len = Some(if durability == Durability::Memory {
                1 << 30
            } else {
                1 << 20
            });
        });
        let context = instance
            .connect()
            .context("log")
            .open_or_create()
            .expect("room");
        fill(&context, count, &[0x5a; 64]);
        let mut contents = Vec::new();
        let mut range = context.range(1);
        while let Some(entry) = range.next_entry().expect("readable") {
            let mut bytes = Vec::new();
            content(&entry, |piece| bytes.extend_from_slice(piece));
            contents.push(bytes);
        }
        let (path, other) = (dir(&instance).join("snapshot"), dir(&instance).join("copy"));
        let (mut exports, mut loads, mut copies) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let (hashed, root) = hash(&contents);
            black_box(root);
            mean(
                &format!("snapshot/small {durability:?} {round}, SHA-256"),
                count,
                hashed,
            );
            let exported = export(&context, &path);
            mean(
                &format!("snapshot/small {durability:?} {round}, export"),
                count,
                exported,
            );
            exports.push(hashed.as_secs_f64() / exported.as_secs_f64());
            if durability == Durability::Archive {
                let loaded = load(&context, &path, "loaded");
                mean(
                    &format!("snapshot/small {durability:?} {round}, load"),
                    count,
                    loaded,
                );
                loads.push(hashed.as_secs_f64() / loaded.as_secs_f64());
                let (_, synced) = copy(&path, &other);
                mean(
                    &format!("snapshot/small {durability:?} {round}, cp and sync"),
                    count,
                    synced,
                );
                copies.push(synced.as_secs_f64() / loaded.as_secs_f64());
            }
        }
        ratio(
            &format!("snapshot/small {durability:?}, speed of export to that of SHA-256"),
            exports,
        );
        if !loads.is_empty() {
            ratio("snapshot/small, speed of load to that of SHA-256", loads);
            ratio(
                "snapshot/small, speed of load to that of cp and sync",
                copies,
            );
        }
    }
}

/// A daemon that comes back with an archive of 10 GiB and nothing in memory.
pub fn restart(scale: u64) {
    const CONTEXTS: u64 = 10;
    let each = 1024 / scale;
    let mut instance = Instance::start(|options| {
        archived(options);
        options.sizes.window_len = Some(64 << 20);
        options.limits.payload_len_max = 1 << 20;
    });
    let ledger = instance.connect();
    for number in 0..CONTEXTS {
        let name = format!("log-{number}");
        let context = ledger.context(&name).open_or_create().expect("room");
        fill(&context, each, &vec![0x5a; 1 << 20]);
    }
    drop(ledger);
    for round in 0..ROUNDS {
        instance.lose_memory();
        let (started, ()) = timed(|| instance.restart());
        let (read, ()) = timed(|| {
            let ledger = instance.connect();
            for number in 0..CONTEXTS {
                let context = ledger
                    .context(&format!("log-{number}"))
                    .open()
                    .expect("it is there");
                let entry = context.get(each).expect("readable").expect("it is there");
                black_box(entry.payload()[0]);
            }
        });
        println!(
            "archive/restart {round}: {} MiB, it answers after {started:?}, all contexts opened and read after {read:?} more",
            CONTEXTS * each
        );
    }
}
