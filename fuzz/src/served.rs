//! A daemon in this process, whose disk keeps nothing: only what it answers matters.

use std::fs::File;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use ledger_client::Ledger;
use ledger_client::admin::drop_context;
use ledger_tests::{Instance, Programs};
use ledgerd::{Daemon, FileSystem};

#[derive(Debug)]
struct Forgetful;

impl FileSystem for Forgetful {
    fn sync(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn sync_dir(&self, _: &File) -> io::Result<()> {
        Ok(())
    }
}

struct Served {
    // First: it is stopped before its memory is removed.
    _daemon: Daemon,
    instance: Instance,
}

static SERVED: Mutex<Option<Served>> = Mutex::new(None);

/// Nothing is left behind, however the fuzzer ends that lets others end something.
extern "C" fn end() {
    drop(SERVED.lock().unwrap_or_else(PoisonError::into_inner).take());
}

fn begin() -> Served {
    // SAFETY: it takes a function that takes nothing, and calls it once.
    let outcome = unsafe { libc::atexit(end) };
    assert_eq!(outcome, 0, "no memory");
    let instance = Instance::new(Programs {
        ledgerd: "",
        peer: "",
        engine: "",
    });
    let mut options = instance.options();
    options.file_system = Arc::new(Forgetful);
    options.sizes.spare_len_min = Some(64 << 10);
    options.sizes.spare_len_max = Some(64 << 10);
    options.memory_budget = Some(64 << 20);
    Served {
        _daemon: Daemon::start(options).expect("a daemon"),
        instance,
    }
}

/// Does something with the daemon, which has to go on afterwards, and has no context then.
pub fn served(act: impl FnOnce(&Instance, &Ledger)) {
    let mut served = SERVED.lock().unwrap_or_else(PoisonError::into_inner);
    let instance = &served.get_or_insert_with(begin).instance;
    act(instance, &instance.connect());
    let ledger = instance.connect();
    // What is given back, or was sent to be loaded, may still be on its way.
    ledger_tests::eventually("no context is left", || {
        for context in ledger.contexts().expect("a list").readable {
            let _ = drop_context(&ledger, context.name());
        }
        (ledger.status().expect("it goes on").contexts == 0).then_some(())
    });
}
