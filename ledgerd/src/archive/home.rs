//! The directory of one context: which files are there, and what the last ones hold.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use ledger_shm::file::{FileName, Scan, Trailer};
use ledger_shm::format::FILE_TRAILER_LEN;
use ledger_shm::object::MapError;

use super::disk;

/// The directory of one context.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    pub(super) dir: PathBuf,
}

/// An unfinished file, and what of it is valid.
#[derive(Debug)]
pub(super) struct Unfinished {
    pub(super) name: FileName,
    pub(super) scan: Scan,
    /// What follows the valid bytes.
    pub(super) torn: Vec<u8>,
}

impl Home {
    pub(crate) fn new(dir: PathBuf) -> Home {
        Home { dir }
    }

    /// Every file, by the seq of its first entry; none if there is no directory.
    pub(super) fn files(&self) -> io::Result<Vec<FileName>> {
        let entries = match std::fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            files.extend(entry?.file_name().to_str().and_then(FileName::parse));
        }
        files.sort_by_key(|name| (name.first_seq(), *name));
        Ok(files)
    }

    /// First seqs of the finished files, in order.
    fn finished(&self) -> io::Result<Vec<u64>> {
        let files = self.files()?.into_iter();
        let first_seq = |name| match name {
            FileName::Finished(seq) => Some(seq),
            _ => None,
        };
        Ok(files.filter_map(first_seq).collect())
    }

    /// The finished file that begins at or last before a seq, or the first one for 0.
    pub(crate) fn file_of(&self, seq: u64) -> io::Result<Option<(u64, File)>> {
        let finished = self.finished()?;
        let after = finished.partition_point(|first| *first <= seq);
        let index = if seq == 0 {
            Some(0)
        } else {
            after.checked_sub(1)
        };
        let Some(first_seq) = index.and_then(|index| finished.get(index)).copied() else {
            return Ok(None);
        };
        let file = disk::open_to_read(&self.dir, FileName::Finished(first_seq))?;
        Ok(Some((first_seq, file)))
    }

    /// The last seq in finished files; 0 if there are none.
    pub(super) fn finished_seq(&self) -> Result<u64, MapError> {
        let Some(first_seq) = self.finished()?.pop() else {
            return Ok(0);
        };
        let trailer = trailer(&self.dir.join(FileName::Finished(first_seq).to_string()))?;
        Ok(first_seq + trailer.count - 1)
    }

    /// An unfinished file, if it is there and has a head.
    pub(super) fn unfinished(&self, name: FileName) -> io::Result<Option<Unfinished>> {
        let mut bytes = match disk::read(&self.dir, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        // Without a head nothing in it is valid.
        let Ok(scan) = Scan::of(&bytes) else {
            return Ok(None);
        };
        let torn = bytes.split_off(scan.valid_len);
        Ok(Some(Unfinished { name, scan, torn }))
    }
}

/// The trailer of a finished file.
fn trailer(path: &Path) -> Result<Trailer, MapError> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut bytes = [0; FILE_TRAILER_LEN];
    let at = len.checked_sub(bytes.len() as u64);
    file.read_exact_at(&mut bytes, at.ok_or(MapError::Unfinished)?)?;
    Trailer::decode(&bytes, len, 0)
}
