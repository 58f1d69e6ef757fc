//! Redis Streams over a Unix socket, in memory only: one command after the other's answer, or
//! many at once.

use std::any::Any;
use std::collections::VecDeque;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use redis::streams::{StreamRangeReply, StreamReadReply};
use redis::{Cmd, Connection, Pipeline};

use crate::child::Running;

use super::{Host, Missing, Past, Peer, Place, Receiver, Sender, Wait, stop};

/// With so many commands on their way before it waits for answers.
pub struct Redis<const BATCH: usize>;

/// Entries that a stream keeps, about: what is older has been received.
const KEPT: usize = 100_000;
const KEPT_OF_LARGE: usize = 2_000;

impl<const BATCH: usize> Peer for Redis<BATCH> {
    const IS_SLOW: bool = true;
    type Sender = Adding;
    type Receiver = Reading;
    type Past = Ranging;

    fn lacks(place: &Place) -> Option<Missing> {
        let is_alone = place.receivers == 0 && !place.keeps_all;
        (BATCH > 1 && !is_alone).then_some(Missing::NoSuchThing("as it is alone"))
    }

    fn host(dir: &Path) -> Result<Host, Missing> {
        let socket = dir.join(format!("redis-{BATCH}.sock"));
        let mut command = Command::new("redis-server");
        command
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(&socket)
            .stdout(Stdio::null());
        let running = Running::start(&mut command)
            .map_err(|_| Missing::NotInstalled("apt-get install redis-server".to_owned()))?;
        let address = format!("redis+unix://{}", socket.display());
        for _ in 0..500 {
            if client(&address).is_ok() {
                return Ok(Host {
                    address,
                    _running: Box::new(running),
                });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(Missing::Failed("redis-server does not answer".to_owned()))
    }

    fn sender(place: &Place) -> Adding {
        Adding {
            connection: client(&place.address).expect("it answers"),
            topic: place.topic.clone(),
            kept: match place.len {
                _ if place.keeps_all => None,
                16_384.. => Some(KEPT_OF_LARGE),
                _ => Some(KEPT),
            },
            // What is read later may be sent as fast as it goes.
            batch: if place.keeps_all { 64 } else { BATCH },
            added: 0,
            commands: Pipeline::new(),
        }
    }

    fn idle(place: &Place, count: u64) -> Box<dyn Any> {
        for n in 0..count {
            let topic = format!("{}-{n}", place.topic);
            let place = Place {
                topic,
                ..place.clone()
            };
            Self::sender(&place).send(&[0; 64]);
        }
        Box::new(())
    }

    fn past(place: &Place) -> Ranging {
        Ranging {
            connection: client(&place.address).expect("it answers"),
            topic: place.topic.clone(),
        }
    }

    fn receiver(place: &Place, _: usize) -> Reading {
        Reading {
            connection: client(&place.address).expect("it answers"),
            topic: place.topic.clone(),
            // The topic is this run's own.
            last: "0".to_owned(),
            wait: place.wait,
            read: VecDeque::new(),
        }
    }
}

fn client(address: &str) -> redis::RedisResult<Connection> {
    redis::Client::open(address)?.get_connection()
}

pub struct Adding {
    connection: Connection,
    topic: String,
    kept: Option<usize>,
    batch: usize,
    added: u64,
    commands: Pipeline,
}

/// What an entry is called whose number others have to know.
fn id(n: u64) -> String {
    format!("{}-0", n + 1)
}

impl Adding {
    fn command(&mut self, payload: &[u8]) -> Cmd {
        let mut command = redis::cmd("XADD");
        command.arg(&self.topic);
        match self.kept {
            Some(kept) => command.arg("MAXLEN").arg("~").arg(kept).arg("*"),
            None => command.arg(id(self.added)),
        };
        self.added += 1;
        command.arg("p").arg(payload);
        command
    }
}

impl Sender for Adding {
    fn send(&mut self, payload: &[u8]) {
        let command = self.command(payload);
        if self.batch == 1 {
            command.exec(&mut self.connection).expect("it is added");
            return;
        }
        self.commands.add_command(command).ignore();
        if self.commands.len() == self.batch {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.commands.is_empty() {
            let added = self.commands.exec(&mut self.connection);
            added.expect("they are added");
            self.commands.clear();
        }
    }

    /// With half a command in the socket.
    fn stop_within(&mut self, payload: &[u8]) {
        let command = self.command(payload).get_packed_command();
        let half = &command[..command.len() / 2];
        let sent = self.connection.send_packed_command(half);
        sent.expect("it listens");
        stop();
    }
}

/// Entries in one answer.
const PAGE: u64 = 1000;

pub struct Ranging {
    connection: Connection,
    topic: String,
}

impl Ranging {
    fn range(&mut self, from: u64, to: u64, read: &mut impl FnMut(&[u8])) {
        let mut command = redis::cmd("XRANGE");
        command.arg(&self.topic).arg(id(from)).arg(id(to));
        let reply: StreamRangeReply = command.query(&mut self.connection).expect("it is read");
        for entry in reply.ids {
            read(&entry.get::<Vec<u8>>("p").expect("a payload"));
        }
    }
}

impl Past for Ranging {
    fn scan(&mut self, read: &mut impl FnMut(&[u8])) {
        let (mut from, mut seen) = (0, PAGE);
        while seen == PAGE {
            seen = 0;
            self.range(from, from + PAGE - 1, &mut |payload| {
                seen += 1;
                read(payload);
            });
            from += PAGE;
        }
    }

    fn get(&mut self, n: u64, read: &mut impl FnMut(&[u8])) {
        self.range(n, n, read);
    }
}

pub struct Reading {
    connection: Connection,
    topic: String,
    last: String,
    wait: Wait,
    read: VecDeque<Vec<u8>>,
}

impl Receiver for Reading {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) {
        loop {
            if let Some(payload) = self.read.pop_front() {
                return read(&payload);
            }
            let mut command = redis::cmd("XREAD");
            command.arg("COUNT").arg(100);
            if self.wait == Wait::Parked {
                command.arg("BLOCK").arg(0);
            }
            command.arg("STREAMS").arg(&self.topic).arg(&self.last);
            let reply: StreamReadReply = command.query(&mut self.connection).expect("it is read");
            for entry in reply.keys.into_iter().flat_map(|key| key.ids) {
                self.read.push_back(entry.get("p").expect("a payload"));
                self.last = entry.id;
            }
        }
    }

    fn skip(&mut self) {
        self.read.clear();
        self.last = "$".to_owned();
    }
}
