//! The bytes of one entry: a header with its checksums, then an rkyv archive
//! of payload, key and metadata, written straight into shared memory.
//!
//! ```text
//!  0        48                48 + payload_len                  48 + body_len
//!  +--------+-----------------+-----+----------+------------+------+
//!  | header | payload         | key | metadata | (key,value)| root |
//!  |        | 16-byte aligned |     | strings  | references |      |
//!  +--------+-----------------+-----+----------+------------+------+
//! ```
//!
//! The payload comes first so that it lies on a 16-byte boundary whatever else
//! is in the entry: a typed payload is used where it lies. Strings of up to
//! eight bytes live inside their reference, filled up with 0xff; other padding
//! is zero. `body` writes one, and `checksum` is what both its checksums are.

mod body;
mod checksum;

use std::mem::offset_of;

use rkyv::Portable;
use rkyv::api::low::LowValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::string::ArchivedString;
use rkyv::vec::ArchivedVec;

use crate::error::Corrupt;
use crate::format::{RECORD_HEADER_LEN, RecordHeader};

pub use body::{BodyWriter, EntrySerializer, Payload, Typed};
pub(crate) use body::{Scratch, body_len, write_around, write_measured, write_payload};
pub use checksum::crc32c;

/// A header is written in whole words: a checksum over fields of half a word,
/// stored a moment ago, would wait until they have left the store buffer.
#[inline]
fn words_of(header: &mut [u8; RECORD_HEADER_LEN]) -> &mut [[u8; 8]] {
    header.as_chunks_mut().0
}

#[inline]
fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

const HEADER_CRC_AT: usize = offset_of!(RecordHeader, header_crc);

impl RecordHeader {
    /// Writes what is known of a record before it has its number, in front of
    /// its body: all but seq, Lamport time and the header's checksum.
    ///
    /// # Panics
    ///
    /// On a body of 4 GiB or more, for which no segment has room.
    #[inline(always)]
    pub(crate) fn write_unnumbered(record: &mut [u8], key: &str, appended_at_ns: u64) {
        let (target, body) = record.split_first_chunk_mut().expect("room for a header");
        let body_len = u32::try_from(body.len()).expect("a record fits its segment");
        let words = words_of(target);
        words[0] = pair(body_len, crc32c(body)).to_le_bytes();
        words[2] = appended_at_ns.to_le_bytes();
        words[4] = pair(crc32c(key.as_bytes()), 0).to_le_bytes();
    }

    /// Gives a record its number, and the header its checksum.
    #[inline(always)]
    pub(crate) fn number(target: &mut [u8; RECORD_HEADER_LEN], seq: u64, lamport: u64) {
        let words = words_of(target);
        words[1] = seq.to_le_bytes();
        words[3] = lamport.to_le_bytes();
        let crc = checksum::crc32c_of_header(target);
        words_of(target)[5] = pair(crc, 0).to_le_bytes();
    }

    /// Writes the header, its own checksum computed over the rest, and zero behind.
    pub fn write_to(&self, target: &mut [u8; RECORD_HEADER_LEN]) {
        let words = words_of(target);
        words[0] = pair(self.body_len, self.body_crc).to_le_bytes();
        words[2] = self.appended_at_ns.to_le_bytes();
        words[4] = pair(self.key_hash, self.reserved).to_le_bytes();
        RecordHeader::number(target, self.seq, self.lamport);
    }

    /// The header that lies in these bytes, believed for nothing yet.
    #[inline]
    pub fn decode(bytes: &[u8; RECORD_HEADER_LEN]) -> RecordHeader {
        let words = bytes.as_chunks::<8>().0;
        let word = |index: usize| u64::from_le_bytes(words[index]);
        let low = |index: usize| word(index) as u32;
        let high = |index: usize| (word(index) >> 32) as u32;
        RecordHeader {
            body_len: low(0),
            body_crc: high(0),
            seq: word(1),
            appended_at_ns: word(2),
            lamport: word(3),
            key_hash: low(4),
            reserved: high(4),
            header_crc: low(5),
            reserved_end: high(5),
        }
    }

    /// Verifies both checksums of a whole record.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] names the checksum that does not hold.
    pub fn verify(record: &[u8]) -> Result<RecordHeader, Corrupt> {
        let Some((header_bytes, body)) = record.split_first_chunk::<RECORD_HEADER_LEN>() else {
            return Err(Corrupt::short_record(record.len()));
        };
        let header = RecordHeader::decode(header_bytes);
        let crc = crc32c(&header_bytes[..HEADER_CRC_AT]);
        Corrupt::check(
            "record header checksum",
            header.header_crc.into(),
            crc.into(),
        )?;
        Corrupt::check("record header end", header.reserved_end.into(), 0)?;
        Corrupt::check(
            "record body length",
            header.body_len.into(),
            body.len() as u64,
        )?;
        Corrupt::check(
            "record body checksum",
            header.body_crc.into(),
            crc32c(body).into(),
        )?;
        Ok(header)
    }
}

/// One key and value of an entry's metadata, where it lies.
#[derive(Debug, Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
pub struct ArchivedPair {
    /// The name.
    pub key: ArchivedString,
    /// What it says.
    pub value: ArchivedString,
}

/// Payload, key and metadata of an entry, where they lie.
#[derive(Debug, Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
pub struct ArchivedBody {
    /// Any bytes; starts on a 16-byte boundary.
    pub payload: ArchivedVec<u8>,
    /// 1 to 1024 bytes.
    pub key: ArchivedString,
    /// In the order in which they were given.
    pub metadata: ArchivedVec<ArchivedPair>,
}

