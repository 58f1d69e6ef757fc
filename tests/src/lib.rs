//! What the tests share: an instance of their own, peers in other processes,
//! and a clean memory file system afterwards, also when a test fails.

pub mod attack;
/// Of a tracee, whose registers differ from machine to machine.
#[cfg(target_arch = "x86_64")]
pub mod call;
pub mod damage;
mod example;
pub mod held_disk;
mod mapped;
pub mod memory_group;
pub mod oracle;
pub mod power;
pub mod process;
mod scripted;
pub mod sleeper;
pub mod small_memory;
pub mod spoken;
/// Changes the tracee's registers, which differ from machine to machine.
#[cfg(target_arch = "x86_64")]
pub mod supervised;
mod sweep;
#[cfg(target_arch = "x86_64")]
pub mod torture;
/// Reads the tracee's registers, which differ from machine to machine.
#[cfg(target_arch = "x86_64")]
pub mod traced;
pub mod worker;

use std::error::Error;
use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ledger_client::{Context, Ledger, place};
use ledger_shm::object::{self, Epoch, Name};
use ledgerd::Options;
use nix::sys::resource::{Resource, UsageWho, getrusage};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::geteuid;

pub use crate::example::{daemon_example, example, example_in_memory};
use crate::process::{Lines, Process, state};
pub use crate::scripted::Peer;

/// Longer than anything here takes; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where the programs under test lie.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    /// `ledgerd`.
    pub ledgerd: &'static str,
    /// The scripted peer.
    pub peer: &'static str,
    /// The process that decides a loan application.
    pub engine: &'static str,
}

/// An instance of its own for one test, with its daemon if that is started.
#[derive(Debug)]
pub struct Instance {
    programs: Programs,
    uid: u32,
    name: String,
    runtime_dir: PathBuf,
    daemon: Option<Process>,
    said_first: Vec<String>,
    /// What the daemon has said, and what hears it, until it ends.
    said: Arc<Mutex<Vec<String>>>,
    listener: Option<JoinHandle<()>>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Instance {
    /// An instance nobody else uses, without a daemon.
    pub fn new(programs: Programs) -> Instance {
        Instance::of(geteuid().as_raw(), programs)
    }

    /// One that belongs to another uid, as `ledgerd` does when it is started
    /// for it. Only root can make one.
    pub fn of(uid: u32, programs: Programs) -> Instance {
        sweep::sweep();
        let name = sweep::name(NEXT.fetch_add(1, Ordering::Relaxed));
        let runtime_dir = sweep::runtime_dir(&name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&runtime_dir)
            .unwrap_or_else(|error| panic!("{}: {error}", runtime_dir.display()));
        let instance = Instance {
            programs,
            uid,
            name,
            runtime_dir,
            daemon: None,
            said_first: Vec::new(),
            said: Arc::default(),
            listener: None,
        };
        if !instance.is_own() {
            chown(&instance.runtime_dir, Some(uid), None).expect("root may");
        }
        instance
    }

    fn is_own(&self) -> bool {
        self.uid == geteuid().as_raw()
    }

    /// An instance with a running daemon.
    pub fn started(programs: Programs, args: &[&str]) -> Instance {
        let mut instance = Instance::new(programs);
        instance.start(args);
        instance
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its socket lies.
    pub fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// Where its archive lies, if it keeps one.
    pub fn state_dir(&self) -> PathBuf {
        self.runtime_dir.join("state")
    }

    /// How a daemon of it is run in this process.
    pub fn options(&self) -> Options {
        let mut options = Options::new(&self.name);
        options.runtime_dir.clone_from(&self.runtime_dir);
        options.state_dir = self.state_dir();
        options
    }

    /// The instance as names in memory have it.
    pub fn objects(&self) -> object::Instance {
        object::Instance::new(self.uid, &self.name).expect("a valid name")
    }

    /// Its daemon's socket.
    pub fn socket(&self) -> PathBuf {
        place::socket_path(&self.runtime_dir, &self.objects())
    }

    /// A command of `ledgerd` on this instance.
    pub fn ledgerd(&self, args: &[&str]) -> Command {
        let mut command = self.command(self.programs.ledgerd);
        command.args(args);
        if !self.is_own() {
            command.uid(self.uid);
        }
        command
    }

    /// The process that decides a loan application.
    pub fn engine(&self, args: &[&str]) -> Output {
        let mut command = self.command(self.programs.engine);
        command.args(args).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Process::start(&mut command).output()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("LEDGER_INSTANCE", &self.name)
            .env("LEDGER_RUNTIME_DIR", &self.runtime_dir)
            .env("LEDGER_STATE_DIR", self.state_dir())
            .env("XDG_CONFIG_HOME", &self.runtime_dir)
            .env(OWNER, self.uid.to_string());
        command
    }

    /// Runs a command of `ledgerd` to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = self.ledgerd(args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Process::start(&mut command).output()
    }

    /// What a successful command printed.
    pub fn printed(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "ledgerd {args:?}: {} {errors}",
            output.status
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// What a failing command said.
    pub fn complained(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(!output.status.success(), "ledgerd {args:?} succeeded");
        String::from_utf8(output.stderr).expect("text")
    }

    /// Starts the daemon and waits until it says that it listens.
    pub fn start(&mut self, args: &[&str]) {
        self.start_in(&[], args);
    }

    /// As [`start`](Self::start), with more in its environment.
    pub fn start_in(&mut self, environment: &[(&str, &str)], args: &[&str]) {
        assert!(self.daemon.is_none(), "one daemon at a time");
        let mut command = self.ledgerd(&["run"]);
        command.args(args).envs(environment.iter().copied());
        let mut daemon = Process::start(command.stderr(Stdio::piped()));
        let mut lines = Lines::of(daemon.stderr.take().expect("piped"));
        let mut heard = Vec::new();
        loop {
            let line = lines.line();
            let line = line.unwrap_or_else(|error| panic!("ledgerd run {args:?}: {error}"));
            let is_listening = line.contains(" listens at ");
            if !is_listening {
                eprintln!("{line}");
            }
            heard.push(line);
            if is_listening {
                break;
            }
        }
        self.said_first.clone_from(&heard);
        self.said = Arc::new(Mutex::new(heard));
        let said = Arc::clone(&self.said);
        // Whatever it says later must not fill the pipe.
        let rest = BufReader::new(lines.rest());
        self.listener = Some(std::thread::spawn(move || {
            for line in rest.split(b'\n').map_while(std::io::Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                eprintln!("{line}");
                said.lock().expect("it only listens").push(line);
            }
        }));
        self.daemon = Some(daemon);
    }

    /// What the daemon said until it listened.
    pub fn said_first(&self) -> &[String] {
        &self.said_first
    }

    /// Whether the daemon has said something with this in it.
    pub fn has_said(&self, text: &str) -> bool {
        let said = self.said.lock().expect("it only listens");
        said.iter().any(|line| line.contains(text))
    }

    /// The daemon's process id.
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().expect("a daemon").id()
    }

    /// Stops the daemon with SIGSTOP, and waits until none of its threads runs.
    pub fn pause_daemon(&self) {
        let daemon = self.daemon.as_ref().expect("a daemon");
        daemon.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", daemon.pid());
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            task.is_ok_and(|task| state(&task.path()) == Some('T'))
        };
        eventually("every thread of the daemon is stopped", || {
            let mut tasks = std::fs::read_dir(&tasks).expect("it lives");
            tasks.all(is_stopped).then_some(())
        });
    }

