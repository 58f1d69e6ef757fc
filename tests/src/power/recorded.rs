//! A file system that remembers what was done to it, and in which order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ledgerd::FileSystem;

use super::Image;

/// A file or directory, whatever it is called and however often its number is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node(pub usize);

/// What was done.
#[derive(Clone, Debug)]
pub enum Op {
    /// A name in a directory became that of another node, or of none.
    Name {
        /// The directory.
        dir: Node,
        /// All that changed in one step: of each name what it is one of now.
        names: Vec<(String, Option<Node>)>,
    },
    /// Bytes were written.
    Write {
        /// To which file.
        file: Node,
        /// Where.
        offset: usize,
        /// Which.
        bytes: Vec<u8>,
    },
    /// A file was cut off.
    SetLen {
        /// Which.
        file: Node,
        /// Where.
        len: usize,
    },
    /// Something is on stable storage as far as it was changed before an operation.
    Synced {
        /// A file, for its bytes, or a directory, for its names.
        node: Node,
        /// The number of that operation.
        until: usize,
    },
    /// The same failed: what was not there before may never be, whatever is synced later.
    Unsynced {
        /// A file.
        file: Node,
        /// The number of that operation.
        until: usize,
    },
}

/// All that was done.
#[derive(Clone, Debug)]
pub struct Trace {
    /// What was there before.
    pub base: Image,
    /// In this order.
    pub ops: Vec<Op>,
    /// Nodes of what was there before: directories, and the files in them.
    pub(super) before: HashMap<(String, Option<String>), Node>,
}

/// Called before each operation, with its number.
type Watch = Box<dyn Fn(usize) + Send + Sync>;

/// A file system that remembers. Nothing is really brought to stable storage.
pub struct Recorded {
    state: Mutex<State>,
    watch: Mutex<Option<Watch>>,
}

struct State {
    trace: Trace,
    /// By device and inode.
    nodes: HashMap<(u64, u64), Node>,
    /// While it is open no other file has its inode.
    open: Vec<File>,
    /// In which directory each file was made.
    above: HashMap<Node, Node>,
    /// A file in this directory is not brought to stable storage once, after so many times
    /// that one is.
    failing: Option<(Node, usize)>,
}

impl std::fmt::Debug for Recorded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorded").finish_non_exhaustive()
    }
}

/// What the kernel does.
#[derive(Debug)]
struct Kernel;

impl FileSystem for Kernel {}

/// The directory itself.
pub const ROOT: Node = Node(0);

impl Recorded {
    /// Below this directory, which is made and has this in it.
    ///
    /// # Panics
    ///
    /// If it cannot be made.
    pub fn on(dir: &Path, base: &Image) -> Recorded {
        base.put(dir);
        let mut state = State {
            trace: Trace {
                base: base.clone(),
                ops: Vec::new(),
                before: HashMap::new(),
            },
            nodes: HashMap::new(),
            open: Vec::new(),
            above: HashMap::new(),
            failing: None,
        };
        assert_eq!(state.made(dir).expect("ours"), ROOT);
        for (home, files) in &base.homes {
            let node = state.made(&dir.join(home)).expect("ours");
            state.trace.before.insert((home.clone(), None), node);
            for name in files.keys() {
                let node = state.made(&dir.join(home).join(name)).expect("ours");
                let key = (home.clone(), Some(name.clone()));
                state.trace.before.insert(key, node);
            }
        }
        Recorded {
            state: Mutex::new(state),
            watch: Mutex::new(None),
        }
    }

    /// Has this called before each operation from now on, with its number.
    pub fn watch(&self, watch: impl Fn(usize) + Send + Sync + 'static) {
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(watch));
    }

    /// Has a file in this directory not brought to stable storage once, after so many times
    /// that one is.
    ///
    /// # Panics
    ///
    /// If it was not made by us.
    pub fn fail_sync_in(&self, dir: &Path, after: usize) {
        let mut state = self.state();
        let dir = state.at(dir).expect("it is there");
        state.failing = Some((dir, after));
    }

    /// How much has been done.
    pub fn count(&self) -> usize {
        self.state().trace.ops.len()
    }

    /// What has been done.
    pub fn trace(&self) -> Trace {
        self.state().trace.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever does something has it done and remembered in one step.
    fn begin(&self) -> MutexGuard<'_, State> {
        let state = self.state();
        if let Some(watch) = &*self.watch.lock().unwrap_or_else(PoisonError::into_inner) {
            watch(state.trace.ops.len());
        }
        state
    }

    fn end_sync(&self, node: Option<Node>, op: impl FnOnce(Node) -> Op) {
        if let Some(node) = node {
            self.begin().trace.ops.push(op(node));
        }
    }
}