/// Views the archive at the end of a record's body after checking every
/// pointer, length and string in it.
///
/// # Errors
///
/// [`Corrupt`] if it is not a valid archive.
#[inline]
pub fn access_body(body: &[u8]) -> Result<&ArchivedBody, Corrupt> {
    rkyv::api::low::access::<ArchivedBody, Failure>(body)
        .map_err(|Failure| Corrupt::new("record body archive", body.len() as u64, 0))
}

/// Views a typed payload after checking every pointer and value in it.
///
/// # Errors
///
/// [`Corrupt`] if the payload is not a valid archive of `T`.
pub fn access_typed<T>(payload: &[u8]) -> Result<&T, Corrupt>
where
    T: Portable + for<'a> CheckBytes<LowValidator<'a, Failure>>,
{
    rkyv::api::low::access::<T, Failure>(payload)
        .map_err(|Failure| Corrupt::new("typed payload archive", payload.len() as u64, 0))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What is on disks and in other processes: it changes with the format's version only.
    #[test]
    fn a_record_is_these_bytes() {
        let payload = &b"income: 4200"[..];
        let (key, pairs) = ("applicant", [("agent", "credit"), ("on", "2026-11-28")]);
        let body_len = body_len(payload.len(), key, &pairs);
        let mut memory = rkyv::util::AlignedVec::<16>::new();
        memory.resize(RECORD_HEADER_LEN + body_len, 0xee);
        let body = &mut memory[RECORD_HEADER_LEN..];
        write_payload(Some(body), &payload, &mut Scratch::default()).expect("room");
        write_around(body, payload.len(), key, &pairs).expect("short strings");
        RecordHeader::write_unnumbered(&mut memory, key, 0x0102_0304_0506_0708);
        RecordHeader::number(memory.first_chunk_mut().expect("a header"), 7, 9);
        let words: Vec<String> = memory
            .chunks(8)
            .map(|word| word.iter().map(|byte| format!("{byte:02x}")).collect())
            .collect();
        const WORDS: [&str; 17] = [
            "580000007767758e", // body length, body checksum
            "0700000000000000", // seq
            "0807060504030201", // appended at
            "0900000000000000", // Lamport time
            "14ffc7eb00000000", // key hash, zero
            "815ae5e500000000", // header checksum, zero
            "696e636f6d653a20", // income:
            "343230306170706c", // 4200appl
            "6963616e74323032", // icant202
            "362d31312d323800", // 6-11-28, zero
            "6167656e74ffffff", // agent
            "637265646974ffff", // credit
            "6f6effffffffffff", // on
            "8a000000ddffffff", // where 2026-11-28 is
            "c0ffffff0c000000", // payload: where, how long
            "89000000c4ffffff", // key
            "d0ffffff02000000", // metadata: where, how many
        ];
        assert_eq!(words, WORDS);
    }

    #[test]
    fn a_string_of_up_to_eight_bytes_takes_no_more_room() {
        let root_len = 24;
        for (len, outside) in [(1, 0), (7, 0), (8, 0), (9, 12), (12, 12), (13, 16)] {
            let text = "k".repeat(len);
            assert_eq!(body_len(0, &text, &[]), outside + root_len, "{len} bytes");
        }
    }

    proptest! {
        #[test]
        fn a_body_is_as_long_as_it_was_said_to_be(
            payload in prop::collection::vec(any::<u8>(), 0..300),
            key in "[a-zä]{1,40}",
            metadata in prop::collection::vec((".{0,20}", ".{0,20}"), 0..6),
        ) {
            let pairs: Vec<_> = metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let expected = body_len(payload.len(), &key, &pairs);
            let bytes = &payload[..];
            let write_over = |before| {
                let mut memory = rkyv::util::AlignedVec::<16>::new();
                memory.resize(expected, before);
                let len = write_payload(Some(&mut memory), &bytes, &mut Scratch::default())
                    .expect("room for it");
                assert_eq!(len, payload.len());
                write_around(&mut memory, len, &key, &pairs).expect("short strings");
                memory
            };
            let memory = write_over(0xee);
            prop_assert_eq!(&memory[..], &write_over(0x11)[..], "nothing shows through");
            let body = access_body(&memory).expect("what was just written");
            prop_assert_eq!(body.payload.as_slice(), bytes);
            prop_assert_eq!(body.key.as_str(), key);
            let read: Vec<_> =
                body.metadata.iter().map(|pair| (pair.key.as_str(), pair.value.as_str())).collect();
            prop_assert_eq!(read, pairs);
        }

        #[test]
        fn a_header_comes_back_and_any_change_is_noticed(
            numbers: (u32, u64, u64, u64),
            body in prop::collection::vec(any::<u8>(), 0..100),
            at: prop::sample::Index,
            flip in 1..=u8::MAX,
        ) {
            let (key_hash, seq, appended_at_ns, lamport) = numbers;
            let mut record = vec![0; RECORD_HEADER_LEN];
            record.extend_from_slice(&body);
            let header = RecordHeader {
                body_len: body.len() as u32,
                body_crc: crc32c(&body),
                seq,
                appended_at_ns,
                lamport,
                key_hash,
                reserved: 0,
                header_crc: 0,
                reserved_end: 0,
            };
            header.write_to(record.first_chunk_mut().expect("a header"));
            let read = RecordHeader::verify(&record).expect("as written");
            prop_assert_eq!(RecordHeader { header_crc: 0, ..read }, header);
            let at = at.index(record.len());
            record[at] ^= flip;
            prop_assert!(RecordHeader::verify(&record).is_err());
        }
    }
}
