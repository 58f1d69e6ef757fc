//! The log's own code under every interleaving and every reordering that loom
//! knows. One module per idea; each says which threads it runs and what they
//! must agree on.
//!
//! A model in which one [`Label`] is weakened has to fail, and in the way that
//! the label is there to prevent: an ordering whose absence breaks nothing
//! would be superstition. `docs/ORDERING.md` has the arguments, and what loom
//! cannot see.

mod append;
mod bell;
mod closed;
mod control;
mod create;
mod publish;
mod roll;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ledger_shm_under_loom::append::{Appended, Clock, Parts, Tail};
use ledger_shm_under_loom::entry::{Limits, NewEntry};
use ledger_shm_under_loom::error::{Full, Refused};
use ledger_shm_under_loom::fork::Generation;
use ledger_shm_under_loom::read::{Found, Link};
use ledger_shm_under_loom::segment::{Memory, Segment};
use ledger_shm_under_loom::sync::{Label, Ordering, weaken};

/// Lines of data that one entry of a model takes.
const ENTRY_LINES: usize = 2;

/// Explores a model completely.
fn check(model: impl Fn() + Send + Sync + 'static) {
    explore(loom::model::Builder::new(), model);
}

/// Explores every execution that takes the processor away from a running
/// thread at most `preemptions` times.
fn check_preempting(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    explore(builder, model);
}

fn explore(builder: loom::model::Builder, model: impl Fn() + Send + Sync + 'static) {
    builder.check(move || {
        // Before any thread begins, so that all fences take turns.
        Label::Park.fence(Ordering::SeqCst);
        model();
    });
}

/// Two accesses to a record's bytes that nothing orders.
const UNORDERED: &str = "Causality violation: Concurrent read and write accesses";
/// Everybody sleeps or has ended, and somebody sleeps.
const DEADLOCK: &str = "deadlock; threads";

/// Asserts that models fail once this edge is gone, and how.
fn assert_needed(label: Label, ordering: Ordering, models: impl FnOnce(), failure: &str) {
    let outcome = weaken(label, ordering, || catch_unwind(AssertUnwindSafe(models)));
    let panic = outcome.expect_err("a model that fails without this edge");
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .expect("a message");
    assert!(
        message.contains(failure),
        "without {label:?}'s {ordering:?} it fails with {message:?} instead of {failure:?}"
    );
}

/// What a process has mapped: a part is its index plus one.
#[derive(Clone)]
struct Mapped(Vec<Arc<Segment>>);

impl Parts for Mapped {
    fn mapped(&self, part: u64) -> Option<Arc<Segment>> {
        self.0
            .iter()
            .find(|segment| segment.part() == part)
            .cloned()
    }

    fn spare(&self, record_len: usize) -> Result<Arc<Segment>, Full> {
        let fits =
            |segment: &&Arc<Segment>| segment.is_spare() && segment.geometry().fits(record_len);
        self.0.iter().find(fits).cloned().ok_or(Full::NoSpare)
    }
}

struct Stopped;

impl Clock for Stopped {
    fn now_ns(&mut self) -> u64 {
        0
    }
}

/// A log of one current part and spares, each with room for so many entries.
fn log(capacities: &[usize]) -> Mapped {
    let room = capacities
        .iter()
        .map(|&capacity| (capacity, capacity * ENTRY_LINES));
    log_of(room)
}

/// The same, each with so many slots and lines of data.
fn log_of(room: impl Iterator<Item = (usize, usize)>) -> Mapped {
    let segments = room.enumerate().map(|(index, (slots, lines))| {
        let part = index as u64 + 1;
        let base_seq = u64::from(part == 1);
        let memory = Memory::zeroed(slots, lines);
        Arc::new(memory.format(part, base_seq))
    });
    Mapped(segments.collect())
}

fn tail(segment: &Arc<Segment>) -> Tail {
    let generation = Generation::current().expect("models do not fork");
    Tail::new(Arc::clone(segment), generation).expect("a sound part")
}

fn append(tail: &mut Tail, parts: &Mapped, key: &str) -> Result<Appended, Refused> {
    let entry = NewEntry::new(key, key);
    tail.try_append(&entry, &Limits::default(), parts, &mut Stopped)
}

/// Everything from seq 1 on, through seals, with the keys in seq order.
/// Asserts what holds of any log at any moment.
fn history(parts: &Mapped) -> Vec<String> {
    let mut link = Link {
        segment: Arc::clone(&parts.0[0]),
        base_seq: 1,
    };
    let mut keys = Vec::new();
    let mut lamport = 0;
    loop {
        let seq = keys.len() as u64 + 1;
        match link.clone().get(seq).expect("sound records") {
            Ok(entry) => {
                entry.verify().expect("checksums that hold");
                assert_eq!(entry.seq(), seq, "seqs are dense");
                assert!(
                    entry.lamport() > lamport,
                    "the Lamport time {} of seq {seq} is not above {lamport}",
                    entry.lamport()
                );
                lamport = entry.lamport();
                keys.push(entry.key().to_owned());
            }
            Err(Found::Seal(part)) => {
                let segment = parts.mapped(part).expect("a part that a seal names");
                link = Link {
                    segment,
                    base_seq: seq,
                };
            }
            Err(Found::Nothing | Found::Closed | Found::Elsewhere) => return keys,
            Err(Found::Entry) => unreachable!("an entry would be here"),
        }
    }
}
