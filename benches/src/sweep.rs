//! A run that is ended in the middle cleans nothing up: so another process starts it, waits for
//! it and all that it has started, and removes what they have left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::wait;
use nix::unistd::{Pid, getuid};

use crate::child::Running;

/// The part of who measures.
pub const MEASURER: &str = "measurer";

/// Where shared memory has its names.
const MEMORY: &str = "/dev/shm";

static STARTED: AtomicI32 = AtomicI32::new(0);

extern "C" fn end(_: i32) {
    let started = STARTED.load(Ordering::Relaxed);
    if started != 0 {
        let _ = kill(Pid::from_raw(started), Signal::SIGKILL);
    }
}

/// Has this program started again with the same arguments, and sweeps when it has ended,
/// however it has.
pub fn behind() -> ExitCode {
    let action = SigAction::new(
        SigHandler::Handler(end),
        SaFlags::SA_RESTART,
        SigSet::empty(),
    );
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does nothing but load a word and call kill(2).
        unsafe { sigaction(signal, &action) }.expect("a handler");
    }
    set_child_subreaper(true).expect("every Linux has it");
    let mut command = Command::new(std::env::current_exe().expect("our own path"));
    // First: behind a "--" of the user's it would be something else, and this start itself again.
    command.args(["--role", MEASURER]);
    command.args(std::env::args_os().skip(1));
    let mut running = Running::start(&mut command).expect("ourselves");
    let pid = running.id();
    STARTED.store(pid.cast_signed(), Ordering::Relaxed);
    let ended = running.wait().expect("our child");
    STARTED.store(0, Ordering::Relaxed);
    // What it has started ends with it, and may be at something yet.
    while wait().is_ok() {}
    sweep(pid);
    match ended.code() {
        Some(0) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// The directory of what runs beside each other.
pub fn dir_of(pid: u32) -> PathBuf {
    std::env::temp_dir().join(format!("ledger-beside-{pid}"))
}

/// A name in shared memory of a run's own, for what is named by who uses it.
#[cfg(feature = "aeron")]
pub fn memory_of(pid: u32, what: &str) -> PathBuf {
    Path::new(MEMORY).join(format!("ledger-beside-{pid}-{what}"))
}

/// Removes what a process of this number has made and not removed.
fn sweep(pid: u32) {
    let uid = getuid();
    let marks = [
        format!("ledger-bench_{pid}"),
        format!("ledger-{uid}-bench_{pid}"),
        format!("ledger-beside-{pid}"),
        format!("iox2_bench_{pid}"),
    ];
    let is_its = |name: &str| {
        let mut behind = marks.iter().filter_map(|mark| name.strip_prefix(&**mark));
        behind.any(|behind| !behind.starts_with(|next: char| next.is_ascii_digit()))
    };
    for place in [Path::new(MEMORY), &std::env::temp_dir()] {
        for file in fs::read_dir(place).into_iter().flatten().flatten() {
            if is_its(&file.file_name().to_string_lossy()) {
                remove(&file.path());
            }
        }
    }
}

fn remove(path: &Path) {
    // Most often it is not there any more.
    let _ = match path.is_dir() {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
}
