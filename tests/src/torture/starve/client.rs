//! A client whose system calls fail while it does what clients do.

use std::fs::File;
use std::io::ErrorKind;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};

use ledger_client::{Appender, NewEntry, OpenError};
use ledger_shm::file::verify;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::WaitStatus;

use super::shortage::{Counts, Course, Shortage, Tally};
use crate::call::Call;
use crate::supervised::{Order, Supervised};
use crate::torture::Verdicts;
use crate::torture::observed::{another, append_at_once, entries};
use crate::torture::promises::{KEPT, LOADED, RESUMES};
use crate::torture::service::ARGS;
use crate::{Instance, PATIENCE, Programs};

/// What a client does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Client {
    /// It opens a context, appends until its log has rolled several times, and reads all of
    /// it, in memory and in files.
    Appends,
    /// It writes a snapshot.
    Exports,
    /// It has one loaded.
    Loads,
}

/// Entries that are there before.
const BEFORE: u64 = 50;
/// Bytes of each payload.
const PAYLOAD_LEN: usize = 2000;
/// What the one that appends is told.
const SCRIPT: &str = "open log\nfill-told 60 2000\nread log\nwatch 1\ndrain\ndigest\n";

/// A context, and what a client says and is told of it.
struct Scene {
    client: Client,
    instance: Instance,
    /// Another appender, in this process.
    other: Appender,
}

/// What came of it.
struct Outcome {
    ended: Option<WaitStatus>,
    said: String,
}

impl Outcome {
    /// As one that could do everything.
    fn is_through(&self) -> bool {
        matches!(self.ended, Some(WaitStatus::Exited(_, 0))) && !self.said.contains("error ")
    }

    /// The seqs of entries that the one who appends was told are there.
    fn acknowledged(&self) -> Vec<u64> {
        let appended = self.said.lines();
        let appended = appended.filter_map(|line| line.strip_prefix("appended "));
        appended.map(|seq| seq.parse().expect("a number")).collect()
    }
}

impl Scene {
    fn new(programs: Programs, client: Client) -> Scene {
        let instance = Instance::started(programs, &ARGS);
        let mut other = instance.context("log").appender().expect("an appender");
        other.set_wait(PATIENCE);
        let large = NewEntry::new("other", &[b'o'; PAYLOAD_LEN]);
        for _ in 0..BEFORE {
            other.append(&large).expect("room");
        }
        other
            .context()
            .wait_durable(BEFORE, PATIENCE)
            .expect("a disk");
        std::fs::write(instance.runtime_dir().join("script"), SCRIPT).expect("room");
        if let Client::Loads = client {
            instance.printed(&[
                "snapshot",
                "export",
                "log",
                "-o",
                &path(&instance, "snapshot"),
            ]);
        }
        Scene {
            client,
            instance,
            other,
        }
    }

    fn command(&self) -> Command {
        let snapshot = path(&self.instance, "snapshot");
        match self.client {
            Client::Appends => {
                let script = File::open(path(&self.instance, "script")).expect("written before");
                let mut peer = self.instance.peer_command();
                peer.stdin(script);
                peer
            }
            Client::Exports => self
                .instance
                .ledgerd(&["snapshot", "export", "log", "-o", &snapshot]),
            Client::Loads => self
                .instance
                .ledgerd(&["snapshot", "load", &snapshot, "--as", "copy"]),
        }
    }

    /// A snapshot, or a context that one is loaded into, is there wholly or not at all;
    /// wholly if that is what the client has said.
    fn check_whole(&self, is_done: bool, verdicts: &mut Verdicts, case: &str) {
        let there = match self.client {
            Client::Appends => return,
            Client::Exports => match File::open(path(&self.instance, "snapshot")) {
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
                Err(error) => Err(error.to_string()),
                Ok(file) => verify(&file)
                    .map(|(_, trailer)| trailer.count)
                    .map_err(|damage| damage.to_string()),
            },
            Client::Loads => match self.instance.connect().context("copy").open_read_only() {
                Err(OpenError::Unknown { .. }) => Ok(0),
                Err(error) => Err(error.to_string()),
                Ok(context) => entries(&context).map(|entries| entries.len() as u64),
            },
        };
        let is_whole = there == Ok(BEFORE) || (!is_done && there == Ok(0));
        verdicts.check(LOADED, is_whole, || {
            format!("{case}: {there:?} of {BEFORE}")
        });
    }

