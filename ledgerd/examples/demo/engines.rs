//! The process that decides: one Converge engine per run, each recorded in a
//! context of its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use hdrhistogram::Histogram;
use ledger_client::converge::{Recorder, Tried};
use ledger_client::{Context, Ledger, NewEntry};
use pollster::block_on;

use crate::Failure;
use crate::digest::{ContextDigest, Seen};
use crate::latency::{Percentiles, histogram};
use crate::loan;
use crate::message::{Decided, Message, Report, end_with_the_coordinator, wait_for_go};
use crate::plan::Plan;

/// The key of the entry after which a run appends nothing more.
pub const END: &str = "end";

pub fn play(plan: &Plan) -> Result<(), Failure> {
    let ledger = Ledger::connect()?;
    let contexts = plan
        .contexts()
        .map(|name| ledger.context(&name).open_or_create())
        .collect::<Result<Vec<Context>, _>>()?;
    Message::Ready.say()?;
    wait_for_go()?;
    end_with_the_coordinator()?;

    let start = Instant::now();
    let tallies = thread::scope(|scope| {
        let runs: Vec<_> = (0..)
            .zip(&contexts)
            .map(|(run, context)| scope.spawn(move || decide_all(plan, run, context, start)))
            .collect();
        runs.into_iter()
            .map(|run| run.join().unwrap_or_else(|_| Err("a run panicked".into())))
            .collect::<Result<Vec<Tally>, Failure>>()
    })?;
    let elapsed = start.elapsed();

    let mut all = Tally::default();
    let mut digests = BTreeMap::new();
    for (context, tally) in contexts.iter().zip(tallies) {
        digests.insert(context.name().to_owned(), tally.digest);
        all.latency.add(&tally.latency)?;
        all.decided.merge(tally.decided);
    }
    Message::Report(Report {
        seen: Seen::of(digests),
        elapsed_ns: u64::try_from(elapsed.as_nanos())?,
        latency: Some(Percentiles::of(&all.latency)),
        decided: Some(all.decided),
    })
    .say()?;
    Ok(())
}

/// What one run did.
struct Tally {
    digest: ContextDigest,
    latency: Histogram<u64>,
    decided: Decided,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            digest: ContextDigest::default(),
            latency: histogram(),
            decided: Decided::default(),
        }
    }
}

impl Tally {
    fn note(&mut self, tried: &Tried<'_>) {
        match tried.outcome {
            Ok(appended) => {
                let nanos = u64::try_from(tried.elapsed.as_nanos()).unwrap_or(u64::MAX);
                self.latency.saturating_record(nanos);
                let metadata = tried.metadata.iter().copied();
                self.digest
                    .add(appended, tried.key, tried.payload, metadata);
            }
            Err(error) => self.decided.dropped_why = Some(error.to_string()),
        }
    }
}

impl Decided {
    fn merge(&mut self, other: Decided) {
        for (verdict, count) in other.verdicts {
            *self.verdicts.entry(verdict).or_default() += count;
        }
        self.dropped += other.dropped;
        self.dropped_why = self.dropped_why.take().or(other.dropped_why);
    }
}

/// A recorder's observer shares it with the run, but never at the same time.
fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One run: its applications one after the other, and an entry that says that
/// nothing more comes.
fn decide_all(plan: &Plan, run: u32, context: &Context, start: Instant) -> Result<Tally, Failure> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    for index in 0..plan.applications() {
        let arrival = start + plan.arrives_after(run, index);
        thread::sleep(arrival.saturating_duration_since(Instant::now()));
        let (number, run_id) = (plan.number(run, index), plan.run_id(run, index));
        decide(context, number, run_id, &tally)?;
    }

    let payload = format!("{{\"applications\":{}}}", plan.applications());
    let start = Instant::now();
    let outcome = context
        .appender()?
        .append(&NewEntry::new(END, payload.as_bytes()));
    lock(&tally).note(&Tried {
        key: END,
        metadata: &[],
        payload: payload.as_bytes(),
        outcome: &outcome,
        elapsed: start.elapsed(),
    });
    outcome?;
    let tally = std::mem::take(&mut *lock(&tally));
    Ok(tally)
}

/// Has an engine decide one application, with everything recorded.
fn decide(
    context: &Context,
    number: u64,
    run_id: String,
    tally: &Arc<Mutex<Tally>>,
) -> Result<(), Failure> {
    let noted = Arc::clone(tally);
    let recorder = Recorder::new(context.ledger(), context.name())
        .with_run_id(run_id)
        .suggestors(loan::SUGGESTORS)
        .observed_by(move |tried| lock(&noted).note(tried));
    let outcome = block_on(loan::run(number, &recorder))?;

    // Every fact and its promotion, a mark at both ends of every cycle, the application
    // itself, and both ends of the run.
    let called = 2 * outcome.facts as u64 + 2 * u64::from(outcome.cycles) + 3;
    let (recorded, dropped) = (recorder.recorded(), recorder.dropped());
    if recorded + dropped != called {
        return Err(format!(
            "of application {number} there are {called} things to record, \
             of which {recorded} were recorded and {dropped} dropped"
        )
        .into());
    }
    let decided = &mut lock(tally).decided;
    decided.dropped += dropped;
    *decided
        .verdicts
        .entry(outcome.decision.verdict)
        .or_default() += 1;
    Ok(())
}
