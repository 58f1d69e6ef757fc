//! Objects of others, half-made objects, and bytes that cannot be right: never
//! a panic, never a crash, and the rest goes on.

use std::fs::Permissions;
use std::mem::offset_of;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ledger_client::{Context, NewEntry, ReadError};
use ledger_shm::format::{
    ARCHIVE_FORMAT, ControlHeader, FORMAT_VERSION, RECORD_HEADER_LEN, SegmentHeader,
};
use ledger_shm::object::Name;
use ledger_shm::slot::{Extent, Slot};
use ledger_tests::damage::Bytes;
use ledger_tests::{Instance, may_be_others};

use crate::{PROGRAMS, started};

const ENTRIES: u64 = 5;
/// A uid that is neither ours nor root's.
const NOBODY: u32 = 65534;

/// A context with a few entries, and its first part's bytes.
fn victim(instance: &Instance) -> (Context, Bytes) {
    let context = instance.context("victim");
    let mut appender = context.appender().expect("an appender");
    for n in 1..=ENTRIES {
        let payload = [u8::try_from(n).expect("few"); 20];
        let entry = NewEntry::new("a key of 16 byte", &payload).metadata(&[("name", "a value")]);
        appender.append(&entry).expect("room");
    }
    let bytes = Bytes::of_first_part(&instance.objects(), context.epoch());
    (context, bytes)
}

fn corrupt(context: &Context, seq: u64) -> &'static str {
    match context.get(seq) {
        Err(ReadError::Corrupt(corrupt)) => corrupt.what,
        other => panic!("seq {seq}: {other:?}"),
    }
}

#[test]
fn a_damaged_slot_is_an_error_there_and_nowhere_else() {
    let instance = started(&[]);
    let (context, bytes) = victim(&instance);
    let beyond = Slot::Entry(Extent {
        offset: 1 << 30,
        len: 100,
    });
    let short = Slot::Entry(Extent { offset: 0, len: 47 });
    let unaligned_tag = 0x4000_0001_0000_0000;
    for (word, what) in [
        (1, "slot"),
        (unaligned_tag, "slot"),
        (beyond.encode(), "record end"),
        (short.encode(), "record length"),
        (bytes.word(Bytes::slot_at(3)), "record seq"),
    ] {
        let before = bytes.word(Bytes::slot_at(1));
        bytes.set_word(Bytes::slot_at(1), word);
        assert_eq!(corrupt(&context, 2), what, "{word:#x}");
        assert_eq!(context.get(1).expect("whole").expect("there").seq(), 1);
        assert_eq!(context.get(3).expect("whole").expect("there").seq(), 3);
        let said = instance.complained(&["get", "victim", "2"]);
        assert!(said.contains(&format!("{what} is damaged")), "{said}");
        bytes.set_word(Bytes::slot_at(1), before);
    }
    assert_eq!(context.get(2).expect("whole").expect("there").seq(), 2);
}

#[test]
fn a_watcher_stays_at_what_it_cannot_read_until_it_is_moved() {
    let instance = started(&[]);
    let (context, bytes) = victim(&instance);
    let (record_at, len) = bytes.record_at(1);
    // The slot, the header, the archive's root.
    for at in [Bytes::slot_at(1), record_at + 8, record_at + len as u64 - 8] {
        let before = bytes.word(at);
        bytes.set_word(at, 0xffff_0001);
        for watcher in [context.watch(1), context.watch(1).key("a key of 16 byte")] {
            let mut watcher = watcher;
            let first = watcher.try_next().expect("whole").expect("there");
            assert_eq!(first.seq(), 1);
            for _ in 0..2 {
                let refused = watcher.try_next().map(|_| ());
                assert!(matches!(refused, Err(ReadError::Corrupt(_))), "{refused:?}");
                assert_eq!(watcher.next_seq(), 2, "damaged at {at}");
            }
            watcher.seek(3);
            let third = watcher.try_next().expect("whole").expect("there");
            assert_eq!(third.seq(), 3);
        }
        bytes.set_word(at, before);
    }
}

#[test]
fn commands_print_no_entry_whose_checksum_does_not_hold() {
    let instance = started(&[]);
    let (_, bytes) = victim(&instance);
    let (at, _) = bytes.record_at(2);
    bytes.set(at + 48, b"changed");
    let said = instance.complained(&["get", "victim", "3"]);
    assert!(
        said.contains("entry 3") && said.contains("body checksum"),
        "{said}"
    );
    instance.complained(&["tail", "victim"]);
    instance.printed(&["get", "victim", "4"]);
}

