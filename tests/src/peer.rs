//! Another process in a test: reads one command per line, does it, and answers
//! `ok …` or `error …`.
//!
//! | command | does |
//! |---|---|
//! | `open CTX` | opens or creates a context, with an appender |
//! | `read CTX` | opens a context for reading |
//! | `drop CTX` | drops a context |
//! | `append KEY PAYLOAD` | appends, waiting for room; answers the seq |
//! | `try KEY PAYLOAD` | appends at once or not at all |
//! | `fill N LEN` | appends N entries of LEN bytes, key `fill`; `fill-told` says `appended SEQ` of each |
//! | `contend N LEN` | waits for another that does the same, then appends entries of LEN bytes until each was overtaken N times; answers how many; their payloads begin with when the append was called and when the one before had returned |
//! | `marked N LEN` | as `fill`, at once or not at all, between two markers; `marked-wait` waits for room, and `marked-batch` appends them as a batch |
//! | `get SEQ` | gets an entry, and once more between two markers |
//! | `watch FROM` | makes a watcher |
//! | `marked-watch CTX` | opens a context for reading, and makes a watcher, between two markers |
//! | `marked-next` | waits for the next entry between two markers |
//! | `drain` | has the watcher come to the end, and answers the last seq |
//! | `next` | waits for the next entry; says `waiting` first |
//! | `next-at` | the same, and says when it came |
//! | `loop N` | has N watchers in an event loop, instead of those before |
//! | `told` | waits until one of them has something to look at; answers how many have |
//! | `dispatchers` | answers how many threads sleep for watchers in event loops |
//! | `doze CTX` | sleeps until a context's bell rings; says `waiting` first |
//! | `invade CTX` | opens a context for reading, as an [`Attacker`] |
//! | `attack WHAT` | tries something that it may not; answers what came of it |
//! | `neglect N` | has N connections let go, because they ask and read no answer |
//! | `heed` | reads what they were answered |
//! | `reach PATH` | tries to come by a file by its name; answers what the kernel says, see [`reach`] |
//! | `digest` | latest seq and a checksum over all records |
//! | `oldest` | the first seq that there is |
//! | `fork` | forks; the child tries the parent's appender, drops everything and ends |
//! | `end` | ends |
//!
//! `peer --small-memory LEN PROGRAM ARGS…` becomes that program, with a memory
//! file system of LEN bytes of its own. `peer --work ROLE CTX FROM` works by itself, see
//! [`worker`], `peer --abuse WHAT CTX` and `peer --scribble TARGET CTX
//! SEED` do harm, see [`abuse`] and [`scribble`].

