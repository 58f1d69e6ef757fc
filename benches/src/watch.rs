//! Waiting: an append in one process, seen in another.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::{Duration, Instant};

use ledger_client::{NewEntry, Watcher};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, shm_open, shm_unlink};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::instance::{self, Instance};
use crate::limits;
use crate::report::{histogram, percentiles, pin};

/// One page that two processes share.
pub struct SharedPage {
    name: String,
    address: std::ptr::NonNull<u8>,
    is_owner: bool,
}

impl SharedPage {
    pub fn create(what: &str) -> SharedPage {
        let name = format!("/ledger-bench-{what}-{}", std::process::id());
        let flags = nix::fcntl::OFlag::O_CREAT | nix::fcntl::OFlag::O_RDWR;
        let fd = shm_open(name.as_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR).expect("shared memory");
        nix::unistd::ftruncate(&fd, 4096).expect("room");
        SharedPage { address: map(&fd), name, is_owner: true }
    }

    fn open(name: &str) -> SharedPage {
        let fd = shm_open(name, nix::fcntl::OFlag::O_RDWR, Mode::empty()).expect("made by the parent");
        SharedPage { address: map(&fd), name: name.to_owned(), is_owner: false }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn word64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < 4096);
        // SAFETY: inside the page, aligned, and only ever used as an atomic.
        unsafe { AtomicU64::from_ptr(self.address.as_ptr().add(offset).cast()) }
    }

    pub fn word32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset < 4096);
        // SAFETY: as for `word64`.
        unsafe { AtomicU32::from_ptr(self.address.as_ptr().add(offset).cast()) }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        if self.is_owner {
            let _ = shm_unlink(self.name.as_str());
        }
    }
}

fn map(fd: &OwnedFd) -> std::ptr::NonNull<u8> {
    let len = NonZeroUsize::new(4096).expect("a page");
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh range of the kernel's choice, kept until the process ends.
    unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, fd, 0) }.expect("mapped").cast()
}

fn start(role: &str, rest: &[&str]) -> Child {
    let program = std::env::current_exe().expect("our own path");
    Command::new(program).arg("--role").arg(role).args(rest).spawn().expect("a child")
}

/// Starts a child that plays a part.
pub fn spawn(role: &str, rest: &[&str]) -> Pid {
    Pid::from_raw(start(role, rest).id() as i32)
}

/// What a child does.
pub fn play(role: &str, rest: &[String]) {
    pin(1);
    match (role, rest) {
        ("echo-line", [page]) => {
            let page = SharedPage::open(page);
            limits::echo_line(page.word64(0), page.word64(128));
        }
        ("echo-futex", [page]) => {
            let page = SharedPage::open(page);
            limits::echo_futex(page.word32(0), page.word32(128));
        }
        ("echo-log", [name, dir, mode, rounds]) => echo_log(name, dir, mode, rounds.parse().expect("a number")),
        ("sleep", [name, dir]) => {
            let context = instance::connect(name, dir).context("there").open_read_only().expect("there");
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

fn echo_log(name: &str, dir: &str, mode: &str, rounds: u64) {
    let ledger = instance::connect(name, dir);
    let there = ledger.context("there").open().expect("there");
    let mut back = ledger.context("back").open().expect("there").appender().expect("an appender");
    let mut watcher = there.watch(1);
    let payload = [1; 64];
    for _ in 0..rounds {
        wait(&mut watcher, mode);
        back.append(&NewEntry::new("facts", &payload)).expect("room");
    }
}

fn there_and_back(mode: &str, rounds: u64) {
    let instance = Instance::start(|_| {});
    let ledger = instance.connect();
    let there = ledger.context("there").open_or_create().expect("room");
    let back = ledger.context("back").open_or_create().expect("room");
    let mut appender = there.appender().expect("an appender");
    let mut watcher = back.watch(1);
    let dir = instance.dir.to_string_lossy();
    let mut child = start("echo-log", &[&instance.name, &dir, mode, &rounds.to_string()]);
    pin(0);
    let mut latencies = histogram();
    let payload = [2; 64];
    for n in 0..rounds {
        let start = Instant::now();
        appender.append(&NewEntry::new("facts", &payload)).expect("room");
        wait(&mut watcher, mode);
        if n > rounds / 10 {
            latencies.saturating_record(start.elapsed().as_nanos() as u64);
        }
    }
    child.wait().expect("our child");
    percentiles(&format!("watch/{mode} there and back"), &latencies);
}

/// Append to a spinning watcher and back, through two logs.
pub fn spinning(scale: u64) {
    there_and_back("spinning", 500_000 / scale);
}

/// Append to a parked watcher and back; and what sleepers cost the appender.
pub fn parked(scale: u64) {
    there_and_back("parked", 20_000 / scale);
    for sleepers in [1, 8] {
        let instance = Instance::start(|_| {});
        let ledger = instance.connect();
        let there = ledger.context("there").open_or_create().expect("room");
        let mut appender = there.appender().expect("an appender");
        let dir = instance.dir.to_string_lossy();
        let mut children: Vec<Child> =
            (0..sleepers).map(|_| start("sleep", &[&instance.name, &dir])).collect();
        pin(0);
        let payload = [2; 64];
        let mut latencies = histogram();
        std::thread::sleep(Duration::from_millis(200));
        for _ in 0..2_000 / scale {
            // Long enough for every sleeper to be asleep again.
            std::thread::sleep(Duration::from_millis(1));
            let start = Instant::now();
            appender.append(&NewEntry::new("facts", &payload)).expect("room");
            latencies.saturating_record(start.elapsed().as_nanos() as u64);
        }
        appender.append(&NewEntry::new("end", &payload)).expect("room");
        for child in &mut children {
            child.wait().expect("our child");
        }
        percentiles(&format!("watch/append with {sleepers} parked"), &latencies);
    }
}
