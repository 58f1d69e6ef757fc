//! Proofs: that an entry is in a log of a root, or that a log extends another one, for
//! somebody who has neither. After RFC 6962, over the tree that docs/FORMAT.md defines.

use ct_merkle::digest::Update;
use ct_merkle::{
    ConsistencyProof, HashableLeaf, InclusionProof, RootHash, indices_for_consistency_proof,
    indices_for_inclusion_proof,
};
use ledger_shm::Entry;
use ledger_shm::file::LogNodes;
use ledger_shm::format::SEQ_MAX;
use ledger_shm::merkle::{self, Frontier, Hash, Nodes};
use ledger_shm::read::Link;
use sha2::Sha256;

use crate::chain::Located;
use crate::context::Context;
use crate::error::{ProveError, ReadError};

/// That an entry is in a log.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # let context = ledger.context("loan-7").open_or_create()?;
/// # let mut appender = context.appender()?;
/// # for _ in 0..5 { appender.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?; }
/// let proof = context.prove(3, 5)?;
/// let entry = context.get(3)?.expect("it is there");
/// assert!(proof.holds(&entry));
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inclusion {
    /// Which entry: leaf `seq - 1`.
    pub seq: u64,
    /// The log's last entry, and how many leaves its tree has.
    pub last_seq: u64,
    /// Root of that tree.
    pub root: Hash,
    /// The nodes beside the way from leaf to root (RFC 6962, 2.1.1: the audit path).
    pub path: Vec<Hash>,
}

/// That a log extends another one.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # let context = ledger.context("loan-7").open_or_create()?;
/// # let mut appender = context.appender()?;
/// # for _ in 0..5 { appender.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?; }
/// let proof = context.prove_consistency(2, 5)?;
/// assert!(proof.holds());
/// # Ok(()) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consistency {
    /// The last entry of the shorter log.
    pub old_seq: u64,
    /// The last entry of the longer one.
    pub new_seq: u64,
    /// Root of the shorter one.
    pub old_root: Hash,
    /// Root of the longer one.
    pub new_root: Hash,
    /// The nodes that prove it (RFC 6962, 2.1.2).
    pub path: Vec<Hash>,
}

fn root_hash(root: &Hash, count: u64) -> RootHash<Sha256> {
    RootHash::new((*root).into(), count)
}

/// An entry, as the crate takes leaves.
struct Leaf<'a>(&'a Entry<'a>);

impl HashableLeaf for Leaf<'_> {
    fn hash<H: Update>(&self, hasher: &mut H) {
        merkle::content(self.0, |bytes| hasher.update(bytes));
    }
}

impl Inclusion {
    /// Whether this entry is in the log of that root, at that seq.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # let mut appender = context.appender()?;
    /// # for _ in 0..2 { appender.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?; }
    /// let other = context.get(2)?.expect("it is there");
    /// assert!(!context.prove(1, 2)?.holds(&other));
    /// # Ok(()) });
    /// ```
    pub fn holds(&self, entry: &Entry<'_>) -> bool {
        let is_possible = (1..=self.last_seq).contains(&self.seq) && self.last_seq <= SEQ_MAX;
        let proof = InclusionProof::try_from_bytes(self.path.as_flattened().to_vec());
        let (true, Ok(proof)) = (is_possible && entry.seq() == self.seq, proof) else {
            return false;
        };
        let root = root_hash(&self.root, self.last_seq);
        let outcome = root.verify_inclusion(&Leaf(entry), self.seq - 1, &proof);
        outcome.is_ok()
    }
}

impl Consistency {
    /// Whether the longer log begins with the shorter one.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let mut proof = context.prove_consistency(1, 1)?;
    /// assert!(proof.holds());
    /// proof.old_root = [0; 32];
    /// assert!(!proof.holds());
    /// # Ok(()) });
    /// ```
    pub fn holds(&self) -> bool {
        let is_possible = self.old_seq >= 1 && self.new_seq <= SEQ_MAX;
        let proof = ConsistencyProof::try_from_bytes(self.path.as_flattened().to_vec());
        let (true, Ok(proof)) = (is_possible, proof) else {
            return false;
        };
        let new = root_hash(&self.new_root, self.new_seq);
        new.verify_consistency(&root_hash(&self.old_root, self.old_seq), &proof)
            .is_ok()
    }
}

