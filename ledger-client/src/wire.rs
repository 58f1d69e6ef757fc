//! What client and daemon say to each other.
//!
//! A connection begins with one fixed greeting in each direction, readable by
//! every version there will ever be. After it, each request is one packet, and
//! each is answered by one packet: small rkyv archives, validated on a copy. An answer is
//! read before the next question is asked; who does otherwise is let go.
//! Descriptors travel from the daemon to the client only.
#![allow(
    missing_docs,
    reason = "the derives make archived twins of documented fields"
)]

use std::fmt;
use std::time::Duration;

use rkyv::rancor::Error;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use ledger_shm::Full;
use ledger_shm::control::Sizes;
use ledger_shm::format::{ARCHIVE_FORMAT, FORMAT_VERSION};

/// Version of the messages in this file.
///
/// ```
/// use ledger_client::wire::{Hello, WIRE_VERSION};
///
/// assert_eq!(Hello::OURS.wire, WIRE_VERSION);
/// ```
pub const WIRE_VERSION: u32 = 1;

/// How long a client pauses at most before it looks again for a daemon that is gone: who
/// had a context open is back by then.
///
/// ```
/// use ledger_client::wire::RECONNECT_PAUSE_MAX;
///
/// assert!(RECONNECT_PAUSE_MAX < std::time::Duration::from_secs(1));
/// ```
pub const RECONNECT_PAUSE_MAX: Duration = Duration::from_millis(500);

/// How long a client does not ask a daemon again that did not answer.
///
/// ```
/// use ledger_client::wire::{RECONNECT_PAUSE_MAX, SILENCE};
///
/// assert!(SILENCE > RECONNECT_PAUSE_MAX);
/// ```
pub const SILENCE: Duration = Duration::from_secs(1);

const GREETING: [u8; 8] = *b"LEDGWIRE";

/// The first packet in each direction: fixed bytes, not an archive.
///
/// ```
/// use ledger_client::wire::Hello;
///
/// let packet = Hello::OURS.encode();
/// assert_eq!(Hello::decode(&packet), Some(Hello::OURS));
/// assert_eq!(Hello::decode(b"hello"), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// [`WIRE_VERSION`] of the sender.
    pub wire: u32,
    /// Its version of the objects in memory.
    pub format: u32,
    /// Its rkyv layout.
    pub archive: u32,
}

impl fmt::Display for Hello {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Hello {
            wire,
            format,
            archive,
        } = self;
        write!(
            f,
            "message version {wire}, format version {format}, rkyv layout {archive:#x}"
        )
    }
}

impl Hello {
    /// What this program speaks.
    pub const OURS: Hello = Hello {
        wire: WIRE_VERSION,
        format: FORMAT_VERSION,
        archive: ARCHIVE_FORMAT,
    };

    /// The packet.
    pub fn encode(self) -> [u8; 20] {
        let mut bytes = [0; 20];
        bytes[..8].copy_from_slice(&GREETING);
        bytes[8..12].copy_from_slice(&self.wire.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.format.to_le_bytes());
        bytes[16..].copy_from_slice(&self.archive.to_le_bytes());
        bytes
    }

    /// The greeting in a packet, if it is one.
    pub fn decode(packet: &[u8]) -> Option<Hello> {
        let numbers = packet.strip_prefix(&GREETING)?;
        let (numbers, rest) = numbers.as_chunks::<4>();
        let [wire, format, archive] = numbers else {
            return None;
        };
        let number = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
        let hello = Hello {
            wire: number(wire),
            format: number(format),
            archive: number(archive),
        };
        rest.is_empty().then_some(hello)
    }
}

