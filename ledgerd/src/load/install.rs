//! Giving a snapshot that was read its place: it becomes a context, or what a context
//! goes on with that has the same entries so far.

use std::io;
use std::os::fd::OwnedFd;

use ledger_client::wire::Refusal;
use ledger_shm::control::{Facts, State};
use ledger_shm::file::Head;
use ledger_shm::merkle::Frontier;
use ledger_shm::object::{Epoch, MapError};

use crate::archive::{self, Home, Recovered};
use crate::log::Log;
use crate::registry::{Registry, not_allowed, now_ns, random_epoch};
use crate::rights::{Right, Who, has_foreign_writers};

use super::{Order, Spooled};

impl Registry {
    /// Begins to load a snapshot, and returns where the client writes it.
    pub(crate) fn load(
        &self,
        who: &Who,
        name: String,
        is_only_new: bool,
    ) -> Result<OwnedFd, Refusal> {
        if !who.may(Right::Admin, &name, &self.options.rights) {
            return Err(not_allowed(who, Right::Admin));
        }
        let loads = self.loads.as_ref().ok_or_else(|| {
            let why = "this daemon keeps no archive, and a snapshot is loaded into one; run it with `--durability archive`";
            Refusal::NotLoaded(why.into())
        })?;
        if is_only_new && self.logs.named(&name).is_some() {
            return Err(exists(&name));
        }
        let rights = &self.options.rights;
        loads.begin(Order {
            has_foreign_writers: has_foreign_writers(&name, rights),
            name,
            is_only_new,
            epoch: random_epoch()?,
            created_at_ns: now_ns(),
        })
    }

    /// Gives every snapshot its place that was read, and those that waited for that.
    pub(crate) fn look_at_loads(&mut self) {
        let mut spooled = std::mem::take(&mut self.waiting_loads);
        spooled.extend(std::iter::from_fn(|| self.loads.as_ref()?.take_ready()));
        for spooled in spooled {
            self.install(spooled);
        }
    }

    fn install(&mut self, spooled: Spooled) {
        let name = &spooled.facts.name;
        let Some(epoch) = self.logs.named(name) else {
            return self.install_new(spooled);
        };
        match self.may_extend(epoch, &spooled) {
            Err(why) => spooled.refuse(why),
            Ok(State::Archived) => self.extend(epoch, spooled),
            // Its last entries are written first, and nothing is appended then.
            Ok(_) => match self.close_to_load(epoch) {
                true => drop(self.closing_loads.insert(epoch, spooled)),
                false => self.waiting_loads.push(spooled),
            },
        }
    }

    fn install_new(&mut self, spooled: Spooled) {
        if self.logs.len() >= self.options.contexts_max {
            let max = self.options.contexts_max as u64;
            let what = "contexts_max".into();
            return spooled.refuse(Refusal::Limit { what, max });
        }
        match spooled.files.place() {
            Ok(()) => {
                let epoch = spooled.facts.epoch;
                self.logs
                    .insert(Log::archived(&spooled.facts, epoch, &self.options));
                let new_count = spooled.tree.count() + 1 - spooled.first_seq;
                spooled.accept(epoch, new_count);
            }
            Err(error) => spooled.refuse(unplaced(&error)),
        }
    }

    /// Whether a context could go on with a snapshot, as far as that is known without
    /// its last entries.
    fn may_extend(&self, epoch: Epoch, spooled: &Spooled) -> Result<State, Refusal> {
        let log = self.logs.get(epoch).ok_or(Refusal::UnknownContext)?;
        if spooled.is_only_new {
            return Err(exists(&log.name));
        }
        log.check_usable()?;
        if log.home.is_none() {
            let why = format!(
                "the context {:?} is kept in memory only; drop it, or load the snapshot under another name",
                log.name
            );
            return Err(Refusal::NotLoaded(why));
        }
        if log.appender_count > 0 {
            let count = log.appender_count as u64;
            return Err(Refusal::InUse { count });
        }
        Ok(log.state)
    }

    /// Closes a context and has its last entries written; false if that has to wait.
    fn close_to_load(&mut self, epoch: Epoch) -> bool {
        let is_closing = self.logs.change(epoch, |log| {
            // It leaves already, or would come to spares too late.
            if log.is_leaving || !log.making.is_empty() {
                return false;
            }
            log.visit(&self.instance, |log, instance| match log.state {
                State::Open => log.close(instance, self.made_in),
                _ => Ok(()),
            });
            log.is_leaving = log.state == State::Idle && log.spares.is_empty();
            log.is_leaving
        });
        if is_closing == Some(true) {
            self.archive(epoch, |epoch, marks| archive::Order::Complete {
                epoch,
                marks,
            });
        }
        is_closing == Some(true)
    }

    /// A context that was closed for a snapshot is written to its end, or cannot be;
    /// false if it was not closed for one.
    pub(crate) fn closed_to_load(&mut self, epoch: Epoch, is_done: bool) -> bool {
        let Some(spooled) = self.closing_loads.remove(&epoch) else {
            return false;
        };
        match is_done {
            true => self.extend(epoch, spooled),
            false => {
                self.close_later(epoch);
                let why = "the context's last entries cannot be written to its files now, see the daemon's reports";
                spooled.refuse(Refusal::NotLoaded(why.into()));
            }
        }
        true
    }

