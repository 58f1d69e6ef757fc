//! What is there after a loss of power.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use ledger_shm::file::{FileName, Trailer};
use ledger_tests::process::state;
use ledger_tests::torture::{Effort, power};
use ledger_tests::traced::TracedThread;
use ledger_tests::{Instance, PATIENCE, eventually};
use ledgerd::{Daemon, FileSystem};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::PROGRAMS;
use crate::archive::{append, files, home, lose_memory};

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

/// A daemon that dies when the files of a context are complete, and its memory is there yet.
#[test]
fn that_entries_may_be_lost_is_known_also_behind_files_that_are_complete() {
    let mut instance = Instance::new(PROGRAMS);
    instance.start(&["--idle-close-after", "0.01"]);
    let context = instance.context("log");
    let before = context.epoch();
    append(&context, 1..=3);
    let finished = home(&instance, &context).join(FileName::Finished(1).to_string());
    let archiver = TracedThread::attach(instance.daemon_pid(), "ledgerd-archiver");
    drop(context);
    let is_complete = || {
        let trailer = File::open(&finished).ok().map(|file| Trailer::read(&file));
        trailer.is_some_and(|trailer| trailer.expect("whole").is_complete)
    };
    let is_report = |fd| {
        let described = archiver.described(fd);
        described.is_some_and(|of| of.as_os_str() == "anon_inode:[eventfd]")
    };
    loop {
        let call = archiver.run_to_call();
        if call.nr == libc::SYS_write as u64 && is_report(call.args[0]) && is_complete() {
            break;
        }
    }
    let daemon = Pid::from_raw(instance.daemon_pid().cast_signed());
    kill(daemon, Signal::SIGSTOP).expect("ours");
    eventually("its main thread is stopped", || {
        let task = format!("/proc/{daemon}");
        (state(Path::new(&task)) == Some('T')).then_some(())
    });
    // It stops as the others have.
    drop(archiver);
    instance.kill_daemon();

    instance.start(&[]);
    let context = instance.context("log");
    assert_eq!(context.epoch(), before);
    assert_eq!(context.latest().expect("readable"), 3);
    // Of what is appended from now on nothing may be left.
    assert_eq!(
        files(&instance, &context),
        [FileName::Finished(1), FileName::Open(4)]
    );
    append(&context, 4..=6);
    context
        .wait_durable(6, PATIENCE)
        .expect("it is gone on with");
    drop(context);
    lose_memory(&mut instance);
    instance.start(&[]);
    let context = instance.context("log");
    assert_ne!(context.epoch(), before);
    assert_eq!(context.latest().expect("readable"), 6);
}
