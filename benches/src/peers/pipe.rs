//! A named pipe for each receiver.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use nix::sys::stat::Mode;

use super::socket::{Writing, fill};
use super::{Missing, Never, Peer, Place, Receiver, Wait};

pub struct Pipe;

impl Peer for Pipe {
    type Sender = Writing<File>;
    type Receiver = Reading;
    type Past = Never;

    fn lacks(place: &Place) -> Option<Missing> {
        let many = (place.senders > 1).then_some(Missing::NoSuchThing(
            "nobody can be stopped within a write of so few bytes",
        ));
        Missing::from_hand_to_hand(place).or(many)
    }

    fn sender(place: &Place) -> Writing<File> {
        let open = |n| OpenOptions::new().write(true).open(path(place, n));
        Writing(
            (0..place.receivers)
                .map(|n| open(n).expect("somebody reads"))
                .collect(),
        )
    }

    fn receiver(place: &Place, n: usize) -> Reading {
        let path = path(place, n);
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).expect("a path of our own");
        let is_spinning = place.wait == Wait::Spinning;
        // Opened for writing as well: else this waits for a writer.
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        options.custom_flags(if is_spinning { libc::O_NONBLOCK } else { 0 });
        Reading {
            pipe: options.open(path).expect("just made"),
            payload: vec![0; place.len],
        }
    }

    fn past(_: &Place) -> Never {
        unreachable!("it keeps nothing")
    }
}

fn path(place: &Place, n: usize) -> PathBuf {
    place.dir.join(format!("{}-{n}.pipe", place.topic))
}

pub struct Reading {
    pipe: File,
    payload: Vec<u8>,
}

impl Receiver for Reading {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) {
        fill(&mut self.pipe, &mut self.payload);
        read(&self.payload);
    }
}