use std::error::Error;
use std::future::Future;
use std::io::{BufRead, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::task::{self, Poll, Waker};
use std::time::Duration;

use ledger_client::wire::Request;
use ledger_client::{AppendError, Appender, Context, Ledger, NewEntry, Watcher, admin, place};
use ledger_shm::object;
use ledger_shm::socket::{PACKET_LEN_MAX, Packets};
use ledger_tests::attack::abuse::abuse;
use ledger_tests::attack::scribble::scribble;
use ledger_tests::attack::{Attacker, reach};
use ledger_tests::sleeper::Sleeper;
use ledger_tests::spoken::greeted;
use ledger_tests::{PATIENCE, now_ns, owner, small_memory, worker};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::ForkResult;

#[derive(Default)]
struct Peer {
    ledger: Option<Ledger>,
    context: Option<Context>,
    appender: Option<Appender>,
    watcher: Option<Watcher>,
    looped: Vec<Watcher>,
    /// Kept: a connection that ends has the daemon ring.
    sleeper: Option<Sleeper>,
    attacker: Option<Attacker>,
    neglected: Vec<Packets>,
}

/// As what a program ends with whose main thread panics.
const PANICKED: i32 = 101;

/// The instance, and its socket.
fn place() -> Result<(object::Instance, PathBuf), Box<dyn Error>> {
    let instance = object::Instance::new(owner()?, &place::instance_name()?)?;
    let runtime_dir = place::runtime_dir(instance.uid());
    let socket = place::socket_path(&runtime_dir, &instance);
    Ok((instance, socket))
}

/// A connection that the daemon has let go, and that has an answer to read.
fn neglected(socket: &Path) -> Result<Packets, Box<dyn Error>> {
    let connection = greeted(socket)?;
    for _ in 0..2 {
        connection.send(&Request::Status.encode(), None)?;
    }
    let mut end = [PollFd::new(connection.as_fd(), PollFlags::empty())];
    let timeout = PollTimeout::try_from(PATIENCE)?;
    match poll(&mut end, timeout)? {
        0 => Err("it is not let go".into()),
        _ => Ok(connection),
    }
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

impl Peer {
    fn ledger(&mut self) -> Result<Ledger, Box<dyn Error>> {
        if self.ledger.is_none() {
            let ledger = Ledger::builder().uid(owner()?).daemon_optional(true);
            self.ledger = Some(ledger.connect()?);
        }
        Ok(self.ledger.clone().expect("set above"))
    }

    fn context(&self) -> Result<&Context, Box<dyn Error>> {
        self.context
            .as_ref()
            .ok_or_else(|| "no context is open".into())
    }

    fn appender(&mut self) -> Result<&mut Appender, Box<dyn Error>> {
        self.appender
            .as_mut()
            .ok_or_else(|| "no context is open for appending".into())
    }

    fn obey(&mut self, line: &str) -> Result<String, Box<dyn Error>> {
        let mut words = line.splitn(3, ' ');
        let command = words.next().unwrap_or_default();
        let mut word = || words.next().ok_or("a word is missing");
        match command {
            "open" => {
                let context = self.ledger()?.context(word()?).open_or_create()?;
                self.appender = Some(context.appender()?);
                self.context = Some(context);
                Ok(String::new())
            }
            "read" => {
                self.context = Some(self.ledger()?.context(word()?).open_read_only()?);
                Ok(String::new())
            }
            "drop" => {
                admin::drop_context(&self.ledger()?, word()?)?;
                Ok(String::new())
            }
            "append" | "try" => {
                let entry = NewEntry::new(word()?, word()?);
                let appender = self.appender()?;
                let appended = if command == "try" {
                    appender.try_append(&entry)
                } else {
                    appender.append(&entry)
                }?;
                Ok(appended.seq.to_string())
            }
            "fill" | "fill-told" => {
                let (count, len): (u64, usize) = (word()?.parse()?, word()?.parse()?);
                let payload = vec![b'x'; len];
                let mut last = 0;
                for _ in 0..count {
                    last = self
                        .appender()?
                        .append(&NewEntry::new("fill", &payload))?
                        .seq;
                    if command == "fill-told" {
                        say(&format!("appended {last}"))?;
                    }
                }
                Ok(last.to_string())
            }
            "contend" => {
                let (times, len) = (word()?.parse()?, word()?.parse()?);
                Ok(self.contend(times, len)?.to_string())
            }
            "marked" | "marked-wait" | "marked-batch" => {
                let (count, len): (usize, usize) = (word()?.parse()?, word()?.parse()?);
                let payload = vec![b'm'; len];
                let appender = self.appender()?;
                let entry = NewEntry::new("marked", &payload);
                let mut entries = std::iter::repeat_n(entry, count);
                appender.set_wait(PATIENCE);
                nix::unistd::getppid();
                let last: Result<u64, Box<dyn Error>> = match command {
                    "marked" => {
                        entries.try_fold(0, |_, entry| Ok(appender.try_append(&entry)?.seq))
                    }
                    "marked-wait" => {
                        entries.try_fold(0, |_, entry| Ok(appender.append(&entry)?.seq))
                    }
                    _ => appender
                        .try_append_batch(entries)
                        .map(|count| count as u64)
                        .map_err(Box::from),
                };
                nix::unistd::getppid();
                Ok(last?.to_string())
            }
            "get" => {
                let (context, seq) = (self.context()?, word()?.parse()?);
                context.get(seq)?.ok_or("no such entry")?;
                nix::unistd::getppid();
                let entry = context.get(seq);
                nix::unistd::getppid();
                Ok(entry?.ok_or("no such entry")?.seq().to_string())
            }
            "oldest" => Ok(self.context()?.first_available()?.to_string()),
            "fork" => self.fork(),
            "watch" => {
                self.watcher = Some(self.context()?.watch(word()?.parse()?));
                Ok(String::new())
            }
            "marked-watch" => {
                let (ledger, name) = (self.ledger()?, word()?);
                nix::unistd::getppid();
                let watched = ledger.context(name).open_read_only().map(|context| {
                    let watcher = context.watch(1);
                    (context, watcher)
                });
                nix::unistd::getppid();
                let (context, watcher) = watched?;
                (self.context, self.watcher) = (Some(context), Some(watcher));
                Ok(String::new())
            }
            "marked-next" => {
                let watcher = self.watcher.as_mut().ok_or("nothing is watched")?;
                nix::unistd::getppid();
                let entry = watcher.next().map(|entry| entry.seq());
                nix::unistd::getppid();
                Ok(entry?.to_string())
            }
            "drain" => {
                let watcher = self.watcher.as_mut().ok_or("nothing is watched")?;
                let mut last = watcher.next_seq() - 1;
                while let Some(entry) = watcher.try_next()? {
                    if entry.seq() != last + 1 {
                        return Err(format!("{} follows {last}", entry.seq()).into());
                    }
                    entry.verify()?;
                    last += 1;
                }
                Ok(last.to_string())
            }
            "next" | "next-at" => {
                say("waiting")?;
                let watcher = self.watcher.as_mut().ok_or("nothing is watched")?;
                let entry = watcher.next()?;
                let now = now_ns()?;
                entry.verify()?;
                Ok(match command {
                    "next" => format!("{} {}", entry.seq(), entry.key()),
                    _ => format!("{} {now}", entry.seq()),
                })
            }
            "loop" => {
                let count = word()?.parse()?;
                let watchers = (0..count).map(|_| {
                    let mut watcher = self.context()?.watch(1);
                    watcher.event_fd()?;
                    while watcher.try_next()?.is_some() {}
                    Ok::<_, Box<dyn Error>>(watcher)
                });
                self.looped = watchers.collect::<Result<_, _>>()?;
                Ok(String::new())
            }
            "told" => {
                let polled = |watcher| PollFd::new(AsFd::as_fd(watcher), PollFlags::POLLIN);
                let mut fds: Vec<_> = self.looped.iter().map(polled).collect();
                let patience = PollTimeout::try_from(PATIENCE)?;
                Ok(poll(&mut fds, patience)?.to_string())
            }
            "dispatchers" => {
                let mut count = 0;
                for task in std::fs::read_dir("/proc/self/task")? {
                    // It may have ended meanwhile.
                    let name = std::fs::read_to_string(task?.path().join("comm"));
                    count += u32::from(name.is_ok_and(|name| name == "ledger-dispatch\n"));
                }
                Ok(count.to_string())
            }
            "doze" => {
                let (_, socket) = place()?;
                let sleeper = self.sleeper.insert(Sleeper::of(&socket, word()?)?);
                sleeper.sleep(|| say("waiting"))?;
                Ok("rung".into())
            }
            "reach" => Ok(reach(word()?)),
            "digest" => {
                let mut range = self.context()?.range(1);
                let (mut latest, mut digest) = (0, 0_u32);
                while let Some(entry) = range.next_entry()? {
                    if entry.seq() != latest + 1 {
                        return Err(format!("{} follows {latest}", entry.seq()).into());
                    }
                    entry.verify()?;
                    latest = entry.seq();
                    digest =
                        digest.rotate_left(7) ^ ledger_shm::record::crc32c(entry.record_bytes());
                }
                Ok(format!("{latest} {digest:08x}"))
            }
            "invade" => {
                let (instance, socket) = place()?;
                self.attacker = Some(Attacker::new(&socket, instance, word()?)?);
                Ok(String::new())
            }
            "attack" => {
                let attacker = self.attacker.as_mut().ok_or("nothing is invaded")?;
                attacker.attack(word()?)
            }
            "neglect" => {
                let (_, socket) = place()?;
                for _ in 0..word()?.parse()? {
                    self.neglected.push(neglected(&socket)?);
                }
                Ok(String::new())
            }
            "heed" => {
                let mut buffer = [0; PACKET_LEN_MAX];
                for connection in &self.neglected {
                    while connection.receive(&mut buffer)?.is_some() {}
                }
                Ok(String::new())
            }
            other => Err(format!("unknown command {other:?}").into()),
        }
    }
}

impl Peer {
    /// Appends together with one other process. That both really run at once
    /// shows in their seqs, and nobody ends before it has shown in both.
    fn contend(&mut self, times: u64, len: usize) -> Result<u64, Box<dyn Error>> {
        let mut here = self.context()?.watch(1).key("here");
        let mut enough = self.context()?.watch(1).key("enough");
        let appender = self.appender()?;
        appender.append(&NewEntry::new("here", b""))?;
        for _ in 0..2 {
            here.next()?;
        }
        let mut payload = vec![b'c'; len];
        let (mut count, mut overtaken, mut satisfied) = (1, 0, 0);
        let (mut before, mut returned_at) = (None, 0_u64);
        while satisfied < 2 {
            payload[..8].copy_from_slice(&now_ns()?.to_le_bytes());
            payload[8..16].copy_from_slice(&returned_at.to_le_bytes());
            let seq = appender.append(&NewEntry::new("contend", &payload))?.seq;
            returned_at = now_ns()?;
            count += 1;
            if before.is_some_and(|before| seq > before + 1) {
                overtaken += 1;
                if overtaken == times {
                    appender.append(&NewEntry::new("enough", b""))?;
                    count += 1;
                }
            }
            before = Some(seq);
            while enough.try_next()?.is_some() {
                satisfied += 1;
            }
            // Where there is one processor for both.
            if count % 100 == 0 {
                std::thread::yield_now();
            }
        }
        Ok(count)
    }

    /// The child tells by its exit code what the parent's appender answered it.
    #[allow(unsafe_code, reason = "fork(2)")]
    fn fork(&mut self) -> Result<String, Box<dyn Error>> {
        // One that a thread of this process looks after.
        let context = self.context()?;
        let mut watched = context.watch(context.latest()? + 1).into_async();
        let mut next = || {
            pin!(watched.next())
                .poll(&mut task::Context::from_waker(Waker::noop()))
                .map(|entry| entry.is_err())
        };
        if next().is_ready() {
            return Err("an entry came meanwhile".into());
        }
        // SAFETY: what other threads of this process do meanwhile, the child does not wait
        // for: they sleep, since nobody wants memory, and nothing is appended.
        match unsafe { nix::unistd::fork() }? {
            ForkResult::Child => {
                let appender = self.appender()?;
                let entry = NewEntry::new("k", b"child");
                let forked = Err(AppendError::Refused(ledger_shm::Refused::Forked));
                let mut is_refused = appender.try_append(&entry).map(drop) == forked
                    && appender.try_append_batch([entry]).is_err();
                is_refused &= !appender.wait_ready(Duration::ZERO);
                is_refused &= next() == Poll::Ready(true);
                // Neither the bell nor the connection is the child's.
                appender.ring();
                is_refused &= self.ledger()?.context("other").open_or_create().is_err();
                // What the child drops must not be the parent's.
                *self = Peer::default();
                std::process::exit(if is_refused { 0 } else { 1 });
            }
            ForkResult::Parent { child } => match waitpid(child, None)? {
                WaitStatus::Exited(_, code) => Ok(code.to_string()),
                other => Err(format!("the child: {other:?}").into()),
            },
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // A thread that panics ends all of it: nobody would notice otherwise.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(PANICKED);
    }));
    let mut args = std::env::args_os().skip(1);
    let way = args.next();
    match way.as_ref().and_then(|way| way.to_str()) {
        Some("--small-memory") => std::process::exit(small_memory::become_program(args)),
        Some("--work") => return worker::work(args.filter_map(|arg| arg.into_string().ok())),
        Some("--abuse") => {
            let mut args = args.filter_map(|arg| arg.into_string().ok());
            let mut next = || args.next().ok_or("peer --abuse WHAT CTX");
            let (instance, socket) = place()?;
            return abuse(&socket, instance, &next()?, &next()?);
        }
        Some("--scribble") => {
            let mut args = args.filter_map(|arg| arg.into_string().ok());
            let mut next = || args.next().ok_or("peer --scribble TARGET CTX SEED");
            let (_, socket) = place()?;
            return scribble(&socket, &next()?, &next()?, next()?.parse()?);
        }
        _ => {}
    }
    let mut peer = Peer::default();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        if line == "end" {
            break;
        }
        match peer.obey(&line) {
            Ok(answer) => say(format!("ok {answer}").trim_end())?,
            Err(error) => say(&format!("error {error}"))?,
        }
    }
    Ok(())
}
