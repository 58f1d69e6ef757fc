//! What one client may have of what all share: whoever takes all of it takes it from itself.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::rights::Principal;

/// Operations of one client at once that are answered with one message: as many requests lie
/// in memory, each with up to what a message may have. Others wait.
const CALLS_MAX: usize = 32;
/// Streams that one client watches by at once.
const WATCHES_MAX: usize = 10_000;
/// Snapshots of one client on their way at once, each by way of a file. Others wait.
const BULK_MAX: usize = 2;

/// One client's part.
#[derive(Debug)]
pub(super) struct Share {
    calls: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
}

impl Share {
    fn new() -> Share {
        let of = |most| Arc::new(Semaphore::new(most));
        Share {
            calls: of(CALLS_MAX),
            watches: of(WATCHES_MAX),
            bulk: of(BULK_MAX),
        }
    }

    pub(super) async fn call(&self) -> OwnedSemaphorePermit {
        acquired(&self.calls).await
    }

    pub(super) async fn bulk(&self) -> OwnedSemaphorePermit {
        acquired(&self.bulk).await
    }

    /// A watch never ends by itself: waiting for that would be for ever.
    pub(super) fn watch(&self) -> Result<OwnedSemaphorePermit, Status> {
        let permit = Arc::clone(&self.watches).try_acquire_owned();
        permit.map_err(|_| {
            Status::resource_exhausted(format!(
                "you watch by {WATCHES_MAX} streams already; end one first"
            ))
        })
    }
}

async fn acquired(semaphore: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    let permit = Arc::clone(semaphore).acquire_owned().await;
    permit.expect("nobody closes it")
}

/// The parts of all who are there.
#[derive(Clone, Debug, Default)]
pub(super) struct Shares(Arc<Mutex<HashMap<String, Arc<Share>>>>);

impl Shares {
    pub(super) fn of(&self, principal: &Principal) -> Arc<Share> {
        let mut shares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A user may change its groups, and is the same.
        let name = principal.to_string();
        if let Some(share) = shares.get(&name) {
            return Arc::clone(share);
        }
        // Nobody has anything of what is left.
        shares.retain(|_, share| !share.is_idle());
        let share = Arc::new(Share::new());
        shares.insert(name, Arc::clone(&share));
        share
    }
}

impl Share {
    fn is_idle(self: &Arc<Share>) -> bool {
        let all = [
            (&self.calls, CALLS_MAX),
            (&self.watches, WATCHES_MAX),
            (&self.bulk, BULK_MAX),
        ];
        let is_whole = |(of, most): (&Arc<Semaphore>, usize)| of.available_permits() == most;
        Arc::strong_count(self) == 1 && all.into_iter().all(is_whole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_one_clients_own_and_forgotten_when_it_is_whole() {
        let shares = Shares::default();
        let [a, b] = ["a", "b"].map(|name| Principal::Client(name.to_owned()));
        let of_a = shares.of(&a);
        let watches: Vec<_> = (0..WATCHES_MAX)
            .map(|_| of_a.watch().expect("one more"))
            .collect();
        let status = shares.of(&a).watch().expect_err("it has all of them");
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        drop(shares.of(&b).watch().expect("its own"));
        drop(of_a);
        // Somebody else comes, and it still has them.
        shares.of(&Principal::Client("c".to_owned()));
        assert!(shares.of(&a).watch().is_err(), "it still has all of them");
        drop(watches);
        shares.of(&Principal::Client("d".to_owned()));
        let known = shares.0.lock().expect("nobody panicked").len();
        assert_eq!(known, 1, "only the last one is known");
        drop(shares.of(&a).watch().expect("all are free"));
    }
}
