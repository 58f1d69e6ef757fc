//! A process that appends or watches until it is killed, and puts down what it was told.
//!
//! `peer --work append CTX WHO` says `N SEQ` of its N-th entry when it is acknowledged,
//! `peer --work watch CTX FROM` says `SEQ NANOSECONDS` of an entry that it has seen. Both
//! go on whatever becomes of the daemon, and say `error …` if they cannot.

use std::error::Error;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use ledger_client::{ContextOptions, Entry, Ledger, NewEntry, OpenError};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::process::Process;
use crate::{Instance, PATIENCE, now_ns};

/// What all of their entries are called.
pub const KEY: &str = "work";

/// How long to wait before a daemon that is not there is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(2);
/// Most appenders rest now and then, so that those who watch come to sleep.
const NAP_MAX: Duration = Duration::from_millis(3);
/// Large enough that a few of them fill a segment of the smallest size.
const LARGE: usize = 20_000;

/// One of many processes that work at the same time.
#[derive(Debug)]
pub struct Worker {
    /// Its process.
    pub process: Process,
    told: File,
}

impl Worker {
    /// Starts one; `from` is who it is, or where it watches from.
    pub fn start(instance: &Instance, role: &str, context: &str, from: u64) -> Worker {
        let from = from.to_string();
        Worker::of(instance, None, &["--work", role, context, &from])
    }

    /// The same, of another uid.
    pub fn start_as(uid: u32, instance: &Instance, role: &str, context: &str, from: u64) -> Worker {
        let from = from.to_string();
        Worker::of(instance, Some(uid), &["--work", role, context, &from])
    }

    /// Starts one of this uid that [abuses](crate::attack::abuse) a context.
    pub fn abuser(uid: u32, instance: &Instance, what: &str, context: &str) -> Worker {
        Worker::of(instance, Some(uid), &["--abuse", what, context])
    }

    /// Starts one of this uid that [scribbles](crate::attack::scribble) into a context.
    pub fn scribbler(
        uid: u32,
        instance: &Instance,
        target: &str,
        context: &str,
        seed: u64,
    ) -> Worker {
        let seed = seed.to_string();
        Worker::of(instance, Some(uid), &["--scribble", target, context, &seed])
    }

    fn of(instance: &Instance, uid: Option<u32>, args: &[&str]) -> Worker {
        let told = memfd_create("told", MFdFlags::MFD_CLOEXEC).expect("memory");
        let told = File::from(told);
        // The same open file: its position is the process's, for we do not use it.
        let process = instance.working_peer(args, uid, told.try_clone().expect("a descriptor"));
        Worker { process, told }
    }

    /// What it was told so far, two numbers each.
    ///
    /// # Errors
    ///
    /// What it says if it cannot go on.
    pub fn told(&self) -> Result<Vec<(u64, u64)>, String> {
        self.told_since(0)
    }

    /// The last of it.
    ///
    /// # Errors
    ///
    /// As [`told`](Self::told).
    pub fn told_last(&self) -> Result<Option<(u64, u64)>, String> {
        const LINE_MAX: u64 = 4000;
        let len = self.told.metadata().expect("ours").len();
        Ok(self.told_since(len.saturating_sub(LINE_MAX))?.pop())
    }

    fn told_since(&self, at: u64) -> Result<Vec<(u64, u64)>, String> {
        let len = self.told.metadata().expect("ours").len();
        let mut bytes = vec![0; (len - at) as usize];
        self.told.read_exact_at(&mut bytes, at).expect("ours");
        // A character may be cut where we begin, too.
        let text = String::from_utf8_lossy(&bytes);
        let lines = text.split_inclusive('\n');
        // The first one may be cut where we begin, the last one where it was killed.
        let whole = lines
            .skip(usize::from(at > 0))
            .filter(|line| line.ends_with('\n'));
        let pair = |line: &str| {
            let (first, second) = line.trim_end().split_once(' ')?;
            Some((first.parse().ok()?, second.parse().ok()?))
        };
        whole
            .map(|line| pair(line).ok_or_else(|| line.to_owned()))
            .collect()
    }
}

