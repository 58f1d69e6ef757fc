//! Snapshots that are loaded: wholly or not at all, whoever dies and whatever is there.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirEntryExt, PermissionsExt};
use std::path::Path;
use std::process::Stdio;
#[cfg(target_arch = "x86_64")]
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ledger_client::{ReadError, Sizes, State};
use ledger_shm::file::verify;
use ledger_shm::format::{ControlHeader, STATE_LOADING};
use ledger_shm::object::Name;
use ledger_shm::slot::Slot;
#[cfg(target_arch = "x86_64")]
use ledger_tests::call::Call;
use ledger_tests::damage::Bytes;
use ledger_tests::process::Process;
#[cfg(target_arch = "x86_64")]
use ledger_tests::supervised::{Order, serve};
use ledger_tests::{Instance, PATIENCE, eventually, may_be_others, parts_in_memory};

use crate::archive::{SMALL, append, check_all, files, home, payload};
use crate::snapshot::{export, lines, load, text};
use crate::{PROGRAMS, started};

#[test]
fn a_context_goes_on_with_a_snapshot_that_proves_to_extend_it() {
    let instance = started(&SMALL);
    append(&instance.context("log"), 1..=8000);
    let some = export(&instance, "log", "some", &["--to", "5003"]);
    let all = export(&instance, "log", "all", &[]);
    load(&instance, &some, &["--as", "copy"]);
    let ledger = instance.connect();
    let copy = ledger.context("copy").open_read_only().expect("loaded");
    let (epoch, mut from_start, mut waiting) = (copy.epoch(), copy.watch(1), copy.watch(5004));
    assert!(waiting.try_next().expect("readable").is_none());
    let count = |first_seq| {
        let mut range = copy.range(first_seq);
        let entries = std::iter::from_fn(|| range.next_entry().expect("readable").map(|_| ()));
        entries.count()
    };
    assert_eq!(count(1), 5003);
    thread::scope(|scope| {
        let waiting = scope.spawn(move || {
            for seq in 5004..=8001 {
                let entry = waiting.next_timeout(PATIENCE).expect("readable");
                assert_eq!(entry.expect("it comes").seq(), seq);
            }
        });
        assert_eq!(
            load(&instance, &all, &["--as", "copy"])["new_entries"],
            8000 - 5003
        );
        let placed = || {
            let files = fs::read_dir(home(&instance, &copy)).expect("loaded");
            let inode = |file: std::io::Result<fs::DirEntry>| file.expect("ours").ino();
            files.map(inode).collect::<BTreeSet<_>>()
        };
        let before = placed();
        let again = load(&instance, &all, &["--as", "copy"]);
        assert_eq!(again["new_entries"], 0, "it has all of it");
        assert!(placed().is_superset(&before), "it has all of it");
        assert_eq!(
            instance.printed(&["append", "copy", "k", "next", "-o", "short"]),
            "8001\n"
        );
        waiting.join().expect("every entry once, in order");
    });
    // Whoever has the file mapped that another one has taken the place of finds all.
    for _ in 0..2 {
        assert_eq!((count(1), count(5003)), (8001, 2999));
    }
    for seq in 1..=8000 {
        let entry = from_start
            .try_next()
            .expect("readable")
            .expect("it is there");
        assert_eq!((entry.seq(), entry.payload()), (seq, &payload(seq)[..]));
    }
    assert_eq!(
        from_start
            .try_next()
            .expect("readable")
            .expect("there")
            .payload(),
        b"next"
    );
    assert_eq!(
        instance
            .connect()
            .context("copy")
            .open()
            .expect("it is there")
            .epoch(),
        epoch
    );
    instance.printed(&["verify", "copy"]);
}

