//! A file that is brought to stable storage while more is written to it: who waited for
//! the disk would not keep up with one that is only just fast enough.
//!
//! Who writes so much needs it in memory least. The page cache does not keep it, so it
//! takes nothing from others, and the same few pages are written to again, which is
//! faster than pages that nobody has touched (docs/decisions/archive-files.md).

use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::disk::DiskFile;

const BUFFER_LEN: usize = 64 << 10;
/// Files that are brought there at once: the file system can do that in one go.
const THREADS: usize = 8;
/// How long bytes may wait for being brought to stable storage.
const UNSYNCED_FOR_MAX: Duration = Duration::from_millis(25);
/// Pieces that may wait while one is being brought there: with more, whoever writes waits.
const UNSYNCED_PIECES_MAX: usize = 16;

/// Threads that wait for stable storage. They end when all of these are gone.
#[derive(Clone, Debug)]
pub(crate) struct Syncer {
    jobs: Sender<Job>,
}

#[derive(Debug)]
struct Job {
    file: DiskFile,
    /// The page cache need not keep it.
    is_much: bool,
    outcome: Sender<io::Result<()>>,
}

impl Syncer {
    pub(crate) fn start() -> io::Result<Syncer> {
        let (jobs, todo) = mpsc::channel::<Job>();
        let todo = Arc::new(Mutex::new(todo));
        for _ in 0..THREADS {
            let todo = Arc::clone(&todo);
            let next = move || todo.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let thread = std::thread::Builder::new().name("ledgerd-syncer".into());
            thread.spawn(move || {
                while let Ok(job) = next() {
                    let synced = job.file.sync();
                    let is_synced = synced.is_ok();
                    // Whoever lets go of a file has waited for this first.
                    let _ = job.outcome.send(synced);
                    // What failed may be nowhere else.
                    if is_synced && job.is_much {
                        job.file.uncache();
                    }
                }
            })?;
        }
        Ok(Syncer { jobs })
    }

    fn sync(&self, file: DiskFile, is_much: bool) -> Receiver<io::Result<()>> {
        let (sender, outcome) = mpsc::channel();
        // If the threads are gone, so is the other end of the outcome.
        let _ = self.jobs.send(Job {
            file,
            is_much,
            outcome: sender,
        });
        outcome
    }
}

/// A file that holds entries up to a seq, on stable storage up to another.
#[derive(Debug)]
pub(crate) struct SyncedFile {
    file: BufWriter<DiskFile>,
    syncer: Syncer,
    piece_len: usize,
    synced_seq: u64,
    /// What is on its way to stable storage: everything up to this seq.
    syncing: Option<(u64, Receiver<io::Result<()>>)>,
    /// What is not.
    unsynced_len: usize,
    unsynced_since: Option<Instant>,
}

impl SyncedFile {
    /// Goes on at the end of a file that is on stable storage, up to this seq. What is
    /// written is brought there in pieces of at least this length.
    pub(crate) fn new(
        file: DiskFile,
        syncer: Syncer,
        piece_len: usize,
        synced_seq: u64,
    ) -> SyncedFile {
        SyncedFile {
            file: BufWriter::with_capacity(BUFFER_LEN, file),
            syncer,
            piece_len,
            synced_seq,
            syncing: None,
            unsynced_len: 0,
            unsynced_since: None,
        }
    }

    /// Everything up to this seq was written: has it brought to stable storage if that is
    /// enough, which takes until later.
    pub(crate) fn sync_beside(&mut self, seq: u64) -> io::Result<()> {
        if self.unsynced_len < self.piece_len {
            return Ok(());
        }
        if self.unsynced_len / self.piece_len >= UNSYNCED_PIECES_MAX {
            self.wait()?;
        }
        self.begin_sync(seq)
    }

    /// Everything up to this seq was written: has it brought to stable storage, which takes
    /// until later, unless something is being brought there.
    pub(crate) fn begin_sync(&mut self, seq: u64) -> io::Result<()> {
        if !self.is_syncing()? {
            self.file.flush()?;
            let is_much = self.unsynced_len >= self.piece_len;
            let outcome = self.syncer.sync(self.file.get_ref().clone(), is_much);
            self.syncing = Some((seq, outcome));
            self.unsynced_len = 0;
            self.unsynced_since = None;
        }
        Ok(())
    }

    /// Everything up to this seq was written: has it on stable storage.
    pub(crate) fn sync(&mut self, seq: u64) -> io::Result<()> {
        self.wait()?;
        self.file.flush()?;
        self.file.get_ref().sync()?;
        self.synced_seq = seq;
        self.unsynced_len = 0;
        self.unsynced_since = None;
        Ok(())
    }

    /// Up to where it is on stable storage.
    pub(crate) fn synced_seq(&mut self) -> io::Result<u64> {
        self.is_syncing()?;
        Ok(self.synced_seq)
    }

    /// Whether all of it is on stable storage, as far as that is known.
    pub(crate) fn is_synced(&self) -> bool {
        self.syncing.is_none() && self.unsynced_since.is_none()
    }

    /// Whether something has waited for so long that it should be brought there.
    pub(crate) fn is_due(&self) -> bool {
        self.unsynced_since
            .is_some_and(|since| since.elapsed() >= UNSYNCED_FOR_MAX)
    }

