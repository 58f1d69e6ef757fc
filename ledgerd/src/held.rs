//! Memory that has left a context's window and that processes still map: a
//! watcher that does not move, an entry that somebody keeps.
//!
//! A retired segment has no name any more, so nobody can ask for it, and only
//! the kernel knows who has it: proc_pid_maps(5) lists it as deleted. What
//! other users' processes hold is seen by root only.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use ledger_shm::object::{Epoch, Instance, MEMORY_DIR, Name};
use ledger_shm::uninterrupted;

/// What is held of one context.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Bytes of memory, each segment counted once.
    pub(crate) len: u64,
    /// Who maps them.
    pub(crate) pids: BTreeSet<u32>,
}

impl Held {
    /// Looks at every process that may be looked at.
    pub(crate) fn of(instance: &Instance, epoch: Epoch) -> io::Result<Held> {
        let mut parts: BTreeMap<u64, u64> = BTreeMap::new();
        let mut pids = BTreeSet::new();
        for entry in uninterrupted(|| std::fs::read_dir("/proc"))? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
                continue;
            };
            // It may have ended, or belong to somebody else.
            let Ok(maps) = std::fs::read_to_string(entry.path().join("maps")) else {
                continue;
            };
            for (part, len) in maps
                .lines()
                .filter_map(|line| retired(line, instance, epoch))
            {
                parts.insert(part, len);
                pids.insert(pid);
            }
        }
        Ok(Held {
            len: parts.values().sum(),
            pids,
        })
    }
}

/// The part and the length that a line of a process's maps tells of, if it is
/// a part of this context without a name.
fn retired(line: &str, instance: &Instance, epoch: Epoch) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    let path = &rest[rest.find(MEMORY_DIR)?..];
    let path = Path::new(path.strip_suffix(" (deleted)")?);
    let name = Name::parse(instance, path.file_name()?.to_str()?)?;
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    match name {
        Name::Part(of, part) if of == epoch => Some((part, address(end)? - address(start)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_parts_of_the_context_that_have_no_name_count() {
        let instance = Instance::new(1000, "blue").expect("a valid name");
        let epoch = Epoch([7; 16]);
        let line = |name: Name, end: &str| {
            let name = name.in_instance(&instance);
            format!("7f00-17f00 r--s 00000000 00:1b 35 {MEMORY_DIR}/{name}{end}")
        };
        let found = |line: &str| retired(line, &instance, epoch);
        let part = Name::Part(epoch, 3);
        assert_eq!(found(&line(part, " (deleted)")), Some((3, 0x10000)));
        assert_eq!(found(&line(part, "")), None);
        assert_eq!(found(&line(Name::Control(epoch), " (deleted)")), None);
        let other = Name::Part(Epoch([8; 16]), 3);
        assert_eq!(found(&line(other, " (deleted)")), None);
        assert_eq!(found("7f00-7f10 rw-p 00000000 00:00 0 [heap]"), None);
    }
}
