//! Redis Streams over a Unix socket, in memory only.

use std::collections::VecDeque;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use redis::Connection;
use redis::streams::StreamReadReply;

use crate::child::Running;

use super::{Host, Missing, Peer, Place, Receiver, Sender, Wait};

pub struct Redis;

/// Entries that a stream keeps, about: what is older has been received.
const KEPT: usize = 100_000;
const KEPT_OF_LARGE: usize = 2_000;

impl Peer for Redis {
    const IS_SLOW: bool = true;
    type Sender = Adding;
    type Receiver = Reading;

    fn host(dir: &Path) -> Result<Host, Missing> {
        let socket = dir.join("redis.sock");
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
            kept: if place.len >= 16 << 10 {
                KEPT_OF_LARGE
            } else {
                KEPT
            },
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
    kept: usize,
}

impl Sender for Adding {
    fn send(&mut self, payload: &[u8]) {
        let mut command = redis::cmd("XADD");
        command
            .arg(&self.topic)
            .arg("MAXLEN")
            .arg("~")
            .arg(self.kept);
        let added = command.arg("*").arg("p").arg(payload);
        added.exec(&mut self.connection).expect("it is added");
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
}
