//! The line to the daemon: one connection at a time, made again when it ends.
//!
//! Whoever asks holds the line until it is answered, and a daemon that is
//! stopped may take seconds. Which connection there is can be looked up at any
//! time, by those who must not wait.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ledger_shm::socket;

use crate::connection::Connection;
use crate::error::ConnectError;
use crate::wire::{Reply, Request, SILENCE};

/// Longer than it takes a daemon that runs to greet.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one that did not answer is given when it is tried again, doubled
/// each time it still does not: whoever tries has other work.
const GREETING_TIMEOUT_MIN: Duration = Duration::from_millis(50);

/// What the daemon answered, and over which connection.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) reply: Reply,
    pub(crate) fd: Option<OwnedFd>,
    pub(crate) connection: u64,
    /// A daemon was asked the same that died without an answer: perhaps it had done it.
    pub(crate) is_second: bool,
}

#[derive(Debug)]
pub(crate) struct Line {
    socket: PathBuf,
    owner_uid: u32,
    /// Held while the daemon is asked.
    talk: Mutex<Talk>,
    /// Held for moments.
    current: Mutex<Current>,
}

#[derive(Debug, Default)]
struct Talk {
    connection: Option<Connection>,
    silence: Option<Silence>,
}

/// The daemon just did not answer.
#[derive(Clone, Copy, Debug)]
struct Silence {
    /// Until then it is taken not to: not everybody in this process shall wait
    /// for it in turn.
    until: Instant,
    /// How long it is given then.
    greeting_timeout: Duration,
}

/// The connection as it can be looked up at any time.
#[derive(Debug, Default)]
struct Current {
    /// How many connections there were.
    number: u64,
    /// The last one's, while it lasts.
    socket: Option<Arc<OwnedFd>>,
    is_greeted: bool,
    /// Counts what happens to it.
    changes: u64,
    /// There will be no other one.
    is_cut: bool,
}

impl Current {
    fn begin(&mut self, socket: OwnedFd) {
        self.number += 1;
        self.socket = Some(Arc::new(socket));
        self.is_greeted = false;
    }

    /// Whoever still waits for something over it is told that it has ended.
    fn end(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket::shut_down(&socket);
            self.changes += 1;
        }
    }
}

impl Talk {
    /// Takes note of how it went to ask the daemon.
    fn note(&mut self, error: Option<&ConnectError>) {
        let is_silent = matches!(error, Some(ConnectError::Unanswered { .. }));
        self.silence = is_silent.then(|| Silence {
            until: Instant::now() + SILENCE,
            greeting_timeout: self.silence.map_or(GREETING_TIMEOUT_MIN, |silence| {
                (silence.greeting_timeout * 2).min(GREETING_TIMEOUT)
            }),
        });
    }

    fn is_silent(&self) -> bool {
        self.silence
            .is_some_and(|silence| Instant::now() < silence.until)
    }

    fn greeting_timeout(&self) -> Duration {
        self.silence
            .map_or(GREETING_TIMEOUT, |silence| silence.greeting_timeout)
    }
}

