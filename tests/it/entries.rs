//! What an entry can hold, and what is refused.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};

use ledger_client::{AppendError, NewEntry};
use ledger_shm::{Appended, Refused};
use rkyv::rancor::Fallible;
use rkyv::ser::{Allocator, Writer};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Place, Serialize};

use crate::started;

#[test]
fn everything_comes_back_byte_for_byte() {
    let instance = started(&[]);
    let context = instance.context("bytes");
    let mut appender = context.appender().expect("an appender");
    let long_key = "k".repeat(1024);
    let names: Vec<String> = (0..100).map(|n| format!("name {n}")).collect();
    let pairs: Vec<(&str, &str)> = names
        .iter()
        .map(|name| (name.as_str(), "värde\n"))
        .collect();
    let every_byte: Vec<u8> = (0..=255).collect();
    let entries = [
        NewEntry::new("k", b""),
        NewEntry::new("eight888", &every_byte),
        NewEntry::new("nine99999", b"x").metadata(&pairs),
        NewEntry::new(&long_key, b"\0").metadata(&[("", ""), ("", "")]),
        NewEntry::new("é", "text").received_lamport(1 << 40),
    ];
    for (index, entry) in entries.iter().enumerate() {
        let appended = appender.try_append(entry).expect("room");
        assert_eq!(appended.seq, index as u64 + 1);
    }
    let found: Vec<_> = (1..=5)
        .map(|seq| context.get(seq).expect("readable").expect("there"))
        .collect();
    for entry in &found {
        entry.verify().expect("checksums hold");
    }
    assert_eq!(found[0].payload(), b"");
    assert_eq!(
        (found[1].key(), found[1].payload()),
        ("eight888", every_byte.as_slice())
    );
    assert_eq!(found[2].metadata().collect::<Vec<_>>(), pairs);
    assert_eq!(
        (found[3].key(), found[3].metadata().len()),
        (long_key.as_str(), 2)
    );
    assert_eq!((found[4].key(), found[4].lamport()), ("é", (1 << 40) + 1));
    assert!(context.get(6).expect("readable").is_none());
}

#[test]
fn what_can_never_fit_is_refused_with_its_length_and_limit() {
    let instance = started(&["--payload-max", "1000", "--metadata-max", "100"]);
    let context = instance.context("limits");
    let mut appender = context.appender().expect("an appender");
    let mut refused = |entry: &NewEntry<'_>| match appender.try_append(entry) {
        Err(AppendError::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    };
    let too_large = |what, len, max| Refused::TooLarge { what, len, max };
    assert_eq!(
        refused(&NewEntry::new("k", &[0; 1001])),
        too_large("payload", 1001, 1000)
    );
    let said = too_large("payload", 1001, 1000).to_string();
    assert!(said.contains("under a larger `--payload-max`"), "{said}");
    let key = "k".repeat(1025);
    assert_eq!(
        refused(&NewEntry::new(&key, b"")),
        too_large("key", 1025, 1024)
    );
    assert_eq!(refused(&NewEntry::new("", b"")), Refused::EmptyKey);
    let pair = [("k", "v".repeat(84))];
    let pairs = pair.each_ref().map(|(key, value)| (*key, value.as_str()));
    assert_eq!(
        refused(&NewEntry::new("k", b"").metadata(&pairs)),
        too_large("metadata", 101, 100)
    );
    for received in [1 << 63, u64::MAX] {
        let entry = NewEntry::new("k", b"").received_lamport(received);
        assert_eq!(refused(&entry), Refused::LamportTooLarge { received });
    }
    assert_eq!(context.latest().expect("readable"), 0);
    appender
        .try_append(&NewEntry::new("k", &[0; 1000]))
        .expect("exactly the limit");
}

#[test]
fn the_largest_entry_fits_although_no_spare_was_made_for_it() {
    let instance = started(&[]);
    let context = instance.context("large");
    let mut appender = context.appender().expect("an appender");
    let payload: Vec<u8> = (0..4 << 20).map(|n: u32| n as u8).collect();
    for round in 0..3 {
        appender
            .append(&NewEntry::new("small", b"x"))
            .expect("room");
        let appended = appender
            .append(&NewEntry::new("large", &payload))
            .expect("room within a second");
        assert_eq!(appended.seq, 2 * round + 2);
        let entry = context.get(appended.seq).expect("readable").expect("there");
        assert_eq!(entry.payload(), payload);
    }
    let refused = appender.append(&NewEntry::new("k", &[payload, vec![0]].concat()));
    assert!(
        matches!(
            refused,
            Err(AppendError::Refused(Refused::TooLarge {
                len: 4_194_305,
                max: 4_194_304,
                ..
            }))
        ),
        "{refused:?}"
    );
}

#[derive(Archive, Serialize)]
struct Fact {
    weight: u128,
    name: String,
    tags: Vec<u32>,
    /// Needs memory of its own while it is serialised.
    aliases: Vec<String>,
}

