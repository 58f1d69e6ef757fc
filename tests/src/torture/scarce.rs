//! A daemon that has only so much of what it needs, whatever it comes to lack first, while
//! it has everything to do that a daemon does.
//!
//! What a kernel really does where there is no room is more than a call that fails: what was
//! promised may be missing when it is used. So the memory file system, the disk and the
//! limits are real ones, of each size until there is enough.

use std::path::PathBuf;
use std::time::Instant;

use ledger_shm::object::MEMORY_DIR;
use nix::Error;
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::Resource;
use nix::sys::wait::WaitStatus;

use super::aftermath::{Lack, Until, outlast};
use super::promises::{RESUMES, TRIED};
use super::service::WAIT;
use super::{Effort, Verdicts};
use crate::call::Call;
use crate::memory_group::MemoryGroup;
use crate::process::limit;
use crate::small_memory::{keep_mounts_here, mount_tmpfs};
use crate::supervised::Order;
use crate::{Instance, PATIENCE, Programs, skip};

/// What an error says of what there is too little of: the kernel, and who loads libraries
/// before a program begins.
const LACKS: [&str; 5] = [
    "No space left on device",
    "Too many open files",
    "Cannot allocate memory",
    "Resource temporarily unavailable",
    "error while loading shared libraries",
];
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What there is little of.
#[derive(Clone, Copy, Debug)]
enum Scarce {
    /// The memory file system.
    Memory,
    /// The file system of the archive.
    Disk,
    /// Descriptors.
    Descriptors,
    /// Addresses.
    Addresses,
    /// Memory of any kind, for which it is killed.
    Resident,
}

/// The least that is tried of each, the steps, and the first that is enough.
const RESOURCES: [(Scarce, u64, u64, u64); 5] = [
    (Scarce::Memory, 4 * KIB, 4 * KIB, 2 * MIB),
    (Scarce::Disk, 4 * KIB, 4 * KIB, 2 * MIB),
    (Scarce::Descriptors, 1, 1, 100),
    // With less the kernel does not get as far as the program.
    (Scarce::Addresses, 16 * MIB, 2 * MIB, 1024 * MIB),
    (Scarce::Resident, 32 * KIB, 32 * KIB, 16 * MIB),
];

impl Scarce {
    /// Where there is a file system of that size, if it is one.
    fn dir(self, instance: &Instance) -> Option<PathBuf> {
        match self {
            Scarce::Memory => Some(MEMORY_DIR.into()),
            Scarce::Disk => Some(instance.state_dir()),
            Scarce::Descriptors | Scarce::Addresses | Scarce::Resident => None,
        }
    }

    /// A group that has that much, if it is that.
    fn group(self, amount: u64) -> Option<MemoryGroup> {
        let is_it = matches!(self, Scarce::Resident);
        is_it.then(|| MemoryGroup::new(amount).expect("there was one"))
    }

    fn resource(self) -> Option<Resource> {
        match self {
            Scarce::Memory | Scarce::Disk | Scarce::Resident => None,
            Scarce::Descriptors => Some(Resource::RLIMIT_NOFILE),
            Scarce::Addresses => Some(Resource::RLIMIT_AS),
        }
    }
}

/// Has daemons do with little. Only who may mount and give can.
///
/// # Panics
///
/// If the thread cannot be started.
pub fn scarce(programs: Programs, effort: &Effort) -> Verdicts {
    let run = || {
        let mut verdicts = Verdicts::new("scarce", effort);
        // Of this thread, and of all that are started by it.
        match unshare(CloneFlags::CLONE_NEWNS).and_then(|()| keep_mounts_here()) {
            Ok(()) => all(programs, effort, &mut verdicts),
            Err(error) => skip(&format!("no mount of its own for a thread: {error}")),
        }
        verdicts
    };
    std::thread::scope(|scope| scope.spawn(run).join().expect("no panic"))
}