#[test]
fn what_tail_prints_before_it_fails_is_delivered_and_remembered() {
    let instance = started(&[]);
    let (_, bytes) = victim(&instance);
    let file = instance.runtime_dir().join("cursor");
    let path = file.to_str().expect("text");
    let slot = bytes.word(Bytes::slot_at(2));
    bytes.set_word(Bytes::slot_at(2), 1);
    let args = ["--template", "{seq}", "--cursor-file", path];
    let args = [&["tail", "victim"][..], &args].concat();
    let output = instance.run(&args);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1\n2\n");
    let said = instance.complained(&args);
    assert!(said.contains("slot is damaged"), "{said}");
    bytes.set_word(Bytes::slot_at(2), slot);
    // Nor is a record that was looked at, and could not be printed, passed over.
    let (at, _) = bytes.record_at(2);
    let payload = at + RECORD_HEADER_LEN as u64;
    let byte = bytes.get(payload, 1)[0];
    bytes.set(payload, &[!byte]);
    for _ in 0..2 {
        let said = instance.complained(&args);
        assert!(said.contains("entry 3: record body checksum"), "{said}");
    }
    bytes.set(payload, &[byte]);
    assert_eq!(instance.printed(&args), "3\n4\n5\n");
}

#[test]
fn every_changed_byte_of_a_record_is_noticed() {
    let instance = started(&[]);
    let (context, bytes) = victim(&instance);
    let (at, len) = bytes.record_at(2);
    let record = bytes.get(at, len);
    for (index, byte) in record.iter().enumerate() {
        for flip in [0x01, 0x80, 0xff] {
            bytes.set(at + index as u64, &[byte ^ flip]);
            match context.get(3) {
                // What is not needed to find the entry is told by checksums.
                Ok(entry) => {
                    let entry = entry.expect("there");
                    assert!(entry.verify().is_err(), "byte {index} ^ {flip:#x}");
                    // Whatever it says now, it can be looked at.
                    let said = format!("{entry:?} {:?}", entry.metadata().collect::<Vec<_>>());
                    assert!(!said.is_empty());
                }
                Err(ReadError::Corrupt(_)) => {}
                Err(other) => panic!("byte {index} ^ {flip:#x}: {other}"),
            }
            bytes.set(at + index as u64, &[*byte]);
        }
    }
    let entry = context.get(3).expect("whole").expect("there");
    entry.verify().expect("as it was");
}

#[test]
fn a_damaged_frontier_stops_appends_with_an_error() {
    let instance = started(&[]);
    let (context, bytes) = victim(&instance);
    let mut appender = context.appender().expect("an appender");
    bytes.set_word(Bytes::slot_at(ENTRIES as usize), 7);
    let error = appender.append(&NewEntry::new("k", b"v"));
    let said = error.expect_err("the slot is taken").to_string();
    assert!(said.contains("slot is damaged"), "{said}");
    // A context beside it knows nothing of that.
    let other = instance.context("other");
    let mut appender = other.appender().expect("an appender");
    assert_eq!(
        appender
            .append(&NewEntry::new("k", b"v"))
            .expect("room")
            .seq,
        1
    );
}

#[test]
fn a_restarted_daemon_quarantines_a_damaged_context_and_serves_the_rest() {
    let mut instance = started(&[]);
    let (context, bytes) = victim(&instance);
    drop(context);
    instance.printed(&["append", "healthy", "k", "v"]);
    instance.stop_daemon();
    // Where the search for the frontier looks.
    bytes.set_word(Bytes::slot_at(ENTRIES as usize), 7);
    instance.start(&[]);
    let said = instance.complained(&["append", "victim", "k", "v"]);
    assert!(said.contains("damaged"), "{said}");
    let listed = instance.printed(&["ls", "-o", "jsonl"]);
    let state = |name: &str| {
        let line = listed.lines().find(|line| line.contains(name));
        let line: serde_json::Value = serde_json::from_str(line.expect("listed")).expect("JSON");
        line["state"].as_str().expect("a state").to_owned()
    };
    assert_eq!(state("victim"), "quarantined");
    assert_eq!(state("healthy"), "open");
    assert_eq!(
        instance.printed(&["append", "healthy", "k", "v", "-o", "short"]),
        "2\n"
    );
    // What validates can still be read.
    assert_eq!(
        instance.printed(&["get", "victim", "1", "-o", "raw"]).len(),
        20
    );
}

