//! Everything ready for a watcher that takes a path.

use ledger_client::{Appender, NewEntry, Watcher};

use crate::torture::Effort;
use crate::torture::course::{Course, Place};
use crate::torture::observed::{another, caught_up, leave_behind};
use crate::torture::victim::Victim;
use crate::traced::Traced;
use crate::{Instance, PATIENCE, Peer, Programs, now_ns};

/// A way that a watcher takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// It opens a context, and is made.
    Opens,
    /// The next entry is there.
    Finds,
    /// Nothing is there: it sleeps, is woken, and wakes another one.
    Sleeps,
    /// The next entry is in a part that it has not mapped.
    Rolls,
    /// The next entry has left memory.
    FallsBack,
}

/// Two parts hold little, so that little is enough to leave them behind.
const ARGS: [&str; 5] = ["--spare-min", "64K", "--spare-max", "64K", "--window"];

impl Path {
    /// All of them.
    pub const ALL: [Path; 5] = [
        Path::Opens,
        Path::Finds,
        Path::Sleeps,
        Path::Rolls,
        Path::FallsBack,
    ];

    /// An instance on which this one is taken.
    fn instance(self, programs: Programs) -> Instance {
        // While it rolls, what it leaves stays in memory, however slowly it goes.
        let window = match self {
            Path::Rolls => "32K",
            _ => "8K",
        };
        Instance::started(programs, &[&ARGS[..], &[window]].concat())
    }
}

/// Entries that are there before.
const BEFORE: u64 = 5;
/// Cases whose contexts may be in memory at once.
const CASES_PER_INSTANCE: u32 = 100;

/// An instance on which one path is taken again and again, each time in a context of its
/// own.
#[derive(Debug)]
pub(super) struct Stage {
    programs: Programs,
    path: Path,
    instance: Instance,
    count: u32,
    course: Course,
    slept_at: Option<usize>,
}

/// A watcher that sleeps until an entry is there, which was appended after this time.
#[derive(Debug)]
pub(super) struct Sleeper {
    pub(super) peer: Peer,
    pub(super) appended_ns: u64,
}

/// One watcher that is about to take its path.
#[derive(Debug)]
pub(super) struct Scene {
    /// The process that watches.
    pub(super) victim: Victim,
    /// An appender, in this process.
    pub(super) other: Appender,
    /// Another watcher, which went to sleep after it.
    pub(super) sleeper: Option<Sleeper>,
    /// Another one, in this process, that has seen what was there before.
    pub(super) standing: Watcher,
    /// The last entry.
    pub(super) latest: u64,
    /// What it answers when it is through.
    pub(super) answer: String,
}

impl Stage {
    /// Finds out what the path consists of.
    pub(super) fn set(programs: Programs, path: Path) -> Stage {
        let mut stage = Stage {
            programs,
            path,
            instance: path.instance(programs),
            count: 0,
            course: Course::default(),
            slept_at: None,
        };
        stage.look();
        let sleeps = stage.slept_at.is_some();
        assert_eq!(sleeps, path == Path::Sleeps, "{path:?}");
        stage
    }

    pub(super) fn instance(&self) -> &Instance {
        &self.instance
    }

    /// How many instructions the path has.
    pub(super) fn length(&self) -> usize {
        self.course.length()
    }

    /// The instruction that has it sleep.
    pub(super) fn slept_at(&self) -> Option<usize> {
        self.slept_at
    }

    /// Where to stop, drawn if there are more than wanted.
    pub(super) fn places(&self, effort: &Effort) -> Vec<Place> {
        let purpose = format!("{:?}", self.path);
        self.course.places(0, effort, &purpose)
    }