fn all(programs: Programs, effort: &Effort, verdicts: &mut Verdicts) {
    let kinds = effort.kinds(&RESOURCES, |(scarce, ..)| format!("{scarce:?}"));
    for ((scarce, least, step, enough), name, effort) in kinds {
        if let (Scarce::Resident, Err(error)) = (scarce, MemoryGroup::new(enough)) {
            // Many systems have their groups otherwise, or give them to nobody.
            skip(&format!("{name}: no group that has only so much: {error}"));
            continue;
        }
        let began = Instant::now();
        let amounts = (least..enough).step_by(step as usize);
        let both = |amount| [(amount, Until::Asked), (amount, Until::Ended)];
        let all = Vec::from_iter(amounts.flat_map(both));
        let cases = effort.cases(all.len(), &name);
        let done = cases.iter().take_while(|_| effort.has_time());
        let done = done.map(|case| all[*case]);
        let mut count = 0;
        for (amount, until) in both(enough).into_iter().chain(done) {
            let case = format!("{name} of {amount} until {until:?}");
            let outcome = verdicts.tried(&case, |verdicts| {
                one(programs, scarce, [amount, enough], until, verdicts, &case)
            });
            let is_through = outcome.unwrap_or(true);
            verdicts.check(TRIED, is_through || amount < enough, || case);
            count += 1;
        }
        verdicts.check(TRIED, count > 2, || format!("{name}: no time for any"));
        verdicts.count("daemons_that_lacked_something", count);
        eprintln!(
            "scarce: {name}: {count} of {} daemons in {:.1} s",
            all.len() + 2,
            began.elapsed().as_secs_f64()
        );
    }
}

/// Whether that much was enough for everything.
fn one(
    programs: Programs,
    scarce: Scarce,
    [amount, enough]: [u64; 2],
    until: Until,
    verdicts: &mut Verdicts,
    case: &str,
) -> bool {
    let mut instance = Instance::new(programs);
    let mounted = scarce.dir(&instance).map(|dir| Mounted::new(dir, amount));
    let group = scarce.group(amount);
    let limit_to = |pid, most| match scarce.resource() {
        Some(resource) => limit(pid, resource, most),
        None => Ok(()),
    };
    let begin = |pid| {
        limit_to(pid, amount).expect("it lives");
        if let Some(group) = &group {
            group.take(pid).expect("it lives");
        }
    };
    let end = |pid| {
        // It may have ended.
        let _ = limit_to(pid, enough);
        if let Some(mounted) = &mounted {
            mounted.resize(enough);
        }
        if let Some(group) = &group {
            group.resize(enough).expect("more than it has");
        }
    };
    let may_be_killed = || group.as_ref().is_some_and(MemoryGroup::has_killed);
    // It gives itself as many descriptors as it may have.
    let decide = |call: &Call, _| match call.nr == libc::SYS_prlimit64 as u64 {
        true => Order::Fail(Error::EPERM),
        false => Order::Go,
    };
    let lack = Lack {
        until,
        // What is enough is so however late the machine is.
        wait: if amount < enough { WAIT } else { PATIENCE },
        begin,
        end,
        may_be_killed,
        may_cost_connection: true,
    };
    let told = outlast(&mut instance, lack, decide, verdicts, case);
    let is_error = matches!(told.ended, Some(WaitStatus::Exited(_, 1..)));
    let said = told.said.join("\n");
    let is_clear = !is_error || LACKS.iter().any(|lacks| said.contains(lacks));
    verdicts.check(RESUMES, is_clear, || format!("{case}: {said}"));
    told.is_through
}

/// A file system of a size, as long as it is not dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(dir: PathBuf, len: u64) -> Mounted {
        std::fs::create_dir_all(&dir).expect("a directory");
        let mounted = Mounted(dir);
        mounted.mount(len, MsFlags::empty());
        mounted
    }

    fn resize(&self, len: u64) {
        self.mount(len, MsFlags::MS_REMOUNT);
    }

    fn mount(&self, len: u64, flags: MsFlags) {
        let mounted = mount_tmpfs(&self.0, &len.to_string(), flags);
        mounted.expect("who may have mounts of its own may mount");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Who still has something of it open keeps it.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}
