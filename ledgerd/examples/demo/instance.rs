//! An instance of our own, gone when it is dropped.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use ledger_client::place;
use ledger_shm::object;

use crate::Failure;

/// Removes the instance's memory and its directory when dropped. Whoever uses
/// them has to be gone by then.
#[derive(Debug)]
pub struct Instance {
    objects: object::Instance,
    runtime_dir: PathBuf,
}

impl Instance {
    /// A new one, with a name that nobody else has.
    pub fn create() -> Result<Instance, Failure> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(io::Error::other)?;
        let mut name = "demo_".to_owned();
        for byte in random {
            write!(name, "{byte:02x}")?;
        }
        let runtime_dir = std::env::temp_dir().join(format!("ledger-{name}"));
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&runtime_dir)
            .map_err(|error| format!("cannot make {}: {error}", runtime_dir.display()))?;
        Ok(Instance {
            objects: object::Instance::own(&name)?,
            runtime_dir,
        })
    }

    /// The one that the environment names, made by another process.
    pub fn adopt() -> Result<Instance, Failure> {
        let objects = object::Instance::own(&place::instance_name()?)?;
        let runtime_dir = place::runtime_dir(objects.uid());
        Ok(Instance {
            objects,
            runtime_dir,
        })
    }

    pub fn name(&self) -> &str {
        self.objects.name()
    }

    pub fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = ledgerd::purge(&self.objects, &self.runtime_dir) {
            eprintln!("cannot free the memory of {}: {error}", self.name());
        }
        match std::fs::remove_dir_all(&self.runtime_dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                eprintln!("cannot remove {}: {error}", self.runtime_dir.display());
            }
            _ => {}
        }
    }
}