    /// Has everything ready for a watcher that takes the path, which stands at its
    /// beginning.
    pub(super) fn scene(&mut self) -> Scene {
        if self.count > 0 && self.count.is_multiple_of(CASES_PER_INSTANCE) {
            self.instance = self.path.instance(self.programs);
        }
        self.count += 1;
        // As long each time, since what is done with it depends on that.
        let name = format!("{:?}-{:08}", self.path, self.count);
        let context = self.instance.context(&name);
        let mut other = context.appender().expect("an appender");
        other.set_wait(PATIENCE);
        assert!(other.wait_ready(PATIENCE), "spares");
        let fill = |other: &mut Appender| {
            for _ in 0..BEFORE {
                other.append(&another()).expect("room");
            }
        };
        let mut victim = self.instance.peer_in_place();
        fill(&mut other);
        let (command, answer) = match self.path {
            Path::Opens => {
                // It is connected already.
                self.instance.context("before");
                victim.must("read before");
                (format!("marked-watch {name}"), "ok".to_owned())
            }
            Path::Finds => {
                victim.must(&format!("read {name}"));
                victim.must("watch 2");
                ("marked-next".to_owned(), "ok 2".to_owned())
            }
            Path::Sleeps => {
                victim.must(&format!("read {name}"));
                victim.must("watch 1");
                victim.must("drain");
                ("marked-next".to_owned(), format!("ok {}", BEFORE + 1))
            }
            Path::Rolls => {
                victim.must(&format!("read {name}"));
                victim.must("watch 1");
                victim.must("drain");
                // More than is left of the first part.
                let large = NewEntry::new("other", &[b'o'; 15_000]);
                other.append(&large).expect("room");
                ("marked-next".to_owned(), format!("ok {}", BEFORE + 1))
            }
            Path::FallsBack => {
                leave_behind(&self.instance.objects(), &mut other);
                victim.must(&format!("read {name}"));
                victim.must("watch 2");
                ("marked-next".to_owned(), "ok 2".to_owned())
            }
        };
        let mut victim = Victim::new(victim);
        let mut standing = context.watch(1);
        caught_up(&mut standing).expect("no hole");
        victim.begin(&command);
        Scene {
            victim,
            sleeper: None,
            standing,
            latest: context.latest().expect("readable"),
            other,
            answer,
        }
    }

    /// Runs the path once, one instruction at a time.
    fn look(&mut self) {
        let Scene {
            mut victim,
            mut other,
            answer,
            latest,
            ..
        } = self.scene();
        let mut slept_at = None;
        let mut woken = None;
        self.course = Course::look(victim.traced(), |traced, number| {
            let sleeps = slept_at.is_none() && traced.is_about_to_doze();
            if sleeps {
                slept_at = Some(number);
                woken = Some(wake(&self.instance, traced, &mut other, latest));
            }
            sleeps
        });
        self.slept_at = slept_at;
        victim.release();
        assert_eq!(victim.peer.hear(), answer);
    }
}

/// Has a watcher sleep, and another one after it; then one of them is woken. The other one,
/// and the seq that it is woken for.
fn wake(instance: &Instance, traced: &Traced, other: &mut Appender, latest: u64) -> (Sleeper, u64) {
    let mut peer = instance.peer();
    peer.must(&format!("read {}", other.context().name()));
    peer.must(&format!("watch {}", latest + 1));
    let (mut seq, mut appended_ns) = (latest, 0);
    traced.doze(|| {
        assert_eq!(peer.ask("next-at"), "waiting");
        peer.wait_for_state(&['S']);
        appended_ns = now_ns().expect("a clock");
        seq = other.append(&another()).expect("room").seq;
    });
    (Sleeper { peer, appended_ns }, seq)
}

impl Scene {
    /// Runs it to a place, and says whether it is there: it is somewhere near if it takes
    /// another way this time.
    pub(super) fn run_to(&mut self, stage: &Stage, place: Place) -> bool {
        let (mut from, mut is_there) = (0, true);
        if let Some(slept_at) = stage.slept_at.filter(|at| *at < place.instruction) {
            let traced = self.victim.traced();
            is_there = stage.course.run(traced, 0..=slept_at);
            let (sleeper, seq) = wake(&stage.instance, traced, &mut self.other, self.latest);
            (self.sleeper, self.latest) = (Some(sleeper), seq);
            from = slept_at + 1;
        }
        let (traced, course) = (self.victim.traced(), &stage.course);
        is_there = is_there && course.run(traced, from..=place.instruction);
        if is_there {
            self.victim.traced().step(place.repeated);
        }
        is_there
    }

    /// Runs it to its end, and says whether it slept on the way until nobody woke it.
    pub(super) fn run_out(&mut self) -> bool {
        let traced = self.victim.traced();
        // It may stand at the end already.
        let has_overslept = !traced.is_about_to_mark() && traced.run_to_marker_oversleeping();
        self.victim.release();
        has_overslept
    }
}
