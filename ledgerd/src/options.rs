//! Every limit of an instance, with its default.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use ledger_client::place;
use ledger_shm::control::{FIRST_LEN_MAX, Sizes};
use ledger_shm::entry::{LIMIT_MAX, Limits};
use ledger_shm::format::{CONTROL_LEN, SEGMENT_LEN_MAX, SEGMENT_LEN_MIN};
use ledger_shm::segment::Geometry;
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

use crate::StartError;
use crate::archive::{FileSystem, KernelFileSystem};
use crate::rights::Grant;

/// No file of an archive is begun anew before it is so long, or later than it is so
/// long.
const FILE_LEN_MIN: usize = 64 << 10;
const FILE_LEN_MAX: usize = 1 << 30;

/// How an instance is run.
///
/// ```
/// # ledger_tests::daemon_example(|mut options| {
/// use std::time::Duration;
/// use ledger_client::Sizes;
///
/// options.memory_budget = Some(64 << 20);
/// options.sizes = Sizes { first_len: Some(64 << 10), ..Sizes::default() };
/// options.idle_close_after = Duration::from_secs(5);
/// let daemon = ledgerd::Daemon::start(options)?;
/// # Ok(()) });
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// The instance's name.
    pub instance: String,
    /// Where the socket lies. Default: [`place::runtime_dir`].
    pub runtime_dir: PathBuf,
    /// Whether contexts that are made from now on outlive their memory. Default: yes.
    pub durability: Durability,
    /// Where archives lie, each instance's in a directory of its name. Default:
    /// [`place::state_dir`].
    pub state_dir: PathBuf,
    /// What archives change on the disk with, for as long as a daemon runs. Default: the
    /// kernel's file systems.
    pub file_system: Arc<dyn FileSystem>,
    /// How much of archived contexts is kept. Default: all.
    pub retention: Retention,
    /// Bytes of a file of the archive after which the next one is begun: 64 KiB to 1 GiB.
    /// Files are finished earlier when their memory is wanted. Default: 64 MiB.
    pub archive_file_len: usize,
    /// Bytes of memory the instance may commit. Default: half of what the
    /// memory file system has free when the daemon starts.
    pub memory_budget: Option<u64>,
    /// How large the segments of contexts are that say nothing else. Default:
    /// first segment 16 KiB; spares from 1 MiB to 64 MiB, never more than 1/16
    /// of the budget; window a quarter of the budget, and, when that is spent,
    /// as many contexts as have no window of their own share half of it evenly.
    pub sizes: Sizes,
    /// What holds for contexts of some names; the first that fits counts.
    pub context_rules: Vec<ContextRules>,
    /// What an entry may weigh in contexts that are made from now on; those that
    /// exist keep theirs. Default: payload 4 MiB, metadata 64 KiB; at most
    /// [`LIMIT_MAX`](ledger_shm::entry::LIMIT_MAX) each.
    pub limits: Limits,
    /// What others than root and the owner may do. Default: nothing.
    pub rights: Vec<Grant>,
    /// Contexts that there may be at once. Default: 1 000 000.
    pub contexts_max: usize,
    /// Clients that may be connected at once. Default: 10 000.
    pub clients_max: usize,
    /// Of these, clients of one uid other than root and the owner; never more than half.
    /// Default: 1000.
    pub clients_max_per_uid: usize,
    /// Bytes that have left the window and that processes of one uid, other than
    /// root and the owner, may still map; who holds as much gets nothing more.
    /// Default: 1/8 of the budget.
    pub held_max: Option<u64>,
    /// How long after its last appender left a context gives up its spares.
    /// Default: 60 s.
    pub idle_close_after: Duration,
}

impl Options {
    /// Whether rights are given to any uid.
    pub(crate) fn has_other_uids(&self) -> bool {
        self.rights.iter().any(Grant::names_some_uid)
    }

    /// What is said about contexts of this name.
    fn rules_of(&self, name: &str) -> Option<&ContextRules> {
        let fits = |of: &&ContextRules| {
            let mut names = of.names.iter();
            names.any(|pattern| WildMatch::new(pattern).matches(name))
        };
        self.context_rules.iter().find(fits)
    }

