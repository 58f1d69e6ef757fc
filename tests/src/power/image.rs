//! What may be there after a loss of power: all that was on stable storage, and of the
//! rest any of it, in any order, torn.
//!
//! As POSIX has it, and no more than that: bytes of a file are there once it was synced,
//! and a name in a directory once the directory was. What was written since may be there
//! in part, sector by sector, in whichever order; where it is not, the file is shorter, or
//! has zeros or anything there. Of the names each change may be there or not; a rename is
//! there wholly or not at all.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::recorded::{Node, Op, ROOT, Trace};

/// What a disk writes wholly or not at all, at most.
const SECTOR_LEN: usize = 512;

/// The files of each directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Image {
    /// By the names of directories and files.
    pub homes: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

/// How much is lost of what was not on stable storage.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// All of it.
    All,
    /// Nothing: everything was written in time.
    Nothing,
    /// Of names what came after some time, as a journal has it, and any of the bytes.
    Late,
    /// Any of it.
    Any,
}

impl Loss {
    /// One of them: more often those of which there are many.
    pub fn drawn(rng: &mut fastrand::Rng) -> Loss {
        [
            Loss::All,
            Loss::Nothing,
            Loss::Late,
            Loss::Any,
            Loss::Any,
            Loss::Any,
        ][rng.usize(0..6)]
    }
}

impl Image {
    /// Makes this directory with it.
    ///
    /// # Panics
    ///
    /// If there is one already.
    pub fn put(&self, dir: &Path) {
        let mut builder = std::fs::DirBuilder::new();
        builder.mode(0o700).recursive(true);
        builder.create(dir).expect("ours");
        builder.recursive(false);
        for (home, files) in &self.homes {
            let home = dir.join(home);
            builder.create(&home).expect("ours");
            for (name, bytes) in files {
                let mut options = std::fs::OpenOptions::new();
                options.mode(0o600).create_new(true).write(true);
                let mut file = options.open(home.join(name)).expect("ours");
                std::io::Write::write_all(&mut file, bytes).expect("room");
            }
        }
    }
}

impl Trace {
    /// What may be there if the power is lost when so many operations have been done.
    pub fn image(&self, count: usize, loss: Loss, rng: &mut fastrand::Rng) -> Image {
        let ops = &self.ops[..count];
        let sure = Sure::of(ops);
        let mut disk = Disk {
            keeps: match loss {
                Loss::All => 0.0,
                Loss::Nothing => 1.0,
                _ => [0.1, 0.5, 0.9][rng.usize(0..3)],
            },
            names_until: match loss {
                Loss::Late => Some(rng.usize(0..=count)),
                _ => None,
            },
            dirs: HashMap::from([(ROOT, BTreeMap::new())]),
            files: HashMap::new(),
            rng,
        };
        disk.begin_with(self);
        for (number, op) in ops.iter().enumerate() {
            disk.apply(op, number, sure.is(op, number));
        }
        disk.image()
    }
}

/// Which operations are on stable storage.
struct Sure {
    /// Of each node: those in one of these ranges.
    ranges: HashMap<Node, Vec<std::ops::Range<usize>>>,
}

impl Sure {
    fn of(ops: &[Op]) -> Sure {
        let mut ranges: HashMap<Node, Vec<_>> = HashMap::new();
        let mut lost: HashMap<Node, usize> = HashMap::new();
        for op in ops {
            match op {
                Op::Synced { node, until } => {
                    let from = lost.get(node).copied().unwrap_or(0);
                    ranges.entry(*node).or_default().push(from..*until);
                }
                Op::Unsynced { file, until } => {
                    let from = lost.entry(*file).or_default();
                    *from = (*from).max(*until);
                }
                _ => {}
            }
        }
        Sure { ranges }
    }

