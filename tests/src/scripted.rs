//! The scripted peer, as the tests that start it have it.

use std::collections::HashSet;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::Instance;
use crate::process::{Lines, Process, thread_named, wait_for_state};
#[cfg(target_arch = "x86_64")]
use crate::traced::Traced;

/// Another process that does what it is told, one line at a time.
#[derive(Debug)]
pub struct Peer {
    process: Process,
    input: ChildStdin,
    output: Lines<ChildStdout>,
    /// What it was told last.
    told: String,
}

impl Peer {
    pub(crate) fn start(command: &mut Command) -> Peer {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::start(piped);
        let input = process.stdin.take().expect("piped");
        let output = Lines::of(process.stdout.take().expect("piped"));
        let told = String::new();
        Peer {
            process,
            input,
            output,
            told,
        }
    }

    /// Tells it to do something, without waiting for the answer.
    pub fn tell(&mut self, line: &str) {
        line.clone_into(&mut self.told);
        let told = writeln!(self.input, "{line}");
        told.unwrap_or_else(|error| panic!("the peer, told {line:?}: {error}"));
    }

    /// The next line it says.
    ///
    /// # Panics
    ///
    /// If it says nothing for [`PATIENCE`](crate::PATIENCE), or has ended.
    pub fn hear(&mut self) -> String {
        let line = self.output.line();
        line.unwrap_or_else(|error| panic!("the peer, told {:?}: {error}", self.told))
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

    /// Has it sleep until a context's bell rings, when it says `ok rung`.
    pub fn doze(&mut self, context: &str) {
        assert_eq!(self.ask(&format!("doze {context}")), "waiting");
        self.wait_for_state(&['S']);
    }

    /// Its process.
    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Traces its main thread.
    #[cfg(target_arch = "x86_64")]
    pub fn traced(&self) -> Traced {
        Traced::attach(self.pid())
    }

    /// The parts of an instance that it has mapped for writing.
    pub fn writable_parts(&self, instance: &Instance) -> HashSet<String> {
        let path = format!("/proc/{}/maps", self.pid());
        let maps = std::fs::read_to_string(path).expect("the peer lives");
        let is_part = |line: &&str| line.contains(" rw-s ") && line.contains(instance.name());
        let paths = maps.lines().filter(is_part).filter_map(|line| {
            let (_, path) = line.split_once('/')?;
            Some(path.trim_end_matches(" (deleted)").to_owned())
        });
        paths.collect()
    }

    /// How many those are.
    pub fn writable_part_count(&self, instance: &Instance) -> usize {
        self.writable_parts(instance).len()
    }

    /// The arguments of the system call that one of its threads sleeps in, in hexadecimal
    /// (proc(5), `syscall`); none while it sleeps in none of this number.
    pub fn sleeps_in(&self, thread: &str, nr: libc::c_long) -> Option<Vec<String>> {
        let thread = thread_named(self.pid(), thread)?;
        let call = std::fs::read_to_string(thread.join("syscall")).ok()?;
        let arguments = call.strip_prefix(&format!("{nr} "))?.split_whitespace();
        Some(arguments.map(str::to_owned).collect())
    }

    /// Sends it a signal.
    pub fn signal(&self, which: Signal) {
        self.process.signal(which);
    }

    /// Waits until the kernel says that it is stopped or sleeps.
    pub fn wait_for_state(&self, states: &[char]) {
        wait_for_state(self.pid(), states);
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(self) {
        drop(self.process);
    }

    /// Lets it end, and returns how it did: a signal's number if it was one.
    pub fn end(mut self) -> Result<(), i32> {
        self.tell("end");
        let status = self.process.ended();
        if status.success() {
            Ok(())
        } else {
            Err(status.signal().unwrap_or(-1))
        }
    }
}