impl State {
    /// Something that was just made.
    fn made(&mut self, path: &Path) -> io::Result<Node> {
        let file = File::open(path)?;
        let found = file.metadata()?;
        let node = Node(self.nodes.len());
        self.nodes.insert((found.dev(), found.ino()), node);
        self.open.push(file);
        Ok(node)
    }

    fn of(&self, file: &File) -> io::Result<Option<Node>> {
        let found = file.metadata()?;
        Ok(self.nodes.get(&(found.dev(), found.ino())).copied())
    }

    fn at(&self, path: &Path) -> io::Result<Node> {
        let node = self.of(&File::open(path)?)?;
        Ok(node.unwrap_or_else(|| panic!("{} was not made by us", path.display())))
    }

    fn above(&self, path: &Path) -> io::Result<Node> {
        self.at(path.parent().expect("below the root"))
    }

    /// Whether this is the time that bringing it to stable storage fails.
    fn fails(&mut self, file: Option<Node>) -> bool {
        let above = file.and_then(|file| self.above.get(&file));
        let Some((_, left)) = self.failing.as_mut().filter(|(dir, _)| Some(dir) == above) else {
            return false;
        };
        match left.checked_sub(1) {
            Some(fewer) => *left = fewer,
            None => self.failing = None,
        }
        self.failing.is_none()
    }

    fn name(&mut self, dir: Node, names: Vec<(String, Option<Node>)>) {
        self.trace.ops.push(Op::Name { dir, names });
    }
}

fn last(path: &Path) -> String {
    let name = path.file_name().expect("it has a name");
    name.to_str().expect("one of ours").to_owned()
}

impl FileSystem for Recorded {
    fn make_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.begin();
        Kernel.make_dir(dir)?;
        let (above, node) = (state.above(dir)?, state.made(dir)?);
        state.name(above, vec![(last(dir), Some(node))]);
        Ok(())
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        let mut state = self.begin();
        let file = Kernel.create(path)?;
        let (above, node) = (state.above(path)?, state.made(path)?);
        state.above.insert(node, above);
        state.name(above, vec![(last(path), Some(node))]);
        Ok(file)
    }

    fn write(&self, mut file: &File, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.begin();
        let len = Kernel.write(file, bytes)?;
        let offset = file.stream_position()? as usize - len;
        let node = state.of(file)?.expect("made by us");
        state.trace.ops.push(Op::Write {
            file: node,
            offset,
            bytes: bytes[..len].to_vec(),
        });
        Ok(len)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.begin();
        Kernel.write_at(file, bytes, offset)?;
        let node = state.of(file)?.expect("made by us");
        state.trace.ops.push(Op::Write {
            file: node,
            offset: offset as usize,
            bytes: bytes.to_vec(),
        });
        Ok(())
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        let mut state = self.begin();
        Kernel.set_len(file, len)?;
        let node = state.of(file)?.expect("made by us");
        state.trace.ops.push(Op::SetLen {
            file: node,
            len: len as usize,
        });
        Ok(())
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let (node, until, fails) = {
            let mut state = self.begin();
            let node = state.of(file)?;
            (node, state.trace.ops.len(), state.fails(node))
        };
        // What is written meanwhile is not known to be there.
        std::thread::yield_now();
        if fails {
            self.end_sync(node, |file| Op::Unsynced { file, until });
            return Err(io::Error::from(nix::Error::EIO));
        }
        self.end_sync(node, |node| Op::Synced { node, until });
        Ok(())
    }

    fn sync_dir(&self, dir: &File) -> io::Result<()> {
        let (node, until) = {
            let state = self.begin();
            (state.of(dir)?, state.trace.ops.len())
        };
        self.end_sync(node, |node| Op::Synced { node, until });
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.begin();
        let (above, node) = (state.above(from)?, state.at(from)?);
        Kernel.rename(from, to)?;
        state.name(above, vec![(last(from), None), (last(to), Some(node))]);
        Ok(())
    }

    fn exchange(&self, one: &Path, other: &Path) -> io::Result<()> {
        let mut state = self.begin();
        let (node, other_node) = (state.at(one)?, state.at(other)?);
        Kernel.exchange(one, other)?;
        let above = state.above(one)?;
        let names = [(one, other_node), (other, node)];
        let names = names.map(|(path, node)| (last(path), Some(node)));
        state.name(above, names.into());
        Ok(())
    }

    fn remove(&self, dir: &File, name: &str) -> io::Result<()> {
        let mut state = self.begin();
        Kernel.remove(dir, name)?;
        let node = state.of(dir)?.expect("made by us");
        state.name(node, vec![(name.to_owned(), None)]);
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.begin();
        let (above, node) = (state.above(dir)?, state.at(dir)?);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            names.push(last(&entry?.path()));
        }
        Kernel.remove_dir(dir)?;
        for name in names {
            state.name(node, vec![(name, None)]);
        }
        state.name(above, vec![(last(dir), None)]);
        Ok(())
    }
}
