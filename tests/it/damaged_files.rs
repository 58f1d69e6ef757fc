//! Files of an archive that are not what was written: whoever reads is told, nobody gets
//! other bytes, and everything else is read and goes on.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs;
use std::ops::RangeInclusive;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use ledger_client::{Context, ReadError};
use ledger_shm::file::{Scan, Trailer};
use ledger_shm::format::{FILE_TRAILER_LEN, RECORD_ALIGN};
use ledger_tests::{Instance, PATIENCE};
use nix::sys::stat::Mode;

use crate::archive::{append, home, lose_memory, payload};
use crate::started;

const ARGS: [&str; 4] = ["--durability", "archive", "--archive-file", "64K"];
const LATEST: u64 = 1500;

/// What somebody, or a disk, makes of a file.
enum Damage {
    /// It has these bytes.
    Bytes(Vec<u8>),
    /// It is gone.
    Gone,
    /// Something else has its name.
    Directory,
    Pipe,
    Link,
}

/// What can be lost by it.
#[derive(Clone, Copy, PartialEq)]
enum Loses {
    Nothing,
    Entry(u64),
    File,
}

struct Target {
    path: PathBuf,
    whole: Vec<u8>,
    seqs: RangeInclusive<u64>,
}

/// Where in a file which part of it is, as docs/FORMAT.md has it.
struct Places {
    data_offset: usize,
    name_len: usize,
    second: usize,
    record_len: usize,
    index_offset: usize,
    last_slot: usize,
    nodes_offset: usize,
    len: usize,
}

impl Target {
    /// The finished files of a context, by their first seqs.
    fn all(home: &Path) -> BTreeMap<u64, Target> {
        let paths = fs::read_dir(home).expect("a home");
        let finished = paths.filter_map(|entry| {
            let path = entry.expect("an entry").path();
            let whole = fs::read(&path).ok()?;
            let trailer = Trailer::read(&whole[..]).ok()?;
            let seqs = trailer.first_seq..=trailer.last_seq();
            Some((trailer.first_seq, Target { path, whole, seqs }))
        });
        finished.collect()
    }

    fn places(&self) -> Places {
        let trailer = Trailer::read(&self.whole[..]).expect("whole");
        let scan = Scan::of(&self.whole[..]).expect("whole");
        let data_offset = scan.head.data_offset();
        let record_len = |at: usize| {
            let body: [u8; 4] = self.whole[at..at + 4].try_into().expect("four");
            48 + u32::from_le_bytes(body) as usize
        };
        let second = data_offset + record_len(data_offset).next_multiple_of(RECORD_ALIGN);
        Places {
            data_offset,
            name_len: scan.head.facts.name.len(),
            second,
            record_len: record_len(second),
            index_offset: trailer.index_offset as usize,
            last_slot: trailer.index_offset as usize + trailer.count as usize * 8,
            nodes_offset: trailer.nodes().0 as usize,
            len: self.whole.len(),
        }
    }

    fn flipped(&self, at: usize) -> Damage {
        let mut bytes = self.whole.clone();
        bytes[at] ^= 0x10;
        Damage::Bytes(bytes)
    }

    fn replaced(&self, at: usize, with: &[u8]) -> Damage {
        let mut bytes = self.whole.clone();
        bytes[at..at + with.len()].copy_from_slice(with);
        Damage::Bytes(bytes)
    }

