//! A publication that orders nothing: what the sanitizer has to report, so that its silence
//! about the log means something.

#![allow(unsafe_code, reason = "nothing else races")]

use std::cell::UnsafeCell;
use std::env;
use std::hint::spin_loop;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// What the program is asked for that races.
const RACES: &str = "--races";

struct Record(UnsafeCell<u64>);

// SAFETY: it is none that could be shared, on purpose: nobody takes what is read of it for
// anything, and it is one word.
unsafe impl Sync for Record {}

static RECORD: Record = Record(UnsafeCell::new(0));
static IS_PUBLISHED: AtomicBool = AtomicBool::new(false);

/// Whether this process is there for that.
pub fn is_asked_for() -> bool {
    env::args().any(|arg| arg == RACES)
}

/// Reads what another thread has written, and published without releasing it.
pub fn race() {
    thread::scope(|scope| {
        scope.spawn(|| {
            // SAFETY: raced for on purpose, see above.
            unsafe { *RECORD.0.get() = 1 };
            IS_PUBLISHED.store(true, Ordering::Relaxed);
        });
        scope.spawn(|| {
            while !IS_PUBLISHED.load(Ordering::Relaxed) {
                spin_loop();
            }
            // SAFETY: raced for on purpose, see above.
            std::hint::black_box(unsafe { *RECORD.0.get() });
        });
    });
}

/// Another process of this program races, and the sanitizer says so.
pub fn check_reported() {
    let mut program = Command::new(env::current_exe().expect("its own path"));
    let output = program.arg(RACES).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    let is_reported = !output.status.success() && said.contains("ThreadSanitizer: data race");
    assert!(is_reported, "{}: {said}", output.status);
}
