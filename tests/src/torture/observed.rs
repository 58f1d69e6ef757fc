//! What others see of a log in which somebody was stopped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ledger_client::{Appender, Context, NewEntry, Watcher};
use ledger_shm::Control;
use ledger_shm::object::Instance;
use ledger_shm::record::crc32c;

use super::Verdicts;
use super::frontier::Frontier;
use super::promises::{DENSE, KEPT, NO_WAITING, WATCHED, WOKEN};
use crate::{PATIENCE, Peer, eventually, parts_in_memory};

/// Every entry of a log from its first, each whole: its checksum holds, and its payload
/// is of one letter, the one of whoever appended it.
pub(super) fn entries(context: &Context) -> Result<Vec<u32>, String> {
    let mut range = context.range(1);
    let mut seen = Vec::new();
    while let Some(entry) = range.next_entry().map_err(|error| error.to_string())? {
        let seq = entry.seq();
        if seq != seen.len() as u64 + 1 {
            return Err(format!("{seq} follows {}", seen.len()));
        }
        entry.verify().map_err(|error| format!("{seq}: {error}"))?;
        let letter = match entry.key() {
            "fill" => b'x',
            "marked" => b'm',
            "other" => b'o',
            key => return Err(format!("{seq}: nobody appended {key:?}")),
        };
        if entry.payload().iter().any(|byte| *byte != letter) {
            return Err(format!("{seq}: not what was appended"));
        }
        seen.push(crc32c(entry.record_bytes()));
    }
    Ok(seen)
}

/// How far a watcher comes now, without a hole.
pub(super) fn caught_up(watcher: &mut Watcher) -> Result<u64, String> {
    let mut last = watcher.next_seq() - 1;
    loop {
        match watcher.try_next() {
            Ok(Some(entry)) if entry.seq() == last + 1 => last += 1,
            Ok(Some(entry)) => return Err(format!("{} follows {last}", entry.seq())),
            Ok(None) => return Ok(last),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Has another appender append at once, and get this seq.
pub(super) fn append_at_once(other: &mut Appender, seq: u64, verdicts: &mut Verdicts, case: &str) {
    let began = Instant::now();
    let appended = other.try_append(&another());
    let took_us = began.elapsed().as_micros() as u64;
    verdicts.largest("longest_append_of_another_us", took_us);
    verdicts.check(NO_WAITING, appended.is_ok(), || {
        format!("{case}: {appended:?}")
    });
    let got = appended.map(|appended| appended.seq);
    verdicts.check(DENSE, got == Ok(seq), || {
        format!("{case}: {got:?}, not {seq}")
    });
}

/// A log has so many entries in the end, each whole, and a watcher has seen all of them.
pub(super) fn check_whole(
    context: &Context,
    watcher: &mut Watcher,
    total: u64,
    verdicts: &mut Verdicts,
    case: &str,
) {
    let there = entries(context).map(|entries| entries.len() as u64);
    verdicts.check(KEPT, there == Ok(total), || {
        format!("{case}: {there:?} of {total}")
    });
    let seen = caught_up(watcher);
    verdicts.check(WATCHED, seen == Ok(total), || {
        format!("{case}: {seen:?} of {total}")
    });
}

/// Has a log go on until the part that it is in now is nowhere in memory, and what was in
/// it is in files. How many entries that takes.
pub(super) fn leave_behind(instance: &Instance, other: &mut Appender) -> u64 {
    let context = other.context().clone();
    let part = Frontier::of(instance, &context).part();
    let large = vec![b'o'; context.limits().payload_len_max.min(1 << 20)];
    let mut count = 0;
    while Frontier::of(instance, &context).part() == part {
        other.append(&NewEntry::new("other", &large)).expect("room");
        count += 1;
    }
    let latest = context.latest().expect("readable");
    context.wait_durable(latest, PATIENCE).expect("a disk");
    let parts = || parts_in_memory(instance, context.epoch());
    let has_left = || (!parts().contains(&part)).then_some(());
    let outcome = catch_unwind(AssertUnwindSafe(|| eventually("it has left", has_left)));
    if outcome.is_err() {
        let control = Control::open(instance, context.epoch(), false).expect("it is there");
        panic!(
            "part {part} stays in memory: {:?}, first {}, log up to {latest}, archived {}, durable {}",
            parts(),
            control.first_part(),
            control.archived_seq(),
            control.durable_seq()
        );
    }
    count
}

/// A watcher that slept has seen this entry, which was there by this time; and soon enough
/// after it, where it is known how late the machine is.
pub(super) fn check_woken(
    sleeper: &mut Peer,
    seq: u64,
    since_ns: u64,
    lateness: Option<&Lateness>,
    verdicts: &mut Verdicts,
    case: &str,
) {
    let answer = sleeper.hear();
    let mut words = answer.split(' ').skip(1).map(str::parse::<u64>);
    let (seen, woken_ns) = (words.next(), words.next());
    let is_it = seen == Some(Ok(seq)) && matches!(woken_ns, Some(Ok(_)));
    verdicts.check(WATCHED, is_it, || format!("{case}: {answer}, not {seq}"));
    if let (Some(lateness), Some(Ok(woken_ns))) = (lateness, woken_ns) {
        let late_ns = woken_ns.saturating_sub(since_ns);
        lateness.check(late_ns, verdicts, case);
    }
}

/// A watcher in another process sees all up to this entry.
pub(super) fn check_drained(watcher: &mut Peer, total: u64, verdicts: &mut Verdicts, case: &str) {
    let came_to = watcher.ask("drain");
    verdicts.check(WATCHED, came_to == format!("ok {total}"), || {
        format!("{case}: {came_to} of {total}")
    });
}

/// What another appender appends.
pub(super) fn another() -> NewEntry<'static> {
    NewEntry::new("other", &[b'o'; 200])
}

/// How late this machine is: the longest that a sleep of 40 ms took beyond that.
#[derive(Debug)]
pub(super) struct Lateness {
    longest_ns: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

const SLEEP: Duration = Duration::from_millis(40);
/// How late an entry may be seen.
const SEEN_WITHIN: Duration = Duration::from_millis(50);

impl Lateness {
    pub(super) fn watched() -> Lateness {
        let longest_ns = Arc::new(AtomicU64::new(0));
        let is_over = Arc::new(AtomicBool::new(false));
        let thread = {
            let (longest_ns, is_over) = (Arc::clone(&longest_ns), Arc::clone(&is_over));
            std::thread::spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    std::thread::sleep(SLEEP);
                    let late = began.elapsed().saturating_sub(SLEEP).as_nanos() as u64;
                    longest_ns.fetch_max(late, Ordering::Relaxed);
                }
            })
        };
        Lateness {
            longest_ns,
            is_over,
            thread: Some(thread),
        }
    }

    /// An entry was seen so late; with a machine that is on time it is soon enough.
    pub(super) fn check(&self, late_ns: u64, verdicts: &mut Verdicts, case: &str) {
        verdicts.largest("longest_until_woken_us", late_ns / 1000);
        let allowed_ns = SEEN_WITHIN.as_nanos() as u64 + self.longest_ns();
        verdicts.check(WOKEN, late_ns <= allowed_ns, || {
            format!("{case}: {late_ns} ns")
        });
    }

    pub(super) fn tell(&self, verdicts: &mut Verdicts) {
        let longest_us = self.longest_ns() / 1000;
        verdicts.largest("longest_lateness_of_a_40_ms_sleep_us", longest_us);
    }

    fn longest_ns(&self) -> u64 {
        self.longest_ns.load(Ordering::Relaxed)
    }
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