    fn is(&self, op: &Op, number: usize) -> bool {
        let node = match op {
            Op::Name { dir, .. } => dir,
            Op::Write { file, .. } | Op::SetLen { file, .. } => file,
            Op::Synced { .. } | Op::Unsynced { .. } => return true,
        };
        let mut ranges = self.ranges.get(node).into_iter().flatten();
        ranges.any(|range| range.contains(&number))
    }
}

/// A disk on which some of it comes to be.
struct Disk<'a> {
    /// How likely each of what is not sure is there.
    keeps: f64,
    /// Names that are not sure are there if they changed before this.
    names_until: Option<usize>,
    dirs: HashMap<Node, BTreeMap<String, Node>>,
    files: HashMap<Node, Vec<u8>>,
    rng: &'a mut fastrand::Rng,
}

impl Disk<'_> {
    fn begin_with(&mut self, trace: &Trace) {
        for (home, files) in &trace.base.homes {
            let dir = trace.before[&(home.clone(), None)];
            self.dirs.entry(ROOT).or_default().insert(home.clone(), dir);
            let names = self.dirs.entry(dir).or_default();
            for (name, bytes) in files {
                let file = trace.before[&(home.clone(), Some(name.clone()))];
                names.insert(name.clone(), file);
                self.files.insert(file, bytes.clone());
            }
        }
    }

    fn is_kept(&mut self) -> bool {
        self.rng.f64() < self.keeps
    }

    fn apply(&mut self, op: &Op, number: usize, is_sure: bool) {
        match op {
            Op::Name { dir, names } => {
                let is_there = match self.names_until {
                    _ if is_sure => true,
                    Some(until) => number < until,
                    None => self.is_kept(),
                };
                if is_there {
                    let there = self.dirs.entry(*dir).or_default();
                    for (name, node) in names {
                        match node {
                            Some(node) => drop(there.insert(name.clone(), *node)),
                            None => drop(there.remove(name)),
                        }
                    }
                }
            }
            Op::Write {
                file,
                offset,
                bytes,
            } => {
                let mut there = self.files.remove(file).unwrap_or_default();
                self.write(&mut there, *offset, bytes, is_sure);
                self.files.insert(*file, there);
            }
            Op::SetLen { file, len } => {
                if is_sure || self.is_kept() {
                    self.files.entry(*file).or_default().resize(*len, 0);
                }
            }
            Op::Synced { .. } | Op::Unsynced { .. } => {}
        }
    }

    fn write(&mut self, file: &mut Vec<u8>, offset: usize, bytes: &[u8], is_sure: bool) {
        let end = offset + bytes.len();
        if is_sure || self.keeps == 1.0 {
            file.resize(file.len().max(end), 0);
            file[offset..end].copy_from_slice(bytes);
            return;
        }
        // A file may have become longer without a byte of it.
        let is_longer = self.keeps > 0.0 && self.rng.u8(0..4) == 0;
        let has_anything = self.rng.u8(0..4) == 0;
        let mut at = offset;
        while at < end {
            let next = ((at / SECTOR_LEN + 1) * SECTOR_LEN).min(end);
            if self.is_kept() {
                self.extend(file, next, has_anything);
                file[at..next].copy_from_slice(&bytes[at - offset..next - offset]);
            }
            at = next;
        }
        if is_longer {
            self.extend(file, end, has_anything);
        }
    }

    fn extend(&mut self, file: &mut Vec<u8>, len: usize, has_anything: bool) {
        while file.len() < len {
            file.push(if has_anything { self.rng.u8(..) } else { 0 });
        }
    }

    fn image(mut self) -> Image {
        let homes = self.dirs.remove(&ROOT).unwrap_or_default();
        let files = &self.files;
        let bytes = |node: &Node| files.get(node).cloned().unwrap_or_default();
        let homes = homes.into_iter().map(|(home, dir)| {
            let names = self.dirs.get(&dir).into_iter().flatten();
            let files = names.map(|(name, node)| (name.clone(), bytes(node)));
            (home, files.collect())
        });
        Image {
            homes: homes.collect(),
        }
    }
}
