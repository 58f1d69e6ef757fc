//! The processes of the demo as the coordinator sees them: started from our
//! own program, heard over their output, and ended with us.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::Failure;
use crate::instance::Instance;
use crate::message::{Gated, Message, Report};
use crate::plan::Role;

/// Why the demo ends before its time.
#[derive(Debug)]
pub enum Stopped {
    /// Somebody wants us to.
    Signal(Signal),
    /// Something went wrong.
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Stopped {
    fn from(error: E) -> Stopped {
        Stopped::Failed(error.into())
    }
}

enum Event {
    Said(Role, Message),
    /// Its output has ended, for this reason if it was not its own end.
    Silent(Role, Option<Failure>),
    Signal(Signal),
}

/// The signals that end a program politely.
pub fn signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]
        .into_iter()
        .collect()
}

/// Undoes for a child what it has inherited: they are blocked in us, because
/// we wait for them.
pub fn take_signals_again() -> std::io::Result<()> {
    Ok(signals().thread_unblock()?)
}

/// All child processes. Dropping it kills those that still run.
pub struct Crew<'a> {
    instance: &'a Instance,
    members: BTreeMap<Role, Member>,
    reports: BTreeMap<Role, Report>,
    asked: Option<String>,
    gated: Option<Gated>,
    events: Receiver<Event>,
    sender: Sender<Event>,
    patience: Duration,
}

struct Member {
    child: Child,
    /// Closed to tell it that it is over; the kernel does so if we die.
    input: Option<ChildStdin>,
    is_ready: bool,
    is_silent: bool,
}

