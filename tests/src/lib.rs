//! What the tests share: an instance of their own, peers in other processes,
//! and a clean memory file system afterwards, also when a test fails.

pub mod damage;
pub mod small_memory;
/// Reads the tracee's registers, which differ from machine to machine.
#[cfg(target_arch = "x86_64")]
pub mod traced;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ledger_client::{Context, Ledger};
use ledger_shm::object;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[cfg(target_arch = "x86_64")]
use crate::traced::Traced;

/// Longer than anything here takes; a test that waits so long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where the programs under test lie.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    /// `ledgerd`.
    pub ledgerd: &'static str,
    /// The scripted peer.
    pub peer: &'static str,
}

/// An instance of its own for one test, with its daemon if that is started.
#[derive(Debug)]
pub struct Instance {
    programs: Programs,
    name: String,
    runtime_dir: PathBuf,
    daemon: Option<Child>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Instance {
    /// An instance nobody else uses, without a daemon.
    pub fn new(programs: Programs) -> Instance {
        sweep();
        let name = format!(
            "t_{}_{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let runtime_dir = std::env::temp_dir().join(format!("ledger-{name}"));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&runtime_dir)
            .unwrap_or_else(|error| panic!("{}: {error}", runtime_dir.display()));
        Instance {
            programs,
            name,
            runtime_dir,
            daemon: None,
        }
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

    /// The instance as names in memory have it.
    pub fn objects(&self) -> object::Instance {
        object::Instance::own(&self.name).expect("a valid name")
    }

    /// A command of `ledgerd` on this instance.
    pub fn ledgerd(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.programs.ledgerd);
        command
            .args(args)
            .env("LEDGER_INSTANCE", &self.name)
            .env("LEDGER_RUNTIME_DIR", &self.runtime_dir);
        command
    }

    /// Runs a command of `ledgerd` to its end.
    pub fn run(&self, args: &[&str]) -> Output {
        self.ledgerd(args)
            .stdin(Stdio::null())
            .output()
            .expect("ledgerd starts")
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

    /// Starts the daemon and waits until it says that it listens. It dies with
    /// the test's thread, also when nothing can be cleaned up any more.
    #[allow(
        unsafe_code,
        reason = "what a child does before it becomes the program"
    )]
    pub fn start(&mut self, args: &[&str]) {
        assert!(self.daemon.is_none(), "one daemon at a time");
        let mut command = self.ledgerd(&["run"]);
        command.args(args).stderr(Stdio::piped());
        // SAFETY: between fork and exec the child makes one system call
        // (prctl(2), PR_SET_PDEATHSIG) and touches no memory of the parent's.
        unsafe { command.pre_exec(|| Ok(set_pdeathsig(Signal::SIGKILL)?)) };
        let mut daemon = command.spawn().expect("ledgerd starts");
        let mut lines = BufReader::new(daemon.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.contains(" listens at ") {
            line.clear();
            let len = lines
                .read_line(&mut line)
                .expect("the daemon's words are text");
            assert!(
                len > 0,
                "the daemon ended before it listened: {:?}",
                daemon.wait()
            );
        }
        // Whatever it says later must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::stderr()));
        self.daemon = Some(daemon);
    }

    /// The daemon's process.
    pub fn daemon_pid(&self) -> Pid {
        pid(self.daemon.as_ref().expect("a daemon"))
    }

    /// Kills the daemon with SIGKILL.
    pub fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("a daemon");
        daemon.kill().expect("the daemon is ours");
        daemon.wait().expect("the daemon is our child");
    }

    /// Stops the daemon with SIGTERM, and returns how it ended.
    pub fn stop_daemon(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("a daemon");
        signal(&daemon, Signal::SIGTERM);
        daemon.wait().expect("the daemon is our child")
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

    /// A peer in a process of its own.
    pub fn peer(&self) -> Peer {
        let mut child = Command::new(self.programs.peer)
            .env("LEDGER_INSTANCE", &self.name)
            .env("LEDGER_RUNTIME_DIR", &self.runtime_dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the peer starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Peer {
            child,
            input,
            output,
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(mut daemon) = self.daemon.take() {
            // Gone already is as good.
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        remove_objects(&self.name);
        let _ = std::fs::remove_dir_all(&self.runtime_dir);
    }
}

/// Removes what an instance has in memory, whatever state that is in.
fn remove_objects(name: &str) {
    let instance = object::Instance::own(name).expect("a valid name");
    for name in object::list(&instance).unwrap_or_default() {
        let _ = object::unlink(&instance, name);
    }
}

/// Removes what tests left that were killed before they could.
fn sweep() {
    let uid = nix::unistd::geteuid();
    let prefix = format!("ledger-{uid}-t_");
    for entry in std::fs::read_dir(object::MEMORY_DIR)
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(&prefix)) else {
            continue;
        };
        let is_alive = rest
            .split('_')
            .next()
            .and_then(|pid| pid.parse().ok())
            .is_some_and(|pid| kill(Pid::from_raw(pid), None).is_ok());
        if !is_alive {
            let _ = std::fs::remove_file(entry.path());
        }
    }
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

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("a pid"))
}

fn signal(child: &Child, signal: Signal) {
    kill(pid(child), signal).expect("our child");
}

/// Another process that does what it is told, one line at a time.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Peer {
    /// Tells it to do something, without waiting for the answer.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the peer listens");
    }

    /// The next line it says.
    pub fn hear(&mut self) -> String {
        let mut line = String::new();
        self.output
            .read_line(&mut line)
            .expect("the peer speaks text");
        line.trim_end().to_owned()
    }

    /// Tells it to do something and returns what it answers.
    pub fn ask(&mut self, line: &str) -> String {
        self.tell(line);
        self.hear()
    }

    /// Tells it to do something that must work.
    pub fn must(&mut self, line: &str) -> String {
        let answer = self.ask(line);
        assert!(answer.starts_with("ok"), "peer: {line}: {answer}");
        answer.trim_start_matches("ok").trim_start().to_owned()
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        pid(&self.child)
    }

    /// Traces its main thread.
    #[cfg(target_arch = "x86_64")]
    pub fn traced(&self) -> Traced {
        Traced::attach(self.pid())
    }

    /// How many parts of an instance it has mapped for writing.
    pub fn writable_part_count(&self, instance: &Instance) -> usize {
        let path = format!("/proc/{}/maps", self.child.id());
        let maps = std::fs::read_to_string(path).expect("the peer lives");
        let is_part = |line: &&str| line.contains(" rw-s ") && line.contains(instance.name());
        maps.lines().filter(is_part).count()
    }

    /// Sends it a signal.
    pub fn signal(&self, which: Signal) {
        signal(&self.child, which);
    }

    /// Waits until the kernel says that it is stopped or sleeps.
    pub fn wait_for_state(&self, states: &[char]) {
        let path = format!("/proc/{}/stat", self.child.id());
        eventually("the peer's state", || {
            let stat = std::fs::read_to_string(&path).expect("the peer lives");
            let state = stat.rsplit(") ").next()?.chars().next()?;
            states.contains(&state).then_some(())
        });
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }

    /// Lets it end, and returns how it did: a signal's number if it was one.
    pub fn end(mut self) -> Result<(), i32> {
        self.tell("end");
        let status = self.child.wait().expect("our child");
        if status.success() {
            Ok(())
        } else {
            Err(status.signal().unwrap_or(-1))
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
