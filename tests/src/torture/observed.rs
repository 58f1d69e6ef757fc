//! What others see of a log in which somebody was stopped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use ledger_client::{Appender, Context, Entry, NewEntry, Watcher};
use ledger_shm::Control;
use ledger_shm::object::Instance;
use ledger_shm::record::crc32c;

use super::Verdicts;
use super::frontier::Frontier;
use super::promises::{DENSE, KEPT, NO_WAITING, WATCHED, WOKEN};
use crate::{PATIENCE, Peer, eventually, now_ns, parts_in_memory, sleeps};

/// An entry that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Of its bytes.
    crc: u32,
    pub(super) payload_len: usize,
    /// The victim appended it.
    pub(super) is_marked: bool,
}

/// Every entry of a log from its first, each whole: its checksum holds, and its payload
/// is of one letter, the one of whoever appended it.
pub(super) fn entries(context: &Context) -> Result<Vec<Found>, String> {
    let mut range = context.range(1);
    let mut seen = Vec::new();
    while let Some(entry) = range.next_entry().map_err(|error| error.to_string())? {
        if entry.seq() != seen.len() as u64 + 1 {
            return Err(format!("{} follows {}", entry.seq(), seen.len()));
        }
        seen.push(found(&entry)?);
    }
    Ok(seen)
}

/// An entry that is whole.
pub(super) fn found(entry: &Entry) -> Result<Found, String> {
    let seq = entry.seq();
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
    Ok(Found {
        crc: crc32c(entry.record_bytes()),
        payload_len: entry.payload().len(),
        is_marked: letter == b'm',
    })
}

/// What a peer answers that is asked for the digest of a log with these entries.
pub(super) fn digest(entries: &[Found]) -> String {
    let add = |digest: u32, entry: &Found| digest.rotate_left(7) ^ entry.crc;
    format!("{} {:08x}", entries.len(), entries.iter().fold(0, add))
}