/// The N-th payload of somebody: says whose it is, and nobody else has the same.
pub fn payload(who: u64, n: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(who ^ n.rotate_left(32));
    let len = match rng.u8(..) {
        0 => rng.usize(..LARGE),
        _ => rng.usize(..400),
    };
    let mut payload = [who.to_le_bytes(), n.to_le_bytes()].concat();
    payload.resize(payload.len() + len, rng.u8(..));
    payload
}

/// Whose entry this is, and which of it, if it is exactly what was appended.
pub fn whose(entry: &Entry) -> Option<(u64, u64)> {
    let (who, rest) = entry.payload().split_first_chunk()?;
    let (n, _) = rest.split_first_chunk()?;
    let (who, n) = (u64::from_le_bytes(*who), u64::from_le_bytes(*n));
    let is_whole = entry.key() == KEY && entry.payload() == payload(who, n);
    is_whole.then_some((who, n))
}

/// Whether it is one of those that a test appends itself: all of one letter.
fn is_of_a_test(entry: &Entry) -> bool {
    entry.key() == "other" && entry.payload().iter().all(|byte| *byte == b'o')
}

/// Whether it never rests; one of four does not.
pub fn is_restless(who: u64) -> bool {
    who.is_multiple_of(4)
}

/// Works, until something fails.
///
/// # Errors
///
/// Whatever it is.
pub fn work(mut args: impl Iterator<Item = String>) -> Result<(), Box<dyn Error>> {
    let mut next = || args.next().ok_or("peer --work ROLE CTX FROM");
    let (role, name, from) = (next()?, next()?, next()?.parse()?);
    let outcome = match role.as_str() {
        "append" => append(&name, from),
        "watch" => watch(&name, from),
        other => Err(format!("nobody works as {other:?}").into()),
    };
    if let Err(error) = &outcome {
        println!("error {error}");
    }
    outcome
}

/// What needs a daemon, which those who are new are not promised; one that was killed
/// comes back.
fn patiently<T>(
    name: &str,
    open: impl Fn(ContextOptions<'_>) -> Result<T, OpenError>,
) -> Result<T, Box<dyn Error>> {
    let deadline = Instant::now() + PATIENCE;
    let owner = crate::owner()?;
    let once = || {
        let ledger = Ledger::builder().uid(owner).connect()?;
        open(ledger.context(name))
    };
    loop {
        match once() {
            Err(OpenError::Connect(error))
                if error.is_unreachable() && Instant::now() < deadline =>
            {
                std::thread::sleep(AGAIN_AFTER);
            }
            opened => return Ok(opened?),
        }
    }
}

fn append(name: &str, who: u64) -> Result<(), Box<dyn Error>> {
    let mut appender = patiently(name, |context| context.open())?.appender()?;
    appender.set_wait(PATIENCE);
    let mut out = std::io::stdout().lock();
    let mut rng = fastrand::Rng::with_seed(who);
    for n in 0.. {
        if !is_restless(who) && rng.u8(..4) == 0 {
            std::thread::sleep(NAP_MAX.mul_f64(rng.f64()));
        }
        let payload = payload(who, n);
        let seq = appender.append(&NewEntry::new(KEY, &payload))?.seq;
        // In one call: whoever is killed has said all of it, or nothing.
        out.write_all(format!("{n} {seq}\n").as_bytes())?;
    }
    Ok(())
}

fn watch(name: &str, from: u64) -> Result<(), Box<dyn Error>> {
    let context = patiently(name, |context| context.open_read_only())?;
    let mut watcher = context.watch(from);
    let mut out = std::io::stdout().lock();
    let mut expected = from;
    loop {
        let entry = match watcher.next() {
            // What has left memory comes from the daemon.
            Err(error) if error.is_unreachable() => {
                std::thread::sleep(AGAIN_AFTER);
                continue;
            }
            entry => entry?,
        };
        let seq = entry.seq();
        if seq != expected {
            return Err(format!("{seq} came where {expected} was expected").into());
        }
        if whose(&entry).is_none() && !is_of_a_test(&entry) {
            return Err(format!("{seq} is not what was appended").into());
        }
        out.write_all(format!("{seq} {}\n", now_ns()?).as_bytes())?;
        expected += 1;
    }
}
