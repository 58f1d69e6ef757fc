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
//! is zero.
#![allow(
    unsafe_code,
    reason = "a validated archive is viewed without a second validation"
)]

use std::mem::{MaybeUninit, offset_of};

use rkyv::api::low::LowValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::{Failure, Fallible, Source, Strategy};
use rkyv::ser::allocator::SubAllocator;
use rkyv::ser::{Allocator, Positional, Serializer, Writer, WriterExt as _};
use rkyv::string::{ArchivedString, StringResolver};
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Archive, Place, Portable, Serialize, munge::munge};

use crate::error::Corrupt;
use crate::format::{RECORD_HEADER_LEN, RecordHeader};

/// CRC32C (Castagnoli), the checksum of every record.
///
/// ```
/// assert_eq!(ledger_shm::record::crc32c(b"123456789"), 0xe306_9283);
/// ```
#[inline]
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

const HEADER_CRC_AT: usize = offset_of!(RecordHeader, header_crc);

impl RecordHeader {
    /// That of a record with this body, before it has its number and its Lamport time.
    ///
    /// # Panics
    ///
    /// On a body of 4 GiB or more, for which no segment has room.
    #[inline]
    pub(crate) fn unnumbered(body: &[u8], key: &str, appended_at_ns: u64) -> RecordHeader {
        RecordHeader {
            body_len: u32::try_from(body.len()).expect("a record fits its segment"),
            body_crc: crc32c(body),
            seq: 0,
            appended_at_ns,
            lamport: 0,
            key_hash: crc32c(key.as_bytes()),
            reserved: 0,
            header_crc: 0,
            reserved_end: 0,
        }
    }

    /// Writes the header, its own checksum computed over the rest, straight to
    /// where it belongs.
    #[inline]
    pub fn write_to(&self, target: &mut [u8; RECORD_HEADER_LEN]) {
        let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        // A checksum over fields of half a word, stored a moment ago, would
        // wait for the stores: hence whole words.
        let words = target.as_chunks_mut::<8>().0;
        words[0] = pair(self.body_len, self.body_crc).to_le_bytes();
        words[1] = self.seq.to_le_bytes();
        words[2] = self.appended_at_ns.to_le_bytes();
        words[3] = self.lamport.to_le_bytes();
        words[4] = pair(self.key_hash, self.reserved).to_le_bytes();
        let crc = crc32c(&target[..HEADER_CRC_AT]);
        target.as_chunks_mut::<8>().0[5] = pair(crc, self.reserved_end).to_le_bytes();
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

/// Where an archive goes: into a run of shared memory, or, to learn how long
/// it will be, nowhere.
#[derive(Debug)]
pub struct BodyWriter<'a> {
    target: Option<&'a mut [u8]>,
    len: usize,
}

impl Positional for BodyWriter<'_> {
    #[inline]
    fn pos(&self) -> usize {
        self.len
    }
}

impl<E: Source> Writer<E> for BodyWriter<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), E> {
        let end = self.len + bytes.len();
        if let Some(target) = &mut self.target {
            let Some(range) = target.get_mut(self.len..end) else {
                rkyv::rancor::fail!(BlockEnds { len: end });
            };
            range.copy_from_slice(bytes);
        }
        self.len = end;
        Ok(())
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the archive has at least {len} bytes, the block ends before")]
struct BlockEnds {
    len: usize,
}

/// What typed payloads are serialised with: no heap, no shared pointers.
pub type EntrySerializer<'a> =
    Strategy<Serializer<BodyWriter<'a>, SubAllocator<'a>, ()>, rkyv::rancor::Error>;

/// What an entry can carry: plain bytes, or a value in rkyv's format.
pub trait Payload {
    /// The exact length, if it is known without serialising.
    fn known_len(&self) -> Option<usize>;
    /// Writes the payload at the serialiser's current position.
    ///
    /// # Errors
    ///
    /// Whatever the value's `Serialize` says, or that the block ended.
    fn write(&self, serializer: &mut EntrySerializer<'_>) -> Result<(), rkyv::rancor::Error>;
}

impl Payload for &[u8] {
    #[inline]
    fn known_len(&self) -> Option<usize> {
        Some(self.len())
    }

    #[inline]
    fn write(&self, serializer: &mut EntrySerializer<'_>) -> Result<(), rkyv::rancor::Error> {
        serializer.write(self)
    }
}

/// A payload in rkyv's format, read in place by whoever knows the type.
#[derive(Debug)]
pub struct Typed<'a, T>(pub &'a T);

impl<T> Payload for Typed<'_, T>
where
    T: for<'s> Serialize<EntrySerializer<'s>>,
{
    fn known_len(&self) -> Option<usize> {
        None
    }

    fn write(&self, serializer: &mut EntrySerializer<'_>) -> Result<(), rkyv::rancor::Error> {
        const { assert!(align_of::<T::Archived>() <= crate::format::RECORD_ALIGN) };
        serializer.serialize_aligned(self.0)
    }
}

/// Writes a value's out-of-line parts and then the value itself, aligned.
trait SerializeAligned: Fallible + Writer {
    fn serialize_aligned<T: Serialize<Self>>(&mut self, value: &T) -> Result<(), Self::Error>;
}

impl<S: Fallible + Writer + ?Sized> SerializeAligned for S {
    #[inline]
    fn serialize_aligned<T: Serialize<S>>(&mut self, value: &T) -> Result<(), S::Error> {
        let resolver = value.serialize(self)?;
        self.align_for::<T::Archived>()?;
        // SAFETY: `resolver` is `value`'s, and the position was just aligned.
        unsafe { self.resolve_aligned(value, resolver) }?;
        Ok(())
    }
}

struct Pair<'a>(&'a str, &'a str);

impl Archive for Pair<'_> {
    type Archived = ArchivedPair;
    type Resolver = (StringResolver, StringResolver);

