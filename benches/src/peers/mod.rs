//! Who is measured, each behind the same two halves: one sends, one receives.

#[cfg(feature = "aeron")]
pub mod aeron;
pub mod iceoryx;
pub mod ledger;
pub mod machine;
pub mod mnesia;
pub mod pipe;
pub mod redis;
pub mod socket;

use std::any::Any;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A way to get bytes from one process to another.
pub trait Peer {
    type Sender: Sender;
    type Receiver: Receiver;
    type Past: Past;

    /// Whether each payload takes it tens of microseconds: then fewer will do.
    const IS_SLOW: bool = false;

    /// Starts what has to run beside both, if anything has, and says where it is.
    fn host(_: &Path) -> Result<Host, Missing> {
        Ok(Host {
            address: String::new(),
            _running: Box::new(()),
        })
    }

    /// Why it cannot be measured like that, if it cannot.
    fn lacks(_: &Place) -> Option<Missing> {
        None
    }

    fn sender(place: &Place) -> Self::Sender;

    /// The nth of them.
    fn receiver(place: &Place, n: usize) -> Self::Receiver;

    /// Comes anew to what was sent before.
    fn past(place: &Place) -> Self::Past;

    /// So many topics, as small as they are: what has to be kept for them to be there.
    fn idle(_: &Place, _: u64) -> Box<dyn Any> {
        unreachable!("it has no topics of its own")
    }

    /// Another build of this program that plays all its parts.
    fn program() -> Option<PathBuf> {
        None
    }

    /// Another program than this one that sends, and speaks as [`crate::beside::part`] does.
    fn sending_program(_: &Place) -> Option<Command> {
        None
    }
}

/// What runs beside the halves of a peer, until it is dropped.
pub struct Host {
    pub address: String,
    pub _running: Box<dyn Any>,
}

/// Where the halves of one peer meet, and how large what they exchange is.
#[derive(Clone, Debug)]
pub struct Place {
    /// As its host says it.
    pub address: String,
    /// A directory of this run, for sockets and files.
    pub dir: PathBuf,
    pub topic: String,
    /// Of each payload, in bytes.
    pub len: usize,
    pub senders: usize,
    pub receivers: usize,
    pub wait: Wait,
    /// Whether what was sent is read by who comes later.
    pub keeps_all: bool,
}

impl Place {
    /// Where it is, its peer says.
    pub fn of(topic: String, len: usize, receivers: usize, wait: Wait) -> Place {
        Place {
            address: String::new(),
            dir: PathBuf::new(),
            topic,
            len,
            senders: 1,
            receivers,
            wait,
            keeps_all: false,
        }
    }

    /// The same for one direction.
    pub fn towards(&self, direction: &str) -> Place {
        Place {
            topic: format!("{}-{direction}", self.topic),
            ..self.clone()
        }
    }
}

/// What a receiver does while there is nothing for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    Spinning,
    Parked,
    /// It is connected, and reads when all has been sent.
    Later,
}

impl Wait {
    /// As an argument of a process.
    pub fn word(self) -> &'static str {
        match self {
            Wait::Spinning => "spinning",
            Wait::Parked => "parked",
            Wait::Later => "later",
        }
    }

    /// What [`word`](Self::word) said.
    pub fn of(word: &str) -> Option<Wait> {
        [Wait::Spinning, Wait::Parked, Wait::Later]
            .into_iter()
            .find(|wait| wait.word() == word)
    }
}

/// Sends one payload after the other.
pub trait Sender {
    /// Sends, however long it takes until there is room.
    fn send(&mut self, payload: &[u8]);

    /// Sends what it has gathered, if it gathers.
    fn flush(&mut self) {}

    /// Goes as far in sending as its interface lets one before anything is published, and
    /// stops the process there.
    fn stop_within(&mut self, _: &[u8]) {
        unreachable!("nobody else sends, who could be held up");
    }

    /// Between two rounds, untimed: what is prepared in the background is done.
    fn settle(&mut self) {}
}

/// Receives what was sent, in order.
pub trait Receiver {
    /// Waits for the next payload, as the place says, and reads it.
    fn receive(&mut self, read: &mut impl FnMut(&[u8]));

    /// Gives up what it has not received yet.
    fn skip(&mut self) {
        unreachable!("whoever is connected reads at once");
    }
}

/// Reads what was sent before.
pub trait Past {
    /// All of it, in order.
    fn scan(&mut self, read: &mut impl FnMut(&[u8]));

    /// The nth, from 0.
    fn get(&mut self, n: u64, read: &mut impl FnMut(&[u8]));
}

/// Stops this process until it is told to go on.
pub fn stop() {
    nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP).expect("a signal of our own");
}

/// Of a peer that has no such half.
pub enum Never {}

impl Receiver for Never {
    fn receive(&mut self, _: &mut impl FnMut(&[u8])) {
        match *self {}
    }
}

impl Sender for Never {
    fn send(&mut self, _: &[u8]) {
        match *self {}
    }
}

impl Past for Never {
    fn scan(&mut self, _: &mut impl FnMut(&[u8])) {
        match *self {}
    }

    fn get(&mut self, _: u64, _: &mut impl FnMut(&[u8])) {
        match *self {}
    }
}

/// Why a peer is not measured, and what helps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Missing {
    /// Nobody has built or installed it.
    NotInstalled(String),
    /// It has no such thing.
    NoSuchThing(&'static str),
    /// It did not work.
    Failed(String),
}

impl Missing {
    /// Of what is gone when it has been received.
    pub const NO_PAST: Missing = Missing::NoSuchThing("keeps nothing for who comes later");

    /// Of what goes from hand to hand, with little room in between.
    pub fn from_hand_to_hand(place: &Place) -> Option<Missing> {
        if place.keeps_all {
            return Some(Missing::NO_PAST);
        }
        if place.receivers == 0 {
            return Some(Missing::NoSuchThing("nothing is sent to nobody"));
        }
        let is_late = place.wait == Wait::Later;
        is_late.then_some(Missing::NoSuchThing("is full before anybody reads"))
    }
}

/// Calls a generic function for the peer of a name.
#[macro_export]
macro_rules! with_peer {
    ($name:expr, $call:ident ( $($argument:expr),* )) => {{
        use $crate::peers::*;
        match $name {
            "ledger" => $call::<ledger::Ledger<false>>($($argument),*),
            "bare ledger" => $call::<ledger::Ledger<true>>($($argument),*),
            #[cfg(feature = "aeron")]
            "aeron" => $call::<aeron::Aeron>($($argument),*),
            "iceoryx2" => $call::<iceoryx::Iceoryx>($($argument),*),
            "redis" => $call::<redis::Redis<1>>($($argument),*),
            "redis pipelined" => $call::<redis::Redis<64>>($($argument),*),
            "mnesia" => $call::<mnesia::Mnesia>($($argument),*),
            "socket" => $call::<socket::Socket>($($argument),*),
            "pipe" => $call::<pipe::Pipe>($($argument),*),
            "machine" => $call::<machine::Machine>($($argument),*),
            other => panic!("no such peer: {other:?}"),
        }
    }};
}

/// All of them, in the order of the tables.
pub const NAMES: [&str; 10] = [
    "ledger",
    "bare ledger",
    "aeron",
    "iceoryx2",
    "redis",
    "redis pipelined",
    "mnesia",
    "socket",
    "pipe",
    "machine",
];
