//! What of the machine itself stands in the way.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use ledger_shm::object::{self, Instance, MEMORY_DIR};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::{Uid, User};

use super::{Finding, Verdict, mib};
use crate::cli::Failure;

/// Half of what the daemon's defaults work with.
const MEMORY_MIN: u64 = 32 << 20;
/// A descriptor for each client and each context in use.
const DESCRIPTORS_MIN: u64 = 4096;
/// The kernel's default.
const MAPPINGS_MIN: u64 = 65_530;

/// A file of the kernel's or the system's; nothing if there is none.
fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

pub(super) fn memory() -> Finding {
    let check = "shared memory";
    let found = match statfs(MEMORY_DIR) {
        Ok(found) => found,
        Err(error) => {
            let remedy = format!("mount a tmpfs there: mount -t tmpfs tmpfs {MEMORY_DIR}");
            let found = Finding::new(check, format!("{MEMORY_DIR}: {error}"));
            return found.but(Verdict::Bad, true, remedy);
        }
    };
    let block_len = u64::try_from(found.block_size()).unwrap_or(1);
    let free = found.blocks_available() * block_len;
    let total = mib(found.blocks() * block_len);
    Finding::new(
        check,
        format!("{MEMORY_DIR} has {} of {total} free", mib(free)),
    )
    .but(
        Verdict::Warning,
        free < MEMORY_MIN,
        format!("enlarge it: mount -o remount,size=1G {MEMORY_DIR}; of a container --shm-size=1g"),
    )
    .but(
        Verdict::Bad,
        found.filesystem_type() != TMPFS_MAGIC,
        "it is no tmpfs, and what is written there goes to a disk: mount one",
    )
}

/// Pages of a tmpfs count for the group of who touches them first: the daemon.
pub(super) fn control_group() -> Finding {
    let check = "memory limit";
    let groups = text("/proc/self/cgroup");
    let Some(limit) = group_limit(Path::new("/sys/fs/cgroup"), &groups) else {
        return Finding::new(check, "none, of no control group that this is in");
    };
    let budget = object::free_len().unwrap_or(0) / 2;
    let found = format!("this control group may use {}", mib(limit));
    Finding::new(check, found).but(
        Verdict::Warning,
        limit < budget,
        "less than the daemon's default budget, and who goes beyond it is killed: set --memory-budget below it",
    )
}

/// The least of a process's groups, those around them included: in the one tree of
/// version 2, or in that of the memory controller in version 1 (cgroups(7)).
fn group_limit(root: &Path, groups: &str) -> Option<u64> {
    let of_tree = |line: &str| {
        let mut fields = line.splitn(3, ':');
        let (_, controllers, group) = (fields.next()?, fields.next()?, fields.next()?);
        let (tree, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let group = Path::new(group.trim_start_matches('/'));
        let limits = group.ancestors().filter_map(|group| {
            let limit: u64 = text(tree.join(group).join(file)).trim().parse().ok()?;
            // Version 1 says none with a number that no machine has.
            (limit < 1 << 62).then_some(limit)
        });
        limits.min()
    };
    groups.lines().filter_map(of_tree).min()
}

pub(super) fn descriptors() -> Result<Finding, Failure> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(std::io::Error::from)?;
    let found = format!("{soft}, and {hard} for who asks, as the daemon does");
    Ok(Finding::new("descriptors", found).but(
        Verdict::Warning,
        hard < DESCRIPTORS_MIN,
        "each client and each context in use takes one: raise the limit (ulimit -Hn, LimitNOFILE= in a unit)",
    ))
}

pub(super) fn mappings() -> Finding {
    let most: u64 = text("/proc/sys/vm/max_map_count")
        .trim()
        .parse()
        .unwrap_or(0);
    Finding::new("mappings", format!("{most} for each process")).but(
        Verdict::Warning,
        most < MAPPINGS_MIN,
        format!("who appends to a context maps four: sysctl vm.max_map_count={MAPPINGS_MIN}"),
    )
}

pub(super) fn swap() -> Finding {
    let areas = text("/proc/swaps").lines().skip(1).count();
    Finding::new("swap", format!("{areas} areas")).but(
        Verdict::Warning,
        areas > 0,
        format!(
            "shared memory can be swapped out, and who touches it then waits for the disk: \
             mount {MEMORY_DIR} with noswap (Linux 6.4), or swapoff"
        ),
    )
}

