//! The demo as its users run it, as it is stopped, and as its parts die.

#![forbid(unsafe_code)]

// The tests inside of the example are run from here: cargo builds an example
// as tests or as a program, and the program is needed below.
#[allow(dead_code, reason = "used by the example")]
#[path = "../examples/demo/digest.rs"]
mod digest;
#[allow(dead_code, reason = "used by the example")]
#[path = "../examples/demo/latency.rs"]
mod latency;
#[allow(dead_code, reason = "used by the example")]
#[path = "../examples/demo/loan.rs"]
mod loan;
#[allow(dead_code, reason = "used by the example")]
#[path = "../examples/demo/plan.rs"]
mod plan;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use ledger_shm::object;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Small, and over as soon as it can be.
const SMALL: &[&str] = &["--runs", "2", "--applications", "5", "--seconds", "0"];
/// Prints something at once, and would go on for longer than anybody waits.
const ENDLESS: &[&str] = &["--runs", "2", "--applications", "5", "--seconds", "3000"];

/// The example, which cargo builds before it runs any test.
fn program() -> PathBuf {
    let test = std::env::current_exe().expect("our own path");
    let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<us>");
    let program = profile.join("examples/demo");
    assert!(
        program.exists(),
        "{} is missing; build it with `cargo build --package ledgerd --example demo`",
        program.display()
    );
    program
}

/// Where archives would be, which no demo keeps.
fn state_dir() -> PathBuf {
    std::env::temp_dir().join(format!("ledger-demo-state-{}", std::process::id()))
}

/// A running demo, killed if the test fails.
struct Demo {
    child: Child,
    output: Box<dyn BufRead>,
    instance: String,
}

/// How a demo ended.
struct Ended {
    /// Its exit code, or the signal that it died of.
    code: Result<i32, i32>,
    output: String,
    errors: String,
}