impl Context {
    /// The root of the tree over all entries up to this one (RFC 6962, SHA-256), at most
    /// the latest; that of an empty tree for 0. Two logs with the same root have the same
    /// entries.
    ///
    /// What files store of the tree is not hashed again.
    ///
    /// # Errors
    ///
    /// [`ProveError`]
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// assert_ne!(context.root(1)?, context.root(0)?);
    /// # Ok(()) });
    /// ```
    pub fn root(&self, last_seq: u64) -> Result<Hash, ProveError> {
        self.check_there(last_seq)?;
        Ok(merkle::tree_of(&mut self.nodes()?, last_seq)?.root())
    }

    /// Proves that the entry of this seq is in the log that ends with `last_seq`.
    ///
    /// # Errors
    ///
    /// [`ProveError`]
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let error = context.prove(2, 1).unwrap_err();
    /// assert!(error.to_string().contains("from 1 up to that"));
    /// # Ok(()) });
    /// ```
    pub fn prove(&self, seq: u64, last_seq: u64) -> Result<Inclusion, ProveError> {
        self.check_there(last_seq)?;
        check_within(seq, last_seq)?;
        let first_available = self.first_available()?;
        if seq < first_available {
            let evicted = ReadError::Evicted {
                seq,
                first_available,
            };
            return Err(evicted.into());
        }
        let mut nodes = self.nodes()?;
        let path = indices_for_inclusion_proof(last_seq, seq - 1);
        Ok(Inclusion {
            seq,
            last_seq,
            root: merkle::tree_of(&mut nodes, last_seq)?.root(),
            path: path_of(&mut nodes, path, last_seq)?,
        })
    }

    /// Proves that the log that ends with `new_seq` begins with the one that ends with
    /// `old_seq`.
    ///
    /// # Errors
    ///
    /// [`ProveError`]
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_client::NewEntry::new("facts", "income: 4200"))?;
    /// let error = context.prove_consistency(0, 1).unwrap_err();
    /// assert!(error.to_string().contains("from 1 up to that"));
    /// # Ok(()) });
    /// ```
    pub fn prove_consistency(&self, old_seq: u64, new_seq: u64) -> Result<Consistency, ProveError> {
        self.check_there(new_seq)?;
        check_within(old_seq, new_seq)?;
        let mut nodes = self.nodes()?;
        let path = indices_for_consistency_proof(old_seq, new_seq - old_seq);
        Ok(Consistency {
            old_seq,
            new_seq,
            old_root: merkle::tree_of(&mut nodes, old_seq)?.root(),
            new_root: merkle::tree_of(&mut nodes, new_seq)?.root(),
            path: path_of(&mut nodes, path, new_seq)?,
        })
    }

    fn check_there(&self, last_seq: u64) -> Result<(), ProveError> {
        let latest = self.latest()?;
        match last_seq <= latest {
            true => Ok(()),
            false => Err(ProveError::NotThere { last_seq, latest }),
        }
    }

    fn nodes(&self) -> Result<LogNodes<impl FnMut(u64) -> Result<Link, ReadError>>, ProveError> {
        let first_seq = self.first_available()?;
        let locate = |seq| match self.shared().locate(seq)? {
            Located::In(link) | Located::Closed(link) => Ok(link),
        };
        let before = match first_seq {
            1 => Frontier::default(),
            first_seq => {
                let head = self.shared().oldest_head(first_seq)?;
                head.ok_or(ProveError::Beginning { first_seq })?.before
            }
        };
        Ok(LogNodes::new(before, locate))
    }
}

fn check_within(seq: u64, last_seq: u64) -> Result<(), ProveError> {
    match (1..=last_seq).contains(&seq) {
        true => Ok(()),
        false => Err(ProveError::NotWithin { seq, last_seq }),
    }
}

/// The nodes at these places of a tree as the crate numbers them (RFC 9420, appendix C).
fn path_of(
    nodes: &mut impl Nodes<Error = ReadError>,
    places: Vec<u64>,
    count: u64,
) -> Result<Vec<Hash>, ReadError> {
    let mut path = Vec::with_capacity(places.len());
    for place in places {
        let level = place.trailing_ones();
        path.push(merkle::node(nodes, level, place >> level >> 1, count)?);
    }
    Ok(path)
}
