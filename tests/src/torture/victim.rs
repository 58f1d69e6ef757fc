//! A process that is brought to an instruction, and what becomes of it there.

use nix::sys::signal::Signal;

use crate::Peer;
use crate::traced::{Traced, Way};

/// A process between two markers.
#[derive(Debug)]
pub struct Victim {
    // First, so that whoever is traced goes on before anybody waits for its end.
    traced: Option<Traced>,
    /// What it is.
    pub peer: Peer,
}

impl Victim {
    /// One that nobody has stopped yet.
    pub fn new(peer: Peer) -> Victim {
        Victim { traced: None, peer }
    }

    /// Has it begin what it is told, and stops it at the first marker.
    ///
    /// # Panics
    ///
    /// If it has none.
    pub fn begin(&mut self, command: &str) {
        let traced = self.peer.traced();
        self.peer.tell(command);
        assert!(matches!(traced.run_to_marker(), Way::Marker(_)));
        self.traced = Some(traced);
    }

    /// It, where it stands.
    ///
    /// # Panics
    ///
    /// If it stands nowhere.
    pub fn traced(&self) -> &Traced {
        self.traced.as_ref().expect("it stands somewhere")
    }

    /// Kills it where it stands.
    pub fn kill(self) {
        // Whoever traces it waits for its end, too.
        self.peer.signal(Signal::SIGKILL);
        self.peer.kill();
    }

    /// Stops all of its threads, without another instruction of this one.
    pub fn freeze(&mut self) {
        // Pending before it is let go.
        self.peer.signal(Signal::SIGSTOP);
        self.release();
        self.peer.wait_for_state(&['T']);
    }

    /// Lets it go on by itself.
    pub fn release(&mut self) {
        if let Some(traced) = self.traced.take() {
            traced.release();
        }
    }

    /// Lets a frozen one go on, and returns what it answers.
    pub fn thaw(&mut self) -> String {
        self.peer.signal(Signal::SIGCONT);
        self.peer.hear()
    }
}
