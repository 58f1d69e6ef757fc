//! A name in a directory is there after a loss of power once the directory was synced:
//! nothing is called durable before that, and no file is relied on.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use ledger_client::{Context, NewEntry};
use ledger_shm::file::FileName;
use ledger_tests::call::Call;
use ledger_tests::traced::TracedThread;
use ledger_tests::{PATIENCE, eventually};

use crate::archive::{append, files, home};
use crate::started;

/// Names that have come up, and those of them that a loss of power may take away again.
struct Names {
    home: PathBuf,
    seen: BTreeSet<PathBuf>,
    unsynced: BTreeSet<PathBuf>,
}

impl Names {
    fn look(&mut self) {
        for dir in [self.home.parent().expect("an archive"), &self.home] {
            // The one of a context is made with its first file.
            let names = std::fs::read_dir(dir).into_iter().flatten();
            for path in names.map(|entry| entry.expect("ours").path()) {
                if self.seen.insert(path.clone()) {
                    self.unsynced.insert(path);
                }
            }
        }
        // What was given another name.
        self.unsynced.retain(|path| path.exists());
    }

    fn synced(&mut self, dir: &Path) {
        self.unsynced.retain(|path| path.parent() != Some(dir));
    }

    /// Nothing is durable that is found by a name of these only.
    fn check_durable(&self, context: &Context) {
        let durable_seq = context.durable_seq().expect("it is archived");
        for path in &self.unsynced {
            let durable_max = match file_name(path) {
                Some(FileName::Open(first_seq)) => first_seq - 1,
                // Its entries are found by the name that it had before as well.
                Some(_) => continue,
                None => 0,
            };
            let path = path.display();
            assert!(durable_seq <= durable_max, "{durable_seq} without {path}");
        }
    }

    /// No file is told to be finished whose name may be another one.
    fn check_told(&self) {
        let is_finished = |path: &PathBuf| matches!(file_name(path), Some(FileName::Finished(_)));
        let early: Vec<_> = self
            .unsynced
            .iter()
            .filter(|path| is_finished(path))
            .collect();
        assert!(early.is_empty(), "told before it was synced: {early:?}");
    }

    fn count(&self, is_of_it: impl Fn(FileName) -> bool) -> usize {
        let names = self.seen.iter().filter_map(|path| file_name(path));
        names.filter(|name| is_of_it(*name)).count()
    }
}

fn file_name(path: &Path) -> Option<FileName> {
    FileName::parse(path.file_name()?.to_str()?)
}

fn is_call(call: Call, nr: libc::c_long) -> bool {
    call.nr == nr as u64
}

#[test]
fn a_file_is_relied_on_only_once_its_directory_is_synced() {
    let instance = started(&["--durability", "archive", "--archive-file", "64K"]);
    let context = instance.context("log");
    // While somebody may append, the archiver never rests for long.
    let mut appender = context.appender().expect("an appender");
    let mut names = Names {
        home: home(&instance, &context),
        seen: BTreeSet::new(),
        unsynced: BTreeSet::new(),
    };
    names.look();
    names.unsynced.clear();
    let told_count = AtomicUsize::new(0);
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // In here: it goes on when this fails, and so does who waits for it.
        let archiver = TracedThread::attach(instance.daemon_pid(), "ledgerd-archiver");
        scope.spawn(|| {
            let mut latest = 0;
            for _ in 0..3 {
                // Files that become durable before they are full, and others that are full
                // before that; and, in the end, one that none follows at once.
                for count in [3, 3, 2000] {
                    append(&context, latest + 1..=latest + count);
                    latest += count;
                    context.wait_durable(latest, PATIENCE).expect("a disk");
                }
                let fills_a_file = NewEntry::new("k", &[7; 1 << 16]);
                latest = appender.append(&fills_a_file).expect("room").seq;
                eventually("all files are finished, and that is told", || {
                    let files = files(&instance, &context);
                    let is_finished = |name: &FileName| matches!(name, FileName::Finished(_));
                    let is_told = told_count.load(Ordering::Relaxed) == files.len();
                    (is_told && files.iter().all(is_finished)).then_some(())
                });
            }
            is_done.store(true, Ordering::Relaxed);
        });
        let deadline = Instant::now() + 2 * PATIENCE;
        while !is_done.load(Ordering::Relaxed) {
            assert!(Instant::now() < deadline, "it is never durable");
            let call = archiver.run_to_call();
            names.check_durable(&context);
            let target = archiver.described(call.args[0]);
            let is_report = |target: &PathBuf| target.as_os_str() == "anon_inode:[eventfd]";
            if is_call(call, libc::SYS_write) && target.as_ref().is_some_and(is_report) {
                names.check_told();
                let finished = names.count(|name| matches!(name, FileName::Finished(_)));
                told_count.store(finished, Ordering::Relaxed);
            }
            let outcome = archiver.call();
            if is_call(call, libc::SYS_fsync) && outcome == 0 {
                names.synced(&target.expect("a directory"));
            }
            names.look();
            names.check_durable(&context);
        }
    });
    assert!(names.seen.contains(&names.home));
    assert!(names.count(|name| matches!(name, FileName::Open(_))) > 3);
    assert!(names.count(|name| matches!(name, FileName::Finished(_))) > 3);
}
