//! Objects in memory, changed behind everybody's back.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use ledger_shm::format::{SEGMENT_HEADER_LEN, SegmentHeader};
use ledger_shm::object::{Epoch, Instance, Name};
use ledger_shm::slot::{Extent, Slot};

/// One object's bytes, read and written past every check.
#[derive(Debug)]
pub struct Bytes {
    file: File,
}

impl Bytes {
    /// The bytes of an object.
    pub fn of(instance: &Instance, name: Name) -> Bytes {
        let path = name.path_in(instance);
        let file = OpenOptions::new().read(true).write(true).open(&path);
        Bytes {
            file: file.unwrap_or_else(|error| panic!("{}: {error}", path.display())),
        }
    }

    /// The first part of a context.
    pub fn of_first_part(instance: &Instance, epoch: Epoch) -> Bytes {
        Bytes::of(instance, Name::Part(epoch, 1))
    }

    /// A word.
    pub fn word(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.file
            .read_exact_at(&mut bytes, at)
            .expect("inside the object");
        u64::from_le_bytes(bytes)
    }

    /// Writes a word.
    pub fn set_word(&self, at: u64, word: u64) {
        self.set(at, &word.to_le_bytes());
    }

    /// Writes bytes.
    pub fn set(&self, at: u64, bytes: &[u8]) {
        self.file
            .write_all_at(bytes, at)
            .expect("inside the object");
    }

    /// Reads bytes.
    pub fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, at)
            .expect("inside the object");
        bytes
    }

    /// Where a slot of a segment lies.
    pub fn slot_at(index: usize) -> u64 {
        (SEGMENT_HEADER_LEN + index * size_of::<u64>()) as u64
    }

    /// Where the record that a slot names lies, and how long it is.
    pub fn record_at(&self, index: usize) -> (u64, usize) {
        match Slot::decode(self.word(Bytes::slot_at(index))) {
            Ok(Slot::Entry(Extent { offset, len })) => {
                let data_at = std::mem::offset_of!(SegmentHeader, data_offset) as u64;
                (self.word(data_at) + offset as u64, len)
            }
            other => panic!("slot {index} is {other:?}"),
        }
    }
}
