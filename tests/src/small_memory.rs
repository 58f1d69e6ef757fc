//! A memory file system of a test's own, as small as it likes.
//!
//! A mount cannot be had for one thread of a running test program. So the test
//! runs itself once more, alone, in a process that has mounted a small tmpfs
//! over `/dev/shm` where nobody else sees it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use ledger_shm::object::MEMORY_DIR;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use crate::process::tie;
use crate::{Programs, skip};

/// Set in the second run.
const INSIDE: &str = "LEDGER_TEST_SMALL_MEMORY";
/// How a process ends that may not mount.
const NOT_ALLOWED: i32 = 77;

/// Runs `story` in a process whose memory file system has `len` bytes (as
/// mount(8) writes them). `test` is the calling test's full name.
///
/// # Panics
///
/// If the story fails, or, unless it is to be skipped, cannot be run.
pub fn with_small_memory(programs: Programs, test: &str, len: &str, story: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        story();
        return;
    }
    let mut command = Command::new(programs.peer);
    command
        .args(["--small-memory", len])
        .arg(std::env::current_exe().expect("our own path"))
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1");
    // How long it takes is for what it waits for to say.
    let output = tie(&mut command).output().expect("the peer starts");
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(NOT_ALLOWED) {
        skip(&errors);
        return;
    }
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}{errors}"
    );
}

/// Mounts the small memory and becomes the program. Only returns if it cannot.
pub fn become_program(mut args: impl Iterator<Item = OsString>) -> i32 {
    let (Some(len), Some(program)) = (args.next(), args.next()) else {
        eprintln!("peer --small-memory LEN PROGRAM ARGS");
        return 2;
    };
    if let Err(error) = mount_small(&len.to_string_lossy()) {
        eprintln!("no mount of its own for this process: {error}");
        return NOT_ALLOWED;
    }
    eprintln!("{}", Command::new(program).args(args).exec());
    1
}

fn mount_small(len: &str) -> std::io::Result<()> {
    let (uid, gid) = (geteuid(), getegid());
    let mut flags = CloneFlags::CLONE_NEWNS;
    flags.set(CloneFlags::CLONE_NEWUSER, !uid.is_root());
    unshare(flags)?;
    if !uid.is_root() {
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))?;
    }
    keep_mounts_here()?;
    mount_tmpfs(Path::new(MEMORY_DIR), len, MsFlags::empty())?;
    Ok(())
}

/// What is mounted from now on is so in this namespace of mounts only.
pub(crate) fn keep_mounts_here() -> nix::Result<()> {
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
}

/// A file system in memory of so many bytes, as mount(8) writes them: for everybody where
/// the memory objects are, else for its owner.
///
/// # Errors
///
/// The kernel's.
pub fn mount_tmpfs(dir: &Path, len: &str, flags: MsFlags) -> nix::Result<()> {
    let mode = match dir == Path::new(MEMORY_DIR) {
        true => "1777",
        false => "700",
    };
    let options = format!("size={len},mode={mode}");
    let flags = flags | MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let (tmpfs, options) = (Some("tmpfs"), Some(options.as_str()));
    mount(tmpfs, dir, tmpfs, flags, options)
}
