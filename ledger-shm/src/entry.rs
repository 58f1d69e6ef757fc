//! An entry on its way in, and an entry as it is read.
#![allow(
    unsafe_code,
    reason = "an entry keeps the memory that it borrows from alive"
)]

use std::fmt;
use std::mem::offset_of;
use std::sync::Arc;

use rkyv::api::low::LowValidator;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Failure;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Portable};

use crate::append::Appended;
use crate::error::{Corrupt, Refused};
use crate::format::{KEY_LEN_MAX, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader};
use crate::record::{self, ArchivedBody, Payload, Scratch, Typed};
use crate::segment::Segment;
use crate::slot::Extent;

/// The largest Lamport time that can be received, exclusive: a clock that was
/// pushed further could run out of numbers.
///
/// ```
/// use ledger_shm::NewEntry;
/// use ledger_shm::entry::{LAMPORT_RECEIVED_MAX, Limits};
///
/// let late = NewEntry::new("facts", "").received_lamport(LAMPORT_RECEIVED_MAX);
/// assert!(late.validate(&Limits::default()).is_err());
/// ```
pub const LAMPORT_RECEIVED_MAX: u64 = 1 << 63;

/// No limit may be larger: references inside an entry reach 2 GiB, and a
/// record's length has 32 bits.
///
/// ```
/// assert_eq!(ledger_shm::entry::LIMIT_MAX, 512 << 20);
/// ```
pub const LIMIT_MAX: usize = 512 << 20;

/// What one entry may weigh. The daemon states them in the control object.
///
/// ```
/// use ledger_shm::NewEntry;
/// use ledger_shm::entry::Limits;
///
/// let limits = Limits { payload_len_max: 3, ..Limits::default() };
/// assert!(NewEntry::new("facts", "123").validate(&limits).is_ok());
/// assert!(NewEntry::new("facts", "1234").validate(&limits).is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest payload in bytes, inclusive.
    pub payload_len_max: usize,
    /// Largest metadata in bytes, inclusive: keys, values, and 16 for each pair.
    pub metadata_len_max: usize,
}

impl Default for Limits {
    /// Payloads of 4 MiB, metadata of 64 KiB.
    fn default() -> Limits {
        Limits {
            payload_len_max: 4 << 20,
            metadata_len_max: 64 << 10,
        }
    }
}

/// An entry that is about to be appended: a key, a payload, and what else the
/// caller knows.
///
/// ```
/// use ledger_shm::NewEntry;
///
/// let entry = NewEntry::new("facts", b"the applicant exists")
///     .metadata(&[("agent", "identity")])
///     .received_lamport(17);
/// assert_eq!(entry.key(), "facts");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct NewEntry<'a, P = &'a [u8]> {
    key: &'a str,
    payload: P,
    metadata: &'a [(&'a str, &'a str)],
    received_lamport: u64,
}

impl<'a> NewEntry<'a> {
    /// An entry with a payload of plain bytes, possibly none.
    ///
    /// ```
    /// # use ledger_shm::NewEntry;
    /// let text = NewEntry::new("facts", "income: 4200");
    /// let bytes = NewEntry::new("images", &[0x89, b'P', b'N', b'G']);
    /// ```
    pub fn new(key: &'a str, payload: &'a (impl AsRef<[u8]> + ?Sized)) -> NewEntry<'a> {
        NewEntry {
            key,
            payload: payload.as_ref(),
            metadata: &[],
            received_lamport: 0,
        }
    }
}

impl<'a, T: Archive> NewEntry<'a, Typed<'a, T>> {
    /// An entry whose payload is a value in rkyv's format, written straight
    /// into shared memory and read there without copying.
    ///
    /// ```
    /// use rkyv::{Archive, Serialize};
    /// use ledger_shm::NewEntry;
    ///
    /// #[derive(Archive, Serialize)]
    /// struct Celsius(f64);
    ///
    /// let entry = NewEntry::typed("boiler", &Celsius(64.25));
    /// ```
    pub fn typed(key: &'a str, payload: &'a T) -> NewEntry<'a, Typed<'a, T>> {
        NewEntry {
            key,
            payload: Typed(payload),
            metadata: &[],
            received_lamport: 0,
        }
    }
}

impl<'a, P> NewEntry<'a, P> {
    /// Adds string pairs, kept in this order. Names may repeat.
    ///
    /// ```
    /// # use ledger_shm::NewEntry;
    /// let entry = NewEntry::new("facts", "income: 4200").metadata(&[("agent", "credit")]);
    /// ```
    pub fn metadata(self, metadata: &'a [(&'a str, &'a str)]) -> Self {
        NewEntry { metadata, ..self }
    }

