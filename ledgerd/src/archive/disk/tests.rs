//! What is done, and in which order.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Mutex;

use tempfile::TempDir;

use super::*;
use crate::archive::KernelFileSystem;
use crate::archive::by_hand::files_in;

/// Has the kernel do it, and says what it was asked for; one of these fails.
#[derive(Debug, Default)]
struct Told {
    tried: Mutex<Vec<String>>,
    failing: Mutex<Option<(&'static str, ErrorKind)>>,
}

impl Told {
    fn step(&self, step: &'static str, path: &Path) -> io::Result<()> {
        if let Some((failing, kind)) = *self.failing.lock().expect("ours")
            && failing == step
        {
            return Err(kind.into());
        }
        let name = path.file_name().unwrap_or(path.as_os_str());
        let name = name.to_str().expect("ASCII").trim_start_matches('0');
        let said = format!("{step} {name}");
        self.tried.lock().expect("ours").push(said);
        Ok(())
    }

    fn step_of(&self, step: &'static str, file: &File) -> io::Result<()> {
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        self.step(step, &std::fs::read_link(link)?)
    }
}

impl FileSystem for Told {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        self.step("make", dir)?;
        KernelFileSystem.make_dir(dir)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        self.step("create", path)?;
        KernelFileSystem.create(path)
    }

    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<usize> {
        self.step_of("write", file)?;
        KernelFileSystem.write(file, bytes)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        self.step_of("cut", file)?;
        KernelFileSystem.set_len(file, len)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        self.step_of("sync", file)
    }

    fn sync_dir(&self, dir: &File) -> io::Result<()> {
        self.step_of("sync names", dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.step("rename", from)?;
        KernelFileSystem.rename(from, to)
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        self.step("exchange", one)?;
        KernelFileSystem.exchange(one, other)
    }

    fn remove(&self, dir: &File, name: &str) -> io::Result<()> {
        self.step("remove", Path::new(name))?;
        KernelFileSystem.remove(dir, name)
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.step("remove all", dir)?;
        KernelFileSystem.remove_dir(dir)
    }
}

/// An archive in which nothing is yet, and a home that there could be in it.
struct Scene {
    told: Arc<Told>,
    disk: Disk,
    home: PathBuf,
    archive: PathBuf,
    _above: TempDir,
}

const NAME: FileName = FileName::Open(1);
/// That, as it is said here: without what all names begin with.
const OPEN: &str = "1.open";

impl Scene {
    fn new() -> Scene {
        let told = Arc::<Told>::default();
        let above = tempfile::tempdir().expect("a directory");
        let archive = above.path().join("archive");
        place::prepare_archive_dir(&archive, uid()).expect("room");
        Scene {
            disk: Disk::new(Arc::clone(&told) as _),
            told,
            home: archive.join("home"),
            archive,
            _above: above,
        }
    }

    /// As that, with a home that has an open file.
    fn with_home() -> Scene {
        let scene = Scene::new();
        scene.disk.make_home(&scene.home).expect("room");
        scene.put(OPEN, "before");
        scene.tried();
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.join(format!("{:0>19}{name}", ""))
    }

    fn put(&self, name: &str, bytes: &str) {
        std::fs::write(self.path(name), bytes).expect("room");
    }

    /// What is done from now on fails at such a step.
    fn fail(&self, step: &'static str, kind: ErrorKind) {
        *self.told.failing.lock().expect("ours") = Some((step, kind));
    }

    /// What was asked of the file system since this was last asked.
    fn tried(&self) -> Vec<String> {
        std::mem::take(&mut self.told.tried.lock().expect("ours"))
    }

    fn held(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).expect("it is there")
    }

    /// What is in its home.
    fn names(&self) -> Vec<String> {
        let names = files_in(&self.home).into_iter();
        names
            .map(|name| name.trim_start_matches('0').to_owned())
            .collect()
    }
}

fn uid() -> u32 {
    nix::unistd::getuid().as_raw()
}

