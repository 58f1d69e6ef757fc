//! What each thread does with the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::yield_now;

use ledger_shm::append::{Clock, Parts, Tail};
use ledger_shm::bell::SLEEP_MAX;
use ledger_shm::bell::many::{Nudge, sleep_at_any};
use ledger_shm::control::State;
use ledger_shm::entry::{Entry, Limits, NewEntry};
use ledger_shm::error::{Full, Refused};
use ledger_shm::read::{Cursor, Filter, Found, Link};

use super::log::Log;

/// The daemon closes the log once it has read so many entries more.
const READ_BEFORE_CLOSING: u64 = 500;

struct Stopped;

impl Clock for Stopped {
    fn now_ns(&mut self) -> u64 {
        0
    }
}

/// Appends until there is no memory left; says which seqs it got.
pub fn append(log: &Log, id: u64) -> Vec<u64> {
    let mut tail = log.tail(1);
    let mut acknowledged = Vec::new();
    let key = id.to_string();
    let payload = [id as u8; 400];
    loop {
        let len = acknowledged.len() * 37 % payload.len();
        let entry = NewEntry::new(&key, &payload[..len]);
        match tail.try_append(&entry, &Limits::default(), log, &mut Stopped) {
            Ok(appended) => {
                acknowledged.push(appended.seq);
                log.bell.ring_if_parked();
            }
            Err(Refused::Full(Full::Reopening)) => tail = reopened(log, &tail),
            Err(Refused::Full(Full::NoSpare)) => return acknowledged,
            Err(refused) => panic!("{refused}"),
        }
    }
}

/// The end of the log once the daemon goes on with it.
fn reopened(log: &Log, closed: &Tail) -> Tail {
    loop {
        match closed.segment().successor() {
            Some(part) => return log.tail(part),
            None => yield_now(),
        }
    }
}

/// Where a reader is, and what it has seen.
struct Reader<'a> {
    log: &'a Log,
    cursor: Cursor,
    lamport: u64,
}

impl Reader<'_> {
    fn of(log: &Log) -> Reader<'_> {
        Reader {
            log,
            cursor: Cursor::new(log.link(1), 1),
            lamport: 0,
        }
    }

    /// Reads as far as the log goes; says what is there instead of an entry.
    fn read(&mut self) -> Found {
        loop {
            let next = self.cursor.next_seq();
            match self.cursor.step(&Filter::default()).expect("sound slots") {
                Found::Entry => {
                    let entry = self.cursor.entry().expect("a sound record");
                    let entry = entry.expect("it was found");
                    check(&entry);
                    assert_eq!(entry.seq(), next);
                    assert!(entry.lamport() > self.lamport, "seq {next}");
                    self.lamport = entry.lamport();
                }
                Found::Seal(part) => self.follow(part),
                Found::Closed => match self.cursor.link().segment.successor() {
                    Some(part) => self.follow(part),
                    None => return Found::Closed,
                },
                found => return found,
            }
        }
    }

    /// Whoever sealed may not have completed it yet, and everybody who goes on there may.
    fn follow(&mut self, part: u64) {
        let (segment, base_seq) = (self.log.part(part), self.cursor.next_seq());
        let completed = segment.complete(base_seq, self.lamport);
        completed.expect("everybody computes the same");
        self.cursor.follow(Link { segment, base_seq });
    }

    fn count(&self) -> u64 {
        self.cursor.next_seq() - 1
    }
}

/// That the whole entry is as its appender wrote it.
fn check(entry: &Entry<'_>) {
    entry.verify().expect("checksums that hold");
    let id: u8 = entry.key().parse().expect("an appender's id");
    assert!(entry.payload().iter().all(|byte| *byte == id));
}

/// Reads all there ever is, and sleeps at the bell in between; says how much it was.
pub fn read(log: &Log) -> u64 {
    let mut reader = Reader::of(log);
    loop {
        let is_over = log.control.state() == Ok(State::Idle);
        match reader.read() {
            Found::Closed if is_over => return reader.count(),
            Found::Closed => yield_now(),
            _ => {
                let parked = log.bell.park();
                match reader.cursor.link().peek(reader.cursor.next_seq()) {
                    Ok(Found::Nothing) => parked.sleep(SLEEP_MAX),
                    _ => parked.found(),
                }
            }
        }
    }
}

/// What the daemon does: it reads all there is, says how far it has come, lets go of parts
/// that it has read, and closes the log now and then and goes on with it elsewhere; for good
/// when nobody appends any more.
pub fn archive(log: &Log, has_ended: &AtomicBool, nudge: &Nudge) -> u64 {
    let mut reader = Reader::of(log);
    let mut successors = Vec::from_iter(log.successors());
    let mut closes_at = READ_BEFORE_CLOSING;
    loop {
        let has_ended = has_ended.load(Ordering::Acquire);
        let found = reader.read();
        let count = reader.count();
        log.control.set_archived(count, count);
        let part = reader.cursor.link().segment.part();
        log.control.set_first_part(part);
        if has_ended && found == Found::Nothing {
            let closed = log.tail(part).close().expect("sound slots");
            assert_eq!(closed, Ok((count + 1, reader.lamport)));
            log.control.set_state(State::Idle);
            log.bell.ring_all();
            nudge.call();
            return count;
        }
        if count >= closes_at
            && let Some(&successor) = successors.first()
            && close(log, part, successor)
        {
            successors.remove(0);
            closes_at = count + READ_BEFORE_CLOSING;
        }
        yield_now();
    }
}

/// Closes the log unless it has rolled on, withdraws a spare, and has it go on in this part.
fn close(log: &Log, part: u64, successor: u64) -> bool {
    let mut tail = log.tail(part);
    let Ok((seq, lamport)) = tail.close().expect("sound slots") else {
        return false;
    };
    if let Ok(spare) = log.spare(0) {
        spare.withdraw().expect("no seal can name it any more");
    }
    let completed = log.part(successor).complete(seq, lamport);
    completed.expect("nobody else does before it is named");
    tail.segment().set_successor(successor);
    log.bell.ring_all();
    true
}

/// Begins anew with the first part that is still there, again and again.
pub fn come_anew(log: &Log) {
    while log.control.state() != Ok(State::Idle) {
        let link = log.link(log.control.first_part());
        let (base_seq, before) = (link.base_seq, link.segment.base_lamport());
        if let Ok(entry) = link.get(base_seq).expect("a sound record") {
            check(&entry);
            assert!(entry.lamport() > before, "seq {base_seq}");
        }
        yield_now();
    }
}

/// Sleeps for those who have no thread: at the bell, at what is durable, and at the nudge.
pub fn sleep_for_others(log: &Log, nudge: &Nudge) {
    let bell = &log.bell;
    loop {
        let (called, seen) = (nudge.count(), bell.count());
        let durable = log.control.durable_seq();
        if log.control.state() == Ok(State::Idle) {
            return;
        }
        bell.announce();
        let bells = [(Arc::clone(bell), seen)];
        let durable = std::iter::once((&log.control, durable));
        sleep_at_any((nudge, called), &bells, durable, Some(SLEEP_MAX));
        let now = bell.count();
        if now != seen {
            bell.relay(now);
        }
    }
}
