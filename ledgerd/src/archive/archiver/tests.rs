//! What is done with several contexts, and what the server is told of it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

use ledger_shm::file::FileName;
use ledger_shm::object::{self, Name};
use nix::sys::eventfd::EfdFlags;

use super::*;
use crate::archive::by_hand::{a_home, files_in, none, put_ten};
use crate::archive::stage::{Stage, names};
use crate::objects::{close, epoch};
use crate::options::Retention;

fn desk_in(instance: Instance, options: Options, archive_dir: PathBuf) -> (Desk, Receiver<Report>) {
    let (sender, reports) = mpsc::channel();
    let done = Arc::new(EventFd::new().expect("a descriptor"));
    let desk = Desk::new(instance, options, archive_dir, sender, done).expect("a thread");
    (desk, reports)
}

/// Where there is nothing.
fn desk() -> (Desk, Receiver<Report>) {
    let instance = Instance::own("archiver_tests").expect("a valid name");
    desk_in(
        instance,
        Options::new("archiver_tests"),
        "/nonexistent".into(),
    )
}

/// Writes this context behind.
fn desk_of(stage: &Stage) -> (Desk, Receiver<Report>) {
    desk_with(stage, stage.options())
}

fn desk_with(stage: &Stage, options: Options) -> (Desk, Receiver<Report>) {
    let instance = stage.memory.instance.clone();
    desk_in(instance, options, stage.archive_dir())
}

fn follow(marks: &Arc<Marks>) -> Order {
    let marks = Arc::clone(marks);
    Order::Follow {
        epoch: epoch(1),
        marks,
    }
}

fn leave(marks: &Arc<Marks>) -> Order {
    let marks = Arc::clone(marks);
    Order::Leave {
        epoch: epoch(1),
        marks,
    }
}

fn finish(marks: &Arc<Marks>, seq: u64) -> Order {
    let marks = Arc::clone(marks);
    Order::Finish {
        epoch: epoch(1),
        marks,
        seq,
    }
}

fn complete(marks: &Arc<Marks>) -> Order {
    let marks = Arc::clone(marks);
    Order::Complete {
        epoch: epoch(1),
        marks,
    }
}

/// What was reported since, shortly.
fn said(reports: &Receiver<Report>) -> Vec<String> {
    let said = reports.try_iter().map(|report| match report {
        Report::Finished(_) => "finished".to_owned(),
        Report::Complete { is_done, .. } => format!("complete: {is_done}"),
        Report::Damaged(..) => "damaged".to_owned(),
        Report::Trouble { error: None, .. } => "well".to_owned(),
        Report::Trouble { .. } => "trouble".to_owned(),
        Report::Ended => "ended".to_owned(),
    });
    said.collect()
}

#[test]
fn a_context_is_looked_at_until_its_last_appender_has_left() {
    let mut stage = Stage::new();
    let (mut desk, reports) = desk_of(&stage);
    let marks = Arc::default();
    desk.obey(follow(&marks));
    stage.append(3);
    assert!(!desk.look(), "all of it is copied");
    assert_eq!(stage.archived_seq(), 3);
    ledger_tests::eventually("it is durable", || {
        assert!(!desk.look());
        (stage.durable_seq() == 3).then_some(())
    });
    stage.append(2);
    assert!(!desk.look(), "it is followed though all was written");
    assert_eq!(stage.archived_seq(), 5);
    desk.obey(leave(&marks));
    assert_eq!(stage.durable_seq(), 5);
    assert!(desk.keepers.is_empty());
    stage.append(1);
    assert!(!desk.look());
    assert_eq!(stage.archived_seq(), 5, "nobody looks any more");
    assert!(said(&reports).is_empty());
}

#[test]
fn a_long_backlog_is_copied_in_turns() {
    let mut stage = Stage::with(1, 16 << 20);
    let (mut desk, _reports) = desk_of(&stage);
    let marks = Arc::default();
    desk.obey(follow(&marks));
    stage.append_all(9, &vec![7; 1 << 20]);
    assert!(desk.look(), "there is more than a turn");
    assert!(stage.archived_seq() < 9);
    assert!(!desk.look());
    assert_eq!(stage.archived_seq(), 9);
}

#[test]
fn what_is_finished_is_reported_and_who_appends_is_followed_on() {
    let mut stage = Stage::new();
    let (mut desk, reports) = desk_of(&stage);
    let marks = Arc::default();
    desk.obey(follow(&marks));
    stage.append(3);
    desk.obey(finish(&marks, 3));
    assert_eq!(said(&reports), ["finished"]);
    assert_eq!(marks.finished_seq(), 3);
    desk.obey(finish(&marks, 3));
    assert!(said(&reports).is_empty(), "it was finished before");
    assert!(desk.keepers[&epoch(1)].is_followed);
    // Other memory of the same context.
    let other = Arc::default();
    desk.obey(finish(&other, 3));
    assert!(!desk.look());
    assert!(desk.keepers.is_empty(), "nobody appends to that");
    assert_eq!(said(&reports), ["finished"]);
    assert_eq!(other.finished_seq(), 3);
}

