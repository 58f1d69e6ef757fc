//! Beside what works within one process only: two threads, on two cores.

use std::path::PathBuf;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use crossbeam_channel::TryRecvError;
use disruptor::{BusySpin, Producer};
use mmap_sync::synchronizer::Synchronizer;

use crate::peers::ledger::Ledger;
use crate::peers::{Missing, Peer, Place, Receiver, Sender, Wait};
use crate::report::{histogram, pin, unpin};

use super::Piece;
use super::part::{look, receive_until, send_many};
use super::stage::{Line, Round, Stage};
use super::table::Table;

const LEN: usize = 64;
type Payload = [u8; LEN];

/// Room between the two: the whole of a round.
const ROOM: usize = 1 << 17;

/// Sends by a call.
struct Sending<F>(F);

impl<F: FnMut(&[u8])> Sender for Sending<F> {
    fn send(&mut self, payload: &[u8]) {
        self.0(payload);
    }
}

/// Receives by a call that says whether there was something.
struct Polling<F>(F);

impl<F: FnMut(&mut dyn FnMut(&[u8])) -> bool> Receiver for Polling<F> {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) {
        while !self.0(read) {
            std::hint::spin_loop();
        }
    }
}

/// A bounded channel of values.
fn crossbeam() -> (impl Sender + Send, impl Receiver + Send) {
    let (sender, receiver) = crossbeam_channel::bounded::<Payload>(ROOM);
    (
        Sending(move |payload: &[u8]| {
            let payload = payload.try_into().expect("as long as all");
            sender.send(payload).expect("somebody receives");
        }),
        Polling(
            move |read: &mut dyn FnMut(&[u8])| match receiver.try_recv() {
                Ok(payload) => {
                    read(&payload);
                    true
                }
                Err(TryRecvError::Empty) => false,
                Err(TryRecvError::Disconnected) => panic!("nobody sends"),
            },
        ),
    )
}

/// One who publishes into a ring, and a poller.
fn disruptor() -> (impl Sender + Send, impl Receiver + Send) {
    let builder = disruptor::build_single_producer(ROOM, || [0; LEN], BusySpin);
    let (mut poller, builder) = builder.new_event_poller();
    let mut producer = builder.build();
    (
        Sending(move |payload: &[u8]| {
            producer.publish(|event: &mut Payload| event.copy_from_slice(payload));
        }),
        Polling(move |read: &mut dyn FnMut(&[u8])| {
            let Ok(mut events) = poller.take(1) else {
                return false;
            };
            (&mut events).for_each(|event| read(event));
            true
        }),
    )
}

/// For readers who died, of whom there are none.
const GRACE: Duration = Duration::from_secs(1);

/// One value that is replaced: who reads sees the newest, and not all. A writer sleeps as long
/// as somebody reads what it is about to replace.
fn mmap_sync(file: PathBuf) -> (impl Sender + Send, impl Receiver + Send) {
    let mut writer = Synchronizer::new(file.as_os_str());
    let mut reader = Synchronizer::new(file.as_os_str());
    let mut seen = None;
    (
        Sending(move |payload: &[u8]| {
            let payload: &Payload = payload.try_into().expect("as long as all");
            writer.write(payload, GRACE).expect("room");
        }),
        Polling(move |read: &mut dyn FnMut(&[u8])| {
            // None before the first one.
            let newest = reader.version().ok();
            if newest == seen {
                return false;
            }
            seen = newest;
            // SAFETY: an array of bytes is valid whatever is in it.
            let value = unsafe { reader.read::<Payload>(false) };
            read(&*value.expect("there is one"));
            true
        }),
    )
}

/// Both ways, each with its two halves.
struct Pairs<S, R> {
    there: (S, R),
    back: (S, R),
}

/// Ends the process with a thread that panics: the other one spins and would never see it.
struct Fatal;

impl Drop for Fatal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Sends so many to a thread that reads them: for the mean, then each by itself.
fn flood<S, R>((sender, receiver): &mut (S, R), count: u64) -> Round
where
    S: Sender,
    R: Receiver + Send,
{
    sender.settle();
    let both = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = Fatal;
            pin(1);
            both.wait();
            receive_until(receiver, count - 1, |_| {});
            receive_until(receiver, count / 4 - 1, |_| {});
        });
        both.wait();
        let mut payload = [0x5a; LEN];
        let (elapsed, _) = send_many(sender, &mut payload, count, Duration::ZERO, false);
        let (_, latencies) = send_many(sender, &mut payload, count / 4, Duration::ZERO, true);
        (elapsed.as_nanos() as f64 / count as f64, latencies)
    })
}

