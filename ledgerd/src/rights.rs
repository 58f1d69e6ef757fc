//! Who may do what: root and the owner of the instance everything, others what
//! grants give them.

use std::fmt;

use ledger_shm::socket::Peer;
use serde::{Deserialize, Serialize};
use wildmatch::WildMatch;

/// What somebody may do with a context; each includes the ones before.
///
/// ```
/// use ledgerd::Right;
///
/// assert!(Right::Append > Right::Read);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Right {
    /// Get and watch: map its memory read-only, and the bell.
    Read,
    /// Append, and create: map its memory for writing. Whoever has this right is
    /// trusted like the daemon with what is in the context.
    Append,
    /// Administration: drop a context for good.
    Admin,
}

impl Right {
    /// What it lets somebody do, in words that stand before "a context".
    pub(crate) fn verb(self) -> &'static str {
        match self {
            Right::Read => "read",
            Right::Append => "append to",
            Right::Admin => "administer",
        }
    }
}

/// A right that users, groups and clients have to some contexts.
///
/// ```
/// # ledger_tests::daemon_example(|mut options| {
/// use ledgerd::{Grant, Right};
///
/// options.rights = vec![
///     Grant::new(Right::Append, ["loan-*"]).uids([1001]),
///     Grant::new(Right::Read, ["*"]).gids([100]),
/// ];
/// let daemon = ledgerd::Daemon::start(options)?;
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Names of contexts, in which `*` stands for any characters and `?` for one.
    contexts: Vec<String>,
    uids: Vec<u32>,
    gids: Vec<u32>,
    clients: Vec<String>,
    right: Right,
}

impl Grant {
    /// This right to contexts of these names, to nobody yet.
    ///
    /// ```
    /// # use ledgerd::{Grant, Right};
    /// let grant = Grant::new(Right::Read, ["loan-*", "traces"]);
    /// ```
    pub fn new(right: Right, contexts: impl IntoIterator<Item = impl Into<String>>) -> Grant {
        Grant {
            contexts: contexts.into_iter().map(Into::into).collect(),
            uids: Vec::new(),
            gids: Vec::new(),
            clients: Vec::new(),
            right,
        }
    }

    /// To these users, by number.
    ///
    /// ```
    /// # use ledgerd::{Grant, Right};
    /// let grant = Grant::new(Right::Append, ["*"]).uids([1001, 1002]);
    /// ```
    pub fn uids(mut self, uids: impl IntoIterator<Item = u32>) -> Grant {
        self.uids.extend(uids);
        self
    }

    /// To these groups, by number; primary and supplementary.
    ///
    /// ```
    /// # use ledgerd::{Grant, Right};
    /// let grant = Grant::new(Right::Read, ["*"]).gids([100]);
    /// ```
    pub fn gids(mut self, gids: impl IntoIterator<Item = u32>) -> Grant {
        self.gids.extend(gids);
        self
    }

    /// To these clients of the remote door, by name.
    ///
    /// ```
    /// # use ledgerd::{Grant, Right};
    /// let grant = Grant::new(Right::Append, ["*"]).clients(["reporter"]);
    /// ```
    pub fn clients(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Grant {
        self.clients.extend(names.into_iter().map(Into::into));
        self
    }

    /// Whether it gives anything to whom the kernel knows.
    pub(crate) fn names_some_uid(&self) -> bool {
        !(self.uids.is_empty() && self.gids.is_empty())
    }

    fn covers(&self, context: &str) -> bool {
        let mut patterns = self.contexts.iter();
        patterns.any(|pattern| WildMatch::new(pattern).matches(context))
    }

    fn names(&self, who: &Who) -> bool {
        self.uids.contains(&who.uid) || self.gids.iter().any(|gid| who.gids.contains(gid))
    }
}

/// A client, as the kernel knows it.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) uid: u32,
    pub(crate) gids: Vec<u32>,
    /// Neither root nor the instance's owner.
    pub(crate) is_foreign: bool,
}

impl Who {
    /// A peer with these supplementary groups.
    pub(crate) fn new(peer: Peer, mut gids: Vec<u32>, owner_uid: u32) -> Who {
        gids.push(peer.gid);
        Who::of(peer.uid, gids, owner_uid)
    }

    /// A user in all of these groups.
    pub(crate) fn of(uid: u32, gids: Vec<u32>, owner_uid: u32) -> Who {
        Who {
            uid,
            gids,
            is_foreign: uid != owner_uid && uid != 0,
        }
    }

    /// Whether it has a right to a context.
    pub(crate) fn may(&self, right: Right, context: &str, grants: &[Grant]) -> bool {
        let gives =
            |grant: &Grant| grant.right >= right && grant.names(self) && grant.covers(context);
        !self.is_foreign || grants.iter().any(gives)
    }
}

/// Whoever comes through the remote door.
#[derive(Clone, Debug)]
pub(crate) enum Principal {
    Uid(Who),
    /// One that is known by what it shows.
    Client(String),
}

impl Principal {
    /// Whether it has a right to a context.
    pub(crate) fn may(&self, right: Right, context: &str, grants: &[Grant]) -> bool {
        match self {
            Principal::Uid(who) => who.may(right, context, grants),
            Principal::Client(name) => grants.iter().any(|grant| {
                grant.right >= right && grant.clients.contains(name) && grant.covers(context)
            }),
        }
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Uid(who) => write!(f, "uid {}", who.uid),
            Principal::Client(name) => write!(f, "client {name:?}"),
        }
    }
}

/// Whether any uid was given the right to append to a context, and so to map its memory.
pub(crate) fn has_foreign_writers(context: &str, grants: &[Grant]) -> bool {
    let mut grants = grants.iter().filter(|grant| grant.names_some_uid());
    grants.any(|grant| grant.right >= Right::Append && grant.covers(context))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(uid: u32, gids: &[u32]) -> Who {
        let peer = Peer {
            uid,
            gid: 100,
            pid: 1,
        };
        Who::new(peer, gids.to_vec(), 1000)
    }

    #[test]
    fn rights_follow_from_user_group_name_and_rank() {
        let grants = [
            Grant::new(Right::Append, ["loan-*", "shared"]).uids([7]),
            Grant::new(Right::Read, ["*"]).gids([55]),
        ];
        let may = |who: &Who, right, context| who.may(right, context, &grants);
        for context in ["loan-1", "shared"] {
            assert!(may(&who(7, &[]), Right::Append, context));
            assert!(may(&who(7, &[]), Right::Read, context));
            assert!(!may(&who(7, &[]), Right::Admin, context));
            assert!(has_foreign_writers(context, &grants));
        }
        assert!(!may(&who(7, &[]), Right::Read, "share"));
        assert!(!has_foreign_writers("share", &grants));
        assert!(may(&who(8, &[55]), Right::Read, "anything"));
        assert!(!may(&who(8, &[55]), Right::Append, "loan-1"));
        assert!(!may(&who(8, &[]), Right::Read, "loan-1"));
        for trusted in [0, 1000] {
            assert!(may(&who(trusted, &[]), Right::Admin, "anything"));
        }
    }

    #[test]
    fn the_primary_group_counts() {
        let grants = [Grant::new(Right::Read, ["*"]).gids([100])];
        assert!(who(8, &[]).may(Right::Read, "any", &grants));
    }
}
