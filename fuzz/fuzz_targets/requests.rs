//! Packets of any kind, in any order, sent to a daemon: whatever it makes of them, it
//! serves the next client.
#![no_main]

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ledger_client::Sizes;
use ledger_client::wire::{Hello, Reply, Request};
use ledger_fuzz::served::served;
use ledger_fuzz::whole::Damage;
use ledger_shm::socket::{PACKET_LEN_MAX, Packets};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Step {
    /// A connection of its own from here on.
    Connect {
        greets: bool,
    },
    /// Anything at all.
    Raw(Vec<u8>),
    Open {
        name: u8,
        creates: bool,
        sizes: [Option<u64>; 4],
        again: bool,
        append: bool,
    },
    Spares {
        record_len: u64,
    },
    Object {
        part: Option<u64>,
        append: bool,
    },
    File {
        seq: u64,
    },
    Sync,
    List {
        after: String,
    },
    Drop {
        name: u8,
    },
    Load {
        name: u8,
        only_new: bool,
        sent: Damage,
    },
    Status,
    Release {
        append: bool,
    },
    Troubles {
        name: Option<u8>,
    },
    /// The answer is not read.
    Unread,
}

/// A few names, so that they are met again; some are none.
fn name(number: u8) -> String {
    match number % 8 {
        0 => String::new(),
        1 => "n".repeat(2000),
        number => format!("{number}"),
    }
}

/// A connection, and what it knows.
struct Client {
    packets: Packets,
    epoch: [u8; 16],
    reads: bool,
}

impl Client {
    fn send(&mut self, packet: &[u8]) -> Option<(Reply, Option<OwnedFd>)> {
        self.packets.send(packet, None).ok()?;
        if !std::mem::replace(&mut self.reads, true) {
            return None;
        }
        let mut buffer = [0; PACKET_LEN_MAX];
        let packet = self.packets.receive(&mut buffer).ok()??;
        let reply = Reply::decode(packet.bytes)?;
        if let Reply::Opened { epoch, .. } = reply {
            self.epoch = epoch;
        }
        Some((reply, packet.fd))
    }
}

fuzz_target!(|steps: Vec<Step>| {
    served(|instance, _| {
        let connect = |greets: bool| {
            let packets = Packets::connect(&instance.socket(), Duration::from_millis(20));
            let mut client = Client {
                packets: packets.expect("it listens"),
                epoch: [0; 16],
                reads: true,
            };
            if greets {
                client.send(&Hello::OURS.encode());
            }
            client
        };
        let mut client = connect(true);
        for step in steps.into_iter().take(30) {
            let epoch = client.epoch;
            let request = match step {
                Step::Connect { greets } => {
                    client = connect(greets);
                    continue;
                }
                Step::Raw(packet) => {
                    client.send(&packet);
                    continue;
                }
                Step::Unread => {
                    client.reads = false;
                    continue;
                }
                Step::Open {
                    name: number,
                    creates,
                    sizes,
                    again,
                    append,
                } => Request::Open {
                    name: name(number),
                    epoch: again.then_some(epoch),
                    create: creates.then_some(Sizes {
                        first_len: sizes[0],
                        spare_len_min: sizes[1],
                        spare_len_max: sizes[2],
                        window_len: sizes[3],
                    }),
                    append,
                },
                Step::Spares { record_len } => Request::Spares { epoch, record_len },
                Step::Object { part, append } => Request::Object {
                    epoch,
                    part,
                    append,
                },
                Step::File { seq } => Request::File { epoch, seq },
                Step::Sync => Request::Sync { epoch },
                Step::List { after } => Request::List { after },
                Step::Drop { name: number } => Request::Drop { name: name(number) },
                Step::Load {
                    name: number,
                    only_new,
                    sent,
                } => {
                    let name = name(number);
                    let load = Request::Load { name, only_new };
                    if let Some((Reply::Load, Some(socket))) = client.send(&load.encode()) {
                        // Whether it reads all of it is for it to say.
                        let _ = UnixStream::from(socket).write_all(&sent.done());
                    }
                    continue;
                }
                Step::Status => Request::Status,
                Step::Release { append } => Request::Release { epoch, append },
                Step::Troubles { name: number } => Request::Troubles {
                    name: number.map(name),
                },
            };
            client.send(&request.encode());
        }
    });
});