    /// All that may be done to it, and what each may cost.
    fn damages(&self, before: &Target, others: &Target) -> Vec<(&'static str, Damage, Loses)> {
        use Loses::{Entry, File, Nothing};
        let at = self.places();
        let second = self.seqs.start() + 1;
        let trailer = at.len - FILE_TRAILER_LEN;
        let mut swapped = self.whole.clone();
        let (one, other) = (
            at.second.next_multiple_of(4096),
            at.second.next_multiple_of(4096) + 8192,
        );
        let block = swapped[one..one + 4096].to_vec();
        swapped.copy_within(other..other + 4096, one);
        swapped[other..other + 4096].copy_from_slice(&block);
        let others_trailer = &before.whole[before.whole.len() - FILE_TRAILER_LEN..];
        vec![
            ("a bit of its magic", self.flipped(0), File),
            ("a bit of its head", self.flipped(97), File),
            (
                "a bit of its name",
                self.flipped(256 + at.name_len - 1),
                File,
            ),
            ("a bit of its peaks", self.flipped(at.data_offset - 5), File),
            (
                "a bit of a record's length",
                self.flipped(at.second),
                Entry(second),
            ),
            (
                "a bit of a record's seq",
                self.flipped(at.second + 8),
                Entry(second),
            ),
            (
                "a bit of a record's Lamport time",
                self.flipped(at.second + 24),
                Entry(second),
            ),
            (
                "a bit of a payload",
                self.flipped(at.second + 60),
                Entry(second),
            ),
            (
                "a bit of a root",
                self.flipped(at.second + at.record_len - 2),
                Entry(second),
            ),
            (
                "a bit of a slot",
                self.flipped(at.index_offset + 8),
                Entry(second),
            ),
            (
                "a bit of the last slot",
                self.flipped(at.last_slot),
                Nothing,
            ),
            (
                "a bit of a node",
                self.flipped(at.nodes_offset + 3),
                Nothing,
            ),
            (
                "a bit of its last peaks",
                self.flipped(trailer - 3),
                Nothing,
            ),
            ("a bit of its trailer", self.flipped(trailer + 50), File),
            ("two blocks swapped", Damage::Bytes(swapped), File),
            (
                "another file's trailer",
                self.replaced(trailer, others_trailer),
                File,
            ),
            (
                "another file of it",
                Damage::Bytes(before.whole.clone()),
                File,
            ),
            (
                "another context's file",
                Damage::Bytes(others.whole.clone()),
                File,
            ),
            (
                "a file cut short",
                Damage::Bytes(self.whole[..at.index_offset].to_vec()),
                File,
            ),
            (
                "one byte too few",
                Damage::Bytes(self.whole[..at.len - 1].to_vec()),
                File,
            ),
            ("an empty file", Damage::Bytes(Vec::new()), File),
            (
                "a newer version",
                self.replaced(8, &2_u32.to_le_bytes()),
                File,
            ),
            (
                "another byte order",
                self.replaced(12, &0x8_0402_u32.to_le_bytes()),
                File,
            ),
            ("no file", Damage::Gone, File),
            ("a directory", Damage::Directory, File),
            ("a pipe", Damage::Pipe, File),
            ("a link to a copy", Damage::Link, File),
        ]
    }

    /// At once, so that whoever has mapped it keeps what that was.
    fn put(&self, bytes: &[u8], path: &Path) {
        let beside = self.path.with_extension("new");
        let mut options = fs::File::options();
        let file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside);
        std::io::Write::write_all(&mut file.expect("ours"), bytes).expect("ours");
        fs::rename(&beside, path).expect("ours");
    }

    fn damage(&self, damage: &Damage) {
        if let Damage::Bytes(bytes) = damage {
            return self.put(bytes, &self.path);
        }
        fs::remove_file(&self.path).expect("ours");
        match damage {
            Damage::Directory => fs::create_dir(&self.path).expect("ours"),
            Damage::Pipe => {
                let path = CString::new(self.path.to_str().expect("text")).expect("text");
                nix::unistd::mkfifo(path.as_c_str(), Mode::S_IRUSR | Mode::S_IWUSR).expect("ours");
            }
            Damage::Link => {
                let copy = self.path.with_extension("copy");
                self.put(&self.whole, &copy);
                symlink(&copy, &self.path).expect("ours");
            }
            Damage::Gone | Damage::Bytes(_) => {}
        }
    }

    fn mend(&self) {
        if self.path.is_dir() && !self.path.is_symlink() {
            fs::remove_dir(&self.path).expect("ours");
        }
        self.put(&self.whole, &self.path);
    }
}