#[test]
fn a_log_is_complete_once_it_is_closed() {
    let mut stage = Stage::new();
    let (mut desk, reports) = desk_of(&stage);
    let marks = Arc::default();
    stage.append(3);
    desk.obey(complete(&marks));
    assert_eq!(said(&reports), ["complete: false"]);
    assert!(desk.keepers.is_empty());
    close(&mut stage.tail);
    desk.obey(complete(&marks));
    assert_eq!(said(&reports), ["finished", "complete: true"]);
    assert!(desk.keepers.is_empty());
}

#[test]
fn what_cannot_be_written_is_said_until_it_can() {
    let mut stage = Stage::new();
    let (mut desk, reports) = desk_of(&stage);
    let marks = Arc::default();
    desk.obey(follow(&marks));
    stage.append(3);
    stage.disk.is_full.store(true, Ordering::Release);
    desk.obey(leave(&marks));
    assert_eq!(said(&reports), ["trouble"]);
    assert_eq!(desk.keepers.len(), 1, "it is still to be written");
    stage.disk.is_full.store(false, Ordering::Release);
    assert!(!desk.look());
    assert!(
        said(&reports).is_empty(),
        "it waits before it is tried again"
    );
    assert_eq!(stage.durable_seq(), 0);
    desk.keepers
        .get_mut(&epoch(1))
        .expect("kept")
        .keeper
        .set_due();
    ledger_tests::eventually("it is durable", || {
        desk.look();
        desk.keepers.is_empty().then_some(())
    });
    assert_eq!(stage.durable_seq(), 3);
    assert_eq!(said(&reports), ["well"]);
}

#[test]
fn that_it_is_well_again_is_said_also_of_who_is_appended_to() {
    let mut stage = Stage::new();
    let (mut desk, reports) = desk_of(&stage);
    desk.obey(follow(&Arc::default()));
    stage.append(3);
    stage.disk.is_full.store(true, Ordering::Release);
    desk.look();
    assert_eq!(said(&reports), ["trouble"]);
    stage.disk.is_full.store(false, Ordering::Release);
    desk.keepers
        .get_mut(&epoch(1))
        .expect("kept")
        .keeper
        .set_due();
    ledger_tests::eventually("it is well", || {
        desk.look();
        (said(&reports) == ["well"]).then_some(())
    });
}

#[test]
fn what_is_damaged_is_reported_and_given_up() {
    let mut stage = Stage::new();
    let (mut desk, reports) = desk_of(&stage);
    desk.obey(follow(&Arc::default()));
    stage.append(3);
    desk.look();
    stage.append_spoilt();
    desk.look();
    assert_eq!(said(&reports), ["damaged"]);
    assert!(desk.keepers.is_empty());
    assert_eq!(stage.archived_seq(), 3);
}

#[test]
fn what_is_not_there_any_more_is_given_up_without_a_word() {
    let stage = Stage::new();
    let (mut desk, reports) = desk_of(&stage);
    desk.obey(follow(&Arc::default()));
    object::unlink(&stage.memory.instance, Name::Control(epoch(1))).expect("ours");
    desk.look();
    assert!(said(&reports).is_empty());
    assert!(desk.keepers.is_empty());
}

#[test]
fn memory_that_cannot_be_read_for_now_is_trouble() {
    let stage = Stage::new();
    let (mut desk, reports) = desk_of(&stage);
    desk.obey(follow(&Arc::default()));
    let control = Name::Control(epoch(1)).path_in(&stage.memory.instance);
    let others_may = Permissions::from_mode(0o644);
    std::fs::set_permissions(control, others_may).expect("ours");
    desk.look();
    assert_eq!(said(&reports), ["trouble"]);
    assert!(desk.keepers[&epoch(1)].keeper.is_waiting());
}

#[test]
fn nothing_is_removed_of_who_is_in_trouble() {
    let mut stage = Stage::new();
    let mut options = stage.options();
    options.retention = Retention {
        entries: Some(0),
        ..Retention::default()
    };
    let (mut desk, reports) = desk_with(&stage, options);
    let marks = Arc::default();
    for seq in [1, 2] {
        stage.append(1);
        desk.obey(finish(&marks, seq));
    }
    assert_eq!(said(&reports), ["finished", "finished"]);
    stage.append(1);
    stage.disk.is_full.store(true, Ordering::Release);
    desk.obey(follow(&marks));
    desk.look();
    assert_eq!(said(&reports), ["trouble"]);
    stage.disk.is_full.store(false, Ordering::Release);
    // Another one, in files only.
    let (elsewhere, home) = a_home();
    let tree = put_ten(&home, "log", &none(), 1);
    put_ten(&home, "log", &tree, 1);
    let other = stage.archive_dir().join(epoch(2).to_string());
    std::fs::rename(&home.dir, &other).expect("on the same file system");
    drop(elsewhere);

    ledger_tests::eventually("nothing is left to remove", || {
        (!desk.clean()).then_some(())
    });
    assert_eq!(files_in(&other), names([FileName::Finished(11)]));
    let both = [FileName::Finished(1), FileName::Finished(2)];
    assert_eq!(stage.files()[..2], names(both));
}