    /// Has a stopped daemon go on.
    pub fn resume_daemon(&self) {
        self.daemon
            .as_ref()
            .expect("a daemon")
            .signal(Signal::SIGCONT);
    }

    /// Has the daemon get no descriptors beyond this number.
    pub fn limit_descriptors(&self, count: u64) {
        let daemon = self.daemon.as_ref().expect("a daemon");
        let limited = process::limit(daemon.pid(), Resource::RLIMIT_NOFILE, count);
        limited.expect("it lives");
    }

    /// Kills the daemon with SIGKILL, and returns what it has said in its log.
    ///
    /// # Panics
    ///
    /// If it had ended by itself.
    pub fn kill_daemon(&mut self) -> Vec<String> {
        let mut daemon = self.daemon.take().expect("a daemon");
        let ended = daemon.try_wait().expect("our child");
        drop(daemon);
        let heard = self.check_heard();
        assert!(ended.is_none(), "the daemon ended by itself: {ended:?}");
        heard
    }

    /// Stops the daemon with SIGTERM, and returns how it ended.
    pub fn stop_daemon(&mut self) -> ExitStatus {
        self.stop_daemon_with(Signal::SIGTERM)
    }

    /// Stops the daemon with a signal, and returns how it ended.
    pub fn stop_daemon_with(&mut self, signal: Signal) -> ExitStatus {
        let daemon = self.daemon.take().expect("a daemon");
        daemon.signal(signal);
        let ended = daemon.ended();
        self.check_heard();
        ended
    }

    /// What the daemon has said. Also a thread that has panicked, and that the daemon goes on
    /// without, is none that should have.
    fn check_heard(&mut self) -> Vec<String> {
        let listener = self.listener.take().expect("it said that it listens");
        listener.join().expect("it only listens");
        let heard = std::mem::take(&mut *self.said.lock().expect("it has ended"));
        let has_panicked = heard.iter().any(|line| line.contains("panicked at"));
        assert!(!has_panicked, "the daemon has panicked, see above");
        heard
    }

    /// Has the daemon read its configuration again.
    pub fn reload_daemon(&self) {
        let daemon = self.daemon.as_ref().expect("a daemon");
        daemon.signal(Signal::SIGHUP);
    }

    /// Connects from this process.
    pub fn connect(&self) -> Ledger {
        self.builder().connect().expect("a daemon")
    }

    /// How to connect from this process.
    pub fn builder(&self) -> ledger_client::Builder {
        Ledger::builder()
            .instance(&self.name)
            .runtime_dir(&self.runtime_dir)
            .uid(self.uid)
    }

