//! What the daemon tells everybody about a log.

use std::fs::File;
use std::mem::offset_of;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ledger_shm::Control;
use ledger_shm::control::{FIRST_LEN_MAX, Facts, InvalidName, Sizes, State};
use ledger_shm::entry::{LIMIT_MAX, Limits};
use ledger_shm::format::{
    ARCHIVE_FORMAT, ControlHeader, FORMAT_VERSION, NAME_LEN_MAX, SEGMENT_LEN_MAX, SEGMENT_LEN_MIN,
};
use ledger_shm::object::{Epoch, Instance, MapError, Name, Object, unlink};
use ledger_shm::slot::PART_MAX;

use crate::sleepers::{LONG, wakes};

const EPOCH: Epoch = Epoch(*b"one of these two");
const HOME: Epoch = Epoch(*b"where files are.");

const STATES: [State; 6] = [
    State::Open,
    State::Idle,
    State::Quarantined,
    State::Dropped,
    State::Archived,
    State::Loading,
];

fn facts(name: &str) -> Facts {
    Facts {
        name: name.to_owned(),
        epoch: EPOCH,
        limits: Limits {
            payload_len_max: 1001,
            metadata_len_max: 1002,
        },
        sizes: Sizes {
            first_len: Some(1003),
            spare_len_min: Some(1004),
            spare_len_max: Some(1005),
            window_len: Some(1006),
        },
        has_foreign_writers: true,
        created_at_ns: 1007,
    }
}

/// A control object, as the daemon has it, and as others do.
struct Told {
    control: Control,
    object: Object,
}

impl Told {
    fn of(facts: Facts, home: Option<Epoch>) -> Told {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let uid = std::fs::metadata("/proc/self").expect("ourselves").uid();
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("control_{}_{made}", std::process::id());
        let instance = Instance::new(uid, &name).expect("a name");
        let control = Control::create(&instance, facts, home, 9).expect("memory");
        let unfinished = Control::look(&instance, EPOCH);
        assert!(matches!(unfinished, Err(MapError::Unfinished)));
        control.finish();
        let looked = Control::look(&instance, EPOCH).expect("finished");
        let object = Object::open(&instance, Name::Control(EPOCH), true).expect("its name");
        unlink(&instance, Name::Control(EPOCH)).expect("its name");
        // Who looks once has a copy.
        control.set_first_part(7);
        assert_eq!((looked.first_part(), control.first_part()), (0, 7));
        Told { control, object }
    }

    fn map(&self) -> Result<Control, MapError> {
        Control::map(&self.object, EPOCH, false)
    }

    fn word(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        let read = self.file().read_exact_at(&mut word, at as u64);
        read.expect("our memory");
        u64::from_le_bytes(word)
    }

    fn write(&self, at: usize, word: u64) {
        let written = self.file().write_all_at(&word.to_le_bytes(), at as u64);
        written.expect("our memory");
    }

    fn file(&self) -> File {
        let object = self.object.as_fd().try_clone_to_owned();
        File::from(object.expect("a descriptor"))
    }
}

#[test]
fn everybody_reads_what_the_daemon_has_written() {
    let longest = "n".repeat(NAME_LEN_MAX);
    for (name, home) in [("n", None), ("loan-7", Some(HOME)), (&longest, Some(HOME))] {
        let told = Told::of(facts(name), home);
        let seen = told.map().expect("a control object");
        assert_eq!(seen.facts(), &facts(name));
        assert_eq!((seen.name(), seen.epoch()), (name, EPOCH));
        assert_eq!(seen.limits(), facts(name).limits);
        assert_eq!(seen.home(), home);
        assert_eq!((seen.generation(), seen.first_part()), (9, 7));
        told.control.set_generation(10);
        assert_eq!(seen.generation(), 10);
        assert_eq!(seen.state(), Ok(State::Open));
        for state in STATES {
            told.control.set_state(state);
            assert_eq!(seen.state(), Ok(state));
        }
        told.control.set_archived(20, 15);
        assert_eq!((seen.archived_seq(), seen.durable_seq()), (20, 15));
        told.control.set_archived(21, 15);
        assert_eq!((seen.archived_seq(), seen.durable_seq()), (21, 15));
    }
}

#[test]
fn states_have_names_and_in_two_of_them_the_memory_is_gone() {
    let names = STATES.map(State::as_str);
    let expected = [
        "open",
        "idle",
        "quarantined",
        "dropped",
        "archived",
        "loading",
    ];
    assert_eq!(names, expected);
    let gone = STATES.into_iter().filter(|state| state.is_gone());
    assert!(gone.eq([State::Dropped, State::Archived]));
}

#[test]
fn a_log_in_files_says_how_far_they_go() {
    let control = Control::in_files(facts("loan-7"), HOME, 20, 15).expect("memory");
    assert_eq!(control.state(), Ok(State::Archived));
    assert_eq!((control.archived_seq(), control.durable_seq()), (20, 15));
    assert_eq!(control.home(), Some(HOME));
}

#[test]
fn no_part_number_is_given_twice() {
    let told = Told::of(facts("loan-7"), None);
    for number in 1..=3 {
        assert_eq!(told.control.take_part_number(), Ok(number));
    }
    let at = offset_of!(ControlHeader, next_part_word);
    assert_eq!(told.word(at), 4);
    told.write(at, PART_MAX - 1);
    assert_eq!(told.control.take_part_number(), Ok(PART_MAX - 1));
    for none in [0, PART_MAX, PART_MAX + 1, u64::MAX] {
        told.write(at, none);
        let damage = told.control.take_part_number().expect_err("none");
        assert_eq!((damage.what, damage.found), ("next part number", none));
        assert_eq!(told.word(at), none, "nothing was taken");
    }
}

