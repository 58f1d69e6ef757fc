//! Everything that changes an archive.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ledger_client::admin::drop_context;
use ledger_client::{Context, Ledger, NewEntry, place};
use ledger_shm::control::State;
use ledger_shm::merkle::Hash;
use ledger_shm::record::crc32c;
use ledgerd::{ContextRules, Daemon, Options, Retention};

use super::diary::{Diary, Event};
use crate::power::{Image, Op, Recorded, Trace};
use crate::{Instance, PATIENCE, Programs, eventually};

/// Entries that are kept at least of the context of that name.
pub(super) const KEPT_ENTRIES: u64 = 20;

/// Of each context all entries that it ever had, from the first on.
pub(super) type History = BTreeMap<&'static str, Vec<u32>>;

/// What was done, and what was said meanwhile.
#[derive(Debug)]
pub(super) struct Story {
    pub(super) trace: Trace,
    pub(super) diary: Arc<Diary>,
    pub(super) entries: History,
    /// Of contexts with this history, how many entries it has, and the root over them.
    pub(super) roots: BTreeMap<&'static str, (u64, Hash)>,
}

/// A daemon in this process, on a file system that remembers.
#[derive(Debug)]
pub(super) struct Stage {
    // Dropped in this order.
    daemon: Option<Daemon>,
    pub(super) recorded: Arc<Recorded>,
    pub(super) diary: Arc<Diary>,
    options: Options,
    pub(super) instance: Instance,
}

impl Stage {
    /// A daemon that finds this on its disk, and nothing in memory.
    pub(super) fn on(programs: Programs, image: &Image) -> Stage {
        let instance = Instance::new(programs);
        let mut options = instance.options();
        options.memory_budget = Some(64 << 20);
        options.archive_file_len = 64 << 10;
        options.sizes.spare_len_min = Some(64 << 10);
        options.sizes.spare_len_max = Some(64 << 10);
        options.sizes.window_len = Some(16 << 10);
        options.idle_close_after = Duration::from_millis(10);
        let dir = archive_dir(&instance);
        let recorded = Arc::new(Recorded::on(&dir, image));
        options.file_system = Arc::clone(&recorded) as _;
        Stage {
            daemon: Some(Daemon::start(options.clone()).expect("it starts on what there is")),
            diary: Diary::of(&recorded),
            recorded,
            options,
            instance,
        }
    }

    /// Goes on, and from now on need not keep all of one context.
    fn restart(&mut self) {
        let some = Retention {
            entries: Some(KEPT_ENTRIES),
            ..Retention::default()
        };
        self.options.context_rules = vec![ContextRules::new(["kept"]).retention(some)];
        let daemon = self.daemon.take().expect("one");
        daemon.stop().expect("it ends");
        self.daemon = Some(Daemon::start(self.options.clone()).expect("it starts"));
    }

    fn archive_dir(&self) -> PathBuf {
        archive_dir(&self.instance)
    }

    pub(super) fn note(&self, name: &'static str, event: Event) {
        self.diary.note(self.recorded.count(), name, event);
    }
}

fn archive_dir(instance: &Instance) -> PathBuf {
    place::archive_dir(&instance.state_dir(), &instance.objects())
}

/// What is appended.
pub(super) fn entry(seq: u64) -> Vec<u8> {
    vec![seq as u8; 300 + (seq as usize * 611) % 3000]
}

impl Story {
    /// Has a daemon do it all.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub(super) fn told(programs: Programs, rng: &mut fastrand::Rng) -> Story {
        let mut teller = Teller {
            stage: Stage::on(programs, &Image::default()),
            entries: BTreeMap::new(),
            roots: BTreeMap::new(),
        };
        teller.tell(rng.usize(1..3));
        let Teller {
            stage,
            entries,
            roots,
        } = teller;
        let diary = Arc::clone(&stage.diary);
        let recorded = Arc::clone(&stage.recorded);
        // What it does at its end belongs to it.
        drop(stage);
        let trace = recorded.trace();
        let is_failed = |op: &Op| matches!(op, Op::Unsynced { .. });
        assert!(trace.ops.iter().any(is_failed), "a disk that fails once");
        Story {
            trace,
            diary,
            entries,
            roots,
        }
    }
}

struct Teller {
    stage: Stage,
    entries: History,
    roots: BTreeMap<&'static str, (u64, Hash)>,
}