/// What systemd-logind removes at a user's last logout (logind.conf(5), RemoveIPC):
/// not that of system users, and not that of users who linger.
pub(super) fn login_manager(instance: &Instance) -> Finding {
    let check = "login manager";
    if !Path::new("/run/systemd/seats").exists() {
        return Finding::new(check, "none that removes shared memory");
    }
    let user = User::from_uid(Uid::from_raw(instance.uid()));
    let name = user
        .ok()
        .flatten()
        .map_or_else(String::new, |user| user.name);
    let root = Path::new("/");
    let found = if keeps_memory(root) {
        "keeps shared memory"
    } else if instance.uid() < 1000 {
        "keeps the shared memory of system users, as this is one"
    } else if lingers(root, &name) {
        "keeps the shared memory of users who linger, as this one does"
    } else {
        return Finding::new(check, "removes a user's shared memory at the last logout").but(
            Verdict::Warning,
            true,
            "loginctl enable-linger for this user, or RemoveIPC=no in /etc/systemd/logind.conf",
        );
    };
    Finding::new(check, found)
}

fn lingers(root: &Path, user: &str) -> bool {
    !user.is_empty() && root.join("var/lib/systemd/linger").join(user).exists()
}

/// Whether the configuration says so: the last of all files that say anything.
fn keeps_memory(root: &Path) -> bool {
    let places = ["usr/lib/systemd", "run/systemd", "etc/systemd"];
    let mut files: Vec<_> = ["usr/lib/systemd", "etc/systemd"]
        .iter()
        .map(|place| root.join(place).join("logind.conf"))
        .collect();
    // Of one name the last place's counts, and names count in their order.
    let mut more = BTreeMap::new();
    for place in places {
        let found = fs::read_dir(root.join(place).join("logind.conf.d"));
        for file in found.into_iter().flatten().flatten() {
            more.insert(file.file_name(), file.path());
        }
    }
    files.extend(more.into_values());
    let lines = files.iter().map(text).collect::<Vec<_>>().join("\n");
    let value = |line: &str| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "RemoveIPC").then(|| value.trim().to_owned())
    };
    let last = lines.lines().rev().find_map(value);
    last.is_some_and(|value| ["no", "false", "0", "off"].contains(&&*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file system of a few files.
    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a directory");
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a directory")).expect("ours");
            fs::write(path, text).expect("ours");
        }
        root
    }

    #[test]
    fn the_least_limit_of_all_groups_around_counts() {
        let both = root(&[
            ("system.slice/memory.max", "1000\n"),
            ("system.slice/ledger.service/memory.max", "max\n"),
            ("memory/docker/memory.limit_in_bytes", "700\n"),
            ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ]);
        let limit = |groups: &str| group_limit(both.path(), groups);
        assert_eq!(limit("0::/system.slice/ledger.service\n"), Some(1000));
        assert_eq!(limit("5:cpu:/\n4:memory:/docker/1\n0::/\n"), Some(700));
        assert_eq!(limit("4:memory:/\n0::/\n"), None);
    }

    #[test]
    fn the_last_word_on_shared_memory_counts() {
        for (files, keeps) in [
            (&[][..], false),
            (&[("etc/systemd/logind.conf", "#RemoveIPC=no\n")], false),
            (
                &[("etc/systemd/logind.conf", "[Login]\nRemoveIPC = no\n")],
                true,
            ),
            (
                &[
                    ("usr/lib/systemd/logind.conf.d/10-a.conf", "RemoveIPC=no\n"),
                    ("etc/systemd/logind.conf.d/20-b.conf", "RemoveIPC=yes\n"),
                ],
                false,
            ),
            (
                &[
                    ("usr/lib/systemd/logind.conf.d/10-a.conf", "RemoveIPC=yes\n"),
                    ("run/systemd/logind.conf.d/10-a.conf", "RemoveIPC=no\n"),
                ],
                true,
            ),
        ] {
            assert_eq!(keeps_memory(root(files).path()), keeps, "{files:?}");
        }
        let lingering = root(&[("var/lib/systemd/linger/ada", "")]);
        assert!(lingers(lingering.path(), "ada"));
        assert!(!lingers(lingering.path(), "bob") && !lingers(lingering.path(), ""));
    }
}
