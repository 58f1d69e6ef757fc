//! The ways an append can take, and how to stop one on each of them.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use ledger_client::{Appender, Context, NewEntry};
use ledger_shm::object;
use ledger_shm::segment::Geometry;
use nix::sys::signal::Signal;

use super::frontier::Frontier;
use super::promises::TRIED;
use super::{Effort, Verdicts};
use crate::traced::{Traced, TracedThread, Way};
use crate::{Instance, PATIENCE, Peer, Programs, eventually};

/// A way that an append takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Into what is left of its block.
    Plain,
    /// Into a block that it has to take.
    NewBlock,
    /// Another appender takes the slot just before its CAS.
    SlotLost,
    /// The index has no slot left: it seals, and rolls.
    IndexFull,
    /// The data area has no room: it seals, and rolls to a part that it has mapped.
    DataFull,
    /// Another appender seals just before its CAS.
    SealLost,
    /// The log went on in parts that it has not mapped: it maps them itself.
    SuccessorLate,
    /// There is no other part, and a stopped daemon makes none.
    SuccessorMissing,
    /// More entries than share one look at the bell, and a roll among them.
    Batch,
    /// The largest payload there may be.
    LargestPayload,
    /// A watcher is asleep.
    Parked,
    /// The daemon is dead: it seals, and rolls.
    DaemonDead,
    /// A watcher is asleep, and the daemon is dead.
    ParkedDaemonDead,
}

/// Bytes of the first part of every context here.
const FIRST_LEN: usize = 16 << 10;
/// What a victim appends where it does not matter how much.
const SMALL: usize = 64;
/// More than is left of the first part after [`ALMOST_ALL`].
const LARGE: usize = 3000;
/// Fills the first part but for less than [`LARGE`].
const ALMOST_ALL: usize = 12_000;
/// Payloads are at most this long unless a daemon is told otherwise.
const LARGEST: usize = 4 << 20;
/// Entries of a batch: its looks at the bell are after 64 and at its end.
const BATCH: usize = 100;
/// Occurrences of one instruction that are all tried; of later ones, in long loops, some.
const OCCURRENCES_ALL: usize = 4;
/// How many of those.
const IN_LOOPS: usize = 64;
/// Bytes that a repeated instruction may have copied already when it is stopped.
const COPIED_MAX: usize = 4000;

impl Path {
    /// All of them.
    pub const ALL: [Path; 13] = [
        Path::Plain,
        Path::NewBlock,
        Path::SlotLost,
        Path::IndexFull,
        Path::DataFull,
        Path::SealLost,
        Path::SuccessorLate,
        Path::SuccessorMissing,
        Path::Batch,
        Path::Parked,
        Path::DaemonDead,
        Path::ParkedDaemonDead,
        // Last: looking it through takes what little time there may be.
        Path::LargestPayload,
    ];

    /// Whether a watcher sleeps meanwhile.
    pub fn is_parked(self) -> bool {
        matches!(self, Path::Parked | Path::ParkedDaemonDead)
    }

    /// Whether the daemon is dead meanwhile.
    pub fn is_daemon_dead(self) -> bool {
        matches!(self, Path::DaemonDead | Path::ParkedDaemonDead)
    }

    /// Entries that the victim is to append.
    fn wanted(self) -> u64 {
        match self {
            Path::Batch => BATCH as u64,
            _ => 1,
        }
    }

    /// What the victim is told to do between two markers.
    fn command(self) -> String {
        match self {
            Path::IndexFull => "marked 1 0".to_owned(),
            Path::DataFull | Path::SealLost | Path::DaemonDead => format!("marked 1 {LARGE}"),
            Path::SuccessorLate => format!("marked-wait 1 {LARGE}"),
            Path::SuccessorMissing => format!("marked 1 {ALMOST_ALL}"),
            Path::Batch => format!("marked-batch {BATCH} {SMALL}"),
            Path::LargestPayload => format!("marked 1 {LARGEST}"),
            _ => format!("marked 1 {SMALL}"),
        }
    }

    /// What somebody else appends just before the victim's first change.
    fn interference(self) -> Option<usize> {
        match self {
            Path::SlotLost => Some(SMALL),
            Path::SealLost => Some(LARGE),
            _ => None,
        }
    }

