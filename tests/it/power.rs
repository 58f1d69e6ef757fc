//! What is there after a loss of power.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ledger_tests::torture::{Effort, power};
use ledger_tests::{Instance, eventually};
use ledgerd::{Daemon, FileSystem};

use crate::PROGRAMS;
use crate::archive::{append, lose_memory};

#[test]
fn whatever_it_leaves_has_all_that_was_durable_and_goes_on() {
    power::power(PROGRAMS, &Effort::little(300)).assert_hold();
}

/// Has no room for another file.
#[derive(Debug)]
struct Full;

impl FileSystem for Full {
    fn create(&self, _: &Path) -> io::Result<File> {
        Err(io::Error::from(nix::Error::ENOSPC))
    }
}

#[test]
fn that_entries_may_be_lost_is_known_until_it_is_told() {
    let mut instance = Instance::new(PROGRAMS);
    let idle = ["--idle-close-after", "0.01"];
    instance.start(&idle);
    let context = instance.context("log");
    let before = context.epoch();
    append(&context, 1..=3);
    drop(context);
    eventually("it is in files, to its end", || {
        instance
            .printed(&["ls", "-o", "jsonl"])
            .contains("archived")
            .then_some(())
    });
    // From now on something may be appended behind that.
    append(&instance.context("log"), 4..=4);
    lose_memory(&mut instance);
    let mut options = instance.options();
    options.file_system = Arc::new(Full);
    let daemon = Daemon::start(options).expect("it starts");
    let error = instance.connect().context("log").open().unwrap_err();
    assert!(error.to_string().contains("No space left"), "{error}");
    daemon.stop().expect("it ends");
    instance.start(&idle);
    assert_ne!(instance.context("log").epoch(), before);
}