impl<'a> Crew<'a> {
    /// Nobody yet. Takes over the signals of [`signals`], which have to be
    /// blocked already. A silence longer than `patience` is a failure.
    pub fn new(instance: &'a Instance, patience: Duration) -> Result<Crew<'a>, Failure> {
        let (sender, events) = mpsc::channel();
        let signalled = sender.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                while let Ok(signal) = signals().wait() {
                    // Nobody listens any more: we are ending already.
                    let _ = signalled.send(Event::Signal(signal));
                }
            })?;
        Ok(Crew {
            instance,
            members: BTreeMap::new(),
            reports: BTreeMap::new(),
            asked: None,
            gated: None,
            events,
            sender,
            patience,
        })
    }

    /// Starts a process in this role, with our own arguments.
    pub fn start(&mut self, role: Role) -> Result<(), Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--role", role.name()])
            .args(std::env::args_os().skip(1))
            .env("LEDGER_INSTANCE", self.instance.name())
            .env("LEDGER_RUNTIME_DIR", self.instance.runtime_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A terminal's Ctrl-C is for us alone: we end them in order.
            .process_group(0)
            .spawn()?;
        let input = child.stdin.take();
        let output = child.stdout.take().expect("piped");
        let member = Member {
            child,
            input,
            is_ready: false,
            is_silent: false,
        };
        self.members.insert(role, member);
        let sender = self.sender.clone();
        std::thread::Builder::new()
            .name(role.name().into())
            .spawn(move || listen(role, BufReader::new(output), &sender))?;
        Ok(())
    }

    /// Waits until a process is set up.
    pub fn wait_until_ready(&mut self, role: Role) -> Result<(), Stopped> {
        while !self.members[&role].is_ready {
            self.hear()?;
        }
        Ok(())
    }

    /// Waits for the report of a process and for its end.
    pub fn report(&mut self, role: Role) -> Result<Report, Stopped> {
        self.wait_for_end(role)?;
        self.reports
            .remove(&role)
            .ok_or_else(|| format!("the {role} ended without a report").into())
    }

    /// Waits until a process asks something.
    pub fn asked(&mut self) -> Result<String, Stopped> {
        loop {
            match self.asked.take() {
                Some(asked) => return Ok(asked),
                None => self.hear()?,
            }
        }
    }

    /// Waits for what became of the run that asked.
    pub fn gated(&mut self, role: Role) -> Result<Gated, Stopped> {
        self.wait_for_end(role)?;
        self.gated
            .take()
            .ok_or_else(|| format!("the {role} ended without a report").into())
    }

    /// Kills a process in the middle of what it does.
    pub fn kill(&mut self, role: Role) -> Result<(), Stopped> {
        let member = self.member(role)?;
        // It has nothing to report.
        member.input = None;
        member.child.kill()?;
        while !self.members[&role].is_silent {
            self.hear()?;
        }
        if let Some(mut member) = self.members.remove(&role) {
            member.child.wait()?;
        }
        Ok(())
    }

    /// Tells a process to begin.
    pub fn go(&mut self, role: Role) -> Result<(), Failure> {
        let input = self.members.get_mut(&role).and_then(|it| it.input.as_mut());
        writeln!(input.ok_or("it has ended")?, "go")?;
        Ok(())
    }

    /// Tells a process that it is over, and waits for its end.
    pub fn end(&mut self, role: Role) -> Result<(), Stopped> {
        if let Some(member) = self.members.get_mut(&role) {
            member.input = None;
        }
        self.wait_for_end(role)
    }

    fn wait_for_end(&mut self, role: Role) -> Result<(), Stopped> {
        while !self.members[&role].is_silent {
            self.hear()?;
        }
        let Some(mut member) = self.members.remove(&role) else {
            return Ok(());
        };
        let status = member.child.wait()?;
        if !status.success() {
            return Err(format!("the {role} failed: {status}").into());
        }
        Ok(())
    }

    /// Takes note of the next thing that happens.
    fn hear(&mut self) -> Result<(), Stopped> {
        let event = self.events.recv_timeout(self.patience);
        match event {
            Ok(Event::Said(_, Message::Line(line))) => {
                writeln!(std::io::stdout(), "{line}")?;
            }
            Ok(Event::Said(role, Message::Ready)) => self.member(role)?.is_ready = true,
            Ok(Event::Said(role, Message::Report(report))) => {
                self.reports.insert(role, report);
            }
            Ok(Event::Said(_, Message::Asked(what))) => self.asked = Some(what),
            Ok(Event::Said(_, Message::Gated(gated))) => self.gated = Some(gated),
            Ok(Event::Silent(role, None)) => {
                let has_reported = self.reports.contains_key(&role) || self.gated.is_some();
                let member = self.member(role)?;
                member.is_silent = true;
                // The daemon has nothing to report and ends when it is told.
                if !has_reported && member.input.is_some() {
                    let status = member.child.wait()?;
                    return Err(format!("the {role} ended too early: {status}").into());
                }
            }
            Ok(Event::Silent(role, Some(error))) => {
                return Err(format!("the {role} cannot be understood: {error}").into());
            }
            Ok(Event::Signal(signal)) => return Err(Stopped::Signal(signal)),
            Err(RecvTimeoutError::Timeout) => {
                let text = format!("nobody said anything for {:?}", self.patience);
                return Err(text.into());
            }
            Err(RecvTimeoutError::Disconnected) => unreachable!("we hold a sender"),
        }
        Ok(())
    }

    fn member(&mut self, role: Role) -> Result<&mut Member, Failure> {
        self.members
            .get_mut(&role)
            .ok_or_else(|| format!("the {role} speaks after its end").into())
    }
}

fn listen(role: Role, output: impl BufRead, events: &Sender<Event>) {
    let mut outcome = None;
    for line in output.lines() {
        let message = line
            .map_err(Failure::from)
            .and_then(|line| Ok(serde_json::from_str(&line)?));
        match message {
            Ok(message) => drop(events.send(Event::Said(role, message))),
            Err(error) => {
                outcome = Some(error);
                break;
            }
        }
    }
    // Nobody listens any more: we are ending already.
    let _ = events.send(Event::Silent(role, outcome));
}

impl Drop for Crew<'_> {
    fn drop(&mut self) {
        // All at once, then each: none outlives what the others need.
        for member in self.members.values_mut() {
            let _ = member.child.kill();
        }
        for member in self.members.values_mut() {
            let _ = member.child.wait();
        }
    }
}
