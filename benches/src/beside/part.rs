//! What a process does that plays one half of a peer.
//!
//! It says `ready` when it is set up, then does what each line of its standard input says, a
//! word and numbers, and answers with one line:
//!
//! | line | does | answers |
//! |---|---|---|
//! | `settle` | waits until nothing is being prepared | `settled` |
//! | `send COUNT GAP_NS TIMED START_NS` | sends from START_NS on, with a pause before each; takes the time of each if TIMED is 1 | `sent ELAPSED_NS`, latencies |
//! | `pace COUNT INTERVAL_NS` | sends at fixed times, whether the one before is done or not | `paced` |
//! | `stop` | stops its process while it is sending | nothing |
//! | `receive NUMBER` | receives until what has this number | `received AT_NS` |
//! | `age NUMBER` | as `receive`, with the time from when each was to be sent | `aged ELAPSED_NS`, latencies |
//! | `skip` | gives up what it has not received yet | `skipped` |
//! | `connect` | is set up to answer | `connected` |
//! | `echo COUNT` | answers so many | `echoed` |
//! | `ping COUNT` | sends so many, each when the one before is answered | `pinged ELAPSED_NS`, latencies |
//! | `scan COUNT` | comes anew, and reads from the first one to the last | `scanned ELAPSED_NS` |
//! | `get COUNT TOTAL` | reads so many at random out of all | `got ELAPSED_NS`, latencies |
//! | `open COUNT` | comes anew so often, and reads the first one | `opened ELAPSED_NS`, latencies |
//! | `make COUNT` | makes so many topics and keeps them | `made` |
//!
//! A payload begins with its number. Latencies are pairs `NS:COUNT`; START_NS and AT_NS are of
//! the clock that all processes share, and a START_NS of 0 is now.

use std::io::Write;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};

use crate::peers::{Past, Peer, Place, Receiver, Sender, Wait};
use crate::report::histogram;
use crate::with_peer;

/// Long enough for the other side to be asleep.
const THINK: Duration = Duration::from_micros(60);

/// Plays what these arguments say, for as long as it is told something.
pub fn play(arguments: &[String]) {
    let [peer, part, address, dir, topic, wait, numbers @ ..] = arguments else {
        panic!("not what a player is told: {arguments:?}");
    };
    let numbers: Vec<usize> = numbers
        .iter()
        .map(|number| number.parse().expect("a number"))
        .collect();
    let [n, len, senders, receivers, keeps_all] = numbers[..] else {
        panic!("not what a player is told: {arguments:?}");
    };
    let place = Place {
        address: address.clone(),
        dir: dir.into(),
        topic: topic.clone(),
        len,
        senders,
        receivers,
        wait: Wait::of(wait).expect("a way to wait"),
        keeps_all: keeps_all == 1,
    };
    match &**part {
        "sender" => with_peer!(&**peer, send(&place)),
        "receiver" => with_peer!(&**peer, receive(&place, n)),
        "pinger" => with_peer!(&**peer, ping(&place)),
        "echoer" => with_peer!(&**peer, echo(&place)),
        "latecomer" => with_peer!(&**peer, come_late(&place)),
        "idler" => with_peer!(&**peer, idle(&place)),
        other => panic!("no such part: {other:?}"),
    }
}

fn say(line: &str) {
    // Whoever directs may have ended.
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

fn say_figures(word: &str, elapsed: Duration, latencies: &Histogram<u64>) {
    say(&format!(
        "{word} {} {}",
        elapsed.as_nanos(),
        pairs(latencies)
    ));
}

/// Does what each line says.
fn follow(mut orders: impl FnMut(&str, &[u64])) {
    say("ready");
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let mut words = line.split(' ');
        let word = words.next().unwrap_or_default();
        let numbers = words.map(|number| number.parse().expect("a number"));
        orders(word, &numbers.collect::<Vec<_>>());
    }
}

fn no_order(word: &str, numbers: &[u64]) -> ! {
    panic!("not an order: {word} {numbers:?}");
}