    #[inline]
    fn resolve(&self, (key, value): Self::Resolver, out: Place<ArchivedPair>) {
        munge!(let ArchivedPair { key: key_out, value: value_out } = out);
        ArchivedString::resolve_from_str(self.0, key, key_out);
        ArchivedString::resolve_from_str(self.1, value, value_out);
    }
}

impl<S: Fallible + Writer + ?Sized> Serialize<S> for Pair<'_>
where
    S::Error: Source,
{
    fn serialize(&self, serializer: &mut S) -> Result<Self::Resolver, S::Error> {
        Ok((
            ArchivedString::serialize_from_str(self.0, serializer)?,
            ArchivedString::serialize_from_str(self.1, serializer)?,
        ))
    }
}

/// Key and metadata around a payload that lies at the start of the archive.
struct Body<'a> {
    payload_len: usize,
    key: &'a str,
    metadata: &'a [(&'a str, &'a str)],
}

struct BodyResolver {
    key: StringResolver,
    metadata: VecResolver,
}

impl Archive for Body<'_> {
    type Archived = ArchivedBody;
    type Resolver = BodyResolver;

    #[inline]
    fn resolve(&self, resolver: BodyResolver, out: Place<ArchivedBody>) {
        munge!(let ArchivedBody { payload, key, metadata } = out);
        ArchivedVec::resolve_from_len(self.payload_len, VecResolver::from_pos(0), payload);
        ArchivedString::resolve_from_str(self.key, resolver.key, key);
        ArchivedVec::resolve_from_len(self.metadata.len(), resolver.metadata, metadata);
    }
}

impl<S: Fallible + Writer + Allocator + ?Sized> Serialize<S> for Body<'_>
where
    S::Error: Source,
{
    #[inline]
    fn serialize(&self, serializer: &mut S) -> Result<BodyResolver, S::Error> {
        let key = ArchivedString::serialize_from_str(self.key, serializer)?;
        if self.metadata.is_empty() {
            let metadata = VecResolver::from_pos(serializer.align_for::<ArchivedPair>()?);
            return Ok(BodyResolver { key, metadata });
        }
        let pairs = self.metadata.iter().map(|(key, value)| Pair(key, value));
        let metadata = ArchivedVec::serialize_from_iter::<Pair<'_>, _, _>(pairs, serializer)?;
        Ok(BodyResolver { key, metadata })
    }
}

/// Bytes of scratch that serialising this many metadata pairs takes.
#[inline]
pub fn scratch_len(pairs: usize) -> usize {
    pairs * size_of::<(StringResolver, StringResolver)>() + align_of::<StringResolver>()
}

/// How long an archive is, and the payload in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyLen {
    /// The payload.
    pub payload: usize,
    /// All of it.
    pub body: usize,
}

/// Writes an entry's archive to the start of `target`, or only measures it.
/// No heap allocation unless it fails.
///
/// # Errors
///
/// The archive is longer than `target`, or the payload cannot be serialised.
#[inline]
pub fn write_body<P: Payload>(
    target: Option<&mut [u8]>,
    payload: &P,
    key: &str,
    metadata: &[(&str, &str)],
    scratch: &mut [MaybeUninit<u8>],
) -> Result<BodyLen, rkyv::rancor::Error> {
    let writer = BodyWriter { target, len: 0 };
    let mut serializer = Serializer::new(writer, SubAllocator::new(scratch), ());
    let strategy: &mut EntrySerializer<'_> = Strategy::wrap(&mut serializer);
    payload.write(strategy)?;
    let body = Body {
        payload_len: strategy.pos(),
        key,
        metadata,
    };
    strategy.serialize_aligned(&body)?;
    Ok(BodyLen {
        payload: body.payload_len,
        body: serializer.into_writer().len,
    })
}

/// The length of the archive that [`write_body`] makes of a payload of known
/// length, without making it.
#[inline]
pub fn body_len(payload_len: usize, key: &str, metadata: &[(&str, &str)]) -> usize {
    const INLINE_LEN: usize = size_of::<ArchivedString>();
    let outside = |text: &str| {
        if text.len() > INLINE_LEN {
            text.len()
        } else {
            0
        }
    };
    let strings: usize = metadata
        .iter()
        .map(|(key, value)| outside(key) + outside(value))
        .sum();
    let references =
        (payload_len + outside(key) + strings).next_multiple_of(align_of::<ArchivedPair>());
    references + metadata.len() * size_of::<ArchivedPair>() + size_of::<ArchivedBody>()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_body_is_as_long_as_it_was_said_to_be(
            payload in prop::collection::vec(any::<u8>(), 0..300),
            key in "[a-zä]{1,40}",
            metadata in prop::collection::vec((".{0,20}", ".{0,20}"), 0..6),
        ) {
            let pairs: Vec<_> = metadata.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            let expected = body_len(payload.len(), &key, &pairs);
            let mut scratch = vec![MaybeUninit::uninit(); scratch_len(pairs.len())];
            let mut memory = rkyv::util::AlignedVec::<16>::new();
            memory.resize(expected, 0xee);
            let bytes = &payload[..];
            let len = write_body(Some(&mut memory), &bytes, &key, &pairs, &mut scratch)
                .expect("room for it");
            prop_assert_eq!((len.payload, len.body), (payload.len(), expected));
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