    /// The Lamport time of a message that caused this entry: the entry's own
    /// will be greater. Below 2^63.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_shm::NewEntry;
    ///
    /// let mut appender = ledger.context("loan-7").open_or_create()?.appender()?;
    /// let cause = 17; // came with a message from elsewhere
    /// let appended = appender.append(&NewEntry::new("facts", "income: 4200").received_lamport(cause))?;
    /// assert!(appended.lamport > cause);
    /// # Ok(()) });
    /// ```
    pub fn received_lamport(self, received_lamport: u64) -> Self {
        NewEntry {
            received_lamport,
            ..self
        }
    }

    /// The key it was made with.
    ///
    /// ```
    /// assert_eq!(ledger_shm::NewEntry::new("facts", "income: 4200").key(), "facts");
    /// ```
    pub fn key(&self) -> &'a str {
        self.key
    }

    /// The Lamport time of what caused it; 0 if nothing was said.
    ///
    /// ```
    /// let entry = ledger_shm::NewEntry::new("facts", "income: 4200").received_lamport(17);
    /// assert_eq!(entry.received(), 17);
    /// ```
    pub fn received(&self) -> u64 {
        self.received_lamport
    }

    pub(crate) fn pairs(&self) -> &'a [(&'a str, &'a str)] {
        self.metadata
    }

    pub(crate) fn payload(&self) -> &P {
        &self.payload
    }
}

impl<P: Payload> NewEntry<'_, P> {
    /// Checks everything that can be checked before the payload is written, as
    /// an append does.
    ///
    /// # Errors
    ///
    /// [`Refused`]: it can never be appended where these limits hold.
    ///
    /// ```
    /// use ledger_shm::entry::Limits;
    /// use ledger_shm::{NewEntry, Refused};
    ///
    /// let outcome = NewEntry::new("", "without a key").validate(&Limits::default());
    /// assert_eq!(outcome, Err(Refused::EmptyKey));
    /// ```
    #[inline]
    pub fn validate(&self, limits: &Limits) -> Result<(), Refused> {
        let too_large = |what, len, max| Err(Refused::TooLarge { what, len, max });
        if self.key.is_empty() {
            return Err(Refused::EmptyKey);
        }
        if self.key.len() > KEY_LEN_MAX {
            return too_large("key", self.key.len(), KEY_LEN_MAX);
        }
        let metadata_len = self.metadata_len();
        if metadata_len > limits.metadata_len_max {
            return too_large("metadata", metadata_len, limits.metadata_len_max);
        }
        if self.received_lamport >= LAMPORT_RECEIVED_MAX {
            return Err(Refused::LamportTooLarge {
                received: self.received_lamport,
            });
        }
        match self.payload.bytes() {
            Some(bytes) => limits.check_payload(bytes.len()),
            None => Ok(()),
        }
    }

    /// What its metadata counts: bytes of keys and values, and 16 for each pair.
    ///
    /// ```
    /// use ledger_shm::NewEntry;
    ///
    /// let entry = NewEntry::new("facts", "").metadata(&[("agent", "credit")]);
    /// assert_eq!(entry.metadata_len(), 5 + 6 + 16);
    /// ```
    #[inline]
    pub fn metadata_len(&self) -> usize {
        let pairs = self.metadata.iter();
        let lens =
            pairs.map(|(key, value)| key.len() + value.len() + size_of::<record::ArchivedPair>());
        lens.sum()
    }

    /// The record that an append of this entry leaves where it comes out as
    /// `appended`: for files that are made of entries that have their numbers already.
    ///
    /// # Errors
    ///
    /// [`Refused`]: it can never be appended where these limits hold.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use ledger_shm::NewEntry;
    ///
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// let entry = NewEntry::new("facts", "income: 4200").metadata(&[("agent", "credit")]);
    /// let appended = context.appender()?.append(&entry)?;
    /// let record = entry.record(&appended, &context.limits())?;
    /// assert_eq!(context.get(1)?.expect("just appended").record_bytes(), record);
    /// # Ok(()) });
    /// ```
    pub fn record(&self, appended: &Appended, limits: &Limits) -> Result<Vec<u8>, Refused> {
        self.validate(limits)?;
        let mut scratch = Scratch::default();
        let payload_len = record::write_payload(None, &self.payload, &mut scratch)
            .map_err(Refused::unserializable)?;
        limits.check_payload(payload_len)?;
        let body_len = record::body_len(payload_len, self.key, self.metadata);
        let mut bytes = AlignedVec::<RECORD_ALIGN>::new();
        bytes.resize(RECORD_HEADER_LEN + body_len, 0);
        let body = &mut bytes[RECORD_HEADER_LEN..];
        record::write_measured(body, &self.payload, payload_len, &mut scratch)
            .map_err(Refused::unserializable)?;
        record::write_around(body, payload_len, self.key, self.metadata)
            .map_err(Refused::unserializable)?;
        RecordHeader::write_unnumbered(&mut bytes, self.key, appended.appended_at_ns);
        let header = bytes.first_chunk_mut().expect("a header");
        RecordHeader::number(header, appended.seq, appended.lamport);
        Ok(bytes.to_vec())
    }
}

