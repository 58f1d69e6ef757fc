//! Everything ready for an append that takes a path, and what becomes of it.

use ledger_client::{Appender, Context, NewEntry};
use ledger_shm::segment::Geometry;

use super::path::{ALMOST_ALL, FIRST_LEN, LARGE, Path, SMALL};
use crate::torture::Effort;
use crate::torture::course::{Course, Place};
use crate::torture::frontier::Frontier;
use crate::torture::observed::Found;
use crate::torture::victim::Victim;
use crate::traced::{Traced, TracedThread};
use crate::{Instance, PATIENCE, Peer, Programs, eventually, now_ns};

/// An instance on which one path is taken again and again, each time in a context of its
/// own.
#[derive(Debug)]
pub struct Stage {
    programs: Programs,
    path: Path,
    args: Vec<&'static str>,
    instance: Instance,
    count: u32,
    course: Course,
    turns: Turns,
    reader: Option<Peer>,
}

/// One append that is about to take its path.
#[derive(Debug)]
pub struct Scene {
    // First: who traces a thread would have to wait for its end, too.
    /// The thread that would map parts for it.
    held: Option<TracedThread>,
    /// The process that appends.
    pub victim: Victim,
    /// Another appender, in this process.
    pub other: Appender,
    /// Entries that are there before.
    pub filled: u64,
    /// Of the payload of each entry that others appended while it was under way.
    pub interfered: Vec<usize>,
    /// A process that watches it from the first entry on, and does not sleep.
    pub reader: Peer,
    /// A watcher in a process of its own that sleeps for the next entry, on the paths
    /// that have one.
    pub sleeper: Option<Peer>,
    /// When nothing that it appends was there yet: the latest such time that is known.
    pub unseen_at_ns: u64,
    frontier: Option<Frontier>,
    path: Path,
}

/// What is left of a scene whose victim was killed.
#[derive(Debug)]
pub struct Survivors {
    /// The other appender.
    pub other: Appender,
    /// The process that watches.
    pub reader: Peer,
    /// The watcher that slept.
    pub sleeper: Option<Peer>,
    /// Entries that are there without what the victim appended.
    pub before: u64,
    /// Of those, what others appended while it was under way: the lengths of their payloads.
    pub interfered: Vec<usize>,
}

/// Cases whose contexts may be in memory at once.
const CASES_PER_INSTANCE: u32 = 100;

/// What happens while the victim is on its way: after how many of its instructions.
#[derive(Debug, Default)]
struct Turns {
    /// Somebody interfered.
    interfered_at: Option<usize>,
    /// The log had changed.
    changed_at: Option<usize>,
    /// The first entry that it appends was there.
    seen_at: Option<usize>,
    /// All that it appends was there.
    appended_at: Option<usize>,
    /// It had made its first system call.
    called_at: Option<usize>,
}

