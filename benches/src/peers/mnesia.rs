//! Mnesia as the original ledger appends: a transaction that reads and writes the context's
//! sequence, and writes the entry. Its process is Erlang's own.

use std::path::Path;
use std::process::Command;

use super::{Host, Missing, Never, Peer, Place};

pub struct Mnesia;

/// Next to this file.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/peers/mnesia.erl");

impl Peer for Mnesia {
    const IS_SLOW: bool = true;
    type Sender = Never;
    type Receiver = Never;
    type Past = Never;

    fn host(dir: &Path) -> Result<Host, Missing> {
        let help = || Missing::NotInstalled("apt-get install erlang-mnesia".to_owned());
        let mut found = Command::new("escript");
        let output = found.args([SCRIPT, "check"]).output().map_err(|_| help())?;
        if !output.status.success() {
            return Err(help());
        }
        Ok(Host {
            address: dir.display().to_string(),
            _running: Box::new(()),
        })
    }

    fn lacks(place: &Place) -> Option<Missing> {
        let is_alone = place.receivers == 0 && place.senders == 1 && !place.keeps_all;
        (!is_alone).then_some(Missing::NoSuchThing("others are processes of its own node"))
    }

    fn sender(_: &Place) -> Never {
        unreachable!("it is another program")
    }

    fn receiver(_: &Place, _: usize) -> Never {
        unreachable!("it has none")
    }

    fn past(_: &Place) -> Never {
        unreachable!("it is another program")
    }

    fn sending_program(place: &Place) -> Option<Command> {
        let mut command = Command::new("escript");
        command.args([SCRIPT, "send", &place.len.to_string()]);
        Some(command)
    }
}