#[test]
fn what_was_loaded_outlives_daemon_and_memory() {
    let mut instance = started(&SMALL);
    append(&instance.context("log"), 1..=5000);
    let some = export(&instance, "log", "some", &["--to", "3000"]);
    let all = export(&instance, "log", "all", &[]);
    instance.printed(&["snapshot", "load", text(&some), "--as", "other"]);
    instance.kill_daemon();
    instance.start(&SMALL);
    instance.printed(&["snapshot", "load", text(&all), "--as", "other"]);
    crate::archive::lose_memory(&mut instance);
    instance.start(&SMALL);
    assert_eq!(lines(&instance, "other").lines().count(), 5000);
    instance.printed(&["snapshot", "load", text(&all), "--as", "third"]);
    check_all(&instance, 5000);
}

#[test]
fn a_context_that_may_have_lost_entries_has_another_epoch_when_it_goes_on() {
    let mut instance = started(&SMALL);
    append(&instance.context("log"), 1..=3000);
    let some = export(&instance, "log", "some", &["--to", "2000"]);
    let all = export(&instance, "log", "all", &[]);
    let loaded = load(&instance, &some, &["--as", "copy"]);
    // Somebody could append, and could have been seen to.
    drop(instance.connect().context("copy").open().expect("loaded"));
    crate::archive::lose_memory(&mut instance);
    instance.start(&SMALL);
    let again = load(&instance, &all, &["--as", "copy"]);
    assert_eq!(again["new_entries"], 1000);
    assert_ne!(again["epoch"], loaded["epoch"]);
    let copy = instance.connect().context("copy").open().expect("loaded");
    assert_eq!(
        copy.epoch().to_string(),
        again["epoch"].as_str().expect("text")
    );
    assert_eq!(lines(&instance, "copy"), lines(&instance, "log"));
}

#[test]
fn a_snapshot_that_does_not_extend_a_context_changes_nothing() {
    let instance = started(&SMALL);
    append(&instance.context("log"), 1..=100);
    let path = export(&instance, "log", "hundred", &[]);
    let shorter = export(&instance, "log", "shorter", &["--to", "60"]);
    let before = lines(&instance, "log");
    let said = instance.complained(&["snapshot", "load", text(&shorter)]);
    let why = "the context has 100 entries already, the snapshot ends with entry 60";
    assert!(
        said.contains(&format!("{}: {why}", shorter.display())),
        "{said}"
    );
    let said = instance.complained(&["snapshot", "load", text(&path), "--fail-if-exists"]);
    assert!(
        said.contains("there is a context \"log\" already"),
        "{said}"
    );
    // Another history of the same length.
    append(&instance.context("other"), 1..=100);
    let other = instance.connect();
    let other = other.context("other").open_read_only().expect("there");
    let mut watcher = other.watch(101);
    let said = instance.complained(&["snapshot", "load", text(&path), "--as", "other"]);
    assert!(
        said.contains("the snapshot's first 100 entries are not those"),
        "{said}"
    );
    // For who watches it, it goes on where it was.
    assert_eq!(other.state().expect("readable"), State::Open);
    assert_eq!(
        instance.printed(&["append", "other", "k", "on", "-o", "short"]),
        "101\n"
    );
    let next = watcher.next_timeout(PATIENCE).expect("readable");
    assert_eq!(next.expect("it comes").payload(), b"on");
    // Somebody appends.
    let context = instance.context("busy");
    let said = instance.complained(&["snapshot", "load", text(&path), "--as", "busy"]);
    assert!(
        said.contains("1 have the context \"busy\" open for appending"),
        "{said}"
    );
    drop(context);
    assert_eq!(lines(&instance, "log"), before);
    let ls = instance.printed(&["ls", "-o", "raw"]);
    assert_eq!(ls.lines().count(), 3, "{ls}");
}

#[test]
fn a_daemon_without_an_archive_says_that_it_cannot_load() {
    let instance = started(&["--durability", "memory"]);
    append(&instance.context("log"), 1..=10);
    let path = export(&instance, "log", "ten", &[]);
    let said = instance.complained(&["snapshot", "load", text(&path), "--as", "copy"]);
    assert!(said.contains("keeps no archive"), "{said}");
    let said = instance.complained(&["snapshot", "export", "log", "--to", "11"]);
    assert!(
        said.contains("there is no entry 11 yet, the latest one is 10"),
        "{said}"
    );
}