/// What was lost, by single reads and by a watcher that goes on behind each error.
fn lost(context: &Context, latest: u64) -> Vec<u64> {
    let is_right = |entry: &ledger_client::Entry<'_>, seq: u64| {
        // In an entry that is not verified anything may be wrong.
        let is_sound = entry.verify().is_ok();
        assert!(!is_sound || (entry.seq(), entry.payload()) == (seq, &payload(seq)[..]));
        is_sound
    };
    let single = (1..=latest).filter(|seq| match context.get(*seq) {
        Ok(entry) => !is_right(&entry.expect("it is no end"), *seq),
        Err(error) => {
            assert!(
                matches!(
                    error,
                    ReadError::Corrupt(_)
                        | ReadError::Map(_)
                        | ReadError::Missing { .. }
                        | ReadError::Evicted { .. }
                ),
                "{error}"
            );
            true
        }
    });
    let single: Vec<u64> = single.collect();
    let mut watcher = context.watch(1);
    let mut in_order = Vec::new();
    for seq in 1..=latest {
        let is_there = match watcher.try_next() {
            Ok(entry) => is_right(&entry.expect("it is no end"), seq),
            Err(_) => false,
        };
        if !is_there {
            in_order.push(seq);
            watcher.seek(seq + 1);
        }
    }
    assert_eq!(single, in_order);
    single
}

fn check_lost(lost: &[u64], loses: Loses, target: &Target, what: &str) {
    let is_in_file = lost.iter().all(|seq| target.seqs.contains(seq));
    match loses {
        Loses::Nothing => assert_eq!(lost, [0; 0], "{what}"),
        Loses::Entry(seq) => assert_eq!(lost, [seq], "{what}"),
        Loses::File => assert!(is_in_file && !lost.is_empty(), "{what}: {lost:?}"),
    }
}

/// Two contexts whose entries are in finished files, and have left memory; and the
/// directories of these.
fn archived() -> (Instance, [PathBuf; 2]) {
    let mut instance = started(&ARGS);
    let homes = ["log", "other"].map(|name| {
        let context = instance.context(name);
        append(&context, 1..=LATEST);
        context.wait_durable(LATEST, PATIENCE).expect("a disk");
        home(&instance, &context)
    });
    lose_memory(&mut instance);
    instance.start(&ARGS);
    // Brought back, a log goes on behind its files.
    for name in ["log", "other"] {
        assert_eq!(instance.context(name).latest().expect("readable"), LATEST);
    }
    (instance, homes)
}

fn read_only(instance: &Instance, name: &str) -> Context {
    let context = instance.connect().context(name).open_read_only();
    context.expect("a context")
}

/// What `ledgerd verify` says is the first bad seq; none if everything is sound.
fn first_bad(instance: &Instance, name: &str) -> Option<u64> {
    let output = instance.run(&["verify", name, "-o", "jsonl"]);
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let is_sound = verdict["is_sound"].as_bool().expect("a boolean");
    assert_eq!(
        output.status.code(),
        Some(i32::from(!is_sound)),
        "{verdict}"
    );
    let first_bad = verdict["first_bad"].as_u64();
    assert_eq!(first_bad.is_none(), is_sound, "{verdict}");
    first_bad
}

