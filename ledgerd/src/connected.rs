//! How many clients are connected, in all and of each uid: nobody keeps others out.

use std::collections::BTreeMap;

use ledger_client::wire::Refusal;

use crate::options::Options;
use crate::rights::Who;

/// So many more of one uid are let in, to be told that they are too many.
const TOLD_MAX: usize = 16;

/// Those who are connected.
#[derive(Debug, Default)]
pub(crate) struct Connected {
    total: usize,
    /// Of each uid other than root and the owner.
    foreign: BTreeMap<u32, usize>,
}

impl Connected {
    /// Whether one more is too many, of its uid or in all.
    pub(crate) fn is_full(&self, who: &Who, options: &Options) -> bool {
        self.total >= options.clients_max || self.of_uid(who) >= per_uid_max(options)
    }

    /// Somebody connects; false if there are so many of them already that they cannot
    /// even be told.
    pub(crate) fn join(&mut self, who: &Who, options: &Options) -> bool {
        let of_uid = self.of_uid(who);
        if of_uid >= per_uid_max(options).saturating_add(TOLD_MAX) {
            return false;
        }
        if who.is_foreign {
            self.foreign.insert(who.uid, of_uid + 1);
        }
        self.total += 1;
        true
    }

    /// Somebody who was let in is gone.
    pub(crate) fn leave(&mut self, who: &Who) {
        let left = self.of_uid(who).saturating_sub(1);
        if left > 0 {
            self.foreign.insert(who.uid, left);
        } else {
            self.foreign.remove(&who.uid);
        }
        self.total -= 1;
    }

    /// How many there are of its uid, if that counts.
    fn of_uid(&self, who: &Who) -> usize {
        self.foreign.get(&who.uid).copied().unwrap_or(0)
    }

    /// Which limit is exceeded with somebody who was let in.
    pub(crate) fn exceeded(&self, who: &Who, options: &Options) -> Option<Refusal> {
        let limits = [
            ("clients_max", self.total, options.clients_max),
            (
                "clients_max_per_uid",
                self.of_uid(who),
                per_uid_max(options),
            ),
        ];
        let (what, _, max) = limits.into_iter().find(|(_, count, max)| count > max)?;
        Some(Refusal::Limit {
            what: what.into(),
            max: max as u64,
        })
    }
}

/// Nobody has more than half of all places.
fn per_uid_max(options: &Options) -> usize {
    let half = (options.clients_max / 2).max(1);
    options.clients_max_per_uid.min(half)
}

#[cfg(test)]
mod tests {
    use ledger_shm::socket::Peer;

    use super::*;

    const OWNER: u32 = 7;

    fn who(uid: u32) -> Who {
        let (gid, pid) = (0, 0);
        Who::new(Peer { uid, gid, pid }, Vec::new(), OWNER)
    }

    fn options() -> Options {
        let mut options = Options::new("default");
        options.clients_max = 5;
        options.clients_max_per_uid = 2;
        options
    }

    fn limit(what: &str, max: u64) -> Option<Refusal> {
        let what = what.into();
        Some(Refusal::Limit { what, max })
    }

    #[test]
    fn a_uid_has_its_share_and_keeps_nobody_else_out() {
        let (mut connected, options) = (Connected::default(), options());
        let reader = who(9);
        for _ in 0..2 {
            assert!(connected.join(&reader, &options));
            assert_eq!(connected.exceeded(&reader, &options), None);
        }
        for _ in 0..TOLD_MAX {
            assert!(connected.join(&reader, &options));
            let told = limit("clients_max_per_uid", 2);
            if connected.total <= options.clients_max {
                assert_eq!(connected.exceeded(&reader, &options), told);
            }
        }
        assert!(!connected.join(&reader, &options));
        for _ in 0..TOLD_MAX {
            connected.leave(&reader);
        }
        assert_eq!(connected.exceeded(&reader, &options), None);
        assert!(connected.is_full(&reader, &options), "two are left");
        let other = who(10);
        assert!(connected.join(&other, &options));
        assert_eq!(connected.exceeded(&other, &options), None);
    }

    #[test]
    fn no_uid_has_more_than_half() {
        let mut options = options();
        options.clients_max_per_uid = 1000;
        let mut connected = Connected::default();
        for _ in 0..2 {
            assert!(!connected.is_full(&who(9), &options));
            assert!(connected.join(&who(9), &options));
        }
        assert!(connected.is_full(&who(9), &options));
        assert!(!connected.is_full(&who(10), &options));
        connected.leave(&who(9));
        assert!(!connected.is_full(&who(9), &options));
        connected.leave(&who(9));
        assert!(connected.foreign.is_empty(), "{connected:?}");
    }

    #[test]
    fn the_owner_has_all_there_are() {
        let (mut connected, options) = (Connected::default(), options());
        let owner = who(OWNER);
        for _ in 0..options.clients_max {
            assert!(connected.join(&owner, &options));
            assert_eq!(connected.exceeded(&owner, &options), None);
        }
        assert!(connected.join(&owner, &options));
        assert_eq!(
            connected.exceeded(&owner, &options),
            limit("clients_max", 5)
        );
        connected.leave(&owner);
        assert_eq!(connected.exceeded(&owner, &options), None);
    }
}
