//! A control group whose processes have only so much memory among them: their own, the
//! pages of files in memory that they were the first to use, and what the kernel keeps for
//! them (Linux, `Documentation/admin-guide/cgroup-v1/memory.rst`).

use std::io::Result;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::unistd::{Pid, getpid};

/// Where groups are made, on a system that has them apart from other kinds of groups.
const FOLDER: &str = "/sys/fs/cgroup/memory";

/// One group, as long as it is not dropped.
#[derive(Debug)]
pub struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// A group without a process. Only who may write into `/sys` can make one.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn new(len: u64) -> Result<MemoryGroup> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ledger-t-{}-{count}", getpid());
        let folder = Path::new(FOLDER).join(name);
        std::fs::create_dir(&folder)?;
        let group = MemoryGroup(folder);
        group.resize(len)?;
        Ok(group)
    }

    /// Has it have so much from now on.
    ///
    /// # Errors
    ///
    /// The kernel's, if more is used.
    pub fn resize(&self, len: u64) -> Result<()> {
        std::fs::write(self.0.join("memory.limit_in_bytes"), len.to_string())
    }

    /// Takes a process in, with what it is going to use.
    ///
    /// # Errors
    ///
    /// The kernel's, if there is no such process.
    pub fn take(&self, process: Pid) -> Result<()> {
        std::fs::write(self.0.join("cgroup.procs"), process.to_string())
    }

    /// Whether the kernel has killed a process of it for want of memory.
    ///
    /// # Panics
    ///
    /// If the kernel does not tell.
    pub fn has_killed(&self) -> bool {
        let said = std::fs::read_to_string(self.0.join("memory.oom_control"));
        let said = said.expect("ours");
        let count = said.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.expect("Linux since 4.13") != "0"
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.0);
    }
}