#[test]
fn damaged_numbers_of_a_context_are_its_own_trouble_only() {
    let mut instance = started(&[]);
    let (context, _) = victim(&instance);
    let control = Bytes::of(&instance.objects(), Name::Control(context.epoch()));
    drop(context);
    for at in [
        offset_of!(ControlHeader, payload_len_max),
        offset_of!(ControlHeader, metadata_len_max),
        offset_of!(ControlHeader, name_len),
        offset_of!(ControlHeader, state_word),
        offset_of!(ControlHeader, next_part_word),
        offset_of!(ControlHeader, first_part_word),
    ] {
        let state_at = offset_of!(ControlHeader, state_word) as u64;
        let state = control.word(state_at);
        let before = control.word(at as u64);
        instance.kill_daemon();
        control.set_word(at as u64, u64::MAX);
        instance.start(&[]);
        // Its spares are there: whoever needs more of them meets the damage.
        let payload = "x".repeat(1 << 20);
        let file = instance.runtime_dir().join("payload");
        std::fs::write(&file, payload).expect("room");
        let large = format!("@{}", file.display());
        let _ = instance.run(&["append", "victim", "k", &large]);
        instance.printed(&["append", "healthy", "k", &large]);
        instance.kill_daemon();
        control.set_word(at as u64, before);
        control.set_word(state_at, state);
        instance.start(&[]);
        instance.printed(&["append", "victim", "k", "v"]);
    }
}

/// Objects that somebody else could have made or changed are not touched, and
/// as good as before when they are ours alone again.
fn is_not_used(spoil: impl Fn(&Path), mend: impl Fn(&Path), reason: &str) {
    let mut instance = started(&[]);
    let (context, _) = victim(&instance);
    let epoch = context.epoch();
    drop(context);
    let mut healthy = 0;
    for name in [Name::Part(epoch, 1), Name::Control(epoch)] {
        let path = name.path_in(&instance.objects());
        spoil(&path);
        for command in ["get", "append"] {
            let said = instance.complained(&[command, "victim", "1"]);
            assert!(said.contains(reason), "{command}: {said}");
        }
        instance.kill_daemon();
        instance.start(&[]);
        if let Name::Part(..) = name {
            let said = instance.complained(&["append", "victim", "k", "v"]);
            assert!(said.contains(reason), "{said}");
        }
        healthy += 1;
        let appended = instance.printed(&["append", "healthy", "k", "v", "-o", "short"]);
        assert_eq!(appended, format!("{healthy}\n"));
        assert!(path.exists(), "what is not ours stays");
        mend(&path);
        instance.kill_daemon();
        instance.start(&[]);
        let info = instance.printed(&["info", "victim", "-o", "jsonl"]);
        assert!(info.contains("\"open\""), "{info}");
        assert!(info.contains(&epoch.to_string()), "{info}");
        instance.printed(&["get", "victim", "1"]);
    }
}

#[test]
fn an_object_that_others_may_write_is_not_used() {
    let set = |mode| {
        move |path: &Path| {
            let permissions = Permissions::from_mode(mode);
            std::fs::set_permissions(path, permissions).expect("ours");
        }
    };
    is_not_used(set(0o666), set(0o600), "mode 666");
}

#[test]
fn an_object_of_another_owner_is_not_used() {
    if !may_be_others() {
        return;
    }
    let give = |uid| {
        move |path: &Path| {
            std::os::unix::fs::chown(path, Some(uid), None).expect("root may");
        }
    };
    is_not_used(give(NOBODY), give(0), "belongs to uid 65534");
}

#[test]
fn a_creation_that_was_cut_short_is_removed_by_the_next_daemon() {
    let mut instance = started(&[]);
    let (context, _) = victim(&instance);
    let epoch = context.epoch();
    drop(context);
    instance.kill_daemon();
    let objects = instance.objects();
    let other = ledger_shm::object::Epoch([9; 16]);
    let leftovers = [
        // A spare without magic, a context without magic, a part without context.
        (Name::Part(epoch, 77), 16384),
        (Name::Control(other), 4096),
        (Name::Part(other, 1), 0),
    ];
    for (name, len) in leftovers {
        let path = name.path_in(&objects);
        std::fs::write(&path, vec![0; len]).expect("room");
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("ours");
    }
    // Until then nobody takes them for anything.
    assert_eq!(instance.printed(&["ls", "-o", "jsonl"]).lines().count(), 1);
    instance.start(&[]);
    for (name, _) in leftovers {
        assert!(!name.path_in(&objects).exists(), "{name:?}");
    }
    assert_eq!(
        instance.printed(&["append", "victim", "k", "v", "-o", "short"]),
        format!("{}\n", ENTRIES + 1)
    );
}