impl Teller {
    /// A file of one context is not brought to stable storage once, after so many times.
    fn tell(&mut self, fails_after: usize) {
        let ledger = self.stage.instance.connect();
        // Begin files, finish them, retire memory.
        self.append(&ledger, "log", 60);
        self.append(&ledger, "kept", 150);
        // Go on in files that an earlier daemon left open, and remove several at once.
        self.stage.restart();
        let ledger = self.stage.instance.connect();
        self.append(&ledger, "log", 30);
        // Give memory up, and come back.
        self.wait_until_idle("log");
        self.append(&ledger, "log", 10);
        let context = ledger.context("log").open().expect("there");
        // Load; go on with more; drop.
        let latest = context.latest().expect("readable");
        let mut snapshots = [40, latest].map(|last_seq| {
            let mut snapshot = Vec::new();
            let run = context.snapshot_to(&mut snapshot).up_to(last_seq).run();
            run.expect("readable");
            (last_seq, snapshot)
        });
        let root = context.root(latest).expect("all is there");
        self.roots.insert("log", (latest, root));
        drop(context);
        for name in ["copy", "more", "gone"] {
            self.entries.insert(name, self.entries["log"].clone());
            self.roots.insert(name, (latest, root));
        }
        for (name, which) in [("copy", 1), ("more", 0), ("more", 1), ("gone", 0)] {
            let (count, snapshot) = &mut snapshots[which];
            self.stage.note(name, Event::Loading(*count));
            let load = ledger.load_from(snapshot.as_slice()).name(name).run();
            let epoch = load.expect("loaded").epoch;
            self.stage.note(name, Event::Loaded(*count, epoch));
        }
        self.stage.note("gone", Event::Dropping);
        drop_context(&ledger, "gone").expect("dropped");
        self.stage.note("gone", Event::Dropped);
        // Remove one after the other.
        self.append(&ledger, "kept", 100);
        // A disk that fails once, while nobody waits for it.
        self.append(&ledger, "failing", 1);
        let epoch = ledger.context("failing").open().expect("there").epoch();
        let home = self.stage.archive_dir().join(epoch.to_string());
        // The first time is when it is opened again, with nothing new in it.
        self.stage.recorded.fail_sync_in(&home, fails_after);
        self.append_at_leisure(&ledger, "failing", 50);
    }

    fn append(&mut self, ledger: &Ledger, name: &'static str, count: u64) {
        self.append_and(ledger, name, count, |context, seq| {
            context.wait_durable(seq, PATIENCE).expect("a disk");
        });
    }

    /// Appends, and has the archiver choose when what is on stable storage.
    fn append_at_leisure(&mut self, ledger: &Ledger, name: &'static str, count: u64) {
        self.append_and(ledger, name, count, |context, seq| {
            eventually("it is durable", || {
                (context.durable_seq() >= Some(seq)).then_some(())
            });
        });
    }

    fn append_and(
        &mut self,
        ledger: &Ledger,
        name: &'static str,
        count: u64,
        wait: impl Fn(&Context, u64),
    ) {
        self.stage.diary.forget(name);
        self.stage.note(name, Event::Opening);
        let context = ledger.context(name).open_or_create().expect("a context");
        self.stage
            .diary
            .watch(&self.stage.instance.objects(), name, &context);
        let mut appender = context.appender().expect("an appender");
        appender.set_wait(PATIENCE);
        let mut last = 0;
        for number in 1..=count {
            let next = context.latest().expect("readable") + 1;
            let bytes = entry(next);
            last = appender
                .append(&NewEntry::new("k", &bytes))
                .expect("room")
                .seq;
            self.stage
                .note(name, Event::Appended(last, context.epoch()));
            let entry = context.get(last).expect("readable").expect("there");
            let entries = self.entries.entry(name).or_default();
            entries.push(crc32c(entry.record_bytes()));
            if number % 5 == 0 {
                wait(&context, last);
                self.stage.note(name, Event::Durable(last));
            }
        }
        wait(&context, last);
        self.stage.note(name, Event::Durable(last));
    }

    fn wait_until_idle(&self, name: &'static str) {
        let ledger = self.stage.instance.connect();
        eventually("its memory is given up", || {
            let contexts = ledger.contexts().expect("readable").readable;
            let context = contexts.iter().find(|context| context.name() == name);
            let state = context.map(|context| context.state().expect("readable"));
            (state == Some(State::Archived)).then_some(())
        });
    }
}