impl Limits {
    #[inline]
    pub(crate) fn check_payload(&self, len: usize) -> Result<(), Refused> {
        if len <= self.payload_len_max {
            return Ok(());
        }
        Err(Refused::TooLarge {
            what: "payload",
            len,
            max: self.payload_len_max,
        })
    }
}

/// What keeps the memory that an entry refers to where it is.
enum Hold {
    /// The borrow itself: a cursor's segment or buffer.
    Borrow,
    /// A segment, mapped for as long as the entry lives.
    Segment { _segment: Arc<Segment> },
    /// A verified copy.
    Copy {
        _bytes: Box<AlignedVec<RECORD_ALIGN>>,
    },
}

/// One entry of a log.
///
/// Its bytes lie in shared memory where only this process's own uid can write
/// it, and in a verified copy otherwise; the type and the methods are the same.
/// They never change while the entry exists.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # let context = ledger.context("loan-7").open_or_create()?;
/// # context.appender()?.append(&ledger_shm::NewEntry::new("facts", "income: 4200").metadata(&[("agent", "credit")]))?;
/// let entry = context.get(1)?.expect("just appended");
/// assert_eq!((entry.seq(), entry.key(), entry.payload()), (1, "facts", &b"income: 4200"[..]));
/// assert_eq!(entry.metadata().collect::<Vec<_>>(), [("agent", "credit")]);
/// # Ok(()) });
/// ```
pub struct Entry<'a> {
    /// At least a header.
    record: &'a [u8],
    body: &'a ArchivedBody,
    _hold: Hold,
}