    fn daemon_args(self, more: &[&'static str]) -> Vec<&'static str> {
        let spare = if self == Path::LargestPayload {
            "8M"
        } else {
            "64K"
        };
        let mut args = vec!["--spare-min", spare, "--spare-max", spare];
        args.extend_from_slice(more);
        args
    }
}

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
    reader: Option<Peer>,
}

/// One append that is about to take its path.
#[derive(Debug)]
pub struct Scene {
    // First, so that whoever is traced goes on before anybody waits for its end.
    traced: Option<Traced>,
    /// The thread that would map parts for it.
    held: Option<TracedThread>,
    /// The process that appends.
    pub victim: Peer,
    /// Another appender, in this process.
    pub other: Appender,
    /// Entries that are there before.
    pub filled: u64,
    /// Entries that others appended while it was under way.
    pub interfered: u64,
    /// A watcher in a process of its own that sleeps for the next entry, on the paths
    /// that have one.
    pub sleeper: Option<Peer>,
    frontier: Option<Frontier>,
    path: Path,
}

/// What is left of a scene whose victim was killed.
#[derive(Debug)]
pub struct Survivors {
    /// The other appender.
    pub other: Appender,
    /// The watcher that slept.
    pub sleeper: Option<Peer>,
    /// Entries that are there without what the victim appended.
    pub before: u64,
}

/// Cases whose contexts may be in memory at once.
const CASES_PER_INSTANCE: u32 = 100;

/// What the victim does on its path.
#[derive(Debug, Default)]
struct Course {
    /// Where each of its instructions lies, in the order in which they are run.
    instructions: Vec<u64>,
    /// Those that repeat themselves.
    repeated: Vec<usize>,
    /// How many it had run when somebody interfered.
    interfered_at: Option<usize>,
    /// How many it had run when the log had changed.
    changed_at: Option<usize>,
    /// How many it had run when it made its first system call.
    called_at: Option<usize>,
}

/// A place to stop at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Before this instruction.
    pub instruction: usize,
    /// Bytes that it has copied already, if it is one that repeats itself.
    pub copied: usize,
}

