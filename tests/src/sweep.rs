//! What tests leave that were killed before they could clean up.
//!
//! Everything that a test makes has its instance's name in it, and that has the
//! test's process in it. When that process is gone, nobody uses them.

use std::path::{Path, PathBuf};

use ledger_client::place;
use ledger_shm::object::{self, MEMORY_DIR};
use nix::sys::signal::kill;
use nix::unistd::{Pid, geteuid};

/// How the names of instances begin, before the process that made them: those
/// of the tests, those of the example programs, and those of the front page.
const PREFIXES: [&str; 3] = ["t_", "example_", "readme_"];

/// The name of an instance of this process's tests.
pub(crate) fn name(number: u32) -> String {
    format!("{}{}_{number}", PREFIXES[0], std::process::id())
}

/// The runtime directory of such an instance.
pub(crate) fn runtime_dir(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("ledger-{name}"))
}

/// Removes what an instance has in memory, whatever state that is in.
pub(crate) fn remove_objects(instance: &object::Instance) {
    for name in object::list(instance).unwrap_or_default() {
        let _ = object::unlink(instance, name);
    }
}

/// Removes what dead tests left: objects, of any owner if we may, runtime
/// directories, and sockets in the directory that is not theirs alone.
pub(crate) fn sweep() {
    let sockets = place::runtime_dir(geteuid().as_raw());
    for folder in [Path::new(MEMORY_DIR), &std::env::temp_dir(), &sockets] {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let is_left = entry.file_name().to_str().is_some_and(|name| {
                let is_ours = name.starts_with("ledger-") || folder == sockets;
                is_ours && is_of_the_dead(name)
            });
            if !is_left {
                continue;
            }
            // Another test may be faster, and what is not ours stays.
            let path = entry.path();
            let _ = match entry.file_type() {
                Ok(kind) if kind.is_dir() => std::fs::remove_dir_all(path),
                _ => std::fs::remove_file(path),
            };
        }
    }
}

/// Whether a file's name has an instance in it that a process made which is gone:
/// `ledger-<uid>-<instance>-…`, `ledger-<instance>` or `<instance>.sock`.
fn is_of_the_dead(file_name: &str) -> bool {
    let mut instances = file_name.split(['-', '.']).filter_map(|word| {
        let made_by = PREFIXES
            .iter()
            .find_map(|prefix| word.strip_prefix(prefix))?;
        made_by.split('_').next()?.parse::<u32>().ok()
    });
    instances.next().is_some_and(|id| !is_alive(id))
}

fn is_alive(id: u32) -> bool {
    // What no process can have as its id belongs to none of our tests.
    i32::try_from(id).map_or(true, |id| {
        kill(Pid::from_raw(id), None) != Err(nix::Error::ESRCH)
    })
}
