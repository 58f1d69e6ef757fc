//! The Merkle tree over a context's entries, after RFC 6962, section 2.1: who has a
//! root can be shown that an entry is in the log, or that a log extends another,
//! without being given either.
//!
//! Leaf `seq - 1` is the hash of an entry's content, which says nothing of the context
//! it is in: a loaded copy has the same tree. The content is defined in docs/FORMAT.md.
//!
//! Of a tree that grows only its peaks are kept, the roots of the largest complete
//! subtrees, as many as its count has bits set. Files store what is lost by that: the
//! root of every complete subtree of at least [`CHUNK_COUNT`] leaves, in the order in
//! which they become complete. Below that hashing again is cheap.

use sha2::{Digest, Sha256};

use crate::entry::Entry;

/// A node of the tree: SHA-256.
pub type Hash = [u8; HASH_LEN];
/// Bytes of one.
pub const HASH_LEN: usize = 32;
/// Leaves of the smallest subtree whose root is stored.
pub const CHUNK_COUNT: u64 = 1 << CHUNK_LEVEL;
pub(crate) const CHUNK_LEVEL: u32 = 4;

const LEAF_PREFIX: u8 = 0;
const NODE_PREFIX: u8 = 1;

/// The leaf of an entry.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # let context = ledger.context("loan-7").open_or_create()?;
/// # context.appender()?.append(&ledger_shm::NewEntry::new("facts", "income: 4200"))?;
/// let entry = context.get(1)?.expect("just appended");
/// let root = ledger_shm::merkle::leaf_hash(&entry); // of a log of one entry
/// # assert_eq!(root.len(), 32);
/// # Ok(()) });
/// ```
pub fn leaf_hash(entry: &Entry<'_>) -> Hash {
    let mut hasher = Sha256::new();
    leaf(entry, |bytes| hasher.update(bytes));
    hasher.finalize().into()
}

/// The bytes that a leaf is the hash of, in pieces: a zero, and the content.
pub(crate) fn leaf(entry: &Entry<'_>, mut take: impl FnMut(&[u8])) {
    take(&[LEAF_PREFIX]);
    content(entry, take);
}

/// What a leaf says of an entry, in pieces.
pub fn content(entry: &Entry<'_>, mut take: impl FnMut(&[u8])) {
    let (key, payload) = (entry.key(), entry.payload());
    let metadata = entry.metadata();
    let mut head = [0; 48];
    let numbers = [
        entry.seq(),
        entry.appended_at_ns(),
        entry.lamport(),
        key.len() as u64,
        metadata.len() as u64,
        payload.len() as u64,
    ];
    for (word, number) in head.as_chunks_mut().0.iter_mut().zip(numbers) {
        *word = number.to_le_bytes();
    }
    take(&head);
    take(key.as_bytes());
    for (key, value) in metadata {
        take(&(key.len() as u64).to_le_bytes());
        take(&(value.len() as u64).to_le_bytes());
        take(key.as_bytes());
        take(value.as_bytes());
    }
    take(payload);
}

/// The node above two others.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [NODE_PREFIX; 1 + 2 * HASH_LEN];
    bytes[1..=HASH_LEN].copy_from_slice(left);
    bytes[1 + HASH_LEN..].copy_from_slice(right);
    Sha256::digest(bytes).into()
}

/// A tree of which only the peaks are kept: what it takes to go on, and its root.
///
/// ```
/// use ledger_shm::merkle::{Frontier, node_hash};
///
/// let mut frontier = Frontier::default();
/// frontier.push([1; 32], |_| {});
/// frontier.push([2; 32], |_| {});
/// assert_eq!(frontier.root(), node_hash(&[1; 32], &[2; 32]));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    count: u64,
    /// The largest first; as many as `count` has bits set.
    peaks: Vec<Hash>,
}

impl Frontier {
    /// Of so many leaves; none if there are not as many peaks as that takes.
    pub fn new(count: u64, peaks: Vec<Hash>) -> Option<Frontier> {
        (peaks.len() == peak_count(count)).then_some(Frontier { count, peaks })
    }

