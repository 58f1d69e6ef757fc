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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::Write;
    use std::sync::Arc;

    use super::*;
    use crate::Segment;
    use crate::entry::Entry;
    use crate::file::FileWriter;
    use crate::file::tests::{head, record};
    use crate::merkle::{node, tree_of};
    use crate::object::Object;

    /// A finished file of so many entries behind that tree, which it goes on with.
    fn file(tree: &mut Frontier, count: u64) -> Link {
        let mut head = head(1);
        head.before = tree.clone();
        let base_seq = head.first_seq();
        let mut writer = FileWriter::begin(Vec::new(), &head).expect("memory");
        for seq in base_seq..base_seq + count {
            let record = record(seq, seq as usize);
            let entry = Entry::from_bytes(&record).expect("just made");
            writer.push(&entry).expect("memory");
        }
        let finished = writer.finish(false).expect("memory");
        *tree = finished.tree;
        let mut file = Object::unnamed().expect("memory");
        file.write_all(&finished.target).expect("memory");
        let (segment, ..) = Segment::map_file(&Object::own(file).expect("memory")).expect("whole");
        Link {
            segment: Arc::new(segment),
            base_seq,
        }
    }

    #[test]
    fn trees_of_a_log_follow_from_its_files_and_what_was_before_them() {
        let mut trees = vec![Frontier::default()];
        let mut tree = Frontier::default();
        let parts: Vec<_> = [20, 13, 50]
            .map(|count| file(&mut tree, count))
            .into_iter()
            .collect();
        for seq in 1..=83_u64 {
            let mut next = trees.last().expect("one").clone();
            let record = record(seq, seq as usize);
            let entry = Entry::from_bytes(&record).expect("just made");
            next.push(leaf_hash(&entry), |_| {});
            trees.push(next);
        }
        assert_eq!(trees.last(), Some(&tree));
        // Of which the first ones may be gone.
        for (first_part, before) in [(0, 0), (1, 20), (2, 33)] {
            let located = Cell::new(0);
            let locate = |seq| -> Result<Link, MapError> {
                located.set(located.get() + 1);
                let mut rest = parts[first_part..].iter().rev();
                let part = rest.find(|part| part.base_seq <= seq);
                Ok(part.expect("it is not gone").clone())
            };
            let mut nodes = LogNodes::new(trees[before].clone(), locate);
            for count in before..trees.len() {
                let found = tree_of(&mut nodes, count as u64).expect("whole");
                assert_eq!(found, trees[count], "{count} entries");
            }
            // What lies in one file is found without looking for that again.
            located.set(0);
            for index in 60..83 {
                node(&mut nodes, 0, index, 83).expect("whole");
            }
            assert!(located.get() <= 1, "{} times", located.get());
        }
    }

    #[test]
    fn an_entry_that_is_not_where_it_should_be_is_damage() {
        let mut tree = Frontier::default();
        let part = file(&mut tree, 5);
        let mut nodes = LogNodes::new(Frontier::default(), |_| Ok::<_, MapError>(part.clone()));
        assert!(nodes.leaf(4).is_ok());
        match nodes.leaf(5) {
            Err(MapError::Corrupt(corrupt)) => assert_eq!(corrupt.found, 6),
            other => panic!("{other:?}"),
        }
    }
}