    /// What is said about the sizes of a context of this name, beside what
    /// whoever makes it says.
    pub(crate) fn sizes_of(&self, name: &str) -> Sizes {
        let own = self.rules_of(name);
        own.map_or(Sizes::default(), |of| of.sizes)
    }

    /// Whether a context of this name that is made now outlives its memory.
    pub(crate) fn durability_of(&self, name: &str) -> Durability {
        let own = self.rules_of(name).and_then(|of| of.durability);
        own.unwrap_or(self.durability)
    }

    /// Whether any context that is made now may outlive its memory.
    pub(crate) fn may_archive(&self) -> bool {
        let own = self.context_rules.iter().filter_map(|of| of.durability);
        own.chain([self.durability])
            .any(|durability| durability == Durability::Archive)
    }

    /// How much of an archived context of this name is kept.
    pub(crate) fn retention_of(&self, name: &str) -> Retention {
        let own = self.rules_of(name).map(|of| of.retention);
        own.unwrap_or_default().or(self.retention)
    }

    /// All that is said about how much is kept.
    pub(crate) fn retentions(&self) -> impl Iterator<Item = Retention> {
        let own = self.context_rules.iter().map(|of| of.retention);
        own.chain([self.retention])
    }

    /// Whether a daemon can be run with them.
    pub(crate) fn check(&self) -> Result<(), StartError> {
        for (what, given) in [
            ("the largest payload", self.limits.payload_len_max),
            ("the largest metadata", self.limits.metadata_len_max),
        ] {
            let max = LIMIT_MAX;
            if given > max {
                return Err(StartError::LimitTooLarge { what, given, max });
            }
        }
        let (given, min, max) = (self.archive_file_len, FILE_LEN_MIN, FILE_LEN_MAX);
        if !(min..=max).contains(&given) {
            return Err(StartError::InvalidFileLen { given, min, max });
        }
        self.sizes.check()?;
        for of in &self.context_rules {
            of.sizes.check()?;
        }
        let given = self.memory_budget.unwrap_or(u64::MAX);
        let first = Geometry::of_len(Lengths::new(Sizes::default(), self).first);
        let min = (CONTROL_LEN + first.segment_len) as u64;
        if given < min {
            return Err(StartError::BudgetTooSmall { given, min });
        }
        Ok(())
    }

    /// The defaults, for an instance of this name.
    ///
    /// ```
    /// let options = ledgerd::Options::new("tests");
    /// assert_eq!(options.durability, ledgerd::Durability::Archive);
    /// assert_eq!(options.contexts_max, 1_000_000);
    /// ```
    pub fn new(instance: impl Into<String>) -> Options {
        let uid = nix::unistd::geteuid().as_raw();
        Options {
            instance: instance.into(),
            runtime_dir: place::runtime_dir(uid),
            durability: Durability::Archive,
            state_dir: place::state_dir(),
            file_system: Arc::new(KernelFileSystem),
            retention: Retention::default(),
            archive_file_len: 64 << 20,
            memory_budget: None,
            sizes: Sizes::default(),
            context_rules: Vec::new(),
            limits: Limits::default(),
            rights: Vec::new(),
            contexts_max: 1_000_000,
            clients_max: 10_000,
            clients_max_per_uid: 1000,
            held_max: None,
            idle_close_after: Duration::from_secs(60),
        }
    }
}

/// Whether a context outlives its memory.
///
/// ```
/// # ledger_tests::daemon_example(|mut options| {
/// use ledgerd::{Daemon, Durability};
///
/// options.durability = Durability::Memory;
/// let daemon = Daemon::start(options)?;
/// # Ok(()) });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Durability {
    /// It is in memory only.
    Memory,
    /// It is written to files, a moment later than it is appended.
    Archive,
}