#[test]
fn an_object_of_another_format_is_named_with_both_and_left_alone() {
    // With files there would be something to read instead.
    let memory = ["--durability", "memory"];
    let mut instance = started(&memory);
    let (context, part) = victim(&instance);
    let epoch = context.epoch();
    let control = Bytes::of(&instance.objects(), Name::Control(epoch));
    drop(context);
    let (version, layout) = (FORMAT_VERSION + 8, ARCHIVE_FORMAT ^ 1);
    let expected = [
        format!("format version {version}, this program speaks {FORMAT_VERSION}"),
        format!("rkyv layout {layout:#x}, this program's {ARCHIVE_FORMAT:#x}"),
    ];
    let control_at = offset_of!(ControlHeader, version) as u64;
    let part_at = offset_of!(SegmentHeader, version) as u64;
    for (object, at) in [(&control, control_at), (&part, part_at)] {
        for (n, number) in [version, layout].into_iter().enumerate() {
            let at = at + 4 * n as u64;
            let before = object.get(at, 4);
            object.set(at, &number.to_le_bytes());
            // Readers are told, with a daemon that has it open and without.
            instance.kill_daemon();
            let said = instance.complained(&["get", "victim"]);
            // A name that cannot be read belongs to no context.
            let unknown = "some that cannot be read, see `ledgerd ls`";
            assert!(
                said.contains(&expected[n]) || said.contains(unknown),
                "{said}"
            );
            let listed = instance.run(&["ls", "-o", "jsonl"]);
            let listed = [listed.stdout, listed.stderr].concat();
            let listed = String::from_utf8_lossy(&listed).into_owned();
            assert!(listed.contains(&expected[n]), "{listed}");
            // The daemon does not take it for damage, and serves it again as
            // soon as it can be read.
            instance.start(&memory);
            instance.kill_daemon();
            object.set(at, &before);
            instance.start(&memory);
            let info = instance.printed(&["info", "victim", "-o", "jsonl"]);
            assert!(info.contains("\"open\""), "{info}");
            assert!(info.contains(&epoch.to_string()), "{info}");
            instance.printed(&["append", "victim", "k", "v"]);
        }
    }
}

/// Where another uid could write, entries are copied and verified.
#[test]
fn an_instance_of_another_uid_is_read_through_verified_copies() {
    if !may_be_others() {
        return;
    }
    let mut instance = Instance::of(NOBODY, PROGRAMS);
    instance.start(&[]);
    instance.printed(&["append", "theirs", "k", "theirs"]);
    let ledger = instance.connect();
    let context = ledger.context("theirs").open().expect("made above");
    let entry = context.get(1).expect("whole").expect("there");
    assert_eq!((entry.key(), entry.payload()), ("k", &b"theirs"[..]));
    let mut watcher = context.watch(1);
    assert_eq!(watcher.next().expect("whole").payload(), b"theirs");

    let part = Bytes::of_first_part(&instance.objects(), context.epoch());
    let (at, len) = part.record_at(0);
    for index in 0..len as u64 {
        let byte = part.get(at + index, 1)[0];
        part.set(at + index, &[byte ^ 0x10]);
        assert!(
            matches!(context.get(1), Err(ReadError::Corrupt(_))),
            "byte {index}"
        );
        part.set(at + index, &[byte]);
    }
    // A copy is nobody else's: what happens afterwards does not reach it.
    part.set(at + 48, b"THEIRS");
    assert_eq!(entry.payload(), b"theirs");
    entry.verify().expect("as it was");
}

