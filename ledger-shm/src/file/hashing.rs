//! Growing the tree over the records of a file: here, or by a thread beside, because
//! hashing takes longer than everything else that is done with an entry.

use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};

use crate::entry::Entry;
use crate::merkle::{self, Frontier, Hash};

/// Bytes that are handed over at once, and how many such may wait.
const BATCH_LEN: usize = 256 << 10;
const BATCHES: usize = 4;

/// A tree, and which of its nodes became complete as it grew.
#[derive(Debug, Default)]
pub(super) struct Grown {
    pub(super) tree: Frontier,
    pub(super) nodes: Vec<u8>,
}

impl Grown {
    pub(super) fn behind(tree: Frontier) -> Grown {
        Grown {
            tree,
            nodes: Vec::new(),
        }
    }

    fn push(&mut self, leaf: Hash) {
        let nodes = &mut self.nodes;
        self.tree.push(leaf, |node| nodes.extend_from_slice(node));
    }

    fn push_chunk(&mut self, root: Hash) {
        let nodes = &mut self.nodes;
        self.tree
            .push_chunk(root, |node| nodes.extend_from_slice(node));
    }

    fn take(&mut self, batch: &Batch) {
        let mut begin = 0;
        for step in &batch.steps {
            match *step {
                Step::Leaf { end } => {
                    let leaf = &batch.contents[begin..end];
                    self.push(Sha256::digest(leaf).into());
                    begin = end;
                }
                Step::Chunk(root) => self.push_chunk(root),
            }
        }
    }
}

/// Who grows it.
#[derive(Debug)]
pub(super) enum Hashing {
    Here(Grown),
    Beside(Beside),
}

impl Hashing {
    pub(super) fn add(&mut self, entry: &Entry<'_>) {
        match self {
            Hashing::Here(grown) => grown.push(merkle::leaf_hash(entry)),
            Hashing::Beside(beside) => beside.add(entry),
        }
    }

    pub(super) fn add_chunk(&mut self, root: Hash) {
        match self {
            Hashing::Here(grown) => grown.push_chunk(root),
            Hashing::Beside(beside) => beside.batch.steps.push(Step::Chunk(root)),
        }
    }

    /// All of it, once that is done.
    pub(super) fn finish(self) -> Grown {
        match self {
            Hashing::Here(grown) => grown,
            Hashing::Beside(beside) => beside.finish(),
        }
    }
}

#[derive(Debug, Default)]
struct Batch {
    /// What leaves are the hashes of, one behind the other.
    contents: Vec<u8>,
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    Leaf { end: usize },
    Chunk(Hash),
}

/// A thread that hashes, once there is enough for it to do.
#[derive(Debug)]
pub(super) struct Beside {
    batch: Batch,
    worker: Worker,
}

#[derive(Debug)]
enum Worker {
    /// Not begun, or not to be had.
    None(Grown),
    Thread {
        batches: SyncSender<Batch>,
        thread: JoinHandle<Grown>,
    },
}

impl Beside {
    pub(super) fn behind(tree: Frontier) -> Beside {
        Beside {
            batch: Batch::default(),
            worker: Worker::None(Grown::behind(tree)),
        }
    }

    fn add(&mut self, entry: &Entry<'_>) {
        let Batch { contents, steps } = &mut self.batch;
        merkle::leaf(entry, |bytes| contents.extend_from_slice(bytes));
        let end = contents.len();
        steps.push(Step::Leaf { end });
        if end >= BATCH_LEN {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        if let Worker::None(grown) = &mut self.worker {
            let (batches, todo) = mpsc::sync_channel(BATCHES);
            // It is hashed here if there is no thread to be had.
            let begun = std::mem::take(grown);
            match spawn(begun, todo) {
                Ok(thread) => self.worker = Worker::Thread { batches, thread },
                Err(begun) => *grown = begun,
            }
        }
        match &mut self.worker {
            Worker::None(grown) => grown.take(&batch),
            Worker::Thread { batches, .. } => {
                // A thread that has panicked is told of when it is joined.
                let _ = batches.send(batch);
                batch = Batch::default();
                batch.contents.reserve(BATCH_LEN);
            }
        }
        batch.contents.clear();
        batch.steps.clear();
        self.batch = batch;
    }

    fn finish(self) -> Grown {
        match self.worker {
            Worker::None(mut grown) => {
                grown.take(&self.batch);
                grown
            }
            Worker::Thread { batches, thread } => {
                let _ = batches.send(self.batch);
                drop(batches);
                let joined = thread.join();
                joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        }
    }
}

fn spawn(grown: Grown, todo: Receiver<Batch>) -> Result<JoinHandle<Grown>, Grown> {
    // It is not lost where the thread does not start.
    let (hand, given) = mpsc::channel();
    let thread = std::thread::Builder::new()
        .name("ledger-hashing".into())
        .spawn(move || {
            let mut grown: Grown = given.recv().unwrap_or_default();
            for batch in todo {
                grown.take(&batch);
            }
            grown
        });
    match thread {
        Ok(thread) => match hand.send(grown) {
            Ok(()) => Ok(thread),
            Err(lost) => Err(lost.0),
        },
        Err(_) => Err(grown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::tests::record;
    use crate::merkle::CHUNK_COUNT;

    #[test]
    fn a_thread_beside_comes_to_the_same_once_there_is_enough_to_do() {
        let chunk_len = CHUNK_COUNT as usize;
        // Of two chunks it would be enough.
        let payload_len = 2 * BATCH_LEN / 3 / chunk_len;
        let records: Vec<_> = (1..=9 * CHUNK_COUNT)
            .map(|seq| record(seq, payload_len))
            .collect();
        let mut expected = Grown::default();
        let mut here = Hashing::Here(Grown::default());
        let mut beside = Hashing::Beside(Beside::behind(Frontier::default()));
        for (number, chunk) in records.chunks(chunk_len).enumerate() {
            let is_known = number % 2 == 1;
            let mut known = Frontier::default();
            for record in chunk {
                let entry = Entry::from_bytes(record).expect("just made");
                expected.push(merkle::leaf_hash(&entry));
                known.push(merkle::leaf_hash(&entry), |_| {});
                if !is_known {
                    here.add(&entry);
                    beside.add(&entry);
                }
            }
            if is_known {
                here.add_chunk(known.root());
                beside.add_chunk(known.root());
            }
            let Hashing::Beside(Beside { batch, worker }) = &beside else {
                unreachable!("it was made so");
            };
            assert!(batch.contents.len() < BATCH_LEN, "chunk {number}");
            let has_thread = matches!(worker, Worker::Thread { .. });
            assert_eq!(has_thread, number >= 2, "chunk {number}");
        }
        for hashing in [here, beside] {
            let grown = hashing.finish();
            assert_eq!(grown.tree, expected.tree);
            assert_eq!(grown.nodes, expected.nodes);
        }
    }
}