    /// Leaves.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The roots of its largest complete subtrees, from the first leaf on.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// The peak that is the root of the subtree of `2^level` leaves that has `index` of
    /// its size before it; none if that is no peak.
    pub fn peak(&self, level: u32, index: u64) -> Option<Hash> {
        let above = self.count.checked_shr(level)?;
        // The last subtree of its size, in a count that has that bit set.
        let is_peak = above & 1 == 1 && above - 1 == index;
        is_peak.then(|| self.peaks[peak_count(above) - 1])
    }

    /// Adds a leaf, and tells of each subtree that is stored and complete by it.
    pub fn push(&mut self, leaf: Hash, stored: impl FnMut(&Hash)) {
        self.add(0, leaf, stored);
    }

    /// Adds [`CHUNK_COUNT`] leaves by the root above them.
    ///
    /// # Panics
    ///
    /// If it does not stand at a multiple of that.
    pub fn push_chunk(&mut self, root: Hash, stored: impl FnMut(&Hash)) {
        assert!(self.is_between_chunks(), "{} leaves", self.count);
        self.add(CHUNK_LEVEL, root, stored);
    }

    /// Whether a whole chunk can be added.
    pub fn is_between_chunks(&self) -> bool {
        self.count.is_multiple_of(CHUNK_COUNT)
    }

    fn add(&mut self, level: u32, mut hash: Hash, mut stored: impl FnMut(&Hash)) {
        let before = self.count;
        self.count += 1 << level;
        // One that is complete by it ends there.
        for above in level..=self.count.trailing_zeros() {
            if above > level {
                let left = self.peaks.pop();
                hash = node_hash(&left.expect("a bit of the count"), &hash);
            }
            if above >= CHUNK_LEVEL {
                stored(&hash);
            }
        }
        self.peaks.push(hash);
        debug_assert_eq!(self.peaks.len(), peak_count(self.count), "after {before}");
    }

    /// The tree's root (RFC 6962: MTH), also of an empty one.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev().copied();
        let Some(last) = peaks.next() else {
            return Sha256::digest([]).into();
        };
        peaks.fold(last, |right, left| node_hash(&left, &right))
    }
}

/// How many peaks a tree of so many leaves has.
pub const fn peak_count(count: u64) -> usize {
    count.count_ones() as usize
}

/// How many nodes are stored of the first so many leaves.
pub fn stored_count(count: u64) -> u64 {
    // Of n chunks: n, and above them one less than for each peak.
    let chunks = count / CHUNK_COUNT;
    2 * chunks - u64::from(chunks.count_ones())
}

/// Where a node is among those that are stored: the root of the subtree of `2^level`
/// leaves that has `index` of its size before it; none if it is not stored.
///
/// ```
/// use ledger_shm::merkle::{stored_count, stored_number};
///
/// assert_eq!(stored_number(4, 0), Some(0));
/// assert_eq!(stored_number(5, 0), Some(2)); // behind the two that it is above
/// assert_eq!(stored_number(3, 0), None);
/// assert_eq!(stored_count(32), 3);
/// ```
pub fn stored_number(level: u32, index: u64) -> Option<u64> {
    let above = level.checked_sub(CHUNK_LEVEL)?;
    // It is complete with the chunk that ends it, after those of it that are lower.
    let end = index.checked_add(1)?.checked_mul(1 << level)?;
    Some(stored_count(end - CHUNK_COUNT) + u64::from(above))
}

/// Where the nodes of a tree can be had: some are stored, all leaves can be hashed.
pub trait Nodes {
    /// What keeps one from being had.
    type Error;

    /// The root of the complete subtree of `2^level` leaves that has `index` of its size
    /// before it, if that is stored.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from being read.
    fn stored(&mut self, level: u32, index: u64) -> Result<Option<Hash>, Self::Error>;

    /// The leaf that has so many before it.
    ///
    /// # Errors
    ///
    /// Whatever keeps its entry from being read.
    fn leaf(&mut self, index: u64) -> Result<Hash, Self::Error>;
}

