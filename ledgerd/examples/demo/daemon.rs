//! The daemon of the private instance, and the last one to leave it.

use std::io::{self, Read};

use ledger_client::Sizes;
use ledgerd::{Daemon, Durability, Options};

use crate::Failure;
use crate::instance::Instance;
use crate::message::Message;
use crate::plan::Plan;

/// Serves until the coordinator closes our input or ends, and then frees the
/// memory: also after a coordinator that could not do so itself.
pub fn play(plan: &Plan) -> Result<(), Failure> {
    let memory = plan.memory();
    let instance = Instance::adopt()?;
    let mut options = Options::new(instance.name());
    options.runtime_dir = instance.runtime_dir().to_owned();
    // It is over when its memory goes.
    options.durability = Durability::Memory;
    options.memory_budget = Some(memory.budget);
    options.sizes = Sizes {
        first_len: Some(memory.segment_len),
        spare_len_min: Some(memory.segment_len),
        spare_len_max: Some(memory.segment_len),
        window_len: Some(memory.budget),
    };
    let daemon = Daemon::start(options)?;
    Message::Ready.say()?;
    io::stdin().lock().read_to_end(&mut Vec::new())?;
    daemon.stop()?;
    drop(instance);
    Ok(())
}