/// A seal where none belongs is damage to those who read there, and no reason
/// to go round in circles.
#[test]
fn a_seal_that_leads_nowhere_is_an_error_and_no_loop() {
    let instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let mut writer = instance.peer();
    writer.must("open victim");
    writer.must("fill 1000 100");
    let context = instance.context("victim");
    let bytes = Bytes::of_first_part(&instance.objects(), context.epoch());
    instance.printed(&["append", "healthy", "k", "v"]);
    for (index, part) in [(0, 1), (0, 2), (5, 1), (5, 2), (5, 99)] {
        let before = bytes.word(Bytes::slot_at(index));
        bytes.set_word(Bytes::slot_at(index), Slot::Seal(part).encode());
        let seq = index as u64 + 1;
        // Not by the daemon, which may refuse it already.
        let ledger = instance.connect();
        let found = ledger.contexts().expect("listed").readable;
        let fresh = found.iter().find(|found| found.name() == "victim");
        let fresh = fresh
            .expect("it is there")
            .open(&ledger)
            .expect("read-only");
        assert!(fresh.get(seq).is_err(), "seal of {part} in slot {index}");
        let mut watcher = fresh.watch(seq);
        assert!(watcher.next().is_err(), "seal of {part} in slot {index}");
        let mut range = fresh.range(1);
        let ended = std::iter::repeat_with(|| range.next_entry().map(|entry| entry.is_some()))
            .find(|read| !matches!(read, Ok(true)));
        assert!(
            matches!(ended, Some(Err(_))),
            "seal of {part} in slot {index}"
        );
        instance.complained(&["get", "victim", &seq.to_string()]);
        // The daemon serves everybody else.
        instance.printed(&["append", "healthy", "k", "v"]);
        bytes.set_word(Bytes::slot_at(index), before);
    }
}

#[test]
fn a_segment_that_begins_elsewhere_than_where_its_seal_says_is_damage() {
    let instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let mut writer = instance.peer();
    writer.must("open victim");
    writer.must("fill 1000 100");
    let reader = instance.connect().context("victim").open_read_only();
    let reader = reader.expect("there");
    let second = Bytes::of(&instance.objects(), Name::Part(reader.epoch(), 2));
    let at = offset_of!(SegmentHeader, base_seq_word) as u64;
    let base_seq = second.word(at);
    second.set_word(at, base_seq + 1);
    assert_eq!(corrupt(&reader, base_seq), "base seq");
    let before = reader.get(base_seq - 1).expect("readable");
    before.expect("there").verify().expect("whole");
    second.set_word(at, base_seq);
    let first = reader.get(base_seq).expect("readable");
    first.expect("there").verify().expect("whole");
}

#[test]
fn a_part_of_the_chain_without_magic_is_no_leftover() {
    let mut instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let mut writer = instance.peer();
    writer.must("open victim");
    writer.must("fill 1000 100");
    let epoch = instance.context("victim").epoch();
    writer.end().expect("a clean end");
    instance.kill_daemon();
    let part = Bytes::of(&instance.objects(), Name::Part(epoch, 2));
    let magic = part.word(0);
    part.set_word(0, 0);
    instance.start(&[]);
    assert!(Name::Part(epoch, 2).path_in(&instance.objects()).exists());
    instance.printed(&["get", "victim", "1"]);
    for args in [&["get", "victim", "100"][..], &["append", "victim", "k"]] {
        let said = instance.complained(args);
        assert!(said.contains("no magic"), "{args:?}: {said}");
    }
    part.set_word(0, magic);
    instance.kill_daemon();
    instance.start(&[]);
    let appended = instance.printed(&["append", "victim", "k", "v", "-o", "short"]);
    assert_eq!(appended, "1001\n");
}

#[test]
fn a_spare_that_cannot_be_read_is_kept_and_its_context_quarantined() {
    let mut instance = started(&["--spare-min", "64K", "--spare-max", "64K"]);
    let mut writer = instance.peer();
    writer.must("open victim");
    ledger_tests::eventually("spares are mapped", || {
        (writer.writable_part_count(&instance) == 3).then_some(())
    });
    let epoch = instance.context("victim").epoch();
    instance.kill_daemon();
    let spare = Bytes::of(&instance.objects(), Name::Part(epoch, 3));
    spare.set(0, b"x");
    instance.start(&[]);
    assert!(Name::Part(epoch, 3).path_in(&instance.objects()).exists());
    let said = instance.complained(&["append", "victim", "k", "v"]);
    assert!(said.contains("segment magic is damaged"), "{said}");
    // And stays so, until somebody looks after it.
    spare.set(0, b"L");
    instance.kill_daemon();
    instance.start(&[]);
    let said = instance.complained(&["append", "victim", "k", "v"]);
    assert!(said.contains("quarantined"), "{said}");
}
