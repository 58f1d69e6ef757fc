//! The ledger, through its public API: rkyv, checksums, wall clock.

use std::path::Path;
use std::time::Duration;

use ledger_client::{Appender, NewEntry, Watcher};

use crate::instance::{self, Instance};

use super::{Host, Missing, Peer, Place, Receiver, Sender, Wait};

pub struct Ledger;

/// How long the memory that an append has asked for takes to be zeroed.
const SETTLE: Duration = Duration::from_millis(100);

impl Peer for Ledger {
    type Sender = Appender;
    type Receiver = Watching;

    fn host(_: &Path) -> Result<Host, Missing> {
        let instance = Instance::start(|options| options.sizes.spare_len_min = Some(64 << 20));
        Ok(Host {
            address: format!("{}\n{}", instance.name, instance.dir.display()),
            _running: Box::new(instance),
        })
    }

    fn sender(place: &Place) -> Appender {
        context(place).appender().expect("an appender")
    }

    fn receiver(place: &Place, _: usize) -> Watching {
        let context = context(place);
        let next = context.latest().expect("readable") + 1;
        Watching {
            watcher: context.watch(next),
            wait: place.wait,
        }
    }
}

fn context(place: &Place) -> ledger_client::Context {
    let (name, dir) = place.address.split_once('\n').expect("an instance");
    let ledger = instance::connect(name, dir);
    ledger.context(&place.topic).open_or_create().expect("room")
}

impl Sender for Appender {
    fn send(&mut self, payload: &[u8]) {
        self.append(&NewEntry::new("facts", payload)).expect("room");
    }

    fn settle(&mut self) {
        self.wait_ready(Duration::from_secs(1));
        std::thread::sleep(SETTLE);
    }
}

pub struct Watching {
    watcher: Watcher,
    wait: Wait,
}

impl Receiver for Watching {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) {
        if self.wait == Wait::Parked {
            read(self.watcher.next().expect("readable").payload());
            return;
        }
        loop {
            if let Some(entry) = self.watcher.try_next().expect("readable") {
                return read(entry.payload());
            }
            std::hint::spin_loop();
        }
    }
}
