//! Every limit of an instance, with its default.

use std::path::PathBuf;
use std::time::Duration;

use ledger_client::place;
use ledger_shm::control::{FIRST_LEN_MAX, Sizes};
use ledger_shm::entry::Limits;
use ledger_shm::format::{SEGMENT_LEN_MAX, SEGMENT_LEN_MIN};

/// How an instance is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The instance's name.
    pub instance: String,
    /// Where the socket lies. Default: [`place::runtime_dir`].
    pub runtime_dir: PathBuf,
    /// Bytes of memory the instance may commit. Default: half of what the
    /// memory file system has free when the daemon starts.
    pub memory_budget: Option<u64>,
    /// How large the segments of contexts are that say nothing else. Default:
    /// first segment 16 KiB; spares from 1 MiB to 64 MiB, never more than 1/16
    /// of the budget; window a quarter of the budget, and, when that is spent,
    /// as many contexts as have no window of their own share half of it evenly.
    pub sizes: Sizes,
    /// What an entry may weigh in contexts that are made from now on; those that
    /// exist keep theirs. Default: payload 4 MiB, metadata 64 KiB; at most
    /// [`LIMIT_MAX`](ledger_shm::entry::LIMIT_MAX) each.
    pub limits: Limits,
    /// How long after its last appender left a context gives up its spares.
    /// Default: 60 s.
    pub idle_close_after: Duration,
}

impl Options {
    /// The defaults, for an instance of this name.
    pub fn new(instance: impl Into<String>) -> Options {
        let uid = nix::unistd::geteuid().as_raw();
        Options {
            instance: instance.into(),
            runtime_dir: place::runtime_dir(uid),
            memory_budget: None,
            sizes: Sizes::default(),
            limits: Limits::default(),
            idle_close_after: Duration::from_secs(60),
        }
    }
}

/// How large the segments of one context are, by default or by somebody's word.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lengths {
    pub(crate) first: usize,
    pub(crate) spare_min: usize,
    pub(crate) spare_max: usize,
    /// None if nobody has said.
    pub(crate) window: Option<u64>,
}

impl Lengths {
    /// Those of a context that has said `own` about itself.
    pub(crate) fn new(own: Sizes, options: &Options) -> Lengths {
        let sizes = own.or(options.sizes);
        let segment = |len: Option<u64>, default: usize| {
            let len = len.map_or(default, |len| usize::try_from(len).unwrap_or(usize::MAX));
            len.clamp(SEGMENT_LEN_MIN, SEGMENT_LEN_MAX)
        };
        Lengths {
            first: segment(sizes.first_len, 16 << 10).min(FIRST_LEN_MAX),
            spare_min: segment(sizes.spare_len_min, 1 << 20),
            spare_max: segment(sizes.spare_len_max, 64 << 20),
            window: sizes.window_len,
        }
    }

    /// Where memory is short, spares are made as small as this.
    pub(crate) fn smallest(&self) -> usize {
        self.first.min(self.spare_min).min(self.spare_max)
    }
}
