//! A snapshot to be read, from a file or from standard input, compressed or not.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use ledger_shm::file::Trailer;
use ledger_shm::merkle::Hash;
use ledger_shm::object::MapError;
use ledger_shm::uninterrupted;

use crate::cli::Failure;

/// First bytes of what zstd has compressed (RFC 8878, 3.1.1).
const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
const BUFFER_LEN: usize = 256 << 10;

pub(super) struct Input {
    bytes: Box<dyn Read>,
    /// Where it can be read from any place on, and is not compressed.
    plain: Option<File>,
    total_len: Option<u64>,
}

impl Input {
    pub(super) fn open(path: &Path) -> Result<Input, Failure> {
        if path == Path::new("-") {
            return Ok(Input::of(Box::new(io::stdin()), None)?);
        }
        let open = || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            let plain = metadata.is_file().then(|| file.try_clone()).transpose()?;
            Input::of(Box::new(file), plain)
        };
        open().map_err(|error: io::Error| format!("cannot read {}: {error}", path.display()).into())
    }

    /// Whether a file begins with what zstd has compressed.
    pub(super) fn is_compressed(file: &File) -> bool {
        let mut magic = [0; ZSTD_MAGIC.len()];
        file.read_exact_at(&mut magic, 0).is_ok() && magic == ZSTD_MAGIC
    }

    fn of(bytes: Box<dyn Read>, plain: Option<File>) -> io::Result<Input> {
        let mut bytes = BufReader::with_capacity(BUFFER_LEN, bytes);
        let is_compressed = uninterrupted(|| Ok(bytes.fill_buf()?.starts_with(&ZSTD_MAGIC)))?;
        if is_compressed {
            let len = zstd::zstd_safe::get_frame_content_size(bytes.buffer());
            return Ok(Input {
                total_len: len.ok().flatten(),
                // What would take more memory than its own default window is refused.
                bytes: Box::new(zstd::Decoder::with_buffer(bytes)?),
                plain: None,
            });
        }
        let len = plain.as_ref().map(File::metadata).transpose()?;
        Ok(Input {
            bytes: Box::new(bytes),
            plain,
            total_len: len.map(|metadata| metadata.len()),
        })
    }

    /// Bytes in all, uncompressed, where that is known.
    pub(super) fn total_len(&self) -> Option<u64> {
        self.total_len
    }

    /// The last entry and the root that its end says, where that can be read without the
    /// rest.
    pub(super) fn end(&self) -> Option<Result<(u64, Hash), MapError>> {
        let end = Trailer::read_last(self.plain.as_ref()?);
        Some(end.map(|trailer| (trailer.last_seq(), trailer.root)))
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buffer)
    }
}
