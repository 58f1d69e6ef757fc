//! What clients were told, and when.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use ledger_client::Context;
use ledger_shm::Control;
use ledger_shm::control::State;
use ledger_shm::object::{Epoch, Instance};

use crate::power::Recorded;

/// What is said of a context.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    /// Everything up to a seq is durable.
    Durable(u64),
    /// An append got a seq, in a context of this epoch.
    Appended(u64, Epoch),
    /// A snapshot of so many entries is being loaded.
    Loading(u64),
    /// It is, as a context of this epoch.
    Loaded(u64, Epoch),
    /// It is being opened for appending: more may be appended than anybody is told.
    Opening,
    /// It is in files only, all of it, up to this seq and in this epoch.
    Archived(u64, Epoch),
    /// It is being dropped.
    Dropping,
    /// It is.
    Dropped,
}

/// What was said of one context until some moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Said {
    /// It has to have so many entries.
    pub(super) durable_seq: u64,
    /// So many were appended.
    pub(super) appended_seq: u64,
    /// The epoch that they were appended in.
    pub(super) epoch: Option<Epoch>,
    /// It may as well have so many.
    pub(super) loading: Option<u64>,
    /// All of it is known to be in files, in this epoch.
    pub(super) whole: Option<(u64, Epoch)>,
    /// It may be gone.
    pub(super) is_dropping: bool,
    /// It has to be.
    pub(super) is_dropped: bool,
}

/// What was said of all contexts until some moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Told(pub(super) BTreeMap<&'static str, Said>);

impl Told {
    /// What was said here, after what was said before.
    pub(super) fn and(mut self, before: &Told) -> Told {
        for (name, before) in &before.0 {
            let now = self.0.remove(name).unwrap_or_default();
            let is_gone_on_with = now.epoch.is_some();
            let said = Said {
                durable_seq: now.durable_seq.max(before.durable_seq),
                appended_seq: match is_gone_on_with {
                    true => now.appended_seq,
                    false => before.appended_seq,
                },
                epoch: now.epoch.or(before.epoch),
                // Who has it in memory may have more of it.
                whole: None,
                is_dropping: before.is_dropping && !is_gone_on_with,
                ..before.clone()
            };
            self.0.insert(name, said);
        }
        self
    }
}

/// What was said, each with the number of the operation before which it was.
#[derive(Debug, Default)]
pub(super) struct Diary {
    events: Mutex<Vec<(usize, &'static str, Event)>>,
    /// Contexts whose watermarks are looked at before each operation.
    watched: Mutex<BTreeMap<&'static str, (Control, u64)>>,
}

impl Diary {
    /// One that looks at watermarks before each operation on this file system.
    pub(super) fn of(recorded: &Recorded) -> Arc<Diary> {
        let diary = Arc::new(Diary::default());
        let looking = Arc::clone(&diary);
        recorded.watch(move |number| looking.look(number));
        diary
    }

    pub(super) fn note(&self, number: usize, name: &'static str, event: Event) {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.push((number, name, event));
    }

    /// From now on what is durable of this context is noted.
    pub(super) fn watch(&self, instance: &Instance, name: &'static str, context: &Context) {
        let control = Control::open(instance, context.epoch(), false).expect("it is there");
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.insert(name, (control, 0));
    }

    /// What becomes of the memory that there was is not noted any more.
    pub(super) fn forget(&self, name: &str) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.remove(name);
    }

    fn look(&self, number: usize) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, (control, noted)) in &mut *watched {
            let durable_seq = control.durable_seq();
            if durable_seq > *noted {
                *noted = durable_seq;
                self.note(number, name, Event::Durable(durable_seq));
            }
        }
        watched.retain(|name, (control, _)| {
            let is_archived = control.state() == Ok(State::Archived);
            if is_archived {
                let event = Event::Archived(control.durable_seq(), control.epoch());
                self.note(number, name, event);
            }
            !is_archived
        });
    }

    /// What had been said when so many operations had been done.
    pub(super) fn told_at(&self, count: usize) -> Told {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let mut told = Told::default();
        for (_, name, event) in events.iter().filter(|(number, ..)| *number <= count) {
            let said = told.0.entry(name).or_default();
            match *event {
                Event::Durable(seq) => said.durable_seq = said.durable_seq.max(seq),
                Event::Appended(seq, epoch) => {
                    said.appended_seq = said.appended_seq.max(seq);
                    said.epoch = Some(epoch);
                    said.whole = None;
                }
                Event::Loading(count) => {
                    said.loading = Some(count);
                    said.whole = None;
                }
                Event::Loaded(count, epoch) => {
                    said.loading = None;
                    said.whole = Some((count, epoch));
                    said.durable_seq = said.durable_seq.max(count);
                }
                Event::Opening => said.whole = None,
                Event::Archived(seq, epoch) => said.whole = Some((seq, epoch)),
                Event::Dropping => said.is_dropping = true,
                Event::Dropped => said.is_dropped = true,
            }
        }
        told
    }
}
