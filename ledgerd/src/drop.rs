//! Dropping a context for good.

use ledger_client::wire::Refusal;
use ledger_shm::control::State;
use ledger_shm::object::{self, Name};

use crate::archive::Order;
use crate::maker::Job;
use crate::registry::{Registry, not_allowed, refusal};
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
        if log.attached_count > 0 || log.is_leaving {
            let count = log.attached_count.max(1) as u64;
            return Err(Refusal::InUse { count });
        }
        // The files first: without them the context is in memory until the next step,
        // and nobody was told that it is gone.
        let (is_in_memory, home) = (log.state != State::Archived, log.home);
        if let Some(home) = home.and_then(|name| self.home(name)) {
            let removed = home.set_aside().map_err(|error| refusal(error.into()))?;
            self.archive(epoch, |epoch, _| Order::Forget { epoch, removed });
        }
        let mut parts = Vec::new();
        if is_in_memory {
            self.logs.change(epoch, |log| {
                log.visit(&self.instance, |log, instance| {
                    if let State::Open = log.state {
                        log.close(instance, self.made_in)?;
                    }
                    Ok(())
                });
                log.visit(&self.instance, |log, _| {
                    if let Some(live) = &log.live {
                        live.control.set_state(State::Dropped);
                    }
                    Ok(())
                });
                parts = log.chain.drain(..).collect();
                parts.append(&mut log.spares);
            });
            // What is left of it is a leftover for the next start.
            let _ = object::unlink(&self.instance, Name::Control(epoch));
        }
        for part in parts {
            self.lent.retire(&self.instance, epoch, part.number);
            let part = part.number;
            self.maker.give(Job::Unlink { epoch, part });
        }
        tracing::info!(context = name, %epoch, "a context is dropped");
        self.logs.remove(epoch);
        Ok(())
    }
}
