//! All contexts of an instance, and the sums over them that a request needs
//! without looking at each.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Bound;

use ledger_shm::control::State;
use ledger_shm::object::{Epoch, Instance};

use crate::log::Log;

#[derive(Debug, Default)]
pub(crate) struct Logs {
    /// Boxed: a table that grows moves what is in it, and has room for more.
    by_epoch: HashMap<Epoch, Box<Log>>,
    by_name: BTreeMap<String, Epoch>,
    committed_len: u64,
    /// Those that hold more than contexts that were only created.
    active: HashSet<Epoch>,
}

impl Logs {
    /// Adds a context. One of the same name that is there already can only be
    /// found by its epoch from then on.
    pub(crate) fn insert(&mut self, log: Log) {
        let epoch = log.epoch;
        self.by_name.insert(log.name.clone(), epoch);
        self.by_epoch.insert(epoch, Box::new(log));
        self.count(epoch, 0);
    }

    /// Takes a context out.
    pub(crate) fn remove(&mut self, epoch: Epoch) {
        let Some(log) = self.by_epoch.remove(&epoch) else {
            return;
        };
        self.committed_len -= log.committed_len();
        self.active.remove(&epoch);
        if self.by_name.get(&log.name) == Some(&epoch) {
            self.by_name.remove(&log.name);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_epoch.len()
    }

    pub(crate) fn named(&self, name: &str) -> Option<Epoch> {
        self.by_name.get(name).copied()
    }

    /// Names behind this one, in order.
    pub(crate) fn names_after(&self, after: &str) -> impl Iterator<Item = &str> {
        let behind = (Bound::Excluded(after), Bound::Unbounded);
        self.by_name
            .range::<str, _>(behind)
            .map(|(name, _)| name.as_str())
    }

    /// How many somebody has open, and how many are damaged.
    pub(crate) fn count_states(&self) -> (usize, usize) {
        let logs = self.by_epoch.values();
        logs.fold((0, 0), |(attached, quarantined), log| {
            (
                attached + usize::from(log.attached_count > 0),
                quarantined + usize::from(log.state == State::Quarantined),
            )
        })
    }

    /// Sum of the latest seqs of those that somebody has open.
    pub(crate) fn entries(&mut self, instance: &Instance) -> u64 {
        let open = self.by_epoch.values().filter(|log| log.live.is_some());
        let open: Vec<Epoch> = open.map(|log| log.epoch).collect();
        let latest = |epoch| self.change(epoch, |log| log.latest(instance)).flatten();
        open.into_iter().filter_map(latest).sum()
    }

    pub(crate) fn get(&self, epoch: Epoch) -> Option<&Log> {
        self.by_epoch.get(&epoch).map(Box::as_ref)
    }

    /// Does something with one context, and counts what that changed.
    pub(crate) fn change<R>(&mut self, epoch: Epoch, act: impl FnOnce(&mut Log) -> R) -> Option<R> {
        let log = self.by_epoch.get_mut(&epoch)?;
        let before = log.committed_len();
        let outcome = act(log);
        self.count(epoch, before);
        Some(outcome)
    }

    fn count(&mut self, epoch: Epoch, before: u64) {
        let log = &self.by_epoch[&epoch];
        self.committed_len = self.committed_len - before + log.committed_len();
        if log.is_active() {
            self.active.insert(epoch);
        } else {
            self.active.remove(&epoch);
        }
    }

    /// Bytes of memory that all of them have committed or are about to.
    pub(crate) fn committed_len(&self) -> u64 {
        self.committed_len
    }

    /// Those that hold more than contexts that were only created.
    pub(crate) fn active(&self) -> impl ExactSizeIterator<Item = &Log> {
        self.active.iter().map(|epoch| &*self.by_epoch[epoch])
    }
}