/// The node above the leaves from `index << level` on, `2^level` of them or as many as a
/// tree of `count` leaves has, which is at least one.
///
/// # Errors
///
/// As the nodes have it.
pub fn node<N: Nodes>(nodes: &mut N, level: u32, index: u64, count: u64) -> Result<Hash, N::Error> {
    let is_complete = (index + 1) << level <= count;
    if is_complete && let Some(hash) = nodes.stored(level, index)? {
        return Ok(hash);
    }
    if level == 0 {
        return nodes.leaf(index);
    }
    let (below, left) = (level - 1, 2 * index);
    let left_hash = node(nodes, below, left, count)?;
    // Where nothing is on the right, a node is what is on its left.
    if (left + 1) << below >= count {
        return Ok(left_hash);
    }
    Ok(node_hash(&left_hash, &node(nodes, below, left + 1, count)?))
}

/// The tree over the first so many leaves.
///
/// # Errors
///
/// As the nodes have it.
pub fn tree_of<N: Nodes>(nodes: &mut N, count: u64) -> Result<Frontier, N::Error> {
    let mut peaks = Vec::with_capacity(peak_count(count));
    let mut before = 0;
    for level in (0..u64::BITS).rev().filter(|level| count >> level & 1 == 1) {
        peaks.push(node(nodes, level, before >> level, count)?);
        before += 1 << level;
    }
    Ok(Frontier { count, peaks })
}

#[cfg(test)]
mod tests {
    use ct_merkle::mem_backed_tree::MemoryBackedTree;

    use super::*;
    use crate::entry::Limits;
    use crate::{Appended, NewEntry};

    #[test]
    fn roots_are_those_of_another_implementation() {
        let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
        let mut frontier = Frontier::default();
        assert_eq!(frontier.root()[..], tree.root().as_bytes()[..]);
        for count in 1..=600_u64 {
            let leaf = count.to_le_bytes().to_vec();
            let mut hasher = Sha256::new_with_prefix([LEAF_PREFIX]);
            hasher.update(&leaf);
            tree.push(leaf);
            frontier.push(hasher.finalize().into(), |_| {});
            assert_eq!(frontier.root()[..], tree.root().as_bytes()[..], "{count}");
        }
    }

    #[test]
    fn what_is_stored_is_found_by_level_and_index() {
        let leaf = |index: u64| -> Hash { Sha256::digest(index.to_le_bytes()).into() };
        let count = 16 * 37 + 5;
        let mut stored = Vec::new();
        let mut frontier = Frontier::default();
        for index in 0..count {
            frontier.push(leaf(index), |node| stored.push(*node));
            assert_eq!(stored.len() as u64, stored_count(index + 1));
        }
        let mut found = 0;
        for level in 4..10 {
            for index in 0..count >> level {
                let mut subtree = Frontier::default();
                for of in index << level..(index + 1) << level {
                    subtree.push(leaf(of), |_| {});
                }
                let number = stored_number(level, index).expect("stored");
                assert_eq!(stored[number as usize], subtree.root(), "{level} {index}");
                found += 1;
            }
        }
        assert_eq!(found, stored.len());
        assert_eq!(stored_number(3, 7), None);
        assert_eq!(stored_number(63, u64::MAX), None);
    }

    #[test]
    fn chunks_make_the_same_tree_as_their_leaves() {
        let (mut by_leaf, mut by_chunk) = (Frontier::default(), Frontier::default());
        let (mut stored, mut stored_again) = (Vec::new(), Vec::new());
        for index in 0..16 * 21_u64 {
            let before = stored.len();
            let leaf = Sha256::digest(index.to_le_bytes()).into();
            by_leaf.push(leaf, |node| stored.push(*node));
            if let Some(chunk) = stored.get(before) {
                by_chunk.push_chunk(*chunk, |node| stored_again.push(*node));
                assert_eq!(by_chunk, by_leaf);
            }
        }
        assert_eq!(stored, stored_again);
    }