fn send<P: Peer>(place: &Place) {
    let mut sender = P::sender(place);
    let mut payload = vec![0x5a_u8; place.len];
    follow(|word, numbers| match (word, numbers) {
        ("settle", []) => {
            sender.settle();
            say("settled");
        }
        ("send", &[count, gap_ns, is_timed, start_ns]) => {
            let gap = Duration::from_nanos(gap_ns);
            wait_until(start_ns);
            let (elapsed, latencies) =
                send_many(&mut sender, &mut payload, count, gap, is_timed == 1);
            let late = Duration::from_nanos(match start_ns {
                0 => 0,
                start_ns => now_ns().saturating_sub(start_ns),
            });
            say_figures("sent", elapsed.max(late), &latencies);
        }
        ("pace", &[count, interval_ns]) => {
            pace(&mut sender, &mut payload, count, interval_ns);
            say("paced");
        }
        ("stop", []) => sender.stop_within(&payload),
        _ => no_order(word, numbers),
    });
}

fn wait_until(start_ns: u64) {
    let start = Duration::from_nanos(start_ns).into();
    let flags = ClockNanosleepFlags::TIMER_ABSTIME;
    while start_ns > now_ns() {
        // A signal ends it early.
        let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, flags, &start);
    }
}

/// Nanoseconds of a clock that all processes share.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

pub fn send_many(
    sender: &mut impl Sender,
    payload: &mut [u8],
    count: u64,
    gap: Duration,
    is_timed: bool,
) -> (Duration, Histogram<u64>) {
    let mut latencies = histogram();
    let start = Instant::now();
    for n in 0..count {
        payload[..8].copy_from_slice(&n.to_le_bytes());
        if !gap.is_zero() {
            std::thread::sleep(gap);
        }
        if is_timed {
            let start = Instant::now();
            sender.send(payload);
            latencies.saturating_record(start.elapsed().as_nanos() as u64);
        } else {
            sender.send(payload);
        }
    }
    sender.flush();
    (start.elapsed(), latencies)
}

/// Sends each when it is due. One that is late makes those after it late, and their time
/// counts from when they were due: nothing that waits is left out.
fn pace(sender: &mut impl Sender, payload: &mut [u8], count: u64, interval_ns: u64) {
    let start = now_ns() + 1_000_000;
    for n in 0..count {
        let due = start + n * interval_ns;
        while now_ns() < due {
            std::hint::spin_loop();
        }
        payload[..8].copy_from_slice(&n.to_le_bytes());
        payload[8..16].copy_from_slice(&due.to_le_bytes());
        sender.send(payload);
    }
    sender.flush();
}

fn receive<P: Peer>(place: &Place, n: usize) {
    let mut receiver = P::receiver(place, n);
    follow(|word, numbers| match (word, numbers) {
        ("receive", &[last]) => {
            receive_until(&mut receiver, last, |_| {});
            say(&format!("received {}", now_ns()));
        }
        ("age", &[last]) => {
            let mut ages = histogram();
            receive_until(&mut receiver, last, |payload| {
                let age = now_ns().saturating_sub(word_of(payload, 8));
                ages.saturating_record(age);
            });
            say_figures("aged", Duration::ZERO, &ages);
        }
        ("skip", []) => {
            receiver.skip();
            say("skipped");
        }
        _ => no_order(word, numbers),
    });
}

pub fn receive_until(receiver: &mut impl Receiver, last: u64, mut each: impl FnMut(&[u8])) {
    let mut number = None;
    while number != Some(last) {
        receiver.receive(&mut |payload| {
            number = Some(word_of(payload, 0));
            look(payload);
            each(payload);
        });
    }
}

