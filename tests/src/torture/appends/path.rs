//! The ways an append can take.

/// A way that an append takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Into what is left of its block.
    Plain,
    /// Into a block that it has to take.
    NewBlock,
    /// Another appender takes the slot just before its CAS.
    SlotLost,
    /// The index has no slot left: it seals, and rolls.
    IndexFull,
    /// The data area has no room: it seals, and rolls to a part that it has mapped.
    DataFull,
    /// Another appender seals just before its CAS.
    SealLost,
    /// The log went on in parts that it has not mapped: it maps them itself.
    SuccessorLate,
    /// There is no other part, and a stopped daemon makes none.
    SuccessorMissing,
    /// There is no other part until it waits for one: from there on, it seals and rolls.
    SuccessorAwaited,
    /// More entries than share one look at the bell, and a roll among them.
    Batch,
    /// The largest payload there may be.
    LargestPayload,
    /// A watcher is asleep.
    Parked,
    /// A watcher is asleep, and is to be rung for among a batch.
    ParkedBatch,
    /// A watcher is asleep, and the data area has no room: what it sleeps for comes in the
    /// next part.
    ParkedDataFull,
    /// The daemon is dead: it seals, and rolls.
    DaemonDead,
    /// A watcher is asleep, and the daemon is dead.
    ParkedDaemonDead,
}

/// Bytes of the first part of every context here.
pub(super) const FIRST_LEN: usize = 16 << 10;
/// What a victim appends where it does not matter how much.
pub(super) const SMALL: usize = 64;
/// More than is left of the first part after [`ALMOST_ALL`].
pub(super) const LARGE: usize = 3000;
/// Fills the first part but for less than [`LARGE`].
pub(super) const ALMOST_ALL: usize = 12_000;
/// Payloads are at most this long unless a daemon is told otherwise.
const LARGEST: usize = 4 << 20;
/// Entries of a batch: its looks at the bell are after 64 and at its end.
const BATCH: usize = 100;

impl Path {
    /// All of them.
    pub const ALL: [Path; 16] = [
        Path::Plain,
        Path::NewBlock,
        Path::SlotLost,
        Path::IndexFull,
        Path::DataFull,
        Path::SealLost,
        Path::SuccessorLate,
        Path::SuccessorMissing,
        Path::SuccessorAwaited,
        Path::Batch,
        Path::Parked,
        Path::ParkedBatch,
        Path::ParkedDataFull,
        Path::DaemonDead,
        Path::ParkedDaemonDead,
        // Last: looking it through takes what little time there may be.
        Path::LargestPayload,
    ];

    /// Whether a watcher sleeps meanwhile.
    pub fn is_parked(self) -> bool {
        matches!(
            self,
            Path::Parked | Path::ParkedBatch | Path::ParkedDataFull | Path::ParkedDaemonDead
        )
    }

    /// Whether the daemon is stopped when it begins.
    pub(super) fn is_daemon_stopped(self) -> bool {
        matches!(self, Path::SuccessorMissing | Path::SuccessorAwaited)
    }

    /// Whether the daemon is dead meanwhile.
    pub fn is_daemon_dead(self) -> bool {
        matches!(self, Path::DaemonDead | Path::ParkedDaemonDead)
    }

    /// Whether the part in which the log ends is another one afterwards.
    pub(super) fn ends_part(self) -> bool {
        matches!(
            self,
            Path::IndexFull
                | Path::DataFull
                | Path::SealLost
                | Path::SuccessorAwaited
                | Path::Batch
                | Path::ParkedBatch
                | Path::ParkedDataFull
                | Path::DaemonDead
        )
    }

    /// Entries that the victim is to append.
    pub(super) fn wanted(self) -> u64 {
        match self {
            Path::Batch | Path::ParkedBatch => BATCH as u64,
            _ => 1,
        }
    }

    /// Bytes of each payload that the victim appends.
    pub(super) fn payload_len(self) -> usize {
        match self {
            Path::IndexFull => 0,
            Path::DataFull
            | Path::SealLost
            | Path::DaemonDead
            | Path::ParkedDataFull
            | Path::SuccessorLate => LARGE,
            Path::SuccessorMissing | Path::SuccessorAwaited => ALMOST_ALL,
            Path::LargestPayload => LARGEST,
            _ => SMALL,
        }
    }

    /// What the victim is told to do between two markers.
    pub(super) fn command(self) -> String {
        let how = match self {
            Path::SuccessorLate | Path::SuccessorAwaited => "marked-wait",
            Path::Batch | Path::ParkedBatch => "marked-batch",
            _ => "marked",
        };
        format!("{how} {} {}", self.wanted(), self.payload_len())
    }

    /// What somebody else appends just before the victim's first change.
    pub(super) fn interference(self) -> Option<usize> {
        match self {
            Path::SlotLost => Some(SMALL),
            Path::SealLost => Some(LARGE),
            _ => None,
        }
    }

    pub(super) fn daemon_args(self, more: &[&'static str]) -> Vec<&'static str> {
        let spare = if self == Path::LargestPayload {
            "8M"
        } else {
            "64K"
        };
        let mut args = vec!["--spare-min", spare, "--spare-max", spare];
        args.extend_from_slice(more);
        args
    }
}