#[test]
fn what_is_wanted_on_stable_storage_is_there_at_once() {
    let mut stage = Stage::new();
    let (mut desk, _reports) = desk_of(&stage);
    let marks = Arc::<Marks>::default();
    stage.append(3);
    assert!(marks.want_sync());
    desk.obey(Order::Sync {
        epoch: epoch(1),
        marks: Arc::clone(&marks),
    });
    assert_eq!(stage.durable_seq(), 3);
    assert!(
        marks.want_sync(),
        "what is wanted from now on takes another order"
    );
    assert!(desk.keepers.is_empty());
}

#[test]
fn of_what_is_dropped_nothing_is_left() {
    let mut stage = Stage::new();
    let (mut desk, _reports) = desk_of(&stage);
    desk.obey(follow(&Arc::default()));
    stage.append(3);
    desk.look();
    let home = Home::new(stage.dir(), desk.disk.clone());
    home.set_aside().expect("room");
    // As a look does that was under way.
    std::fs::create_dir(&home.dir).expect("room");
    desk.obey(Order::Forget {
        epoch: epoch(1),
        home,
    });
    assert!(desk.keepers.is_empty());
    assert_eq!(files_in(&stage.archive_dir()), Vec::<String>::new());
}

#[test]
fn files_are_as_long_as_was_last_said() {
    let mut stage = Stage::new();
    let (mut desk, reports) = desk_of(&stage);
    let mut options = stage.options();
    options.archive_file_len = 4096;
    desk.obey(Order::GoOn(Box::new(options)));
    desk.obey(follow(&Arc::default()));
    stage.append(100);
    desk.look();
    assert_eq!(said(&reports), ["finished"]);
    let finished = Home::new(stage.dir(), desk.disk.clone()).finished();
    assert!(finished.expect("there").len() > 1, "they are short");
}

#[test]
fn the_thread_obeys_reports_and_leaves_nothing_undone() {
    let mut stage = Stage::new();
    let done = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).expect("a descriptor");
    let done = Arc::new(done);
    let archiver = Archiver::start(
        stage.memory.instance.clone(),
        stage.options(),
        stage.archive_dir(),
        Arc::clone(&done),
    );
    let archiver = archiver.expect("a thread");
    let marks = Arc::default();
    archiver.give(follow(&marks));
    stage.append(3);
    archiver.give(finish(&marks, 3));
    ledger_tests::eventually("there is a report", || done.read().ok());
    let report = archiver.take_report();
    assert!(matches!(report, Some(Report::Finished(of)) if of == epoch(1)));
    assert!(archiver.take_report().is_none());
    // A sync that was begun and is not through when it is told to end.
    let hold = stage.disk.hold();
    stage.append(2);
    hold.until_asked();
    let ending = std::thread::spawn(move || drop(archiver));
    drop(hold);
    ending.join().expect("it ends");
    assert_eq!(stage.durable_seq(), 5);
}

#[test]
fn a_panic_is_the_trouble_of_one_context_until_it_is_over() {
    let (mut desk, reports) = desk();
    let [one, other] = [epoch(7), epoch(8)];
    for epoch in [one, other] {
        desk.kept(epoch, Arc::default());
    }
    for _ in 0..2 {
        desk.with(one, |_| panic!("on purpose"));
    }
    let Ok(Report::Trouble {
        epoch: of,
        error: Some(error),
    }) = reports.try_recv()
    else {
        panic!("nothing was said");
    };
    assert_eq!(of, one);
    assert!(error.contains("panicked: on purpose"), "{error}");
    // It is not given up, and what waits is no news.
    assert!(desk.keepers[&one].keeper.is_waiting());
    assert!(!desk.keepers[&other].keeper.is_waiting());
    assert!(reports.try_recv().is_err(), "it is said once");
    desk.forget(one);
    let over = reports.try_recv();
    assert!(
        matches!(over, Ok(Report::Trouble { error: None, .. })),
        "{over:?}"
    );
    desk.forget(other);
    assert!(reports.try_recv().is_err(), "there was none");
}

#[test]
fn it_looks_again_soon_while_there_is_something_to_look_at() {
    let (mut desk, _reports) = desk();
    assert_eq!(desk.pause(false), None);
    assert_eq!(desk.pause(true), Some(Duration::ZERO));
    desk.kept(epoch(7), Arc::default());
    assert_eq!(desk.pause(false), Some(LOOK));
    assert_eq!(desk.pause(true), Some(Duration::ZERO));
}

#[test]
fn a_thread_that_panics_says_so_and_one_that_ends_does_not() {
    for is_panicking in [true, false] {
        let (sender, reports) = mpsc::channel();
        let announce = Announce {
            reports: sender,
            done: Arc::new(EventFd::new().expect("a descriptor")),
        };
        let thread = std::thread::spawn(move || {
            let _announce = announce;
            assert!(!is_panicking, "on purpose");
        });
        assert_eq!(thread.join().is_err(), is_panicking);
        let is_said = matches!(reports.recv(), Ok(Report::Ended));
        assert_eq!(is_said, is_panicking);
    }
}
