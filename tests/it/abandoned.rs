//! The tests themselves, killed: they leave no process, and what is left of
//! their memory is removed by the next.

use std::io::{PipeWriter, pipe};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ledger_shm::object::{self, MEMORY_DIR};
use ledger_tests::Instance;
use ledger_tests::process::{Lines, Process};

use crate::{PROGRAMS, started};

/// Set in the test process that is killed.
const INSIDE: &str = "LEDGER_TEST_ABANDONED";
/// What it says before the name of its instance.
const READY: &str = "ready: ";

/// Starts one process of each kind, says so, and waits for the end.
fn be_abandoned() {
    let instance = started(&[]);
    let mut writer = instance.peer();
    writer.must("open log");
    let mut watcher = instance.peer();
    watcher.must("read log");
    watcher.must("watch 1");
    assert_eq!(watcher.ask("next"), "waiting");
    let _following = Process::start(&mut instance.ledgerd(&["tail", "-f", "log"]));
    // The test runner has written something into this line.
    println!("\n{READY}{}", instance.name());
    loop {
        std::thread::park();
    }
}

/// This test once more, alone, in a process of its own that writes there.
fn another_run(test: &str, output: PipeWriter) -> Process {
    let mut command = Command::new(std::env::current_exe().expect("our own path"));
    command
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("a descriptor"))
        .stderr(output);
    Process::start(&mut command)
}

#[test]
fn a_killed_test_leaves_no_process_and_the_next_removes_its_memory() {
    if std::env::var_os(INSIDE).is_some() {
        be_abandoned();
    }
    let (output, input) = pipe().expect("a pipe");
    let run = another_run(
        "abandoned::a_killed_test_leaves_no_process_and_the_next_removes_its_memory",
        input,
    );
    let id = run.pid();
    let mut lines = Lines::of(output);
    let name = loop {
        let line = lines.line().expect("it gets ready");
        if let Some(name) = line.strip_prefix(READY) {
            break name.to_owned();
        }
    };
    let objects = object::Instance::own(&name).expect("a valid name");
    let left = || object::list(&objects).expect("listed").len();
    // The lock, the control object and the first part at least.
    assert!(left() >= 3);
    let runtime_dir = std::env::temp_dir().join(format!("ledger-{name}"));
    assert!(runtime_dir.exists());
    drop(run);

    // Each of its processes has our pipe, which ends with the last of them.
    let ended = loop {
        match lines.line() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(ended.kind(), std::io::ErrorKind::UnexpectedEof, "{ended}");

    // Other uids' objects, and those of the front page's example, are named
    // after the process that made them, too.
    let others: Vec<PathBuf> = [
        format!("ledger-65534-t_{id}_0-lock"),
        format!("ledger-0-readme_{id}-lock"),
    ]
    .iter()
    .map(|name| Path::new(MEMORY_DIR).join(name))
    .collect();
    for path in &others {
        std::fs::write(path, "").expect("room");
    }
    let alive = Path::new(MEMORY_DIR).join(format!("ledger-0-t_{}_x-lock", std::process::id()));
    std::fs::write(&alive, "").expect("room");
    let _next = Instance::new(PROGRAMS);
    assert_eq!(left(), 0);
    assert!(!runtime_dir.exists());
    for path in &others {
        assert!(!path.exists(), "{}", path.display());
    }
    // What a living process has made stays.
    std::fs::remove_file(&alive).expect("still there");
}

#[test]
fn a_pipe_that_ends_is_no_line() {
    let (output, input) = pipe().expect("a pipe");
    drop(input);
    let error = Lines::of(output).line().expect_err("there is none");
    assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
}