/// Sends each when the one before has been answered by a thread.
fn trip<S, R>(Pairs { there, back }: &mut Pairs<S, R>, count: u64) -> Round
where
    S: Sender + Send,
    R: Receiver + Send,
{
    let ((sender, asked), (answerer, receiver)) = (there, back);
    sender.settle();
    answerer.settle();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _guard = Fatal;
            pin(1);
            for n in 0..count {
                asked.receive(&mut look);
                answerer.send(&payload(n));
            }
        });
        let mut latencies = histogram();
        for n in 0..count {
            let start = Instant::now();
            sender.send(&payload(n));
            receiver.receive(&mut look);
            latencies.saturating_record(start.elapsed().as_nanos() as u64);
        }
        (latencies.value_at_quantile(0.5) as f64, latencies)
    })
}

fn payload(n: u64) -> Payload {
    let mut payload = [0x5a; LEN];
    payload[..8].copy_from_slice(&n.to_le_bytes());
    payload
}

/// Both figures of one of them, again and again.
type Player<'a> = Box<dyn FnMut() -> [Result<Round, Missing>; 2] + 'a>;

const FLOOD: u64 = 100_000;
const TRIPS: u64 = 20_000;

/// Two of them as they are made; and one more to be sent to whether it is read or not, unless
/// there is a reason why not.
fn player<'a, S, R>(
    no_flood: Option<&'static str>,
    mut make: impl FnMut(&str) -> (S, R),
) -> Player<'a>
where
    S: Sender + Send + 'a,
    R: Receiver + Send + 'a,
{
    let mut alone = make("alone");
    let mut pairs = Pairs {
        there: make("there"),
        back: make("back"),
    };
    Box::new(move || {
        let flood = match no_flood {
            None => Ok(flood(&mut alone, FLOOD)),
            Some(why) => Err(Missing::NoSuchThing(why)),
        };
        [flood, Ok(trip(&mut pairs, TRIPS))]
    })
}

/// What sending costs, and there and back.
pub fn tables(stage: &Stage) -> Vec<Piece> {
    let of_ours = |topic: &str| {
        let place = Place::of(format!("in-process-{topic}"), LEN, 1, Wait::Spinning);
        let place = stage.placed("ledger", &place).expect("it is ours");
        let receiver = Ledger::<false>::receiver(&place, 0);
        (Ledger::<false>::sender(&place), receiver)
    };
    let file = |topic: &str| stage.dir().join(format!("mmap-sync-{topic}"));
    let mut players: [(&str, Player<'_>); 4] = [
        ("ledger", player(None, of_ours)),
        ("crossbeam-channel", player(None, |_| crossbeam())),
        ("disruptor", player(None, |_| disruptor())),
        (
            "mmap-sync",
            player(Some("sleeps while somebody reads"), |topic| {
                mmap_sync(file(topic))
            }),
        ),
    ];
    let mut lines: [Line; 2] = Default::default();
    pin(0);
    for round in 0..=stage.rounds() {
        for (name, play) in &mut players {
            for (line, outcome) in lines.iter_mut().zip(play()) {
                if round > 0 {
                    line.add(name, outcome);
                }
            }
        }
    }
    unpin();
    let [sending, trips] = lines;
    let table = |name, caption: &str, of_each_round, column, note: &str| {
        Piece::Times(Table {
            name,
            caption: format!("Between two threads of one process, {caption}"),
            of_each_round,
            columns: vec![column],
            curves: vec![0],
            has_bars: false,
            note: note.to_owned(),
        })
    };
    let sending = ("sending, one live", sending);
    let trips = ("there and back, spinning", trips);
    vec![
        table("in-process", "64 B", "mean", sending, ""),
        table("in-process", "64 B answered", "p50 of rounds", trips, NOTE),
    ]
}

const NOTE: &str = "Channel and ring are ordinary memory that ends with its process, and have room \
               for 131 072, which is used again. mmap-sync has one value that is replaced, of \
               which a reader sees the newest; its writer validates and hashes it.";
