//! Who watches, and how far each has come: for people who ask why a log is not
//! read. Watchers write it, the daemon clears what the dead have left, and
//! nothing depends on it; it is not looked at when something is appended.

use std::mem::{offset_of, size_of};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::Bell;
use crate::fork::Generation;
use crate::format::{BellHeader, ROSTER_LEN, RosterEntry};

/// Which client of the daemon: numbered by the daemon, never twice.
///
/// ```
/// use ledger_shm::bell::roster::ClientId;
///
/// let client = ClientId { number: 3, pid: 4711 };
/// assert_eq!(ClientId::from_word(client.to_word()), client);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientId {
    /// Its number, from 1.
    pub number: u32,
    /// Its process, as the kernel told the daemon.
    pub pid: u32,
}

impl ClientId {
    /// As one word, never 0.
    ///
    /// ```
    /// # use ledger_shm::bell::roster::ClientId;
    /// assert_eq!(ClientId { number: 1, pid: 2 }.to_word(), 1 << 32 | 2);
    /// ```
    pub fn to_word(self) -> u64 {
        u64::from(self.number) << 32 | u64::from(self.pid)
    }

    /// From one word.
    ///
    /// ```
    /// # use ledger_shm::bell::roster::ClientId;
    /// assert_eq!(ClientId::from_word(1 << 32 | 2).pid, 2);
    /// ```
    pub fn from_word(word: u64) -> ClientId {
        ClientId {
            number: (word >> 32) as u32,
            pid: word as u32,
        }
    }
}

/// One watcher, as it says itself.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # let context = ledger.context("loan-7").open_or_create()?;
/// # let mut watcher = context.watch(1);
/// # watcher.try_next()?;
/// for watching in context.watchers().unwrap_or_default().watching {
///     let behind = (context.latest()? + 1).saturating_sub(watching.next_seq);
///     println!("process {} is {behind} entries behind", watching.client.pid);
/// }
/// # Ok(()) });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Watching {
    /// Who it is.
    pub client: ClientId,
    /// The first seq that it has not looked at.
    pub next_seq: u64,
}

/// A bell's roster at one moment.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # let context = ledger.context("loan-7").open_or_create()?;
/// let roster = context.watchers().unwrap_or_default();
/// println!("{} watchers, {} found no room", roster.watching.len(), roster.unlisted);
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Roster {
    /// Those that found room, in no order.
    pub watching: Vec<Watching>,
    /// How often one found none since the bell was made.
    pub unlisted: u32,
}

/// A watcher's line in the roster, until dropped.
#[derive(Debug)]
pub struct Listed {
    bell: Arc<Bell>,
    index: usize,
    client: ClientId,
    made_in: Generation,
}

