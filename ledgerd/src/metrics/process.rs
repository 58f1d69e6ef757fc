//! What every Prometheus exporter says of its process, under the standard names.

use std::io;
use std::time::SystemTime;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage};
use nix::unistd::{SysconfVar, sysconf};

use super::Text;

/// A page's length where the kernel does not say.
const PAGE_LEN: u64 = 4096;

/// Adds what the kernel says of this process now.
pub(super) fn add_to(text: &mut Text, started: SystemTime) -> io::Result<()> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1_000_000.0;
    text.metric(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        seconds(usage.user_time()) + seconds(usage.system_time()),
    );
    // Not when they are used up: listing them takes one, which is not counted.
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        text.metric(
            "process_open_fds",
            "gauge",
            "Number of open file descriptors.",
            open.count().saturating_sub(1),
        );
    }
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    text.metric(
        "process_max_fds",
        "gauge",
        "Maximum number of open file descriptors.",
        soft,
    );
    let sizes = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let page = sysconf(SysconfVar::PAGE_SIZE)?.and_then(|len| u64::try_from(len).ok());
    let mut pages = sizes.split(' ').map_while(|size| size.parse::<u64>().ok());
    for (name, help) in [
        (
            "process_virtual_memory_bytes",
            "Virtual memory size in bytes.",
        ),
        (
            "process_resident_memory_bytes",
            "Resident memory size in bytes.",
        ),
    ] {
        if let Some(pages) = pages.next() {
            text.metric(name, "gauge", help, pages * page.unwrap_or(PAGE_LEN));
        }
    }
    let started = started.duration_since(SystemTime::UNIX_EPOCH);
    text.metric(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        started.unwrap_or_default().as_secs_f64(),
    );
    Ok(())
}
