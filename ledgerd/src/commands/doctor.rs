//! `ledgerd doctor`: what on this machine stands in the way, and what to do.

use std::fs;
use std::path::Path;

use ledger_client::place;
use ledger_shm::object::{self, Instance, MEMORY_DIR};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde::Serialize;

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs};
use crate::commands::print::Printer;
use crate::commands::{READER_CONNECT_TIMEOUT, builder, connect_to_read};

/// Half of what the daemon's defaults work with.
const MEMORY_MIN: u64 = 32 << 20;
/// A descriptor for each client and each context in use.
const DESCRIPTORS_MIN: u64 = 4096;
/// The kernel's default.
const MAPPINGS_MIN: u64 = 65_530;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It works, but not as well or as long as one may think.
    Warning,
    /// It does not work.
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    /// What was found, and that it is as it should be.
    fn new(check: &'static str, found: impl Into<String>) -> Finding {
        Finding {
            check,
            verdict: Verdict::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    /// That it is not, if this is so, and what to do.
    fn but(self, verdict: Verdict, is_so: bool, remedy: impl Into<String>) -> Finding {
        if !is_so {
            return self;
        }
        Finding {
            verdict,
            remedy: Some(remedy.into()),
            ..self
        }
    }
}

pub(crate) fn run(instance: &InstanceArgs, args: OutputArgs) -> Result<(), Failure> {
    let place = instance.instance()?;
    let mut findings = vec![memory()];
    findings.extend(control_group());
    findings.extend([descriptors()?, mappings(), swap(), login_manager(&place)]);
    findings.push(runtime_dir(&instance.runtime_dir(&place), place.uid()));
    let daemon = daemon(instance)?;
    let is_served = daemon.verdict == Verdict::Ok;
    findings.push(daemon);
    findings.extend(objects(instance, &place, is_served)?);

    let mut printer = Printer::new(args.output());
    for finding in &findings {
        if printer.output() != Output::Short {
            printer.json(finding)?;
            continue;
        }
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Bad => "bad",
        };
        let (check, found) = (finding.check, &finding.found);
        printer.line(&format!("{verdict:<8} {check:<14} {found}"))?;
        if let Some(remedy) = &finding.remedy {
            printer.line(&format!("{:23} {remedy}", ""))?;
        }
    }
    printer.finish()?;
    let bad = findings.iter().filter(|it| it.verdict == Verdict::Bad);
    match bad.count() {
        0 => Ok(()),
        count => Err(format!("{count} of {} findings are bad", findings.len()).into()),
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

/// A file of the kernel's or the system's; nothing if there is none.
fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn memory() -> Finding {
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
fn control_group() -> Option<Finding> {
    let groups = text("/proc/self/cgroup");
    let group = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let limit = text(format!("/sys/fs/cgroup{group}/memory.max"));
    let limit: u64 = limit.trim().parse().ok()?;
    let budget = object::free_len().unwrap_or(0) / 2;
    let found = format!("this control group may use {}", mib(limit));
    Some(Finding::new("memory limit", found).but(
        Verdict::Warning,
        limit < budget,
        "less than the daemon's default budget, and who goes beyond it is killed: set --memory-budget below it",
    ))
}

fn descriptors() -> Result<Finding, Failure> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(std::io::Error::from)?;
    let found = format!("{soft}, and {hard} for who asks, as the daemon does");
    Ok(Finding::new("descriptors", found).but(
        Verdict::Warning,
        hard < DESCRIPTORS_MIN,
        "each client and each context in use takes one: raise the limit (ulimit -Hn, LimitNOFILE= in a unit)",
    ))
}

fn mappings() -> Finding {
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

fn swap() -> Finding {
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
fn login_manager(instance: &Instance) -> Finding {
    let check = "login manager";
    if !Path::new("/run/systemd/seats").exists() {
        return Finding::new(check, "none that removes shared memory");
    }
    let mut configuration = text("/etc/systemd/logind.conf");
    let more = fs::read_dir("/etc/systemd/logind.conf.d");
    for file in more.into_iter().flatten().flatten() {
        configuration += &text(file.path());
    }
    let is_said = |line: &str| line.trim().strip_prefix("RemoveIPC=").map(str::to_owned);
    let last = configuration.lines().rev().find_map(is_said);
    let keeps = last.is_some_and(|value| ["no", "false", "0", "off"].contains(&value.trim()));
    let is_spared = instance.uid() < 1000;
    let found = match (keeps, is_spared) {
        (true, _) => "keeps shared memory",
        (false, true) => "keeps the shared memory of system users, as this is one",
        (false, false) => "removes a user's shared memory at the last logout",
    };
    Finding::new(check, found).but(
        Verdict::Warning,
        !keeps && !is_spared,
        "loginctl enable-linger for this user, or RemoveIPC=no in /etc/systemd/logind.conf",
    )
}

fn runtime_dir(dir: &Path, uid: u32) -> Finding {
    let check = "runtime dir";
    match place::check_runtime_dir(dir, uid) {
        Ok(()) => Finding::new(check, dir.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::new(check, format!("{} is made at the start", dir.display()))
        }
        Err(error) => Finding::new(check, error.to_string()).but(
            Verdict::Bad,
            true,
            "no daemon starts with it: remove it, or name another with --runtime-dir",
        ),
    }
}

fn daemon(instance: &InstanceArgs) -> Result<Finding, Failure> {
    let outcome = builder(instance)?
        .connect_timeout(READER_CONNECT_TIMEOUT)
        .connect();
    Ok(match outcome {
        Ok(ledger) => {
            let name = ledger.instance().name().to_owned();
            Finding::new("daemon", format!("instance {name:?} is served"))
        }
        Err(error) => {
            let verdict = if error.is_unreachable() {
                Verdict::Warning
            } else {
                Verdict::Bad
            };
            let remedy = "nothing can be opened for appending until that is mended";
            Finding::new("daemon", error.to_string()).but(verdict, true, remedy)
        }
    })
}

/// What lies in memory, and what of it cannot be read.
fn objects(
    instance: &InstanceArgs,
    place: &Instance,
    is_served: bool,
) -> Result<Vec<Finding>, Failure> {
    let check = "objects";
    let names = object::list(place)?;
    let lens = names.iter().filter_map(|name| {
        let path = Path::new(MEMORY_DIR).join(name.in_instance(place));
        Some(fs::metadata(path).ok()?.len())
    });
    let len: u64 = lens.sum();
    let found = format!("{} in memory, {}", names.len(), mib(len));
    let mut findings = vec![Finding::new(check, found).but(
        Verdict::Warning,
        !is_served && names.iter().any(|name| *name != object::Name::Lock),
        "nobody serves them: `ledgerd run` does, `ledgerd purge` frees them",
    )];
    for (epoch, error) in connect_to_read(instance)?.contexts()?.unreadable {
        let found = format!("the context of epoch {epoch} cannot be read");
        findings.push(Finding::new(check, found).but(Verdict::Bad, true, error.to_string()));
    }
    Ok(findings)
}