#[test]
fn a_control_object_that_no_daemon_writes_is_named() {
    let told = Told::of(facts("loan-7"), Some(HOME));
    let name_len_at = offset_of!(ControlHeader, name_len);
    let too_long = LIMIT_MAX as u64 + 1;
    for (at, word, named) in [
        (offset_of!(ControlHeader, magic_word), 1, "control magic"),
        (
            offset_of!(ControlHeader, payload_len_max),
            too_long,
            "payload limit",
        ),
        (
            offset_of!(ControlHeader, metadata_len_max),
            too_long,
            "metadata limit",
        ),
        (name_len_at, 0, "context name"),
        (name_len_at, NAME_LEN_MAX as u64 + 1, "context name"),
        (offset_of!(ControlHeader, name), u64::MAX, "context name"),
    ] {
        let before = told.word(at);
        told.write(at, word);
        match told.map() {
            Err(MapError::Corrupt(corrupt)) => assert_eq!(corrupt.what, named, "{word:#x}"),
            other => panic!("{other:?}"),
        }
        told.write(at, before);
    }
    let version_at = offset_of!(ControlHeader, version);
    let formats = |version: u32, layout: u32| u64::from(version) | u64::from(layout) << 32;
    told.write(version_at, formats(FORMAT_VERSION + 1, ARCHIVE_FORMAT));
    let found = FORMAT_VERSION + 1;
    let other = told.map();
    assert!(matches!(other, Err(MapError::Version { found: other, .. }) if other == found));
    told.write(version_at, formats(FORMAT_VERSION, ARCHIVE_FORMAT + 1));
    let found = ARCHIVE_FORMAT + 1;
    let other = told.map();
    assert!(matches!(other, Err(MapError::Layout { found: other, .. }) if other == found));
    told.write(version_at, formats(FORMAT_VERSION, ARCHIVE_FORMAT));
    told.write(offset_of!(ControlHeader, payload_len_max), LIMIT_MAX as u64);
    let seen = told.map().expect("as large as a limit can be");
    assert_eq!(seen.limits().payload_len_max, LIMIT_MAX);

    told.write(offset_of!(ControlHeader, state_word), 77);
    let damage = seen.state().expect_err("none that a daemon writes");
    assert_eq!((damage.what, damage.found), ("context state", 77));
}

#[test]
fn who_waits_for_the_disk_is_woken_by_what_comes_to_it() {
    let told = Told::of(facts("loan-7"), Some(HOME));
    told.control.set_archived(20, 15);
    let seen = told.map().expect("a control object");
    let began = Instant::now();
    let sleepers = (0..2).map(|_| || seen.wait_durable(15, LONG));
    wakes(|| told.control.set_archived(20, 20), sleepers);
    // It has come before.
    seen.wait_durable(19, LONG);
    assert!(began.elapsed() < LONG, "it slept until the end");
    let began = Instant::now();
    seen.wait_durable(20, Duration::from_millis(3));
    assert!(began.elapsed() >= Duration::from_millis(3));
}

#[test]
fn a_name_is_so_many_bytes_of_text() {
    let longest = [b'n'; NAME_LEN_MAX + 1];
    assert!(InvalidName::check(&longest[1..]).is_ok());
    let len = longest.len();
    assert_eq!(
        InvalidName::check(&longest),
        Err(InvalidName::TooLong { len })
    );
}

#[test]
fn sizes_that_are_not_said_are_those_of_others() {
    let sizes = |len: [Option<u64>; 4]| Sizes {
        first_len: len[0],
        spare_len_min: len[1],
        spare_len_max: len[2],
        window_len: len[3],
    };
    let own = sizes([Some(1), None, Some(0), None]);
    let others = sizes([Some(5), Some(6), Some(7), Some(0)]);
    let both = sizes([Some(1), Some(6), Some(7), None]);
    assert_eq!(own.or(others), both);
}

#[test]
fn sizes_are_those_that_a_segment_can_have() {
    let (least, most) = (SEGMENT_LEN_MIN as u64, SEGMENT_LEN_MAX as u64);
    let first = |len| Sizes {
        first_len: Some(len),
        ..Sizes::default()
    };
    let spares = |min, max| Sizes {
        spare_len_min: Some(min),
        spare_len_max: Some(max),
        ..Sizes::default()
    };
    for sizes in [
        first(0),
        first(least),
        first(FIRST_LEN_MAX as u64),
        spares(0, 0),
        spares(least, least),
        spares(most, most),
        spares(most, 0),
    ] {
        assert_eq!(sizes.check(), Ok(()), "{sizes:?}");
    }
    for (sizes, what, given, max) in [
        (first(1), "a first segment", 1, FIRST_LEN_MAX as u64),
        (
            first(least - 1),
            "a first segment",
            least - 1,
            FIRST_LEN_MAX as u64,
        ),
        (
            first(FIRST_LEN_MAX as u64 + 1),
            "a first segment",
            FIRST_LEN_MAX as u64 + 1,
            FIRST_LEN_MAX as u64,
        ),
        (spares(0, most + 1), "a largest spare", most + 1, most),
        (spares(0, least - 1), "a largest spare", least - 1, most),
        (spares(least - 1, 0), "a first spare", least - 1, most),
        (
            spares(least + 2, least + 1),
            "a first spare",
            least + 2,
            least + 1,
        ),
    ] {
        let invalid = sizes.check().expect_err("impossible");
        assert_eq!((invalid.what, invalid.given), (what, given));
        assert_eq!((invalid.min, invalid.max), (least, max));
    }
}