impl Demo {
    fn start(args: &[&[&str]]) -> Demo {
        let mut child = Command::new(program())
            .args(args.concat())
            .env("LEDGER_STATE_DIR", state_dir())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the demo starts");
        let mut output = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("text");
        let instance = line
            .strip_prefix("instance ")
            .and_then(|rest| rest.split(':').next())
            .unwrap_or_else(|| panic!("no instance in {line:?}"))
            .to_owned();
        Demo {
            child,
            output: Box::new(output),
            instance,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"))
    }

    /// Waits until the first entry was watched.
    fn wait_for_an_entry(&mut self) {
        let mut line = String::new();
        while !line.starts_with("run-1 ") {
            line.clear();
            let len = self.output.read_line(&mut line).expect("text");
            assert!(len > 0, "ended without an entry");
        }
    }

    /// The process that has a role in this demo.
    fn member(&self, role: &str) -> Pid {
        let arguments = format!("\0--role\0{role}\0");
        let parent = self.pid().to_string();
        std::fs::read_dir("/proc")
            .expect("/proc")
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .find(|pid: &i32| {
                let read = |file| std::fs::read_to_string(format!("/proc/{pid}/{file}"));
                let is_ours = read("stat").is_ok_and(|stat| {
                    let after_name = stat.rsplit(") ").next().unwrap_or_default();
                    after_name.split(' ').nth(1) == Some(&parent)
                });
                is_ours && read("cmdline").is_ok_and(|line| line.contains(&arguments))
            })
            .map(Pid::from_raw)
            .unwrap_or_else(|| panic!("nobody is the {role}"))
    }

    /// Waits for the end of all its processes: each of them has our pipe for
    /// its errors, which ends with the last one. Nothing may be left behind.
    fn ended(mut self) -> Ended {
        use std::os::unix::process::ExitStatusExt;

        let (mut output, mut errors) = (String::new(), String::new());
        self.output.read_to_string(&mut output).expect("text");
        let mut pipe = self.child.stderr.take().expect("piped");
        pipe.read_to_string(&mut errors).expect("text");
        let status = self.child.wait().expect("our child");
        let objects = object::Instance::own(&self.instance).expect("a valid name");
        assert_eq!(object::list(&objects).expect("listed"), [], "{errors}");
        let dir = std::env::temp_dir().join(format!("ledger-{}", self.instance));
        assert!(!dir.exists(), "{}: {errors}", dir.display());
        assert!(!state_dir().exists(), "{errors}");
        Ended {
            code: status.code().ok_or(status.signal().unwrap_or(0)),
            output,
            errors,
        }
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Its processes notice and clean up. Gone already is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of the three processes, in columns.
fn processes(output: &str) -> Vec<Vec<&str>> {
    ["engines ", "watcher ", "late joiner "]
        .into_iter()
        .map(|name| {
            let line = output.lines().find(|line| line.starts_with(name));
            let line = line.unwrap_or_else(|| panic!("no {name}in {output}"));
            line[name.len()..].split_whitespace().collect()
        })
        .collect()
}

#[test]
fn all_processes_see_the_same_dense_records() {
    let Ended {
        code,
        output,
        errors,
    } = Demo::start(&[SMALL]).ended();
    assert_eq!((code, errors.as_str()), (Ok(0), ""), "{output}");
    let processes = processes(&output);
    for columns in &processes {
        // 27 entries for each of 5 applications, and the end, in 2 contexts.
        assert_eq!(columns[..3], ["272", "2", "yes"], "{output}");
        assert_eq!(columns.last().map(|digest| digest.len()), Some(64));
    }
    let digests: BTreeSet<_> = processes.iter().map(|columns| columns.last()).collect();
    assert_eq!(digests.len(), 1, "{output}");
    // One application of each run is printed, entry by entry.
    for context in ["run-1 ", "run-2 "] {
        let lines = output.lines().filter(|line| line.starts_with(context));
        assert_eq!(lines.count(), 27, "{output}");
    }
}

#[test]
fn a_killed_run_has_the_root_of_one_that_was_never_interrupted() {
    let Ended { code, output, .. } = Demo::start(&[SMALL]).ended();
    assert_eq!(code, Ok(0), "{output}");
    assert!(output.contains("asks a human to approve"), "{output}");
    let root = |name: &str| {
        let line = output.lines().find(|line| line.starts_with(name));
        let line = line.unwrap_or_else(|| panic!("no {name} in {output}"));
        line.split_whitespace().last().map(str::to_owned)
    };
    let ended = root("killed, ended by attempt 2").expect("a root");
    assert_eq!(ended.len(), 64);
    assert_eq!(root("never interrupted"), Some(ended));
}

#[test]
fn an_observer_that_misses_one_entry_fails_the_demo() {
    for (observer, name, other) in [
        ("watcher", "watcher", "late joiner"),
        ("late", "late joiner", "watcher"),
    ] {
        let ended = Demo::start(&[SMALL, &["--drop-one-in", observer]]).ended();
        let output = ended.output;
        assert_eq!(ended.code, Ok(1), "{output}");
        for fault in [
            format!("FAILED: the digest of the {name} disagrees: 271 of 272 entries"),
            format!("FAILED: {name}: in run-1 seq 6 follows 4"),
        ] {
            assert!(output.contains(&fault), "{output}");
        }
        assert!(!output.contains(&format!("the {other} disagrees")));
    }
}

#[test]
fn a_demo_that_is_told_to_stop_leaves_nothing_behind() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut demo = Demo::start(&[ENDLESS]);
        demo.wait_for_an_entry();
        kill(demo.pid(), signal).expect("our child");
        let ended = demo.ended();
        assert_eq!(ended.code, Ok(128 + signal as i32));
        assert_eq!(ended.errors, format!("demo: stopped by {signal}\n"));
    }
}

#[test]
fn a_demo_that_nobody_reads_ends_quietly_without_success() {
    let mut demo = Demo::start(&[ENDLESS, &["--print-all"]]);
    demo.output = Box::new(std::io::empty());
    let ended = demo.ended();
    let expected = (Ok(128 + Signal::SIGPIPE as i32), "");
    assert_eq!((ended.code, ended.errors.as_str()), expected);
}

#[test]
fn a_killed_demo_leaves_nothing_behind() {
    let mut demo = Demo::start(&[ENDLESS]);
    demo.wait_for_an_entry();
    kill(demo.pid(), Signal::SIGKILL).expect("our child");
    assert_eq!(demo.ended().code, Err(Signal::SIGKILL as i32));
}

#[test]
fn a_part_that_dies_ends_the_demo_and_leaves_nothing_behind() {
    for role in ["daemon", "engines", "watcher"] {
        let mut demo = Demo::start(&[ENDLESS]);
        demo.wait_for_an_entry();
        kill(demo.member(role), Signal::SIGKILL).expect("its child");
        let ended = demo.ended();
        assert_eq!(ended.code, Ok(1));
        let expected = format!("demo: the {role} ended too early: signal: 9 (SIGKILL)");
        assert!(ended.errors.contains(&expected), "{}", ended.errors);
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_made() {
    let output = Command::new(program())
        .args(["--runs", "999", "--applications", "1000000"])
        .output()
        .expect("the demo starts");
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8(output.stderr).expect("text");
    assert!(errors.contains("try fewer --runs"), "{errors}");
    assert!(output.stdout.is_empty());
}
