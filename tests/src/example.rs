//! What the examples in the documentation run against.

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};

use ledger_client::Ledger;
use ledger_shm::object;
use ledgerd::{Daemon, Durability, Options};

use crate::sweep;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Runs an example on an instance of its own, with a daemon in this process.
///
/// # Panics
///
/// If the example fails.
pub fn example(run: impl FnOnce(Ledger) -> Result<(), Box<dyn Error>>) {
    daemon_example(|options| connected(options, run));
}

/// As [`example`], of contexts that are in memory only.
///
/// # Panics
///
/// If the example fails.
pub fn example_in_memory(run: impl FnOnce(Ledger) -> Result<(), Box<dyn Error>>) {
    daemon_example(|mut options| {
        options.durability = Durability::Memory;
        connected(options, run)
    });
}

fn connected(
    options: Options,
    run: impl FnOnce(Ledger) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let builder = Ledger::builder().instance(&options.instance);
    let builder = builder.runtime_dir(&options.runtime_dir);
    let _daemon = Daemon::start(options)?;
    run(builder.connect()?)
}

/// Runs an example that starts a daemon of its own, with these options.
///
/// # Panics
///
/// If the example fails.
pub fn daemon_example(run: impl FnOnce(Options) -> Result<(), Box<dyn Error>>) {
    sweep::sweep();
    let name = sweep::name(NEXT.fetch_add(1, Ordering::Relaxed));
    let mut options = Options::new(&name);
    options.runtime_dir = sweep::runtime_dir(&name);
    options.state_dir = options.runtime_dir.join("state");
    let instance = Removed(options.clone());
    let outcome = run(options);
    drop(instance);
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// An instance that leaves nothing behind.
struct Removed(Options);

impl Drop for Removed {
    fn drop(&mut self) {
        let instance = object::Instance::own(&self.0.instance).expect("a valid name");
        sweep::remove_objects(&instance);
        let _ = std::fs::remove_dir_all(&self.0.runtime_dir);
    }
}