impl Line {
    /// A line to the daemon of this uid that listens at this socket, or should.
    pub(crate) fn new(socket: PathBuf, owner_uid: u32) -> Line {
        Line {
            socket,
            owner_uid,
            talk: Mutex::default(),
            current: Mutex::default(),
        }
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.talk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connects if there is no connection, without asking anything.
    pub(crate) fn connect(&self, greeting_timeout: Option<Duration>) -> Result<(), ConnectError> {
        let mut talk = self.talk();
        if talk.connection.is_some() && self.connection().is_some() {
            return Ok(());
        }
        self.check_silence(&talk)?;
        let timeout = greeting_timeout.unwrap_or_else(|| talk.greeting_timeout());
        let outcome = self.open(timeout);
        talk.note(outcome.as_ref().err());
        talk.connection = Some(outcome?);
        Ok(())
    }

    fn check_silence(&self, talk: &Talk) -> Result<(), ConnectError> {
        if talk.is_silent() {
            let socket = self.socket.clone();
            return Err(ConnectError::Unanswered { socket });
        }
        Ok(())
    }

    fn open(&self, greeting_timeout: Duration) -> Result<Connection, ConnectError> {
        let mut connection = Connection::open(&self.socket, self.owner_uid, greeting_timeout)?;
        let socket = connection.as_fd().try_clone_to_owned();
        let socket = socket.map_err(ConnectError::Setup)?;
        let mut current = self.current();
        if current.is_cut {
            let source = io::ErrorKind::ConnectionAborted.into();
            return Err(ConnectError::unreached(&self.socket, source));
        }
        current.begin(socket);
        drop(current);
        let outcome = connection.greet();
        let mut current = self.current();
        match outcome {
            Ok(()) => {
                current.is_greeted = true;
                current.changes += 1;
                Ok(connection)
            }
            Err(error) => {
                current.end();
                Err(error)
            }
        }
    }

    /// Asks the daemon, connecting first if need be.
    pub(crate) fn ask(&self, request: &Request) -> Result<Answer, ConnectError> {
        let mut talk = self.talk();
        self.check_silence(&talk)?;
        let outcome = self.ask_on(&mut talk, request);
        talk.note(outcome.as_ref().err());
        if talk.connection.is_none() {
            self.current().end();
        }
        outcome
    }

    fn ask_on(&self, talk: &mut Talk, request: &Request) -> Result<Answer, ConnectError> {
        let mut is_second = false;
        if let Some(mut connection) = talk.connection.take() {
            match connection.ask(request) {
                Ok(answer) => return Ok(self.answered(talk, connection, answer, is_second)),
                // The daemon at its other end is dead. Perhaps there is a new one, which
                // finds what it did of this.
                Err(ConnectError::DaemonDown { .. }) => {
                    is_second = connection.is_sent();
                    self.current().end();
                }
                // The next answer could belong to this question: not kept.
                Err(error) => return Err(error),
            }
        }
        let mut connection = self.open(talk.greeting_timeout())?;
        let answer = connection.ask(request)?;
        Ok(self.answered(talk, connection, answer, is_second))
    }

    fn answered(
        &self,
        talk: &mut Talk,
        connection: Connection,
        (reply, fd): (Reply, Option<OwnedFd>),
        is_second: bool,
    ) -> Answer {
        talk.connection = Some(connection);
        Answer {
            reply,
            fd,
            connection: self.current().number,
            is_second,
        }
    }

    pub(crate) fn protocol(&self, what: &'static str) -> ConnectError {
        let socket = self.socket.clone();
        ConnectError::Protocol { socket, what }
    }

    /// Which of this process's connections is there now, if one is. The daemon
    /// only knows what was opened over that one.
    pub(crate) fn connection(&self) -> Option<u64> {
        let current = self.current();
        let is_there = current.is_greeted && current.socket.is_some();
        is_there.then_some(current.number)
    }

    /// The number of the connection, and its socket if there is one.
    pub(crate) fn socket(&self) -> (u64, Option<Arc<OwnedFd>>) {
        let current = self.current();
        (current.number, current.socket.clone())
    }

    /// Grows whenever a connection is made or ends.
    pub(crate) fn changes(&self) -> u64 {
        self.current().changes
    }

    /// Takes this connection for ended, unless there has been another since.
    /// Whoever asks next finds out by itself.
    pub(crate) fn hang_up(&self, connection: u64) {
        let mut current = self.current();
        if current.number == connection {
            current.end();
        }
    }

    /// Ends the connection, and with it the wait of whoever asks over it. There
    /// will be no other one.
    pub(crate) fn cut(&self) {
        let mut current = self.current();
        current.is_cut = true;
        current.end();
    }
}