/// That a file is missing is said as that, and keeps nobody from the verdict on others.
fn check_told_apart(instance: &Instance, first_seq: u64) {
    let said = instance.complained(&["get", "log", &first_seq.to_string()]);
    let missing = format!("entry {first_seq} is in no file of the archive");
    assert!(
        said.contains(&missing) && said.contains("`ledgerd verify` names what is damaged"),
        "{said}"
    );
    let output = instance.run(&["verify", "--all", "-o", "short"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stdout).expect("text");
    let [log, other] = told.lines().collect::<Vec<_>>()[..] else {
        panic!("{told}");
    };
    let bad = format!("BAD    log  first bad entry {first_seq};");
    assert!(log.starts_with(&bad), "{log}");
    assert!(other.starts_with("sound  other"), "{other}");
}

#[test]
fn what_is_damaged_in_a_file_is_told_and_everything_else_is_read() {
    let (instance, [home, others_home]) = archived();
    let (files, others) = (Target::all(&home), Target::all(&others_home));
    assert!(files.len() >= 4, "{:?}", files.keys());
    let mut files_in_order = files.values();
    let (first, target) = (files_in_order.next(), files_in_order.next());
    let (first, target) = (first.expect("a file"), target.expect("another"));
    let other = others.values().nth(1).expect("a file");
    let mut latest = LATEST;
    let root = read_only(&instance, "log").root(LATEST).expect("whole");
    for (what, damage, loses) in target.damages(first, other) {
        target.damage(&damage);
        let lost = lost(&read_only(&instance, "log"), latest);
        check_lost(&lost, loses, target, what);
        if lost.is_empty() {
            let mut snapshot = Vec::new();
            let context = read_only(&instance, "log");
            let exported = context.snapshot_to(&mut snapshot).up_to(LATEST).run();
            assert_eq!(
                exported.expect("its entries are whole").root,
                root,
                "{what}"
            );
        }
        let told = first_bad(&instance, "log").unwrap_or_else(|| panic!("{what} is not noticed"));
        let earliest = lost.first().copied().unwrap_or(*target.seqs.start());
        assert!(
            (*target.seqs.start()..=earliest).contains(&told),
            "{what}: {told}"
        );
        if what == "no file" {
            check_told_apart(&instance, *target.seqs.start());
        }
        // Everybody else goes on, and so does this context.
        latest += 1;
        for name in ["log", "other"] {
            append(&instance.context(name), latest..=latest);
        }
        assert_eq!(first_bad(&instance, "other"), None, "{what}");
        target.mend();
        assert_eq!(first_bad(&instance, "log"), None, "{what}");
    }
}

#[test]
fn a_daemon_starts_beside_damaged_files_and_serves_the_others() {
    let (mut instance, [home, others_home]) = archived();
    let (files, others) = (Target::all(&home), Target::all(&others_home));
    let (first, other) = (&files[&1], &others[&1]);
    let target = files.values().nth(1).expect("a file");
    let mut latest = LATEST;
    for (what, damage, loses) in target.damages(first, other) {
        // Of these no more than one of a kind: each costs two starts.
        let is_of_its_kind = [
            "a bit of its head",
            "a bit of a slot",
            "an empty file",
            "a newer version",
            "a directory",
            "a pipe",
            "no file",
        ];
        if !is_of_its_kind.contains(&what) {
            continue;
        }
        target.damage(&damage);
        for is_lost in [false, true] {
            match is_lost {
                false => drop(instance.kill_daemon()),
                true => lose_memory(&mut instance),
            }
            instance.start(&ARGS);
            latest += 1;
            for name in ["log", "other"] {
                let context = instance.context(name);
                append(&context, latest..=latest);
                context.wait_durable(latest, PATIENCE).expect("a disk");
            }
            let context = read_only(&instance, "log");
            check_lost(&lost(&context, latest), loses, target, what);
            assert_eq!(
                lost(&read_only(&instance, "other"), latest),
                [0; 0],
                "{what}"
            );
        }
        target.mend();
    }
    // Where the last file is damaged it is not known how the log goes on: nobody appends
    // to it until that is mended.
    lose_memory(&mut instance);
    instance.start(&ARGS);
    assert_eq!(instance.context("log").latest().expect("readable"), latest);
    lose_memory(&mut instance);
    let files = Target::all(&home);
    let last = files.values().next_back().expect("a file");
    last.damage(&last.flipped(last.whole.len() - 60));
    instance.start(&ARGS);
    let refused = instance.complained(&["append", "log", "k", "v"]);
    assert!(refused.contains("file trailer checksum"), "{refused}");
    append(&instance.context("other"), latest + 1..=latest + 1);
    last.mend();
    append(&instance.context("log"), latest + 1..=latest + 1);
    assert_eq!(lost(&read_only(&instance, "log"), latest + 1), [0; 0]);
}