/// What a load that was cut short has left in the archive.
pub(crate) fn left(instance: &Instance) -> Vec<String> {
    let dir = instance.state_dir().join(instance.name());
    let names = fs::read_dir(dir)
        .expect("an archive")
        .map(|entry| entry.expect("readable"));
    let names = names.map(|entry| entry.file_name().into_string().expect("text"));
    names.filter(|name| name.contains("loading")).collect()
}

#[test]
fn a_load_that_is_cut_short_leaves_nothing() {
    let mut instance = started(&SMALL);
    append(&instance.context("log"), 1..=3000);
    let bytes = fs::read(export(&instance, "log", "all", &[])).expect("just written");
    for len in [1, 300, 5000, bytes.len() / 2, bytes.len() - 1] {
        for dies in ["client", "daemon"] {
            let mut command = instance.ledgerd(&["snapshot", "load", "-", "--as", "copy"]);
            command.stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut loader = Process::start(&mut command);
            let mut stdin = loader.stdin.take().expect("piped");
            stdin.write_all(&bytes[..len]).expect("it reads");
            if len > 5000 {
                eventually("it is under way", || {
                    (!left(&instance).is_empty()).then_some(())
                });
            }
            if dies == "daemon" {
                instance.kill_daemon();
                instance.start(&SMALL);
                drop(stdin);
                assert!(!loader.output().status.success());
            } else {
                drop(stdin);
                drop(loader);
            }
            eventually("nothing is left", || {
                left(&instance).is_empty().then_some(())
            });
            let ls = instance.printed(&["ls", "-o", "raw"]);
            assert_eq!(ls, "log\n", "{len} bytes, the {dies} died");
        }
    }
}

#[test]
fn what_a_load_left_behind_is_removed_and_its_memory_is_not_believed() {
    let mut instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=10);
    context.wait_durable(10, PATIENCE).expect("a disk");
    let epoch = context.epoch();
    let mut watcher = context.watch(11);
    assert!(watcher.try_next().expect("readable").is_none());
    instance.kill_daemon();
    // As a daemon leaves it that dies before it has removed the files which it replaced,
    // and before it has made memory behind the new ones.
    let archive = instance.state_dir().join(instance.name());
    let old = archive.join(format!("{:032x}.loading", 1));
    fs::create_dir(&old).expect("ours");
    fs::write(old.join("00000000000000000001.ledger"), "of the old ones").expect("ours");
    let state_at = std::mem::offset_of!(ControlHeader, state_word) as u64;
    let control = Bytes::of(&instance.objects(), Name::Control(epoch));
    control.set_word(state_at, STATE_LOADING);
    let part = Bytes::of_first_part(&instance.objects(), epoch);
    part.set_word(Bytes::slot_at(0), u64::MAX);
    part.set_word(Bytes::slot_at(10), Slot::Closed.encode());
    instance.start(&SMALL);
    assert_eq!(left(&instance), [""; 0]);
    instance.printed(&["verify", "log"]);
    check_all(&instance, 10);
    append(&instance.context("log"), 11..=20);
    check_all(&instance, 20);
    let told = eventually("who watched it is told", || match watcher.try_next() {
        Ok(None) => None,
        outcome => Some(outcome.map(|entry| entry.map(|entry| entry.seq()))),
    });
    assert!(matches!(told, Err(ReadError::Closed)), "{told:?}");
}

