//! Everything ready for a watcher that takes a path.

use ledger_client::{Appender, NewEntry};
use nix::sys::signal::Signal;

use crate::torture::course::{Course, Place};
use crate::torture::observed::{another, leave_behind};
use crate::torture::{Effort, Verdicts};
use crate::traced::{Traced, Way};
use crate::{Instance, PATIENCE, Peer, Programs};

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

impl Path {
    /// All of them.
    pub const ALL: [Path; 5] = [
        Path::Opens,
        Path::Finds,
        Path::Sleeps,
        Path::Rolls,
        Path::FallsBack,
    ];
}

/// Two parts hold little, so that little is enough to leave them behind.
const ARGS: [&str; 6] = ["--spare-min", "64K", "--spare-max", "64K", "--window", "8K"];
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

/// One watcher that is about to take its path.
#[derive(Debug)]
pub(super) struct Scene {
    // First, so that whoever is traced goes on before anybody waits for its end.
    traced: Option<Traced>,
    /// The process that watches.
    pub(super) victim: Peer,
    /// An appender, in this process.
    pub(super) other: Appender,
    /// Another watcher, which went to sleep after it.
    pub(super) sleeper: Option<Peer>,
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
            instance: Instance::started(programs, &ARGS),
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
            self.instance = Instance::started(self.programs, &ARGS);
        }
        self.count += 1;
        let name = format!("{:?}-{}", self.path, self.count);
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
        let traced = victim.traced();
        victim.tell(&command);
        assert!(matches!(traced.run_to_marker(), Way::Marker(_)));
        Scene {
            traced: Some(traced),
            victim,
            sleeper: None,
            latest: context.latest().expect("readable"),
            other,
            answer,
        }
    }

    /// Runs the path once, one instruction at a time.
    fn look(&mut self) {
        let mut scene = self.scene();
        let traced = scene.traced.take().expect("it has begun");
        let mut slept_at = None;
        self.course = Course::look(&traced, |traced, number| {
            let sleeps = slept_at.is_none() && traced.is_about_to_doze();
            if sleeps {
                slept_at = Some(number);
                scene.wake(&self.instance, traced);
            }
            sleeps
        });
        self.slept_at = slept_at;
        scene.traced = Some(traced);
        scene.release();
        assert_eq!(scene.victim.hear(), scene.answer);
    }
}

impl Scene {
    fn traced(&self) -> &Traced {
        self.traced.as_ref().expect("until it is let go")
    }

    /// Runs it to a place. It is somewhere near if it takes another way this time.
    pub(super) fn run_to(&mut self, stage: &Stage, place: Place, verdicts: &mut Verdicts) {
        let mut from = 0;
        let slept_at = stage.slept_at.filter(|at| *at < place.instruction);
        if let Some(slept_at) = slept_at
            && stage.course.run(self.traced(), 0..=slept_at)
        {
            let traced = self.traced.take().expect("until it is let go");
            self.wake(&stage.instance, &traced);
            self.traced = Some(traced);
            from = slept_at + 1;
        }
        let is_there = stage.course.run(self.traced(), from..=place.instruction);
        verdicts.count("stopped_elsewhere", (!is_there).into());
        self.traced().step(place.copied);
    }

    /// Has it sleep, and another one after it; then one of them is woken.
    fn wake(&mut self, instance: &Instance, traced: &Traced) {
        let mut sleeper = instance.peer();
        sleeper.must(&format!("read {}", self.other.context().name()));
        sleeper.must(&format!("watch {}", self.latest + 1));
        traced.doze(|| {
            assert_eq!(sleeper.ask("next-at"), "waiting");
            sleeper.wait_for_state(&['S']);
            self.latest = self.other.append(&another()).expect("room").seq;
        });
        self.sleeper = Some(sleeper);
    }

    /// Runs it to its end, and says whether it slept on the way until nobody woke it.
    pub(super) fn run_out(&mut self) -> bool {
        let traced = self.traced.take().expect("until it is let go");
        // It may stand at the end already.
        let has_overslept = !traced.is_about_to_mark() && traced.run_to_marker_oversleeping();
        traced.release();
        has_overslept
    }

    /// Lets it go on by itself.
    fn release(&mut self) {
        if let Some(traced) = self.traced.take() {
            traced.release();
        }
    }

    /// Stops all of its threads, without another instruction of this one.
    pub(super) fn freeze(&mut self) {
        // Pending before it is let go.
        self.victim.signal(Signal::SIGSTOP);
        self.release();
        self.victim.wait_for_state(&['T']);
    }

    /// Lets a frozen one go on, and returns what it answers.
    pub(super) fn thaw(&mut self) -> String {
        self.victim.signal(Signal::SIGCONT);
        self.victim.hear()
    }
}
