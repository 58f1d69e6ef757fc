//! A private instance with its daemon in this process.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use ledger_client::Ledger;
use ledgerd::{Daemon, Durability, Options};

/// Stops and removes everything when dropped.
pub struct Instance {
    pub name: String,
    pub dir: PathBuf,
    options: Options,
    daemon: Option<Daemon>,
}

impl Instance {
    pub fn start(change: impl FnOnce(&mut Options)) -> Instance {
        // One process may have several.
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let nth = STARTED.fetch_add(1, Ordering::Relaxed);
        Instance::named(format!("bench_{}_{nth}", std::process::id()), change)
    }

    pub fn named(name: String, change: impl FnOnce(&mut Options)) -> Instance {
        let dir = std::env::temp_dir().join(format!("ledger-{name}"));
        let mut options = Options::new(&name);
        options.runtime_dir.clone_from(&dir);
        options.durability = Durability::Memory;
        change(&mut options);
        let mut instance = Instance {
            name,
            dir,
            options,
            daemon: None,
        };
        instance.restart();
        instance
    }

    /// Starts a daemon, where there is none.
    pub fn restart(&mut self) {
        let daemon = Daemon::start(self.options.clone());
        self.daemon = Some(daemon.expect("the daemon starts"));
    }

    /// Stops the daemon and removes everything in memory.
    pub fn lose_memory(&mut self) {
        drop(self.daemon.take());
        let instance = ledger_shm::object::Instance::own(&self.name).expect("a valid name");
        if let Err(error) = ledgerd::purge(&instance, &self.dir) {
            eprintln!("purge: {error}");
        }
    }

    /// Where it is, as an argument of a process.
    pub fn address(&self) -> String {
        format!("{}\n{}", self.name, self.dir.display())
    }

    pub fn connect(&self) -> Ledger {
        connect(&self.name, &self.dir.to_string_lossy())
    }
}

pub fn connect(name: &str, dir: &str) -> Ledger {
    Ledger::builder()
        .instance(name)
        .runtime_dir(dir)
        .connect()
        .expect("the daemon answers")
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.lose_memory();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