/// Has a daemon load a file, while somebody watches a context, and kills it before so many
/// calls of those that it makes meanwhile. How many it has made.
#[cfg(target_arch = "x86_64")]
fn load_killed(instance: &Instance, path: &Path, [target, watched]: [&str; 2], at: usize) -> usize {
    let (is_loading, mut calls) = (AtomicBool::new(false), 0);
    let decide = |_: &Call, _| {
        calls += usize::from(is_loading.load(Ordering::Relaxed));
        if calls > at { Order::Kill } else { Order::Go }
    };
    let load = |_| {
        // What somebody watches stays in memory.
        let ledger = instance.connect();
        let reader = ledger.context(watched).open_read_only().expect("loaded");
        let mut command = instance.ledgerd(&["snapshot", "load", text(path), "--as", target]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        is_loading.store(true, Ordering::Relaxed);
        Process::start(&mut command).ended();
        is_loading.store(false, Ordering::Relaxed);
        drop(reader);
    };
    serve(instance, &SMALL, |_| {}, decide, load);
    calls
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_load_that_is_killed_anywhere_is_there_wholly_or_not_at_all() {
    let mut instance = started(&SMALL);
    append(&instance.context("log"), 1..=3000);
    let some = export(&instance, "log", "some", &["--to", "1000"]);
    let all = export(&instance, "log", "all", &[]);
    load(&instance, &some, &["--as", "whole"]);
    instance.kill_daemon();
    const ROUNDS: usize = 24;
    let calls = load_killed(&instance, &all, ["whole", "whole"], usize::MAX);
    let mut outcomes = BTreeSet::new();
    for round in 1..=ROUNDS {
        let (name, new) = (format!("copy-{round}"), format!("new-{round}"));
        // More of them at its end; the last one not at all.
        let at = match ROUNDS - round {
            0 => usize::MAX,
            left => calls - calls * left * left / (ROUNDS * ROUNDS),
        };
        instance.start(&SMALL);
        load(&instance, &some, &["--as", &name]);
        instance.kill_daemon();
        let (target, before) = match round % 4 {
            3 => (&new, 0),
            _ => (&name, 1000),
        };
        load_killed(&instance, &all, [target, &name], at);
        instance.start(&SMALL);
        assert_eq!(left(&instance), [""; 0]);
        let listed = instance.printed(&["ls", "-o", "raw"]);
        let latest = match listed.lines().any(|listed| listed == target) {
            true => lines(&instance, target).lines().count(),
            false => 0,
        };
        assert!([before, 3000].contains(&latest), "{target}: {latest}");
        outcomes.insert(latest == before);
        instance.printed(&["verify", "--all"]);
        load(&instance, &all, &["--as", target]);
        assert_eq!(lines(&instance, target), lines(&instance, "log"));
        instance.kill_daemon();
    }
    assert_eq!(outcomes, BTreeSet::from([false, true]), "{calls} calls");
}

#[test]
fn what_cannot_be_closed_is_not_loaded_into() {
    let instance = started(&SMALL);
    append(&instance.context("log"), 1..=3000);
    let some = export(&instance, "log", "some", &["--to", "1000"]);
    let all = export(&instance, "log", "all", &[]);
    load(&instance, &some, &["--as", "copy"]);
    // Whoever appends has spares made; they stay for a while.
    let copy = instance.context("copy");
    let epoch = copy.epoch();
    let parts = || parts_in_memory(&instance.objects(), epoch);
    eventually("two spares", || (parts().len() == 3).then_some(()));
    drop(copy);
    // A spare that the daemon takes for somebody else's cannot be withdrawn.
    let spare = Name::Part(epoch, parts().into_iter().max().expect("three"));
    let spare = spare.path_in(&instance.objects());
    let allow = |mode| fs::set_permissions(&spare, fs::Permissions::from_mode(mode));
    allow(0o666).expect("our file");
    eventually("it is refused for that, once nobody has it open", || {
        let refused = instance.complained(&["snapshot", "load", text(&all), "--as", "copy"]);
        let is_closing = refused.contains("cannot be closed now") && refused.contains("try again");
        is_closing.then_some(())
    });
    assert_eq!(lines(&instance, "copy").lines().count(), 1000);
    allow(0o600).expect("our file");
    load(&instance, &all, &["--as", "copy"]);
    assert_eq!(lines(&instance, "copy"), lines(&instance, "log"));
}

#[test]
fn of_two_loads_at_once_each_gets_what_it_says() {
    let instance = started(&SMALL);
    append(&instance.context("log"), 1..=3000);
    append(&instance.context("other"), 1..=3000);
    let (one, other) = (
        export(&instance, "log", "a", &[]),
        export(&instance, "other", "b", &[]),
    );
    for round in 0..5 {
        let name = format!("copy-{round}");
        let start = |path: &Path| {
            let mut command = instance.ledgerd(&["snapshot", "load", text(path), "--as", &name]);
            Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
        };
        let same = [start(&one), start(&one)].map(|load| load.output().status.success());
        assert_eq!(
            same,
            [true, true],
            "the second one finds that it has all of it"
        );
        let name = format!("torn-{round}");
        let start = |path: &Path| {
            let mut command = instance.ledgerd(&["snapshot", "load", text(path), "--as", &name]);
            Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
        };
        let [first, second] =
            [start(&one), start(&other)].map(|load| load.output().status.success());
        assert!(first != second, "one of two histories: {first} {second}");
        let of = if first { "log" } else { "other" };
        assert_eq!(lines(&instance, &name), lines(&instance, of));
    }
}

#[test]
fn it_takes_a_right_to_load_a_snapshot() {
    if !may_be_others() {
        return;
    }
    let mut instance = Instance::new(PROGRAMS);
    let config = instance.configure(
        "[[rights]]\ncontexts = [\"mine\"]\nusers = [1010]\nright = \"append\"\n\
         [[rights]]\ncontexts = [\"mine\"]\nusers = [1011]\nright = \"admin\"\n",
    );
    instance.start(&["--config", text(&config)]);
    append(&instance.context("log"), 1..=100);
    let snapshot = instance
        .run(&["snapshot", "export", "log", "-o", "-"])
        .stdout;
    let load = |uid, name| {
        let args = ["snapshot", "load", "-", "--as", name];
        let mut command = instance.ledgerd_as(uid, &args);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::start(&mut command);
        // Who is refused does not read it.
        let _ = process.stdin.take().expect("piped").write_all(&snapshot);
        let output = process.output();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said)
    };
    for (uid, name) in [(1010, "mine"), (1010, "log"), (1011, "log"), (1011, "new")] {
        let (is_done, said) = load(uid, name);
        assert!(
            !is_done && said.contains(&format!("uid {uid} may not administer")),
            "{said}"
        );
    }
    let (is_done, said) = load(1011, "mine");
    assert!(is_done, "{said}");
    assert_eq!(lines(&instance, "mine"), lines(&instance, "log"));
    assert_eq!(instance.printed(&["ls", "-o", "raw"]), "log\nmine\n");
    // Others may write to this one, and it is younger.
    let mine = instance.connect();
    let mine = mine.context("mine").open_read_only().expect("loaded");
    let file = home(&instance, &mine).join(files(&instance, &mine)[0].to_string());
    let (loaded, _) = verify(&fs::read(file).expect("ours")[..]).expect("whole");
    let (from, _) = verify(&snapshot[..]).expect("whole");
    assert!(loaded.facts.has_foreign_writers && !from.facts.has_foreign_writers);
    assert!(loaded.facts.created_at_ns > from.facts.created_at_ns);
    assert!(loaded.begun_at_ns > from.begun_at_ns && loaded.snapshot.is_none());
}

/// A first segment of its own size may be more than the memory that there is elsewhere.
#[test]
fn what_was_recorded_where_there_is_more_memory_is_read_and_goes_on_where_there_is_less() {
    let mut instance = started(&SMALL);
    let large = Sizes {
        first_len: Some(8 << 20),
        ..Sizes::default()
    };
    let ledger = instance.connect();
    let context = ledger.context("log").sizes(large).open_or_create();
    append(&context.expect("room"), 1..=100);
    let path = export(&instance, "log", "all", &[]);
    let all = lines(&instance, "log");
    ledger_client::admin::drop_context(&ledger, "log").expect("nobody has it open");
    drop(ledger);
    instance.stop_daemon();
    instance.start(&[&SMALL[..], &["--memory-budget", "2M"]].concat());
    load(&instance, &path, &["--as", "copy"]);
    assert_eq!(lines(&instance, "copy"), all);
    append(&instance.context("copy"), 101..=2000);
}
