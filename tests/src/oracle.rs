//! The ledger against the simplest thing that could be right: a `Vec`.

use ledger_client::admin::drop_context;
use ledger_client::{Appender, Context, Entry, Ledger, NewEntry, OpenError};

use crate::{PATIENCE, eventually};

/// What was appended, as the oracle remembers it.
#[derive(Clone, Debug)]
struct Remembered {
    key: String,
    payload: Vec<u8>,
    metadata: Vec<(String, String)>,
    lamport: u64,
}

/// Something that is done to a context.
#[derive(Clone, Debug)]
pub enum Step {
    /// An entry is appended.
    Append {
        /// Which of a few keys.
        key: u8,
        /// Bytes of its payload.
        payload_len: usize,
        /// Its metadata.
        metadata: Vec<(String, String)>,
        /// A Lamport time from elsewhere.
        received: u64,
    },
    /// Entries are appended as a batch.
    Batch {
        /// How many.
        count: usize,
    },
    /// Another appender takes over.
    Handover,
    /// One entry is read, or none.
    Get {
        /// Which.
        seq: u64,
    },
    /// Some are.
    Range {
        /// The first one.
        from: u64,
        /// Of this key only.
        key: Option<u8>,
        /// Behind this one only.
        after: Option<u64>,
        /// So many at most.
        limit: Option<u64>,
    },
    /// The last seq is asked for.
    Latest,
    /// The watcher sees the rest of what it has not seen.
    CatchUp,
    /// A reader comes that knows nothing of what is mapped here.
    Fresh,
    /// A snapshot becomes another context, which is appended to and dropped again.
    Copy,
    /// Nobody has it open for a moment.
    Reopen,
}

fn key(number: u8) -> String {
    // One that lies inside its reference, and longer ones.
    "key".repeat(1 + usize::from(number) * 3)
}

fn payload(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 31 + seed * 7) as u8).collect()
}

/// An entry is the one that was remembered.
fn same(entry: &Entry<'_>, seq: usize, oracle: &[Remembered]) {
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

/// A reader sees what was remembered, and nothing else.
fn all_same(reader: &Context, oracle: &[Remembered]) {
    let mut range = reader.range(1);
    let mut seen = 0;
    while let Some(entry) = range.next_entry().expect("readable") {
        seen += 1;
        same(&entry, seen, oracle);
    }
    assert_eq!(seen, oracle.len());
}

/// One that gives memory all the time it may take where there is much else to do.
fn patient(context: &Context) -> Appender {
    let mut appender = context.appender().expect("a daemon");
    appender.set_wait(PATIENCE);
    appender
}

/// Does all of that to a context that is not there yet, and compares what can be seen with
/// what was remembered.
///
/// # Panics
///
/// If it differs.
pub fn play(ledger: &Ledger, name: &str, steps: &[Step]) {
    let mut context = ledger.context(name).open_or_create().expect("a context");
    let mut oracle: Vec<Remembered> = Vec::new();
    let mut appender = patient(&context);
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
            Step::Handover => appender = patient(&context),
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
                all_same(&reader, &oracle);
            }
            Step::Copy => {
                let mut snapshot = Vec::new();
                let taken = context.snapshot_to(&mut snapshot).run().expect("memory");
                assert_eq!(taken.last_seq, oracle.len() as u64);
                let of = format!("{name}-copy");
                let load = ledger.load_from(&snapshot[..]).name(&of).only_new();
                load.run().expect("a snapshot that was just taken");
                let copy = ledger.context(&of).open().expect("loaded");
                all_same(&copy, &oracle);
                let appended = patient(&copy).append(&NewEntry::new("b", ""));
                assert_eq!(appended.expect("room").seq, oracle.len() as u64 + 1);
                drop(copy);
                // What was dropped here is given back by another thread.
                eventually("nobody has it", || match drop_context(ledger, &of) {
                    Err(OpenError::InUse { .. }) => None,
                    dropped => {
                        dropped.expect("it is there");
                        Some(())
                    }
                });
            }
            Step::Reopen => {
                drop((appender, watcher, context));
                context = ledger.context(name).open().expect("there");
                appender = patient(&context);
                watcher = context.watch(watched as u64 + 1);
            }
        }
    }
}
