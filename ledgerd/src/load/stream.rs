//! Where a client writes a snapshot, and reads what came of it.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use ledger_client::wire::LoadOutcome;

/// A client that is silent for so long is given up.
const SILENCE_MAX: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Stream(UnixStream);

impl Stream {
    pub(super) fn new(stream: UnixStream) -> io::Result<Stream> {
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        Ok(Stream(stream))
    }

    /// Says what came of it, to a client that may be gone.
    pub(super) fn say(mut self, outcome: &LoadOutcome) {
        // Whoever still writes is not read any more. It fits into any socket's buffer.
        let _ = self.0.shutdown(Shutdown::Read);
        let _ = self.0.set_nonblocking(true);
        let _ = self.0.write_all(&outcome.encode());
    }
}

impl Read for &Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match (&self.0).read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing came for {} s", SILENCE_MAX.as_secs()),
            )),
            outcome => outcome,
        }
    }
}