impl Entry<'_> {
    #[inline]
    fn header(&self) -> RecordHeader {
        let header = self.record.first_chunk();
        RecordHeader::decode(header.expect("checked when the entry was made"))
    }

    /// Position in the context: 1, 2, 3 … without gaps.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_shm::NewEntry::new("facts", "income: 4200").metadata(&[("agent", "credit")]))?;
    /// let entry = context.get(1)?.expect("just appended");
    /// assert_eq!(entry.seq(), 1);
    /// # Ok(()) });
    /// ```
    #[inline]
    pub fn seq(&self) -> u64 {
        self.header().seq
    }

    /// Lamport time: greater than the predecessor's and any received one.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_shm::NewEntry::new("facts", "income: 4200").metadata(&[("agent", "credit")]))?;
    /// let entry = context.get(1)?.expect("just appended");
    /// assert_eq!(entry.lamport(), 1);
    /// # Ok(()) });
    /// ```
    #[inline]
    pub fn lamport(&self) -> u64 {
        self.header().lamport
    }

    /// Wall clock when it was appended, nanoseconds since 1970. Clocks jump:
    /// order by [`seq`](Self::seq).
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_shm::NewEntry::new("facts", "income: 4200").metadata(&[("agent", "credit")]))?;
    /// let entry = context.get(1)?.expect("just appended");
    /// use std::time::{Duration, UNIX_EPOCH};
    ///
    /// let at = UNIX_EPOCH + Duration::from_nanos(entry.appended_at_ns());
    /// # Ok(()) });
    /// ```
    #[inline]
    pub fn appended_at_ns(&self) -> u64 {
        self.header().appended_at_ns
    }

    /// The key it was appended under.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_shm::NewEntry::new("facts", "income: 4200").metadata(&[("agent", "credit")]))?;
    /// let entry = context.get(1)?.expect("just appended");
    /// assert_eq!(entry.key(), "facts");
    /// # Ok(()) });
    /// ```
    #[inline]
    pub fn key(&self) -> &str {
        self.body.key.as_str()
    }

    /// The payload's bytes.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_shm::NewEntry::new("facts", "income: 4200").metadata(&[("agent", "credit")]))?;
    /// let entry = context.get(1)?.expect("just appended");
    /// assert_eq!(entry.payload(), b"income: 4200");
    /// # Ok(()) });
    /// ```
    #[inline]
    pub fn payload(&self) -> &[u8] {
        self.body.payload.as_slice()
    }

    /// Name and value pairs, in the order in which they were given.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_shm::NewEntry::new("facts", "income: 4200").metadata(&[("agent", "credit")]))?;
    /// let entry = context.get(1)?.expect("just appended");
    /// for (name, value) in entry.metadata() {
    ///     println!("{name}={value}");
    /// }
    /// # Ok(()) });
    /// ```
    pub fn metadata(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.body
            .metadata
            .iter()
            .map(|pair| (pair.key.as_str(), pair.value.as_str()))
    }

    /// The payload as the archived form of `T`, where it lies, after one
    /// validation.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if the payload is not an archive of `T`.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// use rkyv::{Archive, Serialize};
    /// use ledger_shm::NewEntry;
    ///
    /// #[derive(Archive, Serialize)]
    /// struct Celsius(f64);
    ///
    /// let context = ledger.context("boiler").open_or_create()?;
    /// context.appender()?.append(&NewEntry::typed("water", &Celsius(64.25)))?;
    /// let entry = context.get(1)?.expect("just appended");
    /// assert_eq!(entry.typed::<Celsius>()?.0, 64.25);
    /// # Ok(()) });
    /// ```
    pub fn typed<T>(&self) -> Result<&T::Archived, Corrupt>
    where
        T: Archive,
        T::Archived: Portable + for<'v> CheckBytes<LowValidator<'v, Failure>>,
    {
        record::access_typed(self.payload())
    }

    /// Header and archive as they lie in memory: what checksums and digests
    /// are taken over.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_shm::NewEntry::new("facts", "income: 4200").metadata(&[("agent", "credit")]))?;
    /// let entry = context.get(1)?.expect("just appended");
    /// let elsewhere = entry.record_bytes().to_vec();
    /// assert_eq!(ledger_shm::Entry::from_bytes(&elsewhere)?.seq(), 1);
    /// # Ok(()) });
    /// ```
    pub fn record_bytes(&self) -> &[u8] {
        self.record
    }

    /// Verifies both checksums.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] names the one that does not hold.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_shm::NewEntry::new("facts", "income: 4200").metadata(&[("agent", "credit")]))?;
    /// let entry = context.get(1)?.expect("just appended");
    /// entry.verify()?;
    /// # Ok(()) });
    /// ```
    pub fn verify(&self) -> Result<(), Corrupt> {
        RecordHeader::verify(self.record).map(drop)
    }
}

impl fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("seq", &self.seq())
            .field("lamport", &self.lamport())
            .field("appended_at_ns", &self.appended_at_ns())
            .field("key", &self.key())
            .field("payload_len", &self.payload().len())
            .field("metadata", &self.body.metadata.len())
            .finish()
    }
}

/// A record whose place, length and seq have been checked, and nothing else
/// yet: what a filter looks at before it touches a body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    extent: Extent,
    seq: u64,
    key_hash: u32,
}

impl Candidate {
    #[inline(always)]
    pub(crate) fn at(segment: &Segment, extent: Extent, seq: u64) -> Result<Candidate, Corrupt> {
        let word = |at| segment.header_word(extent, at);
        Corrupt::check("record seq", word(offset_of!(RecordHeader, seq))?, seq)?;
        let body_len = word(offset_of!(RecordHeader, body_len))? as u32 as usize;
        let record_len = RECORD_HEADER_LEN + body_len;
        Corrupt::check("record length", record_len as u64, extent.len as u64)?;
        let key_hash = word(offset_of!(RecordHeader, key_hash))? as u32;
        Ok(Candidate {
            extent,
            seq,
            key_hash,
        })
    }

    #[inline]
    pub(crate) fn key_hash(&self) -> u32 {
        self.key_hash
    }