/// A number in a payload; one that is too short for it has none.
fn word_of(payload: &[u8], offset: usize) -> u64 {
    let bytes = payload.get(offset..offset + 8).unwrap_or(&[0; 8]);
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn ping<P: Peer>(place: &Place) {
    let mut receiver = P::receiver(&place.towards("back"), 0);
    let mut sender = P::sender(&place.towards("there"));
    let mut payload = vec![0x5a_u8; place.len];
    follow(|word, numbers| match (word, numbers) {
        ("settle", []) => {
            sender.settle();
            say("settled");
        }
        ("ping", &[count]) => {
            let mut latencies = histogram();
            let start = Instant::now();
            for n in 0..count {
                let before = Instant::now();
                while place.wait == Wait::Parked && before.elapsed() < THINK {
                    std::hint::spin_loop();
                }
                payload[..8].copy_from_slice(&n.to_le_bytes());
                let start = Instant::now();
                sender.send(&payload);
                sender.flush();
                receiver.receive(&mut look);
                latencies.saturating_record(start.elapsed().as_nanos() as u64);
            }
            say_figures("pinged", start.elapsed(), &latencies);
        }
        _ => no_order(word, numbers),
    });
}

fn echo<P: Peer>(place: &Place) {
    let mut receiver = P::receiver(&place.towards("there"), 0);
    let mut sender = None;
    let mut payload = vec![0xa5_u8; place.len];
    follow(|word, numbers| match (word, numbers, &mut sender) {
        ("connect", [], None) => {
            sender = Some(P::sender(&place.towards("back")));
            say("connected");
        }
        ("echo", &[count], Some(sender)) => {
            for n in 0..count {
                receiver.receive(&mut look);
                payload[..8].copy_from_slice(&n.to_le_bytes());
                sender.send(&payload);
                sender.flush();
            }
            say("echoed");
        }
        _ => no_order(word, numbers),
    });
}

fn come_late<P: Peer>(place: &Place) {
    let (mut past, mut random) = (None, 1_u64);
    follow(|word, numbers| match (word, numbers) {
        ("scan", &[count]) => {
            // Letting go of the one before is not part of it.
            past = None;
            let start = Instant::now();
            let past = past.insert(P::past(place));
            let mut read = 0;
            past.scan(&mut |payload| {
                assert_eq!(word_of(payload, 0), read, "in order");
                look(payload);
                read += 1;
            });
            assert_eq!(read, count, "all of them");
            say_figures("scanned", start.elapsed(), &histogram());
        }
        ("get", &[count, total]) => {
            let past = past.get_or_insert_with(|| P::past(place));
            let mut latencies = histogram();
            let mut get = || {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let wanted = (random >> 33) % total;
                let mut read = None;
                past.get(wanted, &mut |payload| {
                    read = Some(word_of(payload, 0));
                    look(payload);
                });
                assert_eq!(read, Some(wanted));
            };
            let start = Instant::now();
            (0..count).for_each(|_| get());
            let elapsed = start.elapsed();
            for _ in 0..count.div_ceil(4) {
                let start = Instant::now();
                get();
                latencies.saturating_record(start.elapsed().as_nanos() as u64);
            }
            say_figures("got", elapsed, &latencies);
        }
        ("open", &[count]) => {
            let mut latencies = histogram();
            let start = Instant::now();
            for _ in 0..count {
                let start = Instant::now();
                P::past(place).get(0, &mut look);
                latencies.saturating_record(start.elapsed().as_nanos() as u64);
            }
            say_figures("opened", start.elapsed(), &latencies);
        }
        _ => no_order(word, numbers),
    });
}

fn idle<P: Peer>(place: &Place) {
    let mut kept = Vec::new();
    follow(|word, numbers| match (word, numbers) {
        ("make", &[count]) => {
            kept.push(P::idle(place, count));
            say("made");
        }
        _ => no_order(word, numbers),
    });
}

/// Reads all of it.
pub fn look(payload: &[u8]) {
    std::hint::black_box(payload.iter().fold(0, |sum, byte| sum ^ byte));
}

/// A histogram as text.
fn pairs(latencies: &Histogram<u64>) -> String {
    let recorded = latencies.iter_recorded();
    let pairs = recorded.map(|it| format!("{}:{}", it.value_iterated_to(), it.count_at_value()));
    pairs.collect::<Vec<_>>().join(" ")
}
