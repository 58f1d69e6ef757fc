//! A Unix stream socket for each receiver: payloads of a length that both know.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use super::{Missing, Never, Peer, Place, Receiver, Sender, Wait};

pub struct Socket;

impl Peer for Socket {
    type Sender = Writing<UnixStream>;
    type Receiver = Accepting;
    type Past = Never;

    fn lacks(place: &Place) -> Option<Missing> {
        let many = (place.senders > 1).then_some(Missing::NoSuchThing("goes from one to one"));
        Missing::from_hand_to_hand(place).or(many)
    }

    fn sender(place: &Place) -> Writing<UnixStream> {
        let connect = |n| UnixStream::connect(path(place, n)).expect("somebody listens");
        Writing((0..place.receivers).map(connect).collect())
    }

    fn receiver(place: &Place, n: usize) -> Accepting {
        let listener = UnixListener::bind(path(place, n)).expect("a path of our own");
        Accepting {
            listener,
            stream: None,
            wait: place.wait,
            payload: vec![0; place.len],
        }
    }

    fn past(_: &Place) -> Never {
        unreachable!("it keeps nothing")
    }
}

fn path(place: &Place, n: usize) -> PathBuf {
    place.dir.join(format!("{}-{n}.sock", place.topic))
}

/// Writes each payload to all.
pub struct Writing<W>(pub Vec<W>);

impl<W: Write> Sender for Writing<W> {
    fn send(&mut self, payload: &[u8]) {
        for stream in &mut self.0 {
            stream.write_all(payload).expect("somebody reads");
        }
    }
}

/// Accepts when it is asked for something: until then nobody may have connected.
pub struct Accepting {
    listener: UnixListener,
    stream: Option<UnixStream>,
    wait: Wait,
    payload: Vec<u8>,
}

impl Receiver for Accepting {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) {
        let stream = self.stream.get_or_insert_with(|| {
            let (stream, _) = self.listener.accept().expect("a connection");
            let is_spinning = self.wait == Wait::Spinning;
            stream.set_nonblocking(is_spinning).expect("a socket");
            stream
        });
        fill(stream, &mut self.payload);
        read(&self.payload);
    }
}

/// Reads until it is full, again and again if there is nothing yet.
pub fn fill(stream: &mut impl Read, mut payload: &mut [u8]) {
    while !payload.is_empty() {
        match stream.read(payload) {
            Ok(0) => panic!("nobody writes any more"),
            Ok(len) => payload = &mut payload[len..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::hint::spin_loop();
            }
            Err(error) => panic!("{error}"),
        }
    }
}