fn kind<R>(outcome: io::Result<R>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

#[test]
fn all_directories_up_to_the_archive_are_there_before_it_is_locked() {
    let scene = Scene::new();
    let take = || StateLock::take(&scene.archive, uid(), &scene.disk);
    let lock = take().expect("room").expect("nobody has it");
    let tried = scene.tried();
    assert_eq!(tried.len(), scene.archive.ancestors().count());
    assert_eq!(tried[0], "sync names archive");
    assert_eq!(tried.last().expect("some"), "sync names /");
    assert!(take().expect("room").is_none());
    drop(lock);
    // Not this process's to make.
    scene.fail("sync names", ErrorKind::PermissionDenied);
    assert!(take().expect("room").is_some());
    scene.fail("sync names", ErrorKind::StorageFull);
    assert_eq!(kind(take()), Some(ErrorKind::StorageFull));
}

#[test]
fn a_home_is_there_after_a_loss_of_power() {
    let scene = Scene::new();
    let make = || scene.disk.make_home(&scene.home);
    make().expect("room");
    assert_eq!(scene.tried(), ["make home", "sync names archive"]);
    make().expect("it is there");
    assert_eq!(scene.tried(), ["make home", "sync names archive"]);
    scene.fail("make", ErrorKind::StorageFull);
    assert_eq!(kind(make()), Some(ErrorKind::StorageFull));
    assert!(scene.tried().is_empty());
}

#[test]
fn the_names_in_a_home_are_synced_if_there_is_one() {
    let scene = Scene::new();
    scene.disk.sync_home(&scene.home).expect("there is none");
    assert!(scene.tried().is_empty());
    let scene = Scene::with_home();
    scene.disk.sync_home(&scene.home).expect("room");
    assert_eq!(scene.tried(), ["sync names home"]);
    scene.fail("sync names", ErrorKind::StorageFull);
    let outcome = scene.disk.sync_home(&scene.home);
    assert_eq!(kind(outcome), Some(ErrorKind::StorageFull));
}

#[test]
fn a_file_is_replaced_once_the_next_one_is_on_stable_storage() {
    let scene = Scene::with_home();
    let replace = |bytes: &[u8]| scene.disk.replace(&scene.home, NAME, bytes);
    for bytes in ["next", "third"] {
        replace(bytes.as_bytes()).expect("room");
        let beside = ["remove", "create", "write", "sync", "rename"];
        let mut steps = beside.map(|step| format!("{step} 1.open.new")).to_vec();
        steps.push("sync names home".into());
        assert_eq!(scene.tried(), steps);
        assert_eq!(scene.held(OPEN), bytes);
        // Half of it is what an earlier try has left.
        scene.put("1.open.new", "half");
    }
    scene.fail("remove", ErrorKind::PermissionDenied);
    assert_eq!(kind(replace(b"none")), Some(ErrorKind::PermissionDenied));
    scene.fail("sync", ErrorKind::StorageFull);
    assert_eq!(kind(replace(b"none")), Some(ErrorKind::StorageFull));
    assert_eq!(scene.held(OPEN), "third");
}

#[test]
fn another_name_is_on_stable_storage_or_was_never_given() {
    let scene = Scene::with_home();
    let finished = FileName::Finished(1);
    scene
        .disk
        .rename(&scene.home, NAME, finished)
        .expect("room");
    assert_eq!(scene.tried(), ["rename 1.open", "sync names home"]);
    let aside = scene.archive.join("aside");
    let moved = scene.disk.move_dir(&scene.home, &aside);
    moved.expect("room");
    assert_eq!(scene.tried(), ["rename home", "sync names archive"]);
    scene.fail("sync names", ErrorKind::StorageFull);
    let moved = scene.disk.move_dir(&aside, &scene.home);
    assert_eq!(kind(moved), Some(ErrorKind::StorageFull));
    assert_eq!(scene.tried(), ["rename aside", "rename home"]);
    assert!(aside.exists());
}

#[test]
fn two_directories_change_names_for_good_or_not_at_all() {
    let scene = Scene::with_home();
    let other = scene.archive.join("other");
    std::fs::create_dir(&other).expect("room");
    let exchange = || scene.disk.exchange(&other, &scene.home);
    exchange().expect("room");
    assert_eq!(scene.tried(), ["exchange other", "sync names archive"]);
    assert!(other.join(NAME.to_string()).exists());
    scene.fail("sync names", ErrorKind::StorageFull);
    assert_eq!(kind(exchange()), Some(ErrorKind::StorageFull));
    assert_eq!(scene.tried(), ["exchange other", "exchange other"]);
    assert!(other.join(NAME.to_string()).exists());
}

#[test]
fn the_oldest_file_is_gone_for_good_before_the_next_one_goes() {
    let scene = Scene::with_home();
    let dir = File::open(&scene.home).expect("it is there");
    let remove = || scene.disk.remove_oldest(&dir, NAME);
    remove().expect("it is there");
    assert_eq!(scene.tried(), ["remove 1.open", "sync names home"]);
    remove().expect("it is gone");
    assert_eq!(scene.tried(), ["remove 1.open"]);
    scene.put(OPEN, "again");
    scene.fail("remove", ErrorKind::PermissionDenied);
    assert_eq!(kind(remove()), Some(ErrorKind::PermissionDenied));
}

#[test]
fn a_directory_is_removed_if_it_is_there() {
    let scene = Scene::with_home();
    let remove = || scene.disk.remove_dir(&scene.home);
    remove().expect("ours");
    assert_eq!(scene.tried(), ["remove all home"]);
    remove().expect("it is gone");
    scene.fail("remove all", ErrorKind::PermissionDenied);
    assert_eq!(kind(remove()), Some(ErrorKind::PermissionDenied));
}

#[test]
fn a_torn_end_is_kept_on_stable_storage_before_it_is_cut_off() {
    let scene = Scene::with_home();
    let cut = |torn: &[u8]| scene.disk.cut(&scene.home, NAME, 4, torn);
    cut(b"re").expect("room");
    let aside = "1.open.torn-0";
    let kept = ["create", "write", "sync"].map(|step| format!("{step} {aside}"));
    let cut_off = ["sync names home", "cut 1.open", "sync 1.open"];
    assert_eq!(
        scene.tried(),
        [&kept[..], &cut_off.map(str::to_owned)].concat()
    );
    assert_eq!(
        (scene.held(OPEN), scene.held(aside)),
        ("befo".into(), "re".into())
    );
    for step in ["write", "sync", "sync names"] {
        scene.fail(step, ErrorKind::StorageFull);
        assert_eq!(kind(cut(b"more")), Some(ErrorKind::StorageFull), "{step}");
        assert_eq!(scene.names(), [OPEN, aside], "{step}");
    }
    *scene.told.failing.lock().expect("ours") = None;
    cut(b"n").expect("room");
    assert_eq!(scene.names(), [OPEN, aside, "1.open.torn-1"]);
    scene.tried();
    scene.disk.set_aside(&scene.home, NAME).expect("room");
    assert_eq!(scene.tried(), ["rename 1.open"]);
    let all = [0, 1, 2].map(|number| format!("1.open.torn-{number}"));
    assert_eq!(scene.names(), all);
}
