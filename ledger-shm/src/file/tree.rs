//! The nodes of a log's tree, wherever its entries lie: files store some of them, and
//! what is in memory is hashed.

use crate::error::Corrupt;
use crate::merkle::{Frontier, Hash, Nodes, leaf_hash};
use crate::object::MapError;
use crate::read::Link;
use crate::segment::StoredNodes;

/// The nodes of a log. What was used last is kept at hand.
#[derive(Debug)]
pub struct LogNodes<F> {
    /// Finds the part or the file that holds an entry.
    locate: F,
    /// The tree over what is before the first entry there is.
    before: Frontier,
    here: Option<(Link, Option<StoredNodes>)>,
}

impl<F, E> LogNodes<F>
where
    F: FnMut(u64) -> Result<Link, E>,
    E: From<MapError>,
{
    /// Those of a log in which this finds what holds an entry, behind what this is the
    /// tree of.
    pub fn new(before: Frontier, locate: F) -> LogNodes<F> {
        LogNodes {
            locate,
            before,
            here: None,
        }
    }

    /// Goes to where this entry is.
    fn go_to(&mut self, seq: u64) -> Result<&(Link, Option<StoredNodes>), E> {
        let holds = |(link, _): &(Link, _)| link.segment.holds(link.base_seq, seq);
        let is_here = match &self.here {
            Some(here) => holds(here).map_err(MapError::from)?,
            None => false,
        };
        if !is_here {
            let link = (self.locate)(seq)?;
            let stored = StoredNodes::of(&link.segment)?;
            self.here = Some((link, stored));
        }
        Ok(self.here.as_ref().expect("gone to above"))
    }
}

impl<F, E> Nodes for LogNodes<F>
where
    F: FnMut(u64) -> Result<Link, E>,
    E: From<MapError>,
{
    type Error = E;

    fn stored(&mut self, level: u32, index: u64) -> Result<Option<Hash>, E> {
        // It became complete with its last leaf.
        let last_seq = (index + 1) << level;
        if last_seq <= self.before.count() {
            return Ok(self.before.peak(level, index));
        }
        let (_, stored) = self.go_to(last_seq)?;
        Ok(stored.as_ref().and_then(|stored| stored.node(level, index)))
    }

    fn leaf(&mut self, index: u64) -> Result<Hash, E> {
        let seq = index + 1;
        let (link, _) = self.go_to(seq)?;
        match link.clone().get(seq).map_err(MapError::from)? {
            Ok(entry) => {
                entry.verify().map_err(MapError::from)?;
                Ok(leaf_hash(&entry))
            }
            Err(_) => {
                Err(MapError::from(Corrupt::new("part that should hold an entry", seq, 0)).into())
            }
        }
    }
}
