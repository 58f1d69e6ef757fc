//! Other people's bugs: patches in `tests/museum`, each of which takes one of our defences
//! away. The test that it names has to fail with it, and to say why.
//!
//! A patch begins with `Removes:` and what is gone with it, `Fails:` and the arguments of
//! `cargo test` that run one test, and `Says:` and what that then prints, by which it is known
//! that it fails for that reason, and not for another.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::promises::{GUARDED, TRIED};
use super::{Effort, Verdicts};
use crate::Programs;

/// Seconds in which a test is built, perhaps from nothing, and run.
const ENDS_WITHIN_S: &str = "3600";

/// One bug.
#[derive(Debug)]
pub struct Exhibit {
    /// Its patch.
    pub path: PathBuf,
    /// What it takes away.
    pub removes: String,
    /// The arguments that run the test that fails.
    pub fails: Vec<String>,
    /// What that test prints then.
    pub says: String,
}

/// All of them, by name.
///
/// # Panics
///
/// If one does not say what it removes, and what fails with it.
pub fn exhibits() -> Vec<Exhibit> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("museum");
    let entries = std::fs::read_dir(&folder).expect("a museum");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .collect();
    paths.sort();
    paths.into_iter().map(exhibit).collect()
}

fn exhibit(path: PathBuf) -> Exhibit {
    let text = std::fs::read_to_string(&path).expect("readable");
    let said = |what: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(what));
        line.unwrap_or_else(|| panic!("{} does not say {what}", path.display()))
    };
    let removes = said("Removes: ").to_owned();
    let fails = said("Fails: ").split(' ').map(str::to_owned).collect();
    let says = said("Says: ").to_owned();
    Exhibit {
        path,
        removes,
        fails,
        says,
    }
}

impl Exhibit {
    fn name(&self) -> String {
        let stem = self.path.file_stem().unwrap_or_default();
        stem.to_string_lossy().into_owned()
    }

    /// Whether its patch still fits a tree.
    ///
    /// # Errors
    ///
    /// What git says.
    pub fn applies(&self, tree: &Path) -> Result<(), String> {
        run(self.git(tree).arg("--check"))
    }

    fn git(&self, tree: &Path) -> Command {
        let mut command = Command::new("git");
        command.arg("apply").arg(&self.path).current_dir(tree);
        // In a copy there is no repository, and none above it counts.
        command.env("GIT_CEILING_DIRECTORIES", tree.parent().unwrap_or(tree));
        command
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or(said)
}

fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null());
    let output = command.output();
    output.unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// The tree that the museum is in.
fn tree() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Puts a copy of every file that git knows or would take there.
fn copy(to: &Path) {
    let mut list = Command::new("git");
    list.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ]);
    let listed = output(list.current_dir(tree())).stdout;
    let _ = std::fs::remove_dir_all(to);
    for name in String::from_utf8(listed)
        .expect("names")
        .split_terminator('\0')
    {
        let (from, to) = (tree().join(name), to.join(name));
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("room");
        // One that was removed is still known.
        if from.exists() {
            std::fs::copy(&from, &to).expect("room");
        }
    }
}

/// Has the named test fail with each bug, in a copy of the tree, and succeed without.
///
/// # Panics
///
/// Without git.
pub fn museum(_: Programs, effort: &Effort) -> Verdicts {
    let mut verdicts = Verdicts::new("museum", effort);
    let target = tree().join("target/museum");
    let copied = target.join("tree");
    let test = |fails: &[String]| {
        // One that never ends has not noticed it either.
        let mut test = Command::new("timeout");
        test.args([ENDS_WITHIN_S, "cargo", "test", "--locked", "--quiet"])
            .arg("--target-dir")
            .arg(target.join("build"));
        output(test.args(fails).current_dir(&copied))
    };
    let mut exhibits = exhibits();
    exhibits.retain(|exhibit| exhibit.name().contains(&effort.only));
    verdicts.check(TRIED, !exhibits.is_empty(), || {
        format!("there is no {:?}", effort.only)
    });
    let mut left = exhibits.len();
    let mut sound = BTreeSet::new();
    for exhibit in exhibits.iter().take_while(|_| effort.has_time()) {
        left -= 1;
        let name = exhibit.name();
        copy(&copied);
        if sound.insert(&exhibit.fails) {
            let output = test(&exhibit.fails);
            let said = String::from_utf8_lossy(&output.stdout);
            let is_run = said.contains("test result: ok. 1 passed");
            verdicts.check(GUARDED, output.status.success() && is_run, || {
                format!("{name}, but without it: {} {said}", output.status)
            });
        }
        if let Err(why) = run(&mut exhibit.git(&copied)) {
            verdicts.check(GUARDED, false, || format!("{name} does not apply: {why}"));
            continue;
        }
        let output = test(&exhibit.fails);
        let said = String::from_utf8_lossy(&output.stdout);
        // That it does not compile, or has no such test, is said otherwise.
        let failed = said.contains("test result: FAILED") && said.contains(&exhibit.says);
        let errors = String::from_utf8_lossy(&output.stderr);
        eprintln!(
            "museum: {name}: {}: {}",
            exhibit.removes,
            if failed { "noticed" } else { "UNNOTICED" }
        );
        verdicts.check(GUARDED, failed, || {
            let says = &exhibit.says;
            format!(
                "{name}, not with {says:?}: {} {errors}{said}",
                output.status
            )
        });
    }
    verdicts.check(TRIED, left == 0, || format!("no time for {left} of them"));
    let _ = std::fs::remove_dir_all(copied);
    verdicts
}
