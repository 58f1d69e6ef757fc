//! Where the files of a snapshot end.

use crate::file::head::data_offset;
use crate::file::trailer::tables_len;
use crate::format::{FILE_COUNT_MAX, FILE_TRAILER_LEN, RECORD_ALIGN};

/// Bytes of records in one file of a snapshot, unless one entry has more.
const SECTION_LEN_MAX: u64 = 1 << 30;

/// Where the files of a snapshot end: told the length of each record, in order.
///
/// ```
/// use ledger_shm::file::SectionPlan;
///
/// let mut plan = SectionPlan::new(1);
/// for _ in 0..5 {
///     plan.add(600 << 20);
/// }
/// assert_eq!(plan.counts(), [1, 1, 1, 1, 1]);
/// ```
#[derive(Debug)]
pub struct SectionPlan {
    first_seq: u64,
    counts: Vec<u64>,
    /// Bytes of records in the last one, and in all.
    section_len: u64,
    records_len: u64,
}

impl SectionPlan {
    /// Of a snapshot that begins with this seq.
    pub fn new(first_seq: u64) -> SectionPlan {
        SectionPlan {
            first_seq,
            // One without entries is a file, too.
            counts: vec![0],
            section_len: 0,
            records_len: 0,
        }
    }

    /// The same entries, of which each file has so many.
    #[cfg(any(test, fuzzing))]
    pub fn divided(self, counts: &[u64]) -> SectionPlan {
        SectionPlan {
            counts: counts.to_vec(),
            ..self
        }
    }

    /// Adds the next entry.
    pub fn add(&mut self, record_len: usize) {
        let len = record_len.next_multiple_of(RECORD_ALIGN) as u64;
        let count = self.counts.last_mut().expect("there is always one");
        let is_full = *count == FILE_COUNT_MAX || self.section_len + len > SECTION_LEN_MAX;
        if is_full && *count > 0 {
            self.counts.push(1);
            self.section_len = 0;
        } else {
            *count += 1;
        }
        self.section_len += len;
        self.records_len += len;
    }

    /// Entries of each file.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// Bytes of the whole snapshot of a context whose name has so many.
    pub fn total_len(&self, name_len: usize) -> u64 {
        let mut first_seq = self.first_seq;
        let mut len = self.records_len;
        for count in &self.counts {
            let head_len = data_offset(name_len, first_seq - 1);
            let tables_len = tables_len(first_seq, *count);
            len += head_len as u64 + tables_len + FILE_TRAILER_LEN as u64;
            first_seq += count;
        }
        len
    }
}