impl Stage {
    /// Has a daemon with these arguments, and finds out what the path consists of.
    pub fn set(programs: Programs, path: Path, more: &[&'static str]) -> Stage {
        let args = path.daemon_args(more);
        let mut stage = Stage {
            programs,
            path,
            instance: Instance::started(programs, &args),
            args,
            count: 0,
            course: Course::default(),
            turns: Turns::default(),
            reader: None,
        };
        stage.look(None);
        if path.interference().is_some() {
            let changed_at = stage.turns.changed_at.expect("it appends");
            let change = stage.course.nth(changed_at - 1);
            stage.look(Some(change));
            assert!(
                stage.turns.interfered_at.is_some(),
                "it takes another way each time"
            );
        }
        stage
    }

    /// Its instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// How many entries a victim is to append.
    pub fn wanted(&self) -> u64 {
        self.path.wanted()
    }

    /// Bytes of each payload that a victim appends.
    pub fn payload_len(&self) -> usize {
        self.path.payload_len()
    }

    /// Whether a victim that appended so many of these entries, each of them whole, was told
    /// what is so: the seq of its last one, or how many of a batch are there.
    pub(in crate::torture) fn is_told(&self, answer: &str, count: u64, there: &[Found]) -> bool {
        let is_last = |seq: usize| {
            let last = there.iter().rposition(|entry| entry.is_marked);
            last.is_some_and(|last| last + 1 == seq)
        };
        let mut marked = there.iter().filter(|entry| entry.is_marked);
        if !marked.all(|entry| entry.payload_len == self.payload_len()) {
            return false;
        }
        match (answer.strip_prefix("ok "), self.wanted()) {
            (Some(told), 1) => count == 1 && told.parse().is_ok_and(is_last),
            (Some(told), wanted) => count == wanted && told.parse() == Ok(wanted),
            (None, 1) => count == 0 && answer.contains("no room"),
            (None, wanted) => {
                let is_count = answer.contains(&format!(" {count} entries of the batch"));
                count < wanted && is_count && answer.contains("no room")
            }
        }
    }

    /// Whether the daemon is dead when the victim appends.
    pub fn is_daemon_dead(&self) -> bool {
        self.path.is_daemon_dead()
    }

    /// Has a dead daemon come back.
    pub fn restart(&mut self) {
        self.instance.start(&self.args);
    }

    /// How many instructions the path has.
    pub fn length(&self) -> usize {
        self.course.length()
    }

    /// The first instruction after which the log has changed, if the path changes it.
    pub fn changed_at(&self) -> Option<usize> {
        self.turns.changed_at
    }

    /// Whether all that a victim appends is there when it is stopped at a place.
    pub fn has_appended(&self, place: Place) -> bool {
        let appended_at = self.turns.appended_at;
        appended_at.is_some_and(|at| place.instruction >= at)
    }

    /// Where to stop, drawn if there are more than wanted.
    pub fn places(&self, effort: &Effort) -> Vec<Place> {
        let first = self.turns.interfered_at.unwrap_or(0);
        self.course
            .places(first, effort, &format!("{:?}", self.path))
    }

    /// Has everything ready for an append that takes the path.
    pub fn scene(&mut self) -> Scene {
        let path = self.path;
        // Another instance is room for more contexts.
        let is_used = path.is_daemon_dead() || self.count.is_multiple_of(CASES_PER_INSTANCE);
        if is_used && self.count > 0 {
            self.reader = None;
            self.instance = Instance::started(self.programs, &self.args);
        }
        self.count += 1;
        let reader = self.reader.take();
        let mut reader = reader.unwrap_or_else(|| self.instance.peer());
        // As long each time, since what is done with it depends on that.
        let name = format!("{path:?}-{:08}", self.count);
        let instance = &mut self.instance;
        let context = instance.context(&name);
        let mut other = context.appender().expect("an appender");
        other.set_wait(PATIENCE);
        let mut victim = instance.peer_in_place();
        victim.must(&format!("open {name}"));
        eventually("two spares are mapped", || {
            (victim.writable_part_count(instance) == 3).then_some(())
        });
        assert!(other.wait_ready(PATIENCE), "spares here, too");
        // While there is a daemon that answers.
        reader.must(&format!("read {name}"));
        reader.must("watch 1");
        let mut fill = |count: usize, len: usize| victim.must(&format!("fill {count} {len}"));
        let mut held = None;
        match path {
            Path::NewBlock => {}
            Path::Plain | Path::SlotLost | Path::Parked | Path::ParkedDaemonDead => {
                // By then a block has room for another one.
                fill(5, SMALL);
            }
            Path::IndexFull => {
                fill(Geometry::of_len(FIRST_LEN).slot_capacity, 0);
            }
            Path::DataFull | Path::SealLost | Path::ParkedDataFull | Path::DaemonDead => {
                fill(1, ALMOST_ALL);
            }
            Path::Batch | Path::ParkedBatch => {
                fill(30, SMALL);
            }
            Path::LargestPayload => {
                // Into a part that it fits in.
                fill(1, FIRST_LEN);
            }
            Path::SuccessorLate => {
                fill(1, ALMOST_ALL);
                let provision =
                    TracedThread::attach(victim.pid().as_raw() as u32, "ledger-provision");
                provision.run_to_rest();
                held = Some(provision);
                // Beyond both spares.
                let entry = NewEntry::new("other", &[b'o'; ALMOST_ALL]);
                for _ in 0..24 {
                    other.append(&entry).expect("room");
                }
            }
            Path::SuccessorMissing | Path::SuccessorAwaited => {
                instance.pause_daemon();
                let refused = |victim: &mut Peer| {
                    let answer = victim.ask(&format!("marked 100 {ALMOST_ALL}"));
                    assert!(answer.contains("no room"), "{answer}");
                };
                refused(&mut victim);
                eventually("it waits for an answer", || {
                    victim.sleeps_in("ledger-provision", libc::SYS_recvmsg)
                });
                // What it was given before it asked.
                refused(&mut victim);
            }
        }
        let filled = context.latest().expect("readable");
        let frontier = Frontier::of(&instance.objects(), &context);
        assert_eq!(
            path == Path::IndexFull,
            frontier.is_index_full(),
            "{path:?}"
        );
        let sleeper = path.is_parked().then(|| {
            let mut sleeper = instance.peer();
            sleeper.must(&format!("read {name}"));
            sleeper.must(&format!("watch {}", filled + 1));
            assert_eq!(sleeper.ask("next-at"), "waiting");
            sleeper.wait_for_state(&['S']);
            sleeper
        });
        if path.is_daemon_dead() {
            instance.kill_daemon();
        }
        Scene {
            held,
            victim: Victim::new(victim),
            other,
            filled,
            interfered: Vec::new(),
            reader,
            sleeper,
            unseen_at_ns: 0,
            frontier: Some(frontier),
            path,
        }
    }

    /// For the next case, unless something went wrong with it.
    pub fn return_reader(&mut self, reader: Peer) {
        self.reader = Some(reader);
    }

    /// Once a victim is dead or stopped: has a stopped daemon go on.
    pub fn recover(&self) {
        if self.path.is_daemon_stopped() {
            self.instance.resume_daemon();
        }
    }

    /// Waits for memory that the victim's path has none of: whose fault it is if an append
    /// finds no room is known then.
    pub fn have_room(&self, other: &Appender) {
        if self.path.is_daemon_stopped() {
            assert!(other.wait_ready(PATIENCE), "the daemon has gone on");
        }
    }

    /// Runs the path once, one instruction at a time. If it is given one, somebody
    /// interferes when it has come to that so many times.
    fn look(&mut self, mut interfere_at: Option<(u64, usize)>) {
        let mut scene = self.scene();
        scene.begin(&self.instance);
        let frontier = scene.frontier.take().expect("until somebody looks");
        let taken = frontier.data_taken();
        let context = scene.context().clone();
        let before = scene.filled + u64::from(interfere_at.is_some());
        let all = before + self.wanted();
        let mut turns = Turns::default();
        let look = |traced: &Traced, number| {
            if turns.appended_at.is_none() {
                let latest = context.latest().unwrap_or(0);
                if latest > before {
                    turns.seen_at.get_or_insert(number);
                }
                turns.appended_at = (latest == all).then_some(number);
            }
            if turns.changed_at.is_none() && frontier.has_moved() {
                turns.changed_at = Some(number);
            }
            if let Some((change, times)) = &mut interfere_at
                && *change == traced.at()
                && *times > 0
            {
                *times -= 1;
                if *times == 0 {
                    turns.interfered_at = Some(number);
                    interfere(self.path, &mut scene.other);
                }
            }
            if turns.called_at.is_none() && traced.is_about_to_call() {
                turns.called_at = Some(number + 1);
            }
            false
        };
        let course = Course::look(scene.victim.traced(), look);
        let part = Frontier::of(&self.instance.objects(), &context).part();
        assert_eq!(
            self.path.ends_part(),
            part != frontier.part(),
            "{:?}",
            self.path
        );
        match self.path {
            Path::Plain => assert_eq!(frontier.data_taken(), taken, "it has a block"),
            Path::NewBlock => assert!(frontier.data_taken() > taken, "it takes a block"),
            // Who is woken before there is anything to see goes to sleep again.
            _ if self.path.is_parked() => assert!(
                turns.changed_at.is_some() && turns.changed_at < turns.called_at,
                "it rings before the entry is there"
            ),
            _ => {}
        }
        // Otherwise nobody would know what has to be there.
        let is_seen = turns.appended_at.is_some() && turns.seen_at.is_some();
        assert_ne!(
            is_seen,
            self.path == Path::SuccessorMissing,
            "{:?}",
            self.path
        );
        (self.course, self.turns) = (course, turns);
        scene.release();
        self.recover();
        let answer = scene.victim.peer.hear();
        let is_refused = self.path == Path::SuccessorMissing;
        assert_ne!(
            is_refused,
            answer.starts_with("ok"),
            "{:?}: {answer}",
            self.path
        );
        self.return_reader(scene.reader);
    }
}

/// The length of what that appends.
fn interfere(path: Path, other: &mut Appender) -> usize {
    let len = path
        .interference()
        .expect("only asked for where somebody does");
    let entry = NewEntry::new("other", &[b'o'; LARGE][..len]);
    other.append(&entry).expect("room");
    len
}

/// Has a daemon that was stopped make memory that a process waits for, until that has it.
fn have_memory_made(instance: &Instance, waiting: &Peer) {
    let before = waiting.writable_parts(instance);
    instance.resume_daemon();
    eventually("it has a part more, and nothing left to ask", || {
        let has_more = !waiting.writable_parts(instance).is_subset(&before);
        let rests = waiting.sleeps_in("ledger-provision", libc::SYS_poll);
        rests.filter(|_| has_more).map(drop)
    });
}

impl Scene {
    /// Its context, in this process.
    pub fn context(&self) -> &Context {
        self.other.context()
    }