    /// The entry, borrowing from the segment or from a copy in `buffer`.
    ///
    /// # Safety
    ///
    /// This candidate came out of a slot of this very segment.
    #[inline(always)]
    pub(crate) unsafe fn borrow<'a>(
        &self,
        segment: &'a Segment,
        buffer: &'a mut AlignedVec<RECORD_ALIGN>,
    ) -> Result<Entry<'a>, Corrupt> {
        if segment.is_trusted() {
            // SAFETY: published by the caller's contract, and only our own uid
            // could write the memory.
            let record = unsafe { segment.record(self.extent) }?;
            Entry::view(record, Hold::Borrow)
        } else {
            self.copy_verified(segment, buffer)?;
            Entry::view(buffer, Hold::Borrow)
        }
    }

    /// The entry, keeping what it refers to alive by itself.
    ///
    /// # Safety
    ///
    /// As for [`borrow`](Self::borrow).
    #[inline(always)]
    pub(crate) unsafe fn hold(self, segment: Arc<Segment>) -> Result<Entry<'static>, Corrupt> {
        if segment.is_trusted() {
            // SAFETY: as in `borrow`.
            let record = unsafe { segment.record(self.extent) }?;
            // SAFETY: the entry holds the segment, whose mapping neither moves
            // nor goes away while it is held, and hands out references only
            // for as long as the entry itself is borrowed.
            let record = unsafe { &*std::ptr::from_ref(record) };
            Entry::view(record, Hold::Segment { _segment: segment })
        } else {
            let mut buffer = AlignedVec::new();
            self.copy_verified(&segment, &mut buffer)?;
            Entry::keeping(buffer)
        }
    }

    fn copy_verified(
        &self,
        segment: &Segment,
        buffer: &mut AlignedVec<RECORD_ALIGN>,
    ) -> Result<(), Corrupt> {
        buffer.clear();
        buffer.resize(self.extent.len, 0);
        segment.copy_record(self.extent, buffer)?;
        let header = RecordHeader::verify(buffer)?;
        Corrupt::check("record seq", header.seq, self.seq)
    }
}

impl<'a> Entry<'a> {
    #[inline(always)]
    fn view(record: &'a [u8], hold: Hold) -> Result<Entry<'a>, Corrupt> {
        let (_, body) = record
            .split_at_checked(RECORD_HEADER_LEN)
            .ok_or_else(|| Corrupt::short_record(record.len()))?;
        let body = record::access_body(body)?;
        Ok(Entry {
            record,
            body,
            _hold: hold,
        })
    }

    /// Views the bytes of one whole record, wherever they came from, after
    /// verifying its checksums.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] names what does not hold.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_shm::NewEntry::new("facts", "income: 4200").metadata(&[("agent", "credit")]))?;
    /// let entry = context.get(1)?.expect("just appended");
    /// use ledger_shm::Entry;
    ///
    /// let mut bytes = entry.record_bytes().to_vec();
    /// assert_eq!(Entry::from_bytes(&bytes)?.key(), "facts");
    /// let last = bytes.last_mut().expect("a header at least");
    /// *last ^= 1;
    /// assert!(Entry::from_bytes(&bytes).is_err());
    /// # Ok(()) });
    /// ```
    pub fn from_bytes(record: &'a [u8]) -> Result<Entry<'a>, Corrupt> {
        RecordHeader::verify(record)?;
        Entry::view(record, Hold::Borrow)
    }
}

impl Entry<'static> {
    /// As [`from_bytes`](Entry::from_bytes), of a copy that the entry keeps.
    ///
    /// # Errors
    ///
    /// As [`from_bytes`](Entry::from_bytes).
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// # context.appender()?.append(&ledger_shm::NewEntry::new("facts", "income: 4200"))?;
    /// use ledger_shm::Entry;
    ///
    /// let record = context.get(1)?.expect("just appended").record_bytes().to_vec();
    /// let entry = Entry::copied_from(&record)?;
    /// drop(record);
    /// assert_eq!(entry.payload(), b"income: 4200");
    /// # Ok(()) });
    /// ```
    pub fn copied_from(record: &[u8]) -> Result<Entry<'static>, Corrupt> {
        RecordHeader::verify(record)?;
        let mut copy = AlignedVec::with_capacity(record.len());
        copy.extend_from_slice(record);
        Entry::keeping(copy)
    }

    /// The entry whose record this is.
    fn keeping(record: AlignedVec<RECORD_ALIGN>) -> Result<Entry<'static>, Corrupt> {
        // SAFETY: the entry holds the buffer, whose heap bytes do not move with it, and hands
        // out references only for as long as the entry itself is borrowed.
        let bytes = unsafe { &*std::ptr::from_ref(record.as_slice()) };
        Entry::view(
            bytes,
            Hold::Copy {
                _bytes: Box::new(record),
            },
        )
    }
}
