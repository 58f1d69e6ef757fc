//! Dropping a context for good.

use ledger_client::wire::Refusal;
use ledger_shm::control::State;

use crate::archive::Order;
use crate::registry::{Registry, disk_refusal, not_allowed};
use crate::rights::{Right, Who};

impl Registry {
    /// Drops a context that nobody has open: whoever has it mapped all the same finds
    /// it closed, and its files are not found again.
    pub(crate) fn drop_context(&mut self, who: &Who, name: &str) -> Result<(), Refusal> {
        if !who.may(Right::Admin, name, &self.options.rights) {
            return Err(not_allowed(who, Right::Admin));
        }
        let epoch = self.logs.named(name).ok_or(Refusal::UnknownContext)?;
        let log = self.logs.get(epoch).ok_or(Refusal::UnknownContext)?;
        if log.attached_count > 0 {
            let count = log.attached_count as u64;
            return Err(Refusal::InUse { count });
        }
        // The files first: while that fails nothing has changed. A death after it leaves
        // a context in memory that the next start finds to be dropped.
        let (state, home) = (log.state, log.home);
        if let Some(home) = home.and_then(|name| self.home(name)) {
            let set_aside = home.set_aside();
            set_aside.map_err(|error| disk_refusal(&home, error.into()))?;
            self.archive(epoch, |epoch, _| Order::Forget { epoch, home });
        }
        if state != State::Archived {
            self.logs.change(epoch, |log| {
                log.visit(&self.instance, |log, instance| match log.state {
                    State::Open => log.close(instance, self.made_in),
                    _ => Ok(()),
                });
            });
            self.forget_memory(epoch, State::Dropped);
        }
        tracing::info!(context = name, %epoch, "a context is dropped");
        self.logs.remove(epoch);
        self.settle_trouble(epoch);
        Ok(())
    }
}