/// How much of archived contexts is kept: at least so much, the latest of it. What is
/// older goes in whole files, the oldest first, as soon as one of these lets it; the last
/// file stays. `None` says nothing, and the largest number that all of it is kept.
///
/// ```
/// # ledger_tests::daemon_example(|mut options| {
/// use std::time::Duration;
/// use ledgerd::{ContextRules, Daemon, Retention};
///
/// options.retention = Retention {
///     bytes: Some(10 << 30),
///     age: Some(Duration::from_secs(30 * 24 * 3600)),
///     ..Retention::default()
/// };
/// let all = Retention { bytes: Some(u64::MAX), age: Some(Duration::MAX), ..options.retention };
/// options.context_rules = vec![ContextRules::new(["audit"]).retention(all)];
/// let daemon = Daemon::start(options)?;
/// # Ok(()) });
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Entries.
    pub entries: Option<u64>,
    /// Bytes of files.
    pub bytes: Option<u64>,
    /// Time since they were appended, by the wall clock.
    pub age: Option<Duration>,
}

impl Retention {
    /// These limits, and for those that say nothing the others.
    pub(crate) fn or(self, others: Retention) -> Retention {
        Retention {
            entries: self.entries.or(others.entries),
            bytes: self.bytes.or(others.bytes),
            age: self.age.or(others.age),
        }
    }

    /// Whether anything may go.
    pub(crate) fn is_limited(self) -> bool {
        let is_number = |number: Option<u64>| number.is_some_and(|number| number < u64::MAX);
        let has_age = self.age.is_some_and(|age| age < Duration::MAX);
        is_number(self.entries) || is_number(self.bytes) || has_age
    }
}

/// What holds for contexts of some names; what is not said is as for all.
///
/// ```
/// # ledger_tests::daemon_example(|mut options| {
/// use ledger_client::Sizes;
/// use ledgerd::{ContextRules, Durability};
///
/// let large = Sizes { window_len: Some(8 << 20), ..Sizes::default() };
/// options.context_rules = vec![
///     ContextRules::new(["scratch-*"]).durability(Durability::Memory),
///     ContextRules::new(["traces-*"]).sizes(large),
/// ];
/// # Ok(()) });
/// ```
#[derive(Clone, Debug)]
pub struct ContextRules {
    names: Vec<String>,
    sizes: Sizes,
    durability: Option<Durability>,
    retention: Retention,
}

impl ContextRules {
    /// For contexts of these names, in which `*` stands for any characters and `?` for
    /// one; nothing is said about them yet.
    ///
    /// ```
    /// let rules = ledgerd::ContextRules::new(["loan-*", "traces"]);
    /// ```
    pub fn new(names: impl IntoIterator<Item = impl Into<String>>) -> ContextRules {
        ContextRules {
            names: names.into_iter().map(Into::into).collect(),
            sizes: Sizes::default(),
            durability: None,
            retention: Retention::default(),
        }
    }

    /// How large their segments are.
    ///
    /// ```
    /// use ledger_client::Sizes;
    ///
    /// let busy = Sizes { first_len: Some(1 << 20), ..Sizes::default() };
    /// let rules = ledgerd::ContextRules::new(["loan-*"]).sizes(busy);
    /// ```
    pub fn sizes(mut self, sizes: Sizes) -> ContextRules {
        self.sizes = sizes;
        self
    }

    /// Whether those that are made from now on outlive their memory.
    ///
    /// ```
    /// use ledgerd::{ContextRules, Durability};
    ///
    /// let rules = ContextRules::new(["scratch-*"]).durability(Durability::Memory);
    /// ```
    pub fn durability(mut self, durability: Durability) -> ContextRules {
        self.durability = Some(durability);
        self
    }

    /// How much of them is kept, where they outlive their memory.
    ///
    /// ```
    /// use ledgerd::{ContextRules, Retention};
    ///
    /// let last_million = Retention { entries: Some(1_000_000), ..Retention::default() };
    /// let rules = ContextRules::new(["traces-*"]).retention(last_million);
    /// ```
    pub fn retention(mut self, retention: Retention) -> ContextRules {
        self.retention = retention;
        self
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
