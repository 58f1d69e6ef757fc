//! Where a client writes a snapshot, and reads what came of it.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ledger_client::wire::LoadOutcome;

/// A client that is silent for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Stream {
    stream: UnixStream,
    silence_max: Duration,
}

impl Stream {
    pub(super) fn new(stream: UnixStream) -> io::Result<Stream> {
        Stream::with_silence(stream, SILENCE_MAX)
    }

    fn with_silence(stream: UnixStream, silence_max: Duration) -> io::Result<Stream> {
        stream.set_read_timeout(Some(silence_max))?;
        Ok(Stream {
            stream,
            silence_max,
        })
    }

    /// Says what came of it, to a client that may be gone.
    pub(super) fn say(mut self, outcome: &LoadOutcome) {
        // Whoever still writes is not read any more. It fits into any socket's buffer.
        let _ = self.stream.shutdown(Shutdown::Read);
        let _ = self.stream.set_nonblocking(true);
        let _ = self.stream.write_all(&outcome.encode());
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (&self.stream).read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing came for {} s", self.silence_max.as_secs_f64()),
            )),
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut stream: &Stream) -> io::Result<usize> {
        stream.read(&mut [0; 8])
    }

    #[test]
    fn a_client_that_is_silent_is_told_from_one_that_is_gone() {
        let (ours, mut theirs) = UnixStream::pair().expect("two ends");
        let mut stream = Stream::with_silence(ours, Duration::from_millis(1)).expect("a socket");
        theirs.write_all(b"six of").expect("room");
        assert_eq!(read(&stream).expect("it is there"), 6);
        let silent = read(&stream).expect_err("nothing comes");
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        assert!(silent.to_string().contains("0.001 s"), "{silent}");
        // Who goes without having read everything resets the connection (unix(7)).
        stream.stream.write_all(b"unread").expect("room");
        drop(theirs);
        let gone = read(&stream).expect_err("it is gone");
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionReset);
    }
}
