//! What many idle contexts cost: memory, the time to list them, and the time until
//! a daemon that was killed has found them again.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ledger_client::Ledger;
use ledger_shm::object;
use ledgerd::{Daemon, Durability, Options};

use crate::child::Running;
use crate::instance;
use crate::report::kib;

/// Shared memory that the contexts take at most.
const ROOM: u64 = 3 << 30;

/// A daemon in a process of its own, which can be killed.
struct Killable {
    name: String,
    dir: PathBuf,
    child: Running,
}

impl Killable {
    fn start() -> Killable {
        let name = format!("bench_{}", std::process::id());
        let dir = std::env::temp_dir().join(format!("ledger-{name}"));
        let child = run(&name, &dir);
        Killable { name, dir, child }
    }

    fn connect(&self) -> Ledger {
        instance::connect(&self.name, &self.dir.to_string_lossy())
    }

    fn kill(&mut self) {
        self.child.kill().expect("ours");
        self.child.wait().expect("ours");
    }

    /// What the kernel says about its process, in KiB.
    fn status_kib(&self, what: &str) -> u64 {
        kib(&format!("/proc/{}/status", self.child.id()), what)
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        self.kill();
        let instance = object::Instance::own(&self.name).expect("a valid name");
        if let Err(error) = ledgerd::purge(&instance, &self.dir) {
            eprintln!("purge: {error}");
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// Starts one and returns when it listens.
fn run(name: &str, dir: &std::path::Path) -> Running {
    let mut command = Command::new(std::env::current_exe().expect("our own path"));
    command.args(["--role", "daemon", name]).arg(dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running::start(&mut command).expect("a child");
    let output = child.stdout.as_mut().expect("piped");
    let mut line = String::new();
    BufReader::new(output)
        .read_line(&mut line)
        .expect("it says so");
    assert_eq!(line, "listens\n");
    child
}

/// The part of the child.
pub fn be_daemon(rest: &[String]) {
    let [name, dir] = rest else {
        panic!("a name and a directory");
    };
    let mut options = Options::new(name);
    options.runtime_dir = dir.into();
    options.durability = Durability::Memory;
    options.memory_budget = Some(ROOM);
    options.idle_close_after = Duration::from_millis(10);
    let _daemon = Daemon::start(options).expect("it starts");
    println!("listens");
    // Until our parent ends.
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// A hundred thousand idle contexts, and the time in which this machine opens,
/// reads and closes as many files as listing them has to.
pub fn idle_contexts(scale: u64) {
    let room = ROOM / scale;
    if object::free_len().expect("a memory file system") < room {
        println!("scale/idle-contexts: skipped, it takes {room} bytes of shared memory");
        return;
    }
    let count = 100_000 / scale;
    let before = kib("/proc/meminfo", "MemAvailable");
    let mut daemon = Killable::start();
    let ledger = daemon.connect();
    let started = Instant::now();
    for n in 0..count {
        let name = format!("idle-{n:06}");
        ledger.context(&name).open_or_create().expect("room");
    }
    let made = started.elapsed();
    // The last ones have not been closed yet.
    while ledger.status().expect("it answers").attached > 0 {
        std::thread::yield_now();
    }
    let used = before.saturating_sub(kib("/proc/meminfo", "MemAvailable"));
    println!(
        "scale/idle-contexts                n {count:>9}  made in {:.1} s  {} MiB in all  daemon {} MiB of its own, at most {} MiB",
        made.as_secs_f64(),
        used >> 10,
        daemon.status_kib("RssAnon") >> 10,
        daemon.status_kib("VmHWM") >> 10,
    );
    let took = || {
        let started = Instant::now();
        let found = ledger.contexts().expect("listed");
        assert_eq!(found.readable.len() as u64, count);
        started.elapsed().as_secs_f64()
    };
    let (first, again) = (took(), took());
    let floor = floor(&ledger);
    println!(
        "scale/ls                           n {count:>9}  {first:.2} s, again {again:.2} s; the system calls alone {floor:.2} s"
    );
    daemon.kill();
    let started = Instant::now();
    daemon.child = run(&daemon.name, &daemon.dir);
    println!(
        "scale/found-again                  n {count:>9}  {:.2} s after a kill  daemon at most {} MiB",
        started.elapsed().as_secs_f64(),
        daemon.status_kib("VmHWM") >> 10,
    );
}

/// Opens and reads the first page of every object, in two threads.
fn floor(ledger: &Ledger) -> f64 {
    let started = Instant::now();
    let names = object::list(ledger.instance()).expect("listed");
    let look = |names: &[object::Name]| {
        for name in names {
            let file =
                std::fs::File::open(name.path_in(ledger.instance())).expect("nobody removes it");
            let read = std::os::unix::fs::FileExt::read_at(&file, &mut [0; 4096], 0);
            read.expect("readable");
        }
    };
    let (one, other) = names.split_at(names.len() / 2);
    std::thread::scope(|scope| {
        scope.spawn(|| look(other));
        look(one);
    });
    started.elapsed().as_secs_f64()
}