/// How far a watcher comes now, without a hole, and each entry whole.
pub(super) fn caught_up(watcher: &mut Watcher) -> Result<u64, String> {
    let mut last = watcher.next_seq() - 1;
    loop {
        match watcher.try_next() {
            Ok(Some(entry)) if entry.seq() == last + 1 => {
                found(&entry)?;
                last += 1;
            }
            Ok(Some(entry)) => return Err(format!("{} follows {last}", entry.seq())),
            Ok(None) => return Ok(last),
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Has another appender append something at once, and get this seq: without a sleep, and
/// soon, where it is known how late the machine is.
pub(super) fn append_at_once(
    other: &mut Appender,
    entry: &NewEntry<'_>,
    seq: u64,
    lateness: Option<&Lateness>,
    verdicts: &mut Verdicts,
    case: &str,
) {
    let since_ns = now_ns().expect("a clock");
    let slept_before = sleeps();
    let appended = other.try_append(entry);
    let slept = sleeps() - slept_before;
    let until_ns = now_ns().expect("a clock");
    let took_us = (until_ns - since_ns) / 1000;
    verdicts.largest("longest_append_of_another_us", took_us);
    let is_soon = lateness.is_none_or(|lateness| lateness.allows(since_ns, until_ns));
    verdicts.check(NO_WAITING, appended.is_ok() && is_soon, || {
        format!("{case}: {appended:?} after {took_us} µs")
    });
    // A page may be had late, but hardly each time.
    verdicts.check_again(NO_WAITING, slept == 0, || {
        format!("{case}: it slept {slept} times for {seq}")
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
        lateness.check_woken(since_ns, woken_ns, verdicts, case);
    }
}

/// A watcher in another process sees all up to this entry.
pub(super) fn check_drained(watcher: &mut Peer, total: u64, verdicts: &mut Verdicts, case: &str) {
    let came_to = watcher.ask("drain");
    verdicts.check(WATCHED, came_to == format!("ok {total}"), || {
        format!("{case}: {came_to} of {total}")
    });
}

/// Bytes of its payload.
pub(super) const ANOTHER_LEN: usize = 200;

/// What another appender appends.
pub(super) fn another() -> NewEntry<'static> {
    NewEntry::new("other", &[b'o'; ANOTHER_LEN])
}

/// How late this machine is, and when: how much longer sleeps of 40 ms take.
#[derive(Debug)]
pub(super) struct Lateness {
    sleeps: Arc<Sleeps>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Sleeps {
    /// When each began, and when it was over.
    over: Mutex<Vec<(u64, u64)>>,
    is_another_over: Condvar,
    is_enough: AtomicBool,
}

const SLEEP: Duration = Duration::from_millis(40);
/// How late an entry may be seen, and how long an append may take, on a machine that is on
/// time.
const SOON: Duration = Duration::from_millis(50);

/// Of two who sleep at the same time on a busy machine one may be late and the other not.
const JUST_BEFORE: Duration = Duration::from_secs(1);

impl Lateness {
    pub(super) fn watched() -> Lateness {
        let sleeps = Arc::new(Sleeps::default());
        let thread = {
            let sleeps = Arc::clone(&sleeps);
            std::thread::spawn(move || {
                while !sleeps.is_enough.load(Ordering::Relaxed) {
                    let began_ns = now_ns().expect("a clock");
                    std::thread::sleep(SLEEP);
                    let ended_ns = now_ns().expect("a clock");
                    sleeps.over().push((began_ns, ended_ns));
                    sleeps.is_another_over.notify_all();
                }
            })
        };
        Lateness {
            sleeps,
            thread: Some(thread),
        }
    }

    /// An entry that was there from one time on was seen at another: soon enough.
    pub(super) fn check_woken(
        &self,
        since_ns: u64,
        woken_ns: u64,
        verdicts: &mut Verdicts,
        case: &str,
    ) {
        let late_ns = woken_ns.saturating_sub(since_ns);
        verdicts.largest("longest_until_woken_us", late_ns / 1000);
        let is_soon = self.allows(since_ns, woken_ns);
        verdicts.check(WOKEN, is_soon, || format!("{case}: {late_ns} ns"));
    }

    /// Whether what took from one time to another was soon, but for how late the machine
    /// was then, and just before.
    pub(super) fn allows(&self, since_ns: u64, until_ns: u64) -> bool {
        self.allows_within(SOON, since_ns, until_ns)
    }

    /// The same, of what may take so long.
    pub(super) fn allows_within(&self, most: Duration, since_ns: u64, until_ns: u64) -> bool {
        let took_ns = until_ns.saturating_sub(since_ns);
        let soon_ns = most.as_nanos() as u64;
        let just_before_ns = since_ns.saturating_sub(JUST_BEFORE.as_nanos() as u64);
        let late_ns = || self.sleeps.late_between(just_before_ns, until_ns);
        took_ns <= soon_ns || took_ns <= soon_ns + late_ns()
    }

    pub(super) fn tell(&self, verdicts: &mut Verdicts) {
        let longest_us = self.sleeps.over().iter().map(late_ns).max().unwrap_or(0) / 1000;
        verdicts.largest("longest_lateness_of_a_40_ms_sleep_us", longest_us);
    }
}

impl Sleeps {
    fn over(&self) -> MutexGuard<'_, Vec<(u64, u64)>> {
        self.over.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By how much one was late at most, of those that were under way between these times.
    fn late_between(&self, since_ns: u64, until_ns: u64) -> u64 {
        let last_began = |over: &[(u64, u64)]| over.last().map_or(0, |(began_ns, _)| *began_ns);
        // One of them may be under way yet.
        let over = self
            .is_another_over
            .wait_while(self.over(), |over| last_began(over) < until_ns)
            .unwrap_or_else(PoisonError::into_inner);
        let recent = over.iter().rev();
        let recent = recent.take_while(|(_, ended_ns)| *ended_ns >= since_ns);
        let meanwhile = recent.filter(|(began_ns, _)| *began_ns <= until_ns);
        meanwhile.map(late_ns).max().unwrap_or(0)
    }
}

/// By how much a sleep was late.
fn late_ns((began_ns, ended_ns): &(u64, u64)) -> u64 {
    (ended_ns - began_ns).saturating_sub(SLEEP.as_nanos() as u64)
}

impl Drop for Lateness {
    fn drop(&mut self) {
        self.sleeps.is_enough.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
