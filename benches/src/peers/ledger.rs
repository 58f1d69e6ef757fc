//! The ledger, through its public API: rkyv, checksums, wall clock. And the same without time
//! and checksums, for a comparison with what has neither.

use std::any::Any;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use ledger_client::{Appender, Context, NewEntry, Sizes, Watcher};
use rkyv::rancor::Fallible;
use rkyv::{Archive, Place as ArchivePlace, Serialize};

use crate::child::Running;
use crate::instance::{self, Instance};

use super::{Host, Missing, Past, Peer, Place, Receiver, Sender, Wait, stop};

/// Whether it is built without time and checksums, which no feature can turn on.
pub struct Ledger<const IS_BARE: bool>;

/// From this package's directory: where the other one is built.
const BARE_TARGET: &str = "target/bare";

/// Builds it, which takes minutes the first time.
///
/// # Errors
///
/// It cannot be built.
pub fn build_bare() -> Result<(), String> {
    let here = env!("CARGO_MANIFEST_DIR");
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--locked"]);
    command.args(["--target-dir", BARE_TARGET]);
    command
        .env("RUSTFLAGS", "--cfg ledger_bare")
        .current_dir(here);
    let built = Running::start(&mut command).and_then(|mut building| building.wait());
    match built {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("cargo build without time and checksums: {status}")),
        Err(error) => Err(format!("cargo: {error}")),
    }
}

/// How long the memory that an append has asked for takes to be zeroed.
const SETTLE: Duration = Duration::from_millis(100);

impl<const IS_BARE: bool> Peer for Ledger<IS_BARE> {
    type Sender = Appender;
    type Receiver = Watching;
    type Past = Context;

    fn host(_: &Path) -> Result<Host, Missing> {
        let which = if IS_BARE { "bare" } else { "full" };
        let name = format!("bench_{}_{which}", std::process::id());
        let failed = |error: io::Error| Missing::Failed(error.to_string());
        let program = Self::program().map_or_else(std::env::current_exe, Ok);
        let mut command = Command::new(program.map_err(failed)?);
        command.args(["--role", "host", &name]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut hosting = Hosting(Running::start(&mut command).map_err(failed)?);
        let output = hosting.0.stdout.take().expect("a pipe");
        let said = BufReader::new(output).lines().next();
        let dir = said.unwrap_or_else(|| Err(io::ErrorKind::UnexpectedEof.into()));
        Ok(Host {
            address: format!("{name}\n{}", dir.map_err(failed)?),
            _running: Box::new(hosting),
        })
    }

    fn sender(place: &Place) -> Appender {
        context(place).appender().expect("an appender")
    }

    fn receiver(place: &Place, _: usize) -> Watching {
        let context = context(place);
        let next = context.latest().expect("readable") + 1;
        Watching {
            watcher: context.watch(next),
            wait: place.wait,
        }
    }

    fn past(place: &Place) -> Context {
        let (name, dir) = place.address.split_once('\n').expect("an instance");
        let ledger = instance::connect(name, dir);
        ledger
            .context(&place.topic)
            .open_read_only()
            .expect("there")
    }

    fn program() -> Option<PathBuf> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join(BARE_TARGET);
        IS_BARE.then(|| target.join("release/ledger-benches"))
    }

    /// They are there whether anybody has them open or not.
    fn idle(place: &Place, count: u64) -> Box<dyn Any> {
        let (name, dir) = place.address.split_once('\n').expect("an instance");
        let ledger = instance::connect(name, dir);
        for n in 0..count {
            let name = format!("{}-{n}", place.topic);
            ledger.context(&name).open_or_create().expect("room");
        }
        Box::new(())
    }
}

/// A daemon in a process of its own.
struct Hosting(Running);

impl Drop for Hosting {
    /// Lets it end by itself, and take its memory with it.
    fn drop(&mut self) {
        self.0.stdin = None;
        let _ = self.0.wait();
    }
}

/// What that process does, until nobody writes to it any more.
pub fn host(rest: &[String]) {
    let [name] = rest else {
        panic!("a name");
    };
    let instance = Instance::named(name.clone(), |options| {
        options.sizes.spare_len_min = Some(64 << 20);
    });
    println!("{}", instance.dir.display());
    let _ = io::stdin().read_line(&mut String::new());
}

/// Of a context that keeps all, in bytes: more than any work sends.
const WINDOW: u64 = 4 << 30;

fn context(place: &Place) -> Context {
    let (name, dir) = place.address.split_once('\n').expect("an instance");
    let ledger = instance::connect(name, dir);
    let sizes = Sizes {
        window_len: place.keeps_all.then_some(WINDOW),
        ..Sizes::default()
    };
    let options = ledger.context(&place.topic).sizes(sizes);
    options.open_or_create().expect("room")
}

/// A value that is never serialised to its end: the process stops in it, with a block that
/// nobody else may use and before the record in it has a number.
struct Endless;

impl Archive for Endless {
    type Archived = ();
    type Resolver = ();

    fn resolve(&self, (): (), _: ArchivePlace<()>) {}
}

impl<S: Fallible + ?Sized> Serialize<S> for Endless {
    fn serialize(&self, _: &mut S) -> Result<(), S::Error> {
        stop();
        Ok(())
    }
}

impl Sender for Appender {
    fn send(&mut self, payload: &[u8]) {
        self.append(&NewEntry::new("facts", payload)).expect("room");
    }

    fn stop_within(&mut self, payload: &[u8]) {
        // Then it has a block, into whose rest the next record is written at once.
        self.send(payload);
        self.append(&NewEntry::typed("facts", &Endless))
            .expect("room");
    }

    fn settle(&mut self) {
        self.wait_ready(Duration::from_secs(1));
        std::thread::sleep(SETTLE);
    }
}

pub struct Watching {
    watcher: Watcher,
    wait: Wait,
}

impl Receiver for Watching {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) {
        if self.wait == Wait::Parked {
            read(self.watcher.next().expect("readable").payload());
            return;
        }
        loop {
            if let Some(entry) = self.watcher.try_next().expect("readable") {
                return read(entry.payload());
            }
            std::hint::spin_loop();
        }
    }

    fn skip(&mut self) {
        while self.watcher.try_next().expect("readable").is_some() {}
    }
}

impl Past for Context {
    fn scan(&mut self, read: &mut impl FnMut(&[u8])) {
        let mut range = self.range(1);
        while let Some(entry) = range.next_entry().expect("readable") {
            read(entry.payload());
        }
    }

    fn get(&mut self, n: u64, read: &mut impl FnMut(&[u8])) {
        let entry = Context::get(self, n + 1).expect("readable");
        read(entry.expect("there").payload());
    }
}
