//! Giving a snapshot that was read its place: it becomes a context, or what a context
//! goes on with that has the same entries so far.

use std::io;
use std::os::fd::OwnedFd;

use ledger_client::wire::Refusal;
use ledger_shm::control::{Facts, InvalidName, State};
use ledger_shm::file::Head;
use ledger_shm::merkle::Frontier;
use ledger_shm::object::{Epoch, Instance, MapError};

use crate::archive::{self, Home, Recovered};
use crate::log::{Log, Part};
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
        InvalidName::check(name.as_bytes())
            .map_err(|error| Refusal::InvalidName(error.to_string()))?;
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
                Ok(true) => drop(self.closing_loads.insert(epoch, spooled)),
                Ok(false) => self.waiting_loads.push(spooled),
                Err(why) => spooled.refuse(why),
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
                let new_count = spooled.tree.count() - (spooled.first_seq - 1);
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
            let why = format!(
                "{} have the context {:?} open for appending; a context goes on with a snapshot when nobody has",
                log.appender_count, log.name
            );
            return Err(Refusal::NotLoaded(why));
        }
        Ok(log.state)
    }

    /// Closes a context and has its last entries written; false if that has to wait for
    /// what is under way and wakes the server when it is done.
    fn close_to_load(&mut self, epoch: Epoch) -> Result<bool, Refusal> {
        let is_closing = self.logs.change(epoch, |log| {
            // It leaves already, or would come to spares too late.
            if log.is_leaving || !log.making.is_empty() {
                return Ok(false);
            }
            log.visit(&self.instance, |log, instance| {
                log.close(instance, self.made_in)
            });
            log.check_usable()?;
            log.is_leaving = log.state == State::Idle && log.spares.is_empty();
            log.may_be_complete |= log.is_leaving;
            match log.is_leaving {
                true => Ok(true),
                false => Err(Refusal::NotLoaded(
                    "the context cannot be closed now, see the daemon's reports; try again".into(),
                )),
            }
        });
        let is_closing = is_closing.ok_or(Refusal::UnknownContext)??;
        if is_closing {
            self.archive(epoch, |epoch, marks| archive::Order::Complete {
                epoch,
                marks,
            });
        }
        Ok(is_closing)
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
            Ok((epoch, new_count)) => {
                // What was there before, or what is there already.
                spooled.files.remove_beside();
                spooled.accept(epoch, new_count);
            }
            Err(why) => spooled.refuse(why),
        }
        self.close_later(epoch);
    }

    /// The epoch that it has then, and how many entries are new.
    fn try_extend(&mut self, epoch: Epoch, spooled: &Spooled) -> Result<(Epoch, u64), Refusal> {
        let log = self.logs.get(epoch).ok_or(Refusal::UnknownContext)?;
        let is_in_memory = log.state != State::Archived;
        let home_name = log.home.ok_or(Refusal::UnknownContext)?;
        let home = self.home(home_name).ok_or(Refusal::UnknownContext)?;
        let outcome = home.recover().map_err(unread).and_then(|ours| {
            let facts = match ours.is_complete {
                true => ours.facts.clone(),
                // Somebody may have seen entries that are lost: they are told.
                false => Facts {
                    epoch: random_epoch()?,
                    ..ours.facts.clone()
                },
            };
            let outcome = self.replace(epoch, spooled, &home, &ours, &facts);
            Ok((ours, facts, outcome))
        });
        let (ours, facts, outcome) = match outcome {
            Ok(found) => found,
            Err(why) => {
                // What its files say of their end may not be so if it went on now.
                if is_in_memory {
                    self.forget_memory(epoch, State::Archived);
                }
                return Err(why);
            }
        };
        let new_count = outcome?;
        match (is_in_memory, new_count) {
            (true, Some(_)) => self.go_on_behind(epoch, &home, spooled, &facts),
            (true, None) => self.go_on_as_before(epoch, &home, &ours),
            (false, Some(_)) => {
                self.logs.remove(epoch);
                self.logs
                    .insert(Log::archived(&facts, home_name, &self.options));
            }
            (false, None) => {}
        }
        Ok((facts.epoch, new_count.unwrap_or(0)))
    }

    /// Puts the snapshot in the place of a context's files, if these are its beginning;
    /// none if they are all of it.
    fn replace(
        &mut self,
        epoch: Epoch,
        spooled: &Spooled,
        home: &Home,
        ours: &Recovered,
        facts: &Facts,
    ) -> Result<Option<u64>, Refusal> {
        let outcome = self
            .check_extends(spooled, home, ours)
            .and_then(|is_longer| {
                if is_longer {
                    spooled.files.adopt(facts).map_err(unread)?;
                    self.set_loading(epoch).map_err(unread)?;
                    let placed = spooled.files.replace(home);
                    placed.map_err(|error| unplaced(&error))?;
                }
                Ok(is_longer)
            });
        match outcome {
            Ok(true) => {
                let before = ours.tree.count().max(spooled.first_seq - 1);
                Ok(Some(spooled.tree.count() - before))
            }
            Ok(false) => Ok(None),
            Err(why) => {
                let is_as_before = home.recover().is_ok_and(|now| now.tree == ours.tree);
                let state = self.logs.get(epoch).map(|log| log.state);
                match (is_as_before, state) {
                    (_, None | Some(State::Archived)) => {}
                    (true, _) => self.go_on_as_before(epoch, home, ours),
                    (false, _) => self.forget_memory(epoch, State::Archived),
                }
                Err(why)
            }
        }
    }

    /// Whether a snapshot has more than a context whose entries it begins with; refused
    /// if it does not.
    fn check_extends(
        &self,
        spooled: &Spooled,
        home: &Home,
        ours: &Recovered,
    ) -> Result<bool, Refusal> {
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
        Ok(new_last > count)
    }

    /// Has a context that was closed go on behind what is in its files now: in memory
    /// for those who watch it, and else when it is opened.
    fn go_on_behind(&mut self, epoch: Epoch, home: &Home, spooled: &Spooled, facts: &Facts) {
        // What was written behind is other files now.
        self.logs
            .change(epoch, |log| log.marks = Some(Default::default()));
        let (tree, last_lamport) = (&spooled.tree, spooled.last_lamport);
        self.go_on(epoch, home, facts, tree, last_lamport, |log, instance| {
            log.go_on_behind(instance, tree.count(), last_lamport)
        });
    }

    /// Has a context that was closed go on where it was.
    fn go_on_as_before(&mut self, epoch: Epoch, home: &Home, ours: &Recovered) {
        let last_lamport = ours.last_lamport;
        self.go_on(
            epoch,
            home,
            &ours.facts,
            &ours.tree,
            last_lamport,
            |log, instance| {
                log.awake(instance)?;
                log.reopen(instance)?;
                Ok(Vec::new())
            },
        );
    }

    fn go_on(
        &mut self,
        epoch: Epoch,
        home: &Home,
        facts: &Facts,
        tree: &Frontier,
        base_lamport: u64,
        reopen: impl FnOnce(&mut Log, &Instance) -> Result<Vec<Part>, MapError>,
    ) {
        let is_watched = |log: &Log| log.attached_count > 0;
        if !self.logs.get(epoch).is_some_and(is_watched) {
            return self.forget_memory(epoch, State::Archived);
        }
        let head = Head {
            facts: facts.clone(),
            before: tree.clone(),
            base_lamport,
            begun_at_ns: now_ns(),
            snapshot: None,
        };
        let outcome = home.reopen(&head).map_err(MapError::from).and_then(|()| {
            let parts = self.logs.change(epoch, |log| reopen(log, &self.instance));
            parts.unwrap_or(Err(MapError::Unfinished)).inspect_err(|_| {
                // Nothing could be appended: what is known of the end is still so.
                let _ = home.close_again(head.first_seq());
            })
        });
        match outcome {
            Ok(parts) => self.unlink_later(epoch, parts),
            Err(error) => {
                tracing::warn!(%epoch, %error, "there is no memory to go on in, a context leaves it");
                self.forget_memory(epoch, State::Archived);
            }
        }
    }

    /// Says, to whoever finds its memory after this process's death, that its files may
    /// have more.
    fn set_loading(&mut self, epoch: Epoch) -> Result<(), MapError> {
        let outcome = self.logs.change(epoch, |log| {
            if log.state == State::Archived {
                return Ok(());
            }
            let was_asleep = log.live.is_none();
            log.awake(&self.instance)?.control.set_state(State::Loading);
            if was_asleep {
                log.asleep();
            }
            Ok(())
        });
        outcome.unwrap_or(Ok(()))
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