    /// Has a context go on with a snapshot, if that proves to begin with its entries.
    fn extend(&mut self, epoch: Epoch, spooled: Spooled) {
        match self.try_extend(epoch, &spooled) {
            Ok(new_count) => {
                if new_count == 0 {
                    spooled.files.remove();
                }
                spooled.accept(epoch, new_count);
            }
            Err(why) => spooled.refuse(why),
        }
        self.close_later(epoch);
    }

    /// How many entries are new.
    fn try_extend(&mut self, epoch: Epoch, spooled: &Spooled) -> Result<u64, Refusal> {
        let log = self.logs.get(epoch).ok_or(Refusal::UnknownContext)?;
        let home = log.home.and_then(|name| self.home(name));
        let home = home.ok_or(Refusal::UnknownContext)?;
        let ours = home.recover().map_err(unread)?;
        let outcome = self.replace(epoch, spooled, &home, &ours);
        let end = match outcome {
            Ok(new_count) if new_count > 0 => (&spooled.tree, spooled.last_lamport),
            _ => (&ours.tree, ours.last_lamport),
        };
        self.go_on(epoch, &home, &ours.facts, end);
        outcome
    }

    fn replace(
        &mut self,
        epoch: Epoch,
        spooled: &Spooled,
        home: &Home,
        ours: &Recovered,
    ) -> Result<u64, Refusal> {
        let (count, new_last) = (ours.tree.count(), spooled.tree.count());
        let first_seq = home.first_seq().map_err(|error| unread(error.into()))?;
        if new_last < count {
            return Err(differs(format!(
                "the context has {count} entries already, the snapshot ends with entry {new_last}"
            )));
        }
        if count > 0 && spooled.first_seq > first_seq {
            return Err(differs(format!(
                "the snapshot begins with entry {}, the context has older ones from {first_seq} on",
                spooled.first_seq
            )));
        }
        let theirs = spooled.files.tree_of(&self.instance, count);
        if theirs.map_err(unread)? != ours.tree {
            return Err(differs(format!(
                "the snapshot's first {count} entries are not those of the context"
            )));
        }
        if new_last > count {
            spooled.files.adopt(&ours.facts).map_err(unread)?;
            self.set_loading(epoch);
            spooled
                .files
                .replace(home)
                .map_err(|error| unplaced(&error))?;
        }
        Ok(new_last - count)
    }

    /// Has a context that was closed go on behind what is in its files now: in memory
    /// for those who watch it, and else when it is opened.
    fn go_on(
        &mut self,
        epoch: Epoch,
        home: &Home,
        facts: &Facts,
        (tree, last_lamport): (&Frontier, u64),
    ) {
        let state = |log: &Log| (log.state, log.attached_count);
        let attached_count = match self.logs.get(epoch).map(state) {
            None | Some((State::Archived, _)) => return,
            Some((_, attached_count)) => attached_count,
        };
        // What was written behind may be other files now.
        self.logs
            .change(epoch, |log| log.marks = Some(Default::default()));
        let go_on = |registry: &mut Registry| {
            home.reopen(&Head {
                facts: facts.clone(),
                before: tree.clone(),
                base_lamport: last_lamport,
                begun_at_ns: now_ns(),
                snapshot: None,
            })?;
            let parts = registry.logs.change(epoch, |log| {
                log.go_on_behind(&registry.instance, tree.count(), last_lamport)
            });
            registry.unlink_later(epoch, parts.ok_or(MapError::Unfinished)??);
            Ok::<_, MapError>(())
        };
        let outcome = match attached_count {
            0 => None,
            _ => Some(go_on(self)),
        };
        if let Some(Err(error)) = &outcome {
            tracing::warn!(%epoch, %error, "there is no memory to go on in, a context leaves it");
        }
        if !matches!(outcome, Some(Ok(()))) {
            self.forget_memory(epoch, State::Archived);
        }
    }

    /// Says, to whoever finds its memory after this process's death, that its files may
    /// have more.
    fn set_loading(&mut self, epoch: Epoch) {
        self.logs.change(epoch, |log| {
            if log.state == State::Archived {
                return;
            }
            log.visit(&self.instance, |log, _| {
                if let Some(live) = &log.live {
                    live.control.set_state(State::Loading);
                }
                Ok(())
            });
        });
    }
}

fn exists(name: &str) -> Refusal {
    let why = format!("there is a context {name:?} already, and only a new one was asked for");
    Refusal::NotLoaded(why)
}

fn differs(why: String) -> Refusal {
    Refusal::NotLoaded(format!(
        "{why}; a context goes on only with a snapshot that begins with its entries, load it under another name"
    ))
}

fn unplaced(error: &io::Error) -> Refusal {
    Refusal::NotLoaded(format!("cannot give the files their place: {error}"))
}

fn unread(error: MapError) -> Refusal {
    Refusal::NotLoaded(format!(
        "the files of the context or of the snapshot cannot be read: {error}"
    ))
}