    /// Has the victim begin, and stops it before the first instruction of the path.
    pub fn begin(&mut self, instance: &Instance) {
        self.unseen_at_ns = now_ns().expect("a clock");
        self.victim.begin(&self.path.command());
        if self.path == Path::SuccessorAwaited {
            self.victim.traced().run_to_wait();
            have_memory_made(instance, &self.victim.peer);
        }
    }

    /// Runs it to a place, and says whether it is there: it is somewhere near if it takes
    /// another way this time.
    pub fn run_to(&mut self, stage: &Stage, place: Place) -> bool {
        let (mut from, mut is_there) = (0, true);
        let mut run = |to| {
            // Where it takes another way it stays where that is noticed.
            is_there = is_there && stage.course.run(self.victim.traced(), from..=to);
            from = to;
        };
        if let Some(interfered_at) = stage.turns.interfered_at {
            run(interfered_at);
            self.interfered.push(interfere(self.path, &mut self.other));
        }
        let seen_at = stage.turns.seen_at;
        if let Some(seen_at) = seen_at.filter(|at| *at <= place.instruction) {
            run(seen_at - 1);
            self.unseen_at_ns = now_ns().expect("a clock");
        }
        run(place.instruction);
        if is_there {
            self.victim.traced().step(place.repeated);
        }
        is_there
    }

    /// Kills the victim where it stands.
    pub fn kill(mut self) -> Survivors {
        self.held = None;
        self.victim.kill();
        Survivors {
            other: self.other,
            reader: self.reader,
            sleeper: self.sleeper,
            before: self.filled + self.interfered.len() as u64,
            interfered: self.interfered,
        }
    }

    /// Stops all threads of the victim where it stands.
    pub fn freeze(&mut self) {
        self.held = None;
        self.victim.freeze();
    }

    /// Lets the victim go on by itself.
    pub fn release(&mut self) {
        self.held = None;
        self.victim.release();
    }
}
