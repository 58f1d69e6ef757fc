//! Where a file's bytes come from.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::ops::Range;
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

/// A run of the bytes of a source, to be read in order.
#[derive(Debug)]
pub(super) struct From<'a, S: ?Sized> {
    pub(super) source: &'a S,
    pub(super) rest: Range<u64>,
}

impl<S: Source + ?Sized> Read for From<'_, S> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        let left = self.rest.end.saturating_sub(self.rest.start);
        let len = usize::try_from(left).map_or(target.len(), |left| left.min(target.len()));
        self.source
            .read_exact_at(&mut target[..len], self.rest.start)?;
        self.rest.start += len as u64;
        Ok(len)
    }
}