    fn is_syncing(&mut self) -> io::Result<bool> {
        if let Some((_, outcome)) = &self.syncing {
            match outcome.try_recv() {
                Err(TryRecvError::Empty) => return Ok(true),
                Err(TryRecvError::Disconnected) => return Err(gone()),
                Ok(outcome) => self.end(outcome)?,
            }
        }
        Ok(false)
    }

    fn wait(&mut self) -> io::Result<()> {
        match &self.syncing {
            None => Ok(()),
            Some((_, outcome)) => {
                let outcome = outcome.recv().unwrap_or_else(|_| Err(gone()));
                self.end(outcome)
            }
        }
    }

    fn end(&mut self, outcome: io::Result<()>) -> io::Result<()> {
        let syncing = self.syncing.take();
        // The kernel tells of a failure once: it is not lost here.
        outcome?;
        if let Some((seq, _)) = syncing {
            self.synced_seq = seq;
        }
        Ok(())
    }
}

fn gone() -> io::Error {
    io::Error::other("the threads that wait for stable storage have ended")
}

impl Write for SyncedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write(bytes)?;
        self.unsynced_len += len;
        self.unsynced_since.get_or_insert_with(Instant::now);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::archive::disk::Disk;
    use crate::archive::file_system::FileSystem;

    const PIECE: [u8; 1000] = [0; 1000];

    /// An empty file of such a file system.
    fn file_on(file_system: Arc<dyn FileSystem>, piece_len: usize, synced_seq: u64) -> SyncedFile {
        let file = Disk::new(file_system).of(tempfile::tempfile().expect("a file"));
        let syncer = Syncer::start().expect("threads");
        SyncedFile::new(file, syncer, piece_len, synced_seq)
    }

    /// Fails the first time that something is brought to stable storage.
    #[derive(Debug, Default)]
    struct FailingOnce {
        has_failed: AtomicBool,
    }

    impl FileSystem for FailingOnce {
        fn sync(&self, _: &File) -> io::Result<()> {
            match self.has_failed.swap(true, Ordering::AcqRel) {
                false => Err(io::Error::other("on purpose")),
                true => Ok(()),
            }
        }
    }

    /// Brings something there whenever it is told to.
    #[derive(Debug)]
    struct Held(Mutex<Receiver<()>>);

    impl FileSystem for Held {
        fn sync(&self, _: &File) -> io::Result<()> {
            let told = self.0.lock().expect("ours").recv();
            told.map_err(io::Error::other)
        }
    }

    fn written(file: &mut SyncedFile) -> &mut SyncedFile {
        file.write_all(&PIECE).expect("room");
        file
    }

    /// Waits until what was begun has ended, without being told of how.
    fn ended(file_system: &FailingOnce) {
        while !file_system.has_failed.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_failure_beside_is_told_to_whoever_asks_next() {
        let ask: [fn(&mut SyncedFile) -> io::Result<()>; 3] = [
            |file| file.sync(9),
            |file| file.wait(),
            // The outcome is sent when it is known, so this comes to an end.
            |file| loop {
                match file.synced_seq() {
                    Ok(seq) => assert_eq!(seq, 7),
                    Err(error) => break Err(error),
                }
            },
        ];
        for ask in ask {
            let file_system = Arc::new(FailingOnce::default());
            let mut file = file_on(Arc::clone(&file_system) as _, PIECE.len(), 7);
            written(&mut file).sync_beside(8).expect("it is begun");
            ended(&file_system);
            let said = ask(&mut file).expect_err("it has failed").to_string();
            assert_eq!(said, "on purpose");
            assert_eq!(file.synced_seq, 7);
        }
    }

    #[test]
    fn what_has_waited_for_long_is_due() {
        let mut file = file_on(Arc::new(FailingOnce::default()), PIECE.len(), 0);
        assert!(!file.is_due(), "nothing waits");
        let now = Instant::now();
        for (since, is_due) in [
            (now + UNSYNCED_FOR_MAX, false),
            (now - UNSYNCED_FOR_MAX, true),
        ] {
            file.unsynced_since = Some(since);
            assert_eq!(file.is_due(), is_due);
        }
    }

    #[test]
    fn what_is_written_is_brought_there_in_pieces() {
        let (given, held) = mpsc::sync_channel(0);
        let held = Held(Mutex::new(held));
        let mut file = file_on(Arc::new(held), 2 * PIECE.len(), 0);
        written(&mut file).sync_beside(1).expect("too little");
        assert!(file.syncing.is_none() && !file.is_synced());
        written(&mut file).sync_beside(2).expect("it is begun");
        assert_eq!(file.unsynced_len, 0);
        // The next one waits, and whoever writes does not.
        for seq in 3..=2 + 2 * UNSYNCED_PIECES_MAX as u64 - 1 {
            written(&mut file).sync_beside(seq).expect("it waits");
        }
        assert_eq!(file.synced_seq().expect("it goes on"), 0);
        let last = std::thread::spawn(move || {
            written(&mut file).sync_beside(99).expect("it has waited");
            file
        });
        given.send(()).expect("somebody waits");
        let mut file = last.join().expect("it ends");
        assert_eq!((file.synced_seq, file.unsynced_len), (2, 0));
        given.send(()).expect("somebody waits");
        file.wait().expect("it is done");
        assert_eq!(file.synced_seq().expect("it is known"), 99);
        assert!(file.is_synced());
    }
}