    /// A context in this process.
    pub fn context(&self, name: &str) -> Context {
        self.connect()
            .context(name)
            .open_or_create()
            .expect("a context")
    }

    /// What a fresh reader in another process sees of a context.
    pub fn peer_digest(&self, context: &str) -> String {
        let mut reader = self.peer();
        reader.must(&format!("read {context}"));
        reader.must("digest")
    }

    /// Has other uids reach the socket, and the daemon read this configuration.
    pub fn configure(&self, toml: &str) -> PathBuf {
        std::fs::set_permissions(&self.runtime_dir, Permissions::from_mode(0o711))
            .expect("our directory");
        let path = self.runtime_dir.join("config.toml");
        // At once: a daemon may be reading the one before.
        let beside = self.runtime_dir.join("config.toml.new");
        std::fs::write(&beside, toml).expect("our directory");
        chown(&beside, Some(self.uid), None).expect("root may");
        std::fs::rename(&beside, &path).expect("our directory");
        path
    }

    /// A peer of another uid, in a group of that number.
    pub fn peer_as(&self, uid: u32) -> Peer {
        Peer::start(self.command(self.programs.peer).uid(uid).gid(uid))
    }

    /// A peer of another uid, in a group of that number and in another one.
    pub fn peer_in_group(&self, uid: u32, group: u32) -> Peer {
        let mut command = self.command(self.programs.peer);
        Peer::start(process::in_group(&mut command, uid, group))
    }

    /// A command of `ledgerd` on this instance, as another uid.
    pub fn ledgerd_as(&self, uid: u32, args: &[&str]) -> Command {
        let mut command = self.command(self.programs.ledgerd);
        command.args(["--uid", &self.uid.to_string()]).args(args);
        command.uid(uid).gid(uid);
        command
    }

    /// A peer whose code lies where that of every other such peer lies.
    pub fn peer_in_place(&self) -> Peer {
        Peer::start(process::in_place(&mut self.command(self.programs.peer)))
    }

    /// A peer that works by itself, as another uid if one is named, and puts down what it
    /// is told.
    pub(crate) fn working_peer(&self, args: &[&str], uid: Option<u32>, told: File) -> Process {
        let mut command = self.command(self.programs.peer);
        if let Some(uid) = uid {
            command.uid(uid).gid(uid);
        }
        Process::start(command.args(args).stdin(Stdio::null()).stdout(told))
    }

    /// A peer in a process of its own.
    pub fn peer(&self) -> Peer {
        Peer::start(&mut self.peer_command())
    }

    /// The same, to be started otherwise.
    pub(crate) fn peer_command(&self) -> Command {
        self.command(self.programs.peer)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Before its objects, so that it makes no more of them.
        let had_daemon = self.daemon.take().is_some();
        sweep::remove_objects(&self.objects());
        let _ = std::fs::remove_dir_all(&self.runtime_dir);
        if had_daemon && !std::thread::panicking() {
            self.check_heard();
        }
    }
}

/// How often this thread has slept, for whatever reason (getrusage(2)).
///
/// # Panics
///
/// If the kernel does not count that.
pub fn sleeps() -> i64 {
    let usage = getrusage(UsageWho::RUSAGE_THREAD).expect("our own");
    usage.voluntary_context_switches()
}

/// A clock that all processes share and nobody sets.
///
/// # Errors
///
/// The kernel's.
pub fn now_ns() -> nix::Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok((now.tv_sec() * 1_000_000_000 + now.tv_nsec()) as u64)
}

/// Tells a peer whose instance it is.
const OWNER: &str = "LEDGER_TEST_OWNER";

/// In a peer: whose instance it is.
///
/// # Errors
///
/// If nobody has told it.
pub fn owner() -> Result<u32, Box<dyn Error>> {
    Ok(std::env::var(OWNER)?.parse()?)
}

/// If set, a machine that does not allow what a test needs fails it.
const EVERYTHING: &str = "LEDGER_TEST_EVERYTHING";

/// Says that a test is skipped, and why, unless every one is wanted.
///
/// # Panics
///
/// If every one is.
pub(crate) fn skip(why: &str) {
    assert!(std::env::var_os(EVERYTHING).is_none(), "{why}");
    eprintln!("skipped: {why}");
}

/// Whether a test can act as several uids.
///
/// # Panics
///
/// If it cannot, and every test is wanted.
pub fn may_be_others() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        skip("only root can be somebody else");
    }
    is_root
}

/// The numbers of the parts of a context that are in memory, spares among them.
///
/// # Panics
///
/// If that cannot be looked at.
pub fn parts_in_memory(objects: &object::Instance, epoch: Epoch) -> Vec<u64> {
    let names = object::list(objects).expect("listed").into_iter();
    let part = |name| match name {
        Name::Part(of, part) if of == epoch => Some(part),
        _ => None,
    };
    names.filter_map(part).collect()
}

/// Waits until something holds, looking often.
///
/// # Panics
///
/// If it does not within [`PATIENCE`].
pub fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::yield_now();
    }
}