    /// Has it done, with what is decided about each call.
    fn run(&self, decide: impl FnMut(&Call) -> Order) -> Outcome {
        let said = path(&self.instance, "said");
        let out = File::create(&said).expect("room");
        let mut command = self.command();
        command.stdout(out.try_clone().expect("a descriptor"));
        let mut client = Supervised::start(command.stderr(Stdio::from(out)));
        let pid = client.pid();
        let (ended, end) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                if let Err(RecvTimeoutError::Timeout) = end.recv_timeout(PATIENCE) {
                    let _ = kill(pid, Signal::SIGKILL);
                }
            });
            client.run(decide);
            drop(ended);
        });
        Outcome {
            ended: client.ended(),
            said: std::fs::read_to_string(&said).expect("text"),
        }
    }
}

fn path(instance: &Instance, name: &str) -> String {
    let path = instance.runtime_dir().join(name);
    path.into_os_string().into_string().expect("text")
}

/// The calls of a client that lacks nothing.
pub(super) fn counted(programs: Programs, client: Client, verdicts: &mut Verdicts) -> Counts {
    let mut once = || {
        let tally = Tally::default();
        let outcome = Scene::new(programs, client).run(|call| {
            tally.see(call);
            Order::Go
        });
        assert!(outcome.is_through(), "{}", outcome.said);
        tally.end(verdicts)
    };
    // How often it waits is other each time.
    let all: [Counts; 3] = std::array::from_fn(|_| once());
    let sum = |counts: &Counts| counts.values().map(|[count, _]| count).sum::<usize>();
    all.into_iter().min_by_key(sum).expect("some")
}

/// Whether it was met.
pub(super) fn one(
    programs: Programs,
    client: Client,
    shortage: &Shortage,
    verdicts: &mut Verdicts,
    case: &str,
) -> bool {
    let mut scene = Scene::new(programs, client);
    let mut course = Course::of(shortage);
    let outcome = scene.run(|call| course.order(call));
    let (ended, said) = (&outcome.ended, &outcome.said);
    let is_done = matches!(ended, Some(WaitStatus::Exited(_, 0)));
    let has_ended = matches!(ended, Some(WaitStatus::Exited(..)));
    verdicts.check(RESUMES, has_ended && !said.contains("panicked"), || {
        format!("{case}: {ended:?}: {said}")
    });
    let is_clear = outcome.is_through() || shortage.may_end_with(said);
    verdicts.check(RESUMES, is_clear, || format!("{case}: {ended:?}: {said}"));
    scene.check_whole(is_done, verdicts, case);
    // Others have noticed nothing, and what it was told is so.
    let context = scene.other.context().clone();
    let latest = context.latest().expect("readable");
    append_at_once(
        &mut scene.other,
        &another(),
        latest + 1,
        None,
        verdicts,
        case,
    );
    let there = entries(&context);
    let count = there.as_ref().map(|entries| entries.len() as u64);
    verdicts.check(KEPT, count == Ok(latest + 1), || {
        format!("{case}: {count:?} of {}", latest + 1)
    });
    let there = there.unwrap_or_default();
    let acknowledged = outcome.acknowledged();
    let is_kept = |seq: &u64| {
        let entry = there.get(seq.wrapping_sub(1) as usize);
        *seq > BEFORE && entry.is_some_and(|entry| entry.payload_len == PAYLOAD_LEN)
    };
    let is_kept =
        acknowledged.is_sorted_by(|one, next| one < next) && acknowledged.iter().all(is_kept);
    verdicts.check(KEPT, is_kept, || {
        format!("{case}: {acknowledged:?} of {}: {said}", there.len())
    });
    verdicts.count("acknowledged", acknowledged.len() as u64);
    // With enough it does all of it.
    let again = scene.run(|_| Order::Go);
    verdicts.check(RESUMES, again.is_through(), || {
        format!("{case}: then {:?}: {}", again.ended, again.said)
    });
    course.is_met
}