impl Listed {
    /// Enters a watcher; none if there is no room, which is counted.
    pub fn new(
        bell: &Arc<Bell>,
        client: ClientId,
        next_seq: u64,
        made_in: Generation,
    ) -> Option<Listed> {
        let index = (0..ROSTER_LEN).find(|index| {
            let word = bell.client_word(*index);
            word.load(Ordering::Relaxed) == 0
                && word
                    .compare_exchange(0, client.to_word(), Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok()
        });
        let Some(index) = index else {
            let unlisted = bell.region.word32(offset_of!(BellHeader, unlisted_word));
            unlisted.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        bell.next_seq_word(index).store(next_seq, Ordering::Relaxed);
        Some(Listed {
            bell: Arc::clone(bell),
            index,
            client,
            made_in,
        })
    }

    /// Says how far the watcher has come; nothing in a fork's child, which is
    /// another process and has not mapped the bell.
    #[inline]
    pub fn set_next_seq(&self, next_seq: u64) {
        if self.made_in.is_current() {
            let word = self.bell.next_seq_word(self.index);
            word.store(next_seq, Ordering::Relaxed);
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        if self.made_in.is_current() {
            self.bell.strike(self.index, self.client);
        }
    }
}

impl Bell {
    fn roster_word(&self, index: usize, at: usize) -> &AtomicU64 {
        let entry = offset_of!(BellHeader, roster) + index * size_of::<RosterEntry>();
        self.region.word(entry + at)
    }

    fn client_word(&self, index: usize) -> &AtomicU64 {
        self.roster_word(index, offset_of!(RosterEntry, client_word))
    }

    fn next_seq_word(&self, index: usize) -> &AtomicU64 {
        self.roster_word(index, offset_of!(RosterEntry, next_seq_word))
    }

    /// Frees a line unless it is somebody else's by now.
    fn strike(&self, index: usize, client: ClientId) {
        let word = self.client_word(index);
        // Somebody else's is somebody else's to free.
        let _ = word.compare_exchange(client.to_word(), 0, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Frees what a client has left: for the daemon, when one is gone.
    pub fn strike_all(&self, client: ClientId) {
        (0..ROSTER_LEN).for_each(|index| self.strike(index, client));
    }

    /// Who watches.
    pub fn roster(&self) -> Roster {
        let watching = (0..ROSTER_LEN).filter_map(|index| {
            let client = self.client_word(index).load(Ordering::Relaxed);
            let next_seq = self.next_seq_word(index).load(Ordering::Relaxed);
            (client != 0).then_some(Watching {
                client: ClientId::from_word(client),
                next_seq,
            })
        });
        let unlisted = self.region.word32(offset_of!(BellHeader, unlisted_word));
        Roster {
            watching: watching.collect(),
            unlisted: unlisted.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    use super::*;

    fn client(number: u32) -> ClientId {
        ClientId { number, pid: 77 }
    }

    fn listed(bell: &Arc<Bell>, number: u32, next_seq: u64) -> Option<Listed> {
        let made_in = Generation::current().expect("a page of memory");
        Listed::new(bell, client(number), next_seq, made_in)
    }

    fn bell() -> Arc<Bell> {
        Arc::new(Bell::create().expect("anonymous memory").1)
    }

    #[test]
    fn who_finds_no_room_is_counted_and_room_is_used_again() {
        let bell = bell();
        let mut all: Vec<Listed> = (0..ROSTER_LEN)
            .map(|_| listed(&bell, 1, 1).expect("room"))
            .collect();
        assert!(listed(&bell, 2, 9).is_none());
        assert_eq!(bell.roster().unlisted, 1);
        all.swap_remove(5);
        let late = listed(&bell, 2, 9).expect("the room that was left");
        let watching = bell.roster().watching;
        assert_eq!(watching.len(), ROSTER_LEN);
        assert_eq!(watching[5].next_seq, 9);
        late.set_next_seq(10);
        assert_eq!(bell.roster().watching[5].next_seq, 10);
    }

    #[test]
    fn a_line_is_these_words() {
        let (memory, bell) = Bell::create().expect("anonymous memory");
        let bell = Arc::new(bell);
        let _lines = [(2, 40), (3, 50)]
            .map(|(number, next_seq)| listed(&bell, number, next_seq).expect("room"));
        let file = File::from(memory);
        for (index, number, next_seq) in [(0, 2, 40), (1, 3, 50)] {
            let mut words = [[0; 8]; 2];
            let at = offset_of!(BellHeader, roster) + index * size_of::<RosterEntry>();
            let read = file.read_exact_at(words.as_flattened_mut(), at as u64);
            read.expect("our memory");
            let expected = [client(number).to_word(), next_seq];
            assert_eq!(words.map(u64::from_le_bytes), expected);
        }
    }

    #[test]
    fn the_lines_of_the_dead_are_freed_and_nobody_elses() {
        let bell = bell();
        let dead = [(); 3].map(|()| listed(&bell, 1, 1).expect("room"));
        let alive = listed(&bell, 2, 4).expect("room");
        bell.strike_all(client(1));
        let roster = bell.roster();
        assert_eq!(roster.watching.len(), 1);
        assert_eq!(roster.watching[0].client, client(2));
        let other = listed(&bell, 3, 7).expect("a dead one's line");
        // The one that was taken for dead drops its line late.
        drop(dead);
        assert_eq!(bell.roster().watching.len(), 2);
        drop((alive, other));
        assert_eq!(bell.roster(), Roster::default());
    }
}