    /// Leaves that are their own numbers, and what is stored of them.
    struct Numbers(Vec<Hash>);

    impl Nodes for Numbers {
        type Error = std::convert::Infallible;

        fn stored(&mut self, level: u32, index: u64) -> Result<Option<Hash>, Self::Error> {
            let number = stored_number(level, index).map(|number| number as usize);
            Ok(number.and_then(|number| self.0.get(number)).copied())
        }

        fn leaf(&mut self, index: u64) -> Result<Hash, Self::Error> {
            Ok(Sha256::digest(index.to_le_bytes()).into())
        }
    }

    #[test]
    fn every_earlier_tree_follows_from_what_is_stored() {
        let mut whole = Frontier::default();
        let mut trees = vec![whole.clone()];
        let mut stored = Numbers(Vec::new());
        for index in 0..16 * 9_u64 + 7 {
            let Ok(leaf) = stored.leaf(index);
            whole.push(leaf, |node| stored.0.push(*node));
            trees.push(whole.clone());
        }
        // Also where only some of it is stored, the rest being in memory.
        stored.0.truncate(5);
        for (count, tree) in trees.into_iter().enumerate() {
            let Ok(found) = tree_of(&mut stored, count as u64);
            assert_eq!(found, tree, "{count}");
            if count > 0 {
                let Ok(root) = node(&mut stored, 9, 0, count as u64);
                assert_eq!(root, tree.root(), "{count}");
            }
        }
    }

    #[test]
    fn a_frontier_has_a_peak_for_each_bit() {
        assert!(Frontier::new(5, vec![[0; 32]; 2]).is_some());
        assert!(Frontier::new(5, vec![[0; 32]; 3]).is_none());
        assert!(Frontier::new(0, Vec::new()).is_some());
    }

    #[test]
    fn a_peak_is_found_by_what_it_stands_on() {
        let peak = |number| [number; HASH_LEN];
        // Leaves 0..8, 8..12 and 12.
        let frontier = Frontier::new(13, vec![peak(1), peak(2), peak(3)]).expect("its peaks");
        for level in 0..=u64::BITS {
            for index in 0..=13 {
                let expected = match (level, index) {
                    (3, 0) => Some(peak(1)),
                    (2, 2) => Some(peak(2)),
                    (0, 12) => Some(peak(3)),
                    _ => None,
                };
                assert_eq!(frontier.peak(level, index), expected, "{level} {index}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "17 leaves")]
    fn a_chunk_begins_where_one_ended() {
        let mut frontier = Frontier::new(17, vec![[0; HASH_LEN]; 2]).expect("its peaks");
        frontier.push_chunk([0; HASH_LEN], |_| {});
    }

    #[test]
    fn a_leaf_is_the_hash_of_these_bytes() {
        let mut bytes = vec![LEAF_PREFIX];
        for number in [0x0102, 0x0304, 0x0506, 5, 2, 7_u64] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend(b"facts");
        for (key, value) in [("a", "bcd"), ("source", "")] {
            bytes.extend((key.len() as u64).to_le_bytes());
            bytes.extend((value.len() as u64).to_le_bytes());
            bytes.extend(key.as_bytes());
            bytes.extend(value.as_bytes());
        }
        bytes.extend(b"payload");
        let expected: Hash = Sha256::digest(&bytes).into();
        let appended = Appended {
            seq: 0x0102,
            appended_at_ns: 0x0304,
            lamport: 0x0506,
        };
        let record = NewEntry::new("facts", "payload")
            .metadata(&[("a", "bcd"), ("source", "")])
            .record(&appended, &Limits::default())
            .expect("within all limits");
        let entry = Entry::from_bytes(&record).expect("just made");
        assert_eq!(leaf_hash(&entry), expected);
        // The content is all but the prefix.
        let mut content_bytes = Vec::new();
        content(&entry, |piece| content_bytes.extend_from_slice(piece));
        assert_eq!(content_bytes, bytes[1..]);
    }
}