#[test]
fn a_typed_payload_is_read_where_it_lies() {
    let instance = started(&[]);
    let context = instance.context("typed");
    let mut appender = context.appender().expect("an appender");
    for n in 0..5_000_u32 {
        let fact = Fact {
            weight: u128::from(n) << 64,
            name: "n".repeat(n as usize % 50),
            tags: vec![n; n as usize % 9],
            aliases: vec![n.to_string(); n as usize % 70],
        };
        appender
            .append(&NewEntry::typed("fact", &fact))
            .expect("room");
    }
    let mut range = context.range(1);
    let mut count = 0;
    while let Some(entry) = range.next_entry().expect("readable") {
        let n = (entry.seq() - 1) as u32;
        let fact = entry.typed::<Fact>().expect("a fact");
        assert!(std::ptr::from_ref(fact).is_aligned());
        assert_eq!(fact.weight.to_native(), u128::from(n) << 64);
        assert_eq!(fact.name.len(), n as usize % 50);
        assert!(
            fact.tags.len() == n as usize % 9 && fact.tags.iter().all(|tag| tag.to_native() == n)
        );
        assert_eq!(fact.aliases.len(), n as usize % 70);
        assert!(fact.aliases.iter().all(|alias| *alias == n.to_string()));
        count += 1;
    }
    assert_eq!(count, 5_000);
    appender
        .append(&NewEntry::new("not a fact", b"abc"))
        .expect("room");
    let entry = context.get(5_001).expect("readable").expect("there");
    assert!(entry.typed::<Fact>().is_err());
}

/// Takes another length each time it is serialised.
struct Fickle {
    len: Cell<usize>,
    step: isize,
}

impl Archive for Fickle {
    type Archived = ArchivedVec<u8>;
    type Resolver = VecResolver;

    fn resolve(&self, resolver: VecResolver, out: Place<ArchivedVec<u8>>) {
        ArchivedVec::resolve_from_len(self.len.get(), resolver, out);
    }
}

impl<S: Fallible + Writer + Allocator + ?Sized> Serialize<S> for Fickle {
    fn serialize(&self, serializer: &mut S) -> Result<VecResolver, S::Error> {
        self.len.set(self.len.get().strict_add_signed(self.step));
        ArchivedVec::<u8>::serialize_from_slice(&vec![0xee_u8; self.len.get()], serializer)
    }
}

#[test]
fn a_payload_that_changes_between_measuring_and_writing_is_refused() {
    let instance = started(&[]);
    let context = instance.context("fickle");
    for step in [8, -8] {
        let fickle = Fickle {
            len: Cell::new(64),
            step,
        };
        let entry = NewEntry::typed("k", &fickle);
        // A new appender has no block, and measures first.
        let refused = context.appender().expect("an appender").append(&entry);
        assert!(
            matches!(
                refused,
                Err(AppendError::Refused(Refused::Unserializable { .. }))
            ),
            "{step}: {refused:?}"
        );
        let appended = Appended {
            seq: 1,
            lamport: 1,
            appended_at_ns: 1,
        };
        let record = entry.record(&appended, &context.limits());
        assert!(
            matches!(record, Err(Refused::Unserializable { .. })),
            "{step}: {record:?}"
        );
    }
    assert_eq!(context.latest().expect("readable"), 0);
}

#[test]
fn filters_let_through_what_they_say() {
    let instance = started(&[]);
    let context = instance.context("filters");
    let mut appender = context.appender().expect("an appender");
    for n in 1..=100 {
        let key = if n % 3 == 0 { "third" } else { "other" };
        appender.append(&NewEntry::new(key, &[n])).expect("room");
    }
    let seqs = |mut range: ledger_client::Range| {
        let mut seqs = Vec::new();
        while let Some(entry) = range.next_entry().expect("readable") {
            seqs.push(entry.seq());
        }
        seqs
    };
    assert_eq!(seqs(context.range(0)), (1..=100).collect::<Vec<_>>());
    assert_eq!(seqs(context.range(98)), [98, 99, 100]);
    assert_eq!(seqs(context.range(1).after(97).key("third")), [99]);
    assert_eq!(
        seqs(context.range(1).key("third").after(10).limit(2)),
        [12, 15]
    );
    assert!(seqs(context.range(1).key("thirds")).is_empty());
    assert!(seqs(context.range(101)).is_empty());
    assert!(seqs(context.range(u64::MAX)).is_empty());
    assert!(seqs(context.range(1).limit(0)).is_empty());
}

#[test]
fn a_batch_says_how_far_it_came() {
    let instance = started(&["--payload-max", "100"]);
    let context = instance.context("batch");
    let mut appender = context.appender().expect("an appender");
    let large = [0; 101];
    let batch =
        |index: usize| NewEntry::new("k", if index == 150 { large.as_slice() } else { b"x" });
    let error = appender
        .append_batch((0..200).map(batch))
        .expect_err("one is too large");
    assert_eq!(error.appended, 150);
    assert!(matches!(
        error.error,
        AppendError::Refused(Refused::TooLarge { .. })
    ));
    assert_eq!(context.latest().expect("readable"), 150);
    assert_eq!(appender.append_batch((0..64).map(batch)), Ok(64));
    assert_eq!(context.latest().expect("readable"), 214);
}

#[test]
fn readers_that_find_the_parts_at_the_same_time_find_the_same() {
    let instance = started(&["--spare-min", "16K", "--spare-max", "16K"]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(ledger_tests::PATIENCE);
    for _ in 0..1000 {
        appender
            .append(&NewEntry::new("k", &[1; 100]))
            .expect("room");
    }
    let ledger = instance.connect();
    for _ in 0..300 {
        // Nothing of it is mapped yet.
        let fresh = ledger.context("log").open_read_only().expect("there");
        let arrived = AtomicUsize::new(0);
        // A barrier that sleeps would let one of them go long before the other.
        let meet = || {
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < 2 {
                std::hint::spin_loop();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                meet();
                assert_eq!(fresh.latest().expect("readable"), 1000);
            });
            meet();
            for seq in [1, 500, 1000] {
                let entry = fresh.get(seq).expect("readable");
                assert_eq!(entry.expect("there").seq(), seq);
            }
        });
    }
}