impl Course {
    /// The instruction that changes the log, and when it is that one's turn.
    fn change(&self) -> Option<(u64, usize)> {
        let before = &self.instructions[..self.changed_at?];
        let at = *before.last()?;
        Some((at, before.iter().filter(|other| **other == at).count()))
    }
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
            reader: None,
        };
        let mut course = stage.look(None);
        if path.interference().is_some() {
            let change = course.change().expect("it appends");
            course = stage.look(Some(change));
            assert!(
                course.interfered_at.is_some(),
                "it takes another way each time"
            );
        }
        stage.course = course;
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
        self.course.instructions.len()
    }

    /// The first instruction after which the log has changed, if the path changes it.
    pub fn changed_at(&self) -> Option<usize> {
        self.course.changed_at
    }

    /// Where to stop, drawn if there are more than wanted.
    pub fn places(&self, effort: &Effort) -> Vec<Place> {
        let purpose = format!("{:?}", self.path);
        let mut rng = effort.rng(&purpose);
        let mut places = Vec::new();
        let mut in_loops = Vec::new();
        let mut occurrences: HashMap<u64, usize> = HashMap::new();
        let first = self.course.interfered_at.unwrap_or(0);
        for (instruction, at) in self.course.instructions.iter().enumerate().skip(first) {
            let count = occurrences.entry(*at).or_default();
            *count += 1;
            let place = |copied| Place {
                instruction,
                copied,
            };
            if *count > OCCURRENCES_ALL {
                in_loops.push(place(0));
                continue;
            }
            places.push(place(0));
            if self.course.repeated.contains(&instruction) {
                places.push(place(rng.usize(1..COPIED_MAX)));
            }
        }
        rng.shuffle(&mut in_loops);
        places.extend(in_loops.into_iter().take(IN_LOOPS));
        let cases = effort.cases(places.len(), &purpose);
        cases.into_iter().map(|case| places[case]).collect()
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
        let name = format!("{path:?}-{}", self.count);
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
            Path::DataFull | Path::SealLost | Path::DaemonDead => {
                fill(1, ALMOST_ALL);
            }
            Path::Batch => {
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
                held = Some(provision);
                // Beyond both spares.
                let entry = NewEntry::new("other", &[b'o'; ALMOST_ALL]);
                for _ in 0..24 {
                    other.append(&entry).expect("room");
                }
            }
            Path::SuccessorMissing => {
                instance.pause_daemon();
                let answer = victim.ask(&format!("marked 100 {ALMOST_ALL}"));
                assert!(answer.contains("no room"), "{answer}");
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
            traced: None,
            held,
            victim,
            other,
            filled,
            interfered: 0,
            sleeper,
            frontier: Some(frontier),
            path,
        }
    }

    /// A process that reads, until it is returned: for one case after the other, unless
    /// something went wrong with it.
    pub fn take_reader(&mut self) -> Peer {
        self.reader.take().unwrap_or_else(|| self.instance.peer())
    }

    /// For the next case.
    pub fn return_reader(&mut self, reader: Peer) {
        self.reader = Some(reader);
    }

    /// Once a victim is dead or stopped: has a stopped daemon go on.
    pub fn recover(&self) {
        if self.path == Path::SuccessorMissing {
            self.instance.resume_daemon();
        }
    }

    /// Waits for memory that the victim's path has none of: whose fault it is if an append
    /// finds no room is known then.
    pub fn have_room(&self, other: &Appender) {
        if self.path == Path::SuccessorMissing {
            assert!(other.wait_ready(PATIENCE), "the daemon has gone on");
        }
    }

    /// Runs the path once, one instruction at a time. If it is given one, somebody
    /// interferes when it has come to that so many times.
    fn look(&mut self, mut interfere_at: Option<(u64, usize)>) -> Course {
        let mut scene = self.scene();
        scene.begin();
        let frontier = scene.frontier.take().expect("until somebody looks");
        let taken = frontier.data_taken();
        let mut course = Course::default();
        let traced = scene.traced.take().expect("it has begun");
        while !traced.is_about_to_mark() {
            let at = traced.at();
            course.instructions.push(at);
            if let Some((change, times)) = &mut interfere_at
                && *change == at
                && *times > 0
            {
                *times -= 1;
                if *times == 0 {
                    course.interfered_at = Some(course.instructions.len() - 1);
                    interfere(self.path, &mut scene.other);
                }
            }
            if course.called_at.is_none() && traced.is_about_to_call() {
                course.called_at = Some(course.instructions.len());
            }
            if traced.step_over_repeated() {
                course.repeated.push(course.instructions.len() - 1);
            } else {
                traced.step(1);
            }
            if course.changed_at.is_none() && frontier.has_moved() {
                course.changed_at = Some(course.instructions.len());
            }
        }
        scene.traced = Some(traced);
        match self.path {
            Path::Plain => assert_eq!(frontier.data_taken(), taken, "it has a block"),
            Path::NewBlock => assert!(frontier.data_taken() > taken, "it takes a block"),
            // Who is woken before there is anything to see goes to sleep again.
            _ if self.path.is_parked() => assert!(
                course.changed_at < course.called_at,
                "it rings before the entry is there"
            ),
            _ => {}
        }
        scene.release();
        self.recover();
        let answer = scene.victim.hear();
        let is_refused = self.path == Path::SuccessorMissing;
        assert_ne!(
            is_refused,
            answer.starts_with("ok"),
            "{:?}: {answer}",
            self.path
        );
        course
    }
}