/// What a client asks.
///
/// ```
/// use ledger_client::wire::Request;
///
/// let packet = Request::List { after: String::new() }.encode();
/// assert_eq!(Request::decode(&packet), Some(Request::List { after: String::new() }));
/// assert_eq!(Request::decode(&packet[1..]), None);
/// ```
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum Request {
    /// Attach to a context.
    Open {
        /// Its name.
        name: String,
        /// The epoch it must have: set when a client attaches again.
        epoch: Option<[u8; 16]>,
        /// Make it, with these sizes, if there is none.
        create: Option<Sizes>,
        /// Memory to append to is wanted.
        append: bool,
    },
    /// A spare for a record of this length is wanted.
    Spares {
        /// Which context.
        epoch: [u8; 16],
        /// Bytes of the largest record that found no room; 0 for any.
        record_len: u64,
    },
    /// An object of a context that the client opened is wanted by descriptor:
    /// its uid is not the owner's, and may not open it by name.
    Object {
        /// Which context.
        epoch: [u8; 16],
        /// Which part; its control object if none.
        part: Option<u64>,
        /// For writing.
        append: bool,
    },
    /// The finished file of a context that the client opened that begins at, or last
    /// before, this seq is wanted by descriptor; for 0 the first one.
    File {
        /// Which context.
        epoch: [u8; 16],
        /// Which entry.
        seq: u64,
    },
    /// What is in a context now is to be on stable storage soon.
    Sync {
        /// Which context.
        epoch: [u8; 16],
    },
    /// The names of contexts that the client may read, in order.
    List {
        /// Those after this one.
        after: String,
    },
    /// A context is to be gone for good: its memory and its files.
    Drop {
        /// Its name.
        name: String,
    },
    /// A snapshot is to be loaded: the client writes it to the socket that it is given
    /// with the answer, shuts that down for writing, and reads a [`LoadOutcome`].
    Load {
        /// What the context is called.
        name: String,
        /// Not if there is one of that name.
        only_new: bool,
    },
    /// How the daemon does.
    Status,
    /// The client is done with a context that it opened.
    Release {
        /// Which context.
        epoch: [u8; 16],
        /// Whether it was opened for appending.
        append: bool,
    },
    /// What keeps contexts that the client may read from being archived just now.
    Troubles {
        /// Of this one only.
        name: Option<String>,
    },
}

/// What the daemon answers.
///
/// ```
/// use ledger_client::wire::{Refusal, Reply};
///
/// let packet = Reply::Refused(Refusal::Budget).encode();
/// assert_eq!(Reply::decode(&packet), Some(Reply::Refused(Refusal::Budget)));
/// ```
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum Reply {
    /// Attached. The bell's descriptor comes with it.
    Opened {
        /// The context's epoch.
        epoch: [u8; 16],
        /// Whether this request made it.
        created: bool,
        /// The part in which the log currently ends.
        current: u64,
        /// Who the client is: what its watchers enter in the bell's roster.
        client: u64,
    },
    /// The parts that no seal has named yet.
    Spares {
        /// The part in which the log currently ends.
        current: u64,
        /// Their numbers.
        parts: Vec<u64>,
    },
    /// The object's descriptor comes with it.
    Object,
    /// The file's descriptor comes with it.
    File {
        /// The seq of its first entry.
        first_seq: u64,
    },
    /// There is no such file.
    NoFile,
    /// It will be.
    Syncing,
    /// Some of the names; ask for those after the last one until there is none.
    Names(Vec<String>),
    /// It is gone.
    Dropped,
    /// The socket comes with it.
    Load,
    /// How the daemon does.
    Status(Status),
    /// Done.
    Released,
    /// Not done.
    Refused(Refusal),
    /// What keeps contexts from being archived, as many as one packet takes.
    Troubles(Vec<Trouble>),
}

/// What keeps a context from being written behind. Appends go on as long as memory lasts,
/// and the daemon tries again by itself.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// for trouble in ledger_client::admin::troubles(&ledger, None)? {
///     println!("{}: {}", trouble.context, trouble.error);
/// }
/// # Ok(()) });
/// ```
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Trouble {
    /// The context's name.
    pub context: String,
    /// What went wrong when it was last tried.
    pub error: String,
    /// Since when it does, nanoseconds since 1970.
    pub since_ns: u64,
}

/// How a daemon does, at one moment.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// let status = ledger.status()?;
/// println!("process {}, {} contexts", status.pid, status.contexts);
/// # Ok(()) });
/// ```
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[rkyv(derive(Debug))]
#[non_exhaustive]
pub struct Status {
    /// Its release.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Nanoseconds since it started.
    pub uptime_ns: u64,
    /// Connections.
    pub clients: u64,
    /// Contexts.
    pub contexts: u64,
    /// Contexts that somebody has open.
    pub attached: u64,
    /// Contexts that are damaged.
    pub quarantined: u64,
    /// Sum of the latest seqs of contexts that somebody has open.
    pub entries: u64,
    /// Bytes of memory that it may commit.
    pub budget: u64,
    /// Bytes of memory that it has committed.
    pub committed: u64,
    /// Bytes that have left the window and that other uids were given and hold.
    pub held: u64,
}

/// What came of loading a snapshot.
///
/// ```
/// use ledger_client::wire::{LoadOutcome, Refusal};
///
/// let outcome = LoadOutcome::Refused(Refusal::Budget);
/// assert_eq!(LoadOutcome::decode(&outcome.encode()), Some(outcome));
/// ```
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum LoadOutcome {
    /// Every entry of the snapshot is in the context, on stable storage.
    Loaded {
        /// The context's epoch.
        epoch: [u8; 16],
        /// The snapshot's first seq.
        first_seq: u64,
        /// Its last one.
        last_seq: u64,
        /// Entries that the context did not have before.
        new_count: u64,
        /// Root of the tree over all entries.
        root: [u8; 32],
    },
    /// Nothing has changed.
    Refused(Refusal),
}

