//! The examples, run as their first lines say.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use ledger_client::{Context, Ledger, NewEntry};
use ledgerd::{Daemon, Durability, Options};

/// A daemon of a test's own, whose memory is freed when the test ends.
struct Instance {
    daemon: Option<Daemon>,
    options: Options,
}

impl Instance {
    fn start(name: &str) -> Instance {
        let mut options = Options::new(format!("example_{}_{name}", std::process::id()));
        options.durability = Durability::Memory;
        let daemon = Daemon::start(options.clone()).expect("a daemon");
        Instance {
            daemon: Some(daemon),
            options,
        }
    }

    /// An example, which cargo builds before it runs any test.
    fn command(&self, example: &str, args: &[&str]) -> Command {
        let test = std::env::current_exe().expect("our own path");
        let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<us>");
        let program: PathBuf = profile.join("examples").join(example);
        assert!(program.exists(), "{} is missing", program.display());
        let mut command = Command::new(program);
        command
            .args(args)
            .env("LEDGER_INSTANCE", &self.options.instance)
            .env("LEDGER_RUNTIME_DIR", &self.options.runtime_dir);
        command
    }

    fn printed(&self, example: &str, args: &[&str]) -> String {
        let output = self.command(example, args).output().expect("it starts");
        text(example, output)
    }

    fn context(&self, name: &str) -> Context {
        let ledger = Ledger::builder()
            .instance(&self.options.instance)
            .runtime_dir(&self.options.runtime_dir)
            .connect()
            .expect("a daemon");
        ledger.context(name).open_or_create().expect("a context")
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        drop(self.daemon.take());
        let instance = ledger_shm::object::Instance::own(&self.options.instance);
        let instance = instance.expect("a valid name");
        ledgerd::purge(&instance, &self.options.runtime_dir).expect("nobody else's");
    }
}

fn text(example: &str, output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{example}: {errors}");
    String::from_utf8(output.stdout).expect("text")
}

/// A process that is killed when the test ends.
struct Watching(Child);

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn append_prints_what_the_entry_got() {
    let instance = Instance::start("append");
    let args = ["loan-7", "facts", "income: 4200"];
    assert_eq!(instance.printed("append", &args), "seq 1, Lamport time 1\n");
    let entry = instance.context("loan-7").get(1).expect("readable");
    assert_eq!(entry.expect("there").payload(), b"income: 4200");
}

#[test]
fn batch_appends_every_line() {
    let instance = Instance::start("batch");
    let mut command = instance.command("batch", &["numbers"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let mut input = child.stdin.take().expect("piped");
    for n in 0..2500 {
        writeln!(input, "{n}").expect("it reads");
    }
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(text("batch", output), "2500 entries\n");
    let context = instance.context("numbers");
    assert_eq!(context.latest().expect("readable"), 2500);
    let last = context.get(2500).expect("readable").expect("there");
    assert_eq!(last.payload(), b"2499");
}

#[test]
fn typed_reads_what_it_wrote() {
    let instance = Instance::start("typed");
    assert_eq!(
        instance.printed("typed", &[]),
        "boiler was at most 64.25 °C\n"
    );
}

#[test]
fn many_contexts_have_two_entries_each() {
    let instance = Instance::start("many");
    assert_eq!(instance.printed("many_contexts", &["50"]), "100 entries\n");
}

/// Whoever watches sees what was there and what comes.
fn watches(example: &str, line: impl Fn(u64) -> String) {
    let instance = Instance::start(example);
    let mut appender = instance.context("log").appender().expect("an appender");
    appender.append(&NewEntry::new("k", b"v")).expect("room");
    let mut command = instance.command(example, &["log"]);
    let mut watching = Watching(command.stdout(Stdio::piped()).spawn().expect("it starts"));
    let mut output = BufReader::new(watching.0.stdout.take().expect("piped"));
    for seq in 1..=3 {
        let mut printed = String::new();
        output.read_line(&mut printed).expect("text");
        assert_eq!(printed.trim_end(), line(seq));
        appender.append(&NewEntry::new("k", b"v")).expect("room");
    }
}

#[test]
fn watch_prints_entries_as_they_come() {
    watches("watch", |seq| format!("{seq} k 1 bytes"));
}

#[test]
fn watch_epoll_prints_entries_as_they_come() {
    watches("watch_epoll", |seq| format!("{seq} k"));
}

#[cfg(feature = "tokio")]
#[test]
fn watch_tokio_prints_entries_as_they_come() {
    watches("watch_tokio", |seq| format!("log: {seq} k"));
}

#[cfg(feature = "converge")]
#[test]
fn a_run_that_record_begins_is_resumed_as_a_human_says() {
    use ledger_client::converge::history::{Verdict, gates};

    let instance = Instance::start("converge");
    for (scope, answer) in [("loan-7", Verdict::Approved), ("loan-8", Verdict::Rejected)] {
        let printed = instance.printed("record", &[scope, "4200 euros"]);
        assert_eq!(printed, "lend 4200 euros?\n");
        let misspelt = instance.command("resume", &[scope, "aprove"]).output();
        assert!(!misspelt.expect("it starts").status.success());
        let word = match answer {
            Verdict::Approved => "approve",
            Verdict::Rejected => "reject",
        };
        let printed = instance.printed("resume", &[scope, word]);
        assert!(printed.starts_with("Converged: "), "{printed}");
        let gates = gates(&instance.context(scope)).expect("readable");
        let decision = gates[0].decision.as_ref().expect("it is answered");
        assert_eq!((decision.verdict, decision.is_told), (answer, true));
    }
}