/// Does something with a victim that stands at a place, for places of every path.
pub fn everywhere(
    torture: &'static str,
    programs: Programs,
    effort: &Effort,
    args: &[&'static str],
    mut case: impl FnMut(&mut Stage, Place, &mut Verdicts, &str),
) -> Verdicts {
    let mut verdicts = Verdicts::new(torture, effort);
    let is_wanted = |path: &Path| {
        // It takes a while to find out what that one consists of.
        let is_short = effort.is_all() || *path != Path::LargestPayload;
        is_short && format!("{path:?}").contains(&effort.only)
    };
    let paths: Vec<Path> = Path::ALL.into_iter().filter(is_wanted).collect();
    for (n, path) in paths.iter().enumerate() {
        let began = Instant::now();
        let effort = effort.share(paths.len() - n);
        let mut stage = Stage::set(programs, *path, args);
        let places = stage.places(&effort);
        let has_time = |_: &&Place| effort.has_time();
        let mut tried = 0;
        for place in places.iter().take_while(has_time) {
            tried += 1;
            let name = format!("{path:?}, at {place:?} of {}", stage.length());
            let outcome = catch_unwind(AssertUnwindSafe(|| {
                case(&mut stage, *place, &mut verdicts, &name);
            }));
            verdicts.check(TRIED, outcome.is_ok(), || name);
        }
        verdicts.count("stopped", tried);
        let seconds = began.elapsed().as_secs_f64();
        eprintln!(
            "{torture}: {path:?}: {} instructions, the log changes after {:?}: {tried} of {} places in {seconds:.1} s",
            stage.length(),
            stage.changed_at(),
            places.len(),
        );
    }
    verdicts
}

fn interfere(path: Path, other: &mut Appender) -> u64 {
    let len = path
        .interference()
        .expect("only asked for where somebody does");
    let entry = NewEntry::new("other", &[b'o'; LARGE][..len]);
    other.append(&entry).expect("room");
    1
}

impl Scene {
    /// Its context, in this process.
    pub fn context(&self) -> &Context {
        self.other.context()
    }

    fn traced(&self) -> &Traced {
        self.traced.as_ref().expect("it has begun")
    }

    /// Has the victim begin, and stops it before the first instruction.
    pub fn begin(&mut self) {
        let traced = self.victim.traced();
        self.victim.tell(&self.path.command());
        assert!(matches!(traced.run_to_marker(), Way::Marker(_)));
        self.traced = Some(traced);
    }

    /// Runs it to a place. It is somewhere near if it takes another way this time.
    pub fn run_to(&mut self, stage: &Stage, place: Place, verdicts: &mut Verdicts) {
        let (mut from, target) = (0, place.instruction);
        if let Some(interfered_at) = stage.course.interfered_at {
            self.run(&stage.course.instructions[..=interfered_at]);
            self.interfered = interfere(self.path, &mut self.other);
            from = interfered_at;
        }
        self.run(&stage.course.instructions[from..=target]);
        let is_elsewhere = self.traced().at() != stage.course.instructions[target];
        verdicts.count("stopped_elsewhere", is_elsewhere.into());
        self.traced().step(place.copied);
    }

    /// Runs it from the first to the last of these: by a breakpoint as far as that is
    /// shorter, then step by step.
    fn run(&self, instructions: &[u64]) {
        let last = instructions.len() - 1;
        let mut occurrences: HashMap<u64, usize> = HashMap::new();
        // It stands at the first already.
        let costs = instructions.iter().enumerate().skip(1).map(|(n, at)| {
            let count = occurrences.entry(*at).or_default();
            *count += 1;
            (*count + last - n, n, *count)
        });
        let shortest = costs.min().filter(|(cost, ..)| *cost < last);
        let from = match shortest {
            Some((_, n, count)) if self.traced().run_to(instructions[n], count) => n,
            // It is through.
            Some(_) => return,
            None => 0,
        };
        self.traced().step(last - from);
    }

    /// Kills the victim where it stands.
    pub fn kill(mut self) -> Survivors {
        // Whoever traces a thread would have to wait for its end, too.
        self.held = None;
        self.victim.signal(Signal::SIGKILL);
        self.victim.kill();
        Survivors {
            other: self.other,
            sleeper: self.sleeper,
            before: self.filled + self.interfered,
        }
    }

    /// Stops all of its threads, without another instruction of this one.
    pub fn freeze(&mut self) {
        // Pending before it is let go.
        self.victim.signal(Signal::SIGSTOP);
        self.release();
        self.victim.wait_for_state(&['T']);
    }

    /// Lets it go on by itself.
    pub fn release(&mut self) {
        self.held = None;
        if let Some(traced) = self.traced.take() {
            traced.release();
        }
    }

    /// Lets a frozen victim go on, and returns what it answers.
    pub fn thaw(&mut self) -> String {
        self.victim.signal(Signal::SIGCONT);
        self.victim.hear()
    }

    /// The parts of its context that are in memory.
    pub fn parts(&self, instance: &object::Instance) -> Vec<u64> {
        let epoch = self.context().epoch();
        let names = object::list(instance).expect("listed").into_iter();
        let part = |name| match name {
            object::Name::Part(of, part) if of == epoch => Some(part),
            _ => None,
        };
        names.filter_map(part).collect()
    }
}
