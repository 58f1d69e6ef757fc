//! Where a file's bytes come from.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

/// Bytes that can be read from any place on.
pub trait Source {
    /// How many there are.
    ///
    /// # Errors
    ///
    /// The kernel's.
    fn total_len(&self) -> io::Result<u64>;

    /// Reads as many as there is room for.
    ///
    /// # Errors
    ///
    /// The kernel's, or that there are fewer.
    fn read_exact_at(&self, target: &mut [u8], offset: u64) -> io::Result<()>;
}

impl Source for File {
    fn total_len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, target: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, target, offset)
    }
}

impl Source for [u8] {
    fn total_len(&self) -> io::Result<u64> {
        Ok(<[u8]>::len(self) as u64)
    }

    fn read_exact_at(&self, target: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).ok().and_then(|at| self.get(at..));
        let bytes = from.and_then(|from| from.get(..target.len()));
        target.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// A run of the bytes of another source.
#[derive(Debug)]
pub struct Section<'a, S: ?Sized> {
    /// The other one.
    pub source: &'a S,
    /// Where the run begins.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
}

impl<S: Source + ?Sized> Source for Section<'_, S> {
    fn total_len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_exact_at(&self, target: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(target.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.source.read_exact_at(target, self.offset + offset)
    }
}