/// Why the daemon did not do what was asked.
///
/// ```
/// use ledger_client::wire::{Refusal, Reply};
///
/// let reply = Reply::Refused(Refusal::UnknownContext);
/// ```
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub enum Refusal {
    /// There is no context of that name or epoch.
    UnknownContext,
    /// The name is none.
    InvalidName(String),
    /// There is no such part, or no more.
    UnknownPart,
    /// This uid has no right to that.
    NotAllowed {
        /// The uid that the kernel says the client has.
        uid: u32,
        /// What it takes to do that, as the configuration calls it.
        right: String,
    },
    /// Somebody has the context open.
    InUse {
        /// How many.
        count: u64,
    },
    /// This uid's processes still map too much that has left the window.
    Held {
        /// Bytes that they hold.
        len: u64,
        /// Bytes that they may.
        max: u64,
    },
    /// Other uids cannot append to it, because its readers use it in place.
    ReadInPlace,
    /// There are as many as there may be.
    Limit {
        /// What of, as the configuration calls it.
        what: String,
        /// How many.
        max: u64,
    },
    /// A snapshot cannot be loaded, as the text says.
    NotLoaded(String),
    /// The context is damaged and readable only.
    Quarantined(String),
    /// The memory budget is spent.
    Budget,
    /// The memory file system is full.
    NoMemory,
    /// The daemon failed in a way that has no name here.
    Internal(String),
    /// The memory budget is spent, by what cannot be written to the archive.
    Unwritten,
}

impl Refusal {
    /// The reason an appender gives when this keeps it from getting a spare.
    pub(crate) fn as_full(&self) -> Full {
        match self {
            Refusal::Budget => Full::Budget,
            Refusal::Unwritten => Full::Unwritten,
            Refusal::NoMemory => Full::NoMemory,
            _ => Full::NoSpare,
        }
    }
}

macro_rules! packet {
    ($message:ty) => {
        impl $message {
            /// The packet.
            pub fn encode(&self) -> AlignedVec {
                rkyv::to_bytes::<Error>(self).expect("a message in memory serialises")
            }

            /// The message in a packet, if it is one.
            pub fn decode(packet: &[u8]) -> Option<$message> {
                let mut aligned = AlignedVec::<16>::with_capacity(packet.len());
                aligned.extend_from_slice(packet);
                rkyv::from_bytes::<$message, Error>(&aligned).ok()
            }
        }
    };
}

packet!(Request);
packet!(Reply);
packet!(LoadOutcome);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_are_read_and_everything_else_is_not() {
        assert_eq!(Hello::decode(&Hello::OURS.encode()), Some(Hello::OURS));
        assert_eq!(Hello::decode(&Hello::OURS.encode()[..19]), None);
        assert_eq!(Hello::decode(b""), None);
        assert_eq!(Hello::decode(b"LEDGWIRX0000000000000"), None);
    }

    #[test]
    fn what_somebody_speaks_is_named_in_full() {
        let hello = Hello {
            wire: 7,
            format: 3,
            archive: 0xab,
        };
        let named = "message version 7, format version 3, rkyv layout 0xab";
        assert_eq!(hello.to_string(), named);
    }

    #[test]
    fn appenders_are_told_what_there_is_too_little_of() {
        assert_eq!(Refusal::Budget.as_full(), Full::Budget);
        assert_eq!(Refusal::Unwritten.as_full(), Full::Unwritten);
        assert_eq!(Refusal::NoMemory.as_full(), Full::NoMemory);
        assert_eq!(Refusal::UnknownPart.as_full(), Full::NoSpare);
    }

    #[test]
    fn messages_come_back_as_they_went() {
        let request = Request::Open {
            name: "run".into(),
            epoch: Some([3; 16]),
            create: Some(Sizes {
                window_len: Some(1 << 20),
                ..Sizes::default()
            }),
            append: false,
        };
        assert_eq!(Request::decode(&request.encode()), Some(request));
        let reply = Reply::Refused(Refusal::InvalidName("why".into()));
        assert_eq!(Reply::decode(&reply.encode()), Some(reply));
    }

    #[test]
    fn cut_messages_are_refused() {
        let whole = Request::Spares {
            epoch: [9; 16],
            record_len: 77,
        }
        .encode();
        for len in 0..whole.len() {
            assert_eq!(Request::decode(&whole[..len]), None, "{len} bytes");
        }
    }
}
