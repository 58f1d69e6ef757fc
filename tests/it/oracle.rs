//! The ledger against the simplest thing that could be right: a `Vec`.

use std::cell::Cell;

use ledger_client::{Ledger, NewEntry};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::started;

/// What was appended, as the oracle remembers it.
#[derive(Clone, Debug)]
struct Remembered {
    key: String,
    payload: Vec<u8>,
    metadata: Vec<(String, String)>,
    lamport: u64,
}

#[derive(Clone, Debug)]
enum Step {
    Append {
        key: u8,
        payload_len: usize,
        metadata: Vec<(String, String)>,
        received: u64,
    },
    Batch {
        count: usize,
    },
    /// Another appender takes over.
    Handover,
    Get {
        seq: u64,
    },
    Range {
        from: u64,
        key: Option<u8>,
        after: Option<u64>,
        limit: Option<u64>,
    },
    Latest,
    /// The rest of what the watcher has not seen.
    CatchUp,
    /// A reader that knows nothing of what is mapped here.
    Fresh,
}

fn step() -> impl Strategy<Value = Step> {
    let metadata = prop::collection::vec(("[a-z]{0,12}", ".{0,12}"), 0..4);
    let payload_len = prop_oneof![4 => 0_usize..200, 1 => 0_usize..20_000];
    prop_oneof![
        8 => (0_u8..4, payload_len, metadata, prop_oneof![Just(0), 0_u64..10_000]).prop_map(
            |(key, payload_len, metadata, received)| Step::Append { key, payload_len, metadata, received }
        ),
        2 => (0_usize..150).prop_map(|count| Step::Batch { count }),
        1 => Just(Step::Handover),
        4 => (0_u64..300).prop_map(|seq| Step::Get { seq }),
        4 => (0_u64..300, prop::option::of(0_u8..4), prop::option::of(0_u64..300), prop::option::of(0_u64..50))
            .prop_map(|(from, key, after, limit)| Step::Range { from, key, after, limit }),
        1 => Just(Step::Latest),
        2 => Just(Step::CatchUp),
        1 => Just(Step::Fresh),
    ]
}

fn key(number: u8) -> String {
    // One that lies inside its reference, and longer ones.
    "key".repeat(1 + usize::from(number) * 3)
}

fn payload(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + seed * 7) as u8).collect()
}

fn same(entry: &ledger_client::Entry<'_>, seq: usize, oracle: &[Remembered]) {
    let expected = &oracle[seq - 1];
    assert_eq!(entry.seq(), seq as u64);
    assert_eq!(entry.key(), expected.key);
    assert_eq!(entry.payload(), expected.payload);
    assert_eq!(entry.lamport(), expected.lamport);
    let metadata: Vec<(String, String)> = entry
        .metadata()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    assert_eq!(metadata, expected.metadata);
    entry.verify().expect("both checksums");
}

fn play(ledger: &Ledger, name: &str, steps: &[Step]) {
    let context = ledger.context(name).open_or_create().expect("a context");
    let mut oracle: Vec<Remembered> = Vec::new();
    let mut appender = context.appender().expect("an appender");
    let mut watcher = context.watch(0);
    let mut watched = 0;
    for step in steps {
        match step {
            Step::Append {
                key: number,
                payload_len,
                metadata,
                received,
            } => {
                let remembered = Remembered {
                    key: key(*number),
                    payload: payload(*payload_len, oracle.len()),
                    metadata: metadata.clone(),
                    lamport: oracle.last().map_or(0, |last| last.lamport).max(*received) + 1,
                };
                let pairs: Vec<(&str, &str)> = metadata
                    .iter()
                    .map(|(key, value)| (key.as_str(), value.as_str()))
                    .collect();
                let entry = NewEntry::new(&remembered.key, &remembered.payload)
                    .metadata(&pairs)
                    .received_lamport(*received);
                let appended = appender.append(&entry).expect("room");
                assert_eq!(appended.seq, oracle.len() as u64 + 1);
                assert_eq!(appended.lamport, remembered.lamport);
                oracle.push(remembered);
            }
            Step::Batch { count } => {
                let payloads: Vec<Vec<u8>> = (0..*count).map(|n| payload(n, n)).collect();
                let entries = payloads.iter().map(|payload| NewEntry::new("b", payload));
                assert_eq!(appender.append_batch(entries), Ok(*count));
                for payload in payloads {
                    oracle.push(Remembered {
                        key: "b".into(),
                        payload,
                        metadata: Vec::new(),
                        lamport: oracle.last().map_or(0, |last| last.lamport) + 1,
                    });
                }
            }
            Step::Handover => appender = context.appender().expect("an appender"),
            Step::Get { seq } => {
                let entry = context.get(*seq);
                match usize::try_from(*seq).expect("small") {
                    // Seqs begin with 1.
                    seq if (1..=oracle.len()).contains(&seq) => {
                        same(&entry.expect("readable").expect("there"), seq, &oracle);
                    }
                    _ => assert!(entry.expect("readable").is_none()),
                }
            }
            Step::Range {
                from,
                key: number,
                after,
                limit,
            } => {
                let mut range = context.range(*from);
                let wanted_key = number.map(key);
                if let Some(key) = &wanted_key {
                    range = range.key(key);
                }
                if let Some(after) = after {
                    range = range.after(*after);
                }
                if let Some(limit) = limit {
                    range = range.limit(*limit);
                }
                let first = (*from).max(after.map_or(0, |after| after + 1)).max(1);
                let wanted = (first..=oracle.len() as u64)
                    .filter(|seq| {
                        let key = &oracle[*seq as usize - 1].key;
                        wanted_key.as_ref().is_none_or(|wanted| wanted == key)
                    })
                    .take(limit.map_or(usize::MAX, |limit| limit as usize));
                for seq in wanted {
                    let entry = range.next_entry().expect("readable").expect("there");
                    same(&entry, seq as usize, &oracle);
                }
                assert!(range.next_entry().expect("readable").is_none());
            }
            Step::Latest => {
                assert_eq!(context.latest().expect("readable"), oracle.len() as u64);
            }
            Step::CatchUp => {
                while let Some(entry) = watcher.try_next().expect("readable") {
                    watched += 1;
                    same(&entry, watched, &oracle);
                }
                assert_eq!(watched, oracle.len());
            }
            Step::Fresh => {
                let reader = ledger.context(name).open_read_only().expect("there");
                let mut range = reader.range(1);
                let mut seen = 0;
                while let Some(entry) = range.next_entry().expect("readable") {
                    seen += 1;
                    same(&entry, seen, &oracle);
                }
                assert_eq!(seen, oracle.len());
            }
        }
    }
}

#[test]
fn every_history_reads_as_a_vec_would() {
    // One daemon for all cases: what they share is what real contexts share.
    let instance = started(&["--spare-min", "16K", "--spare-max", "64K"]);
    let cases = Cell::new(0);
    let config = ProptestConfig {
        cases: 48,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    let steps = prop::collection::vec(step(), 1..40);
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        cases.set(cases.get() + 1);
        play(
            &instance.connect(),
            &format!("case-{}", cases.get()),
            &steps,
        );
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
