//! Every limit of an instance, with its default.

use std::path::PathBuf;
use std::time::Duration;

use ledger_client::place;
use ledger_shm::entry::Limits;
use ledger_shm::object::InvalidInstance;

/// How an instance is run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The instance's name. Default: `LEDGER_INSTANCE`, else `default`.
    pub instance: String,
    /// Where the socket lies. Default: [`place::runtime_dir`].
    pub runtime_dir: PathBuf,
    /// Bytes of memory the instance may commit. Default: half of what the
    /// memory file system has free when the daemon starts.
    pub memory_budget: Option<u64>,
    /// Bytes of a context's first segment. Default: 16 KiB.
    pub first_len: usize,
    /// Bytes of a context's first spare; later ones double. Default: 1 MiB.
    pub spare_len_min: usize,
    /// Bytes no spare exceeds, unless one entry needs more. Default: 64 MiB;
    /// never more than 1/16 of the budget.
    pub spare_len_max: usize,
    /// Bytes of sealed segments that a context keeps in memory; older entries
    /// are evicted. Default: a quarter of the budget, and, when that is spent,
    /// as many contexts share half of it evenly.
    pub window_len: Option<u64>,
    /// What an entry may weigh. Default: payload 4 MiB, metadata 64 KiB; at most
    /// [`LIMIT_MAX`](crate::LIMIT_MAX) each.
    pub limits: Limits,
    /// How long after its last appender left a context gives up its spares.
    /// Default: 60 s.
    pub idle_close_after: Duration,
}

impl Options {
    /// The defaults, with instance and directory from the environment.
    ///
    /// # Errors
    ///
    /// [`InvalidInstance`] if `LEDGER_INSTANCE` holds no valid name.
    pub fn from_env() -> Result<Options, InvalidInstance> {
        let uid = nix::unistd::geteuid().as_raw();
        Ok(Options {
            instance: place::instance_name()?,
            runtime_dir: place::runtime_dir(uid),
            memory_budget: None,
            first_len: 16 << 10,
            spare_len_min: 1 << 20,
            spare_len_max: 64 << 20,
            window_len: None,
            limits: Limits::default(),
            idle_close_after: Duration::from_secs(60),
        })
    }
}
