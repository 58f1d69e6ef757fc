//! The bytes of every shared object: offsets, sizes, magic numbers, nothing
//! else. `docs/FORMAT.md` draws the same tables, and a test compares the two.
//!
//! All integers are little-endian. Every gap is a named reserved field that is
//! written as zero. A magic number is the last thing written when an object is
//! created, so an object without one is a creation that was cut short.

use std::mem::{offset_of, size_of};

#[cfg(not(target_endian = "little"))]
compile_error!("the on-memory format is little-endian and is mapped in place");

/// Version of every layout in this file. An object of another version is
/// refused, never guessed at.
pub const FORMAT_VERSION: u32 = 1;

/// First word of a segment.
pub const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"LEDGSEG\x01");
/// First word of a file.
pub const FILE_MAGIC: u64 = u64::from_le_bytes(*b"LEDGARC\x01");
/// Last word of a finished file.
pub const FINISHED_MAGIC: u64 = u64::from_le_bytes(*b"LEDGFIN\x01");
/// First word of a control object.
pub const CONTROL_MAGIC: u64 = u64::from_le_bytes(*b"LEDGCTL\x01");

/// Size of a memory page; every object is a whole number of them.
pub const PAGE_LEN: usize = 4096;
/// Blocks start on a cache line, so two appenders never share one.
pub const LINE_LEN: usize = 64;
/// Records start on a multiple of this, and so do the bodies inside them:
/// typed payloads of up to this alignment can be used where they lie.
pub const RECORD_ALIGN: usize = 16;

/// How rkyv lays out an archive, as one word that two builds can compare:
/// byte order, width of relative pointers, alignment of primitives.
///
/// The workspace fixes these features, and rkyv refuses to build with two
/// opposite ones; the word protects against a peer that was built elsewhere, and
/// against one without checksums, which only benchmarks are.
pub const ARCHIVE_FORMAT: u32 = {
    let pointer_len = size_of::<rkyv::Archived<usize>>() as u32;
    let align = align_of::<rkyv::Archived<u64>>() as u32;
    let little_endian = 1;
    // Its records would be damage to everybody else.
    let is_bare = cfg!(ledger_bare) as u32;
    little_endian | pointer_len << 8 | align << 16 | is_bare << 31
};

/// The head of a segment. The index follows at `index_offset`, the data area
/// at `data_offset`; both lie inside `segment_len`.
///
/// Words named `_word` are shared and only ever touched atomically.
#[derive(Debug)]
#[repr(C)]
pub struct SegmentHeader {
    /// [`SEGMENT_MAGIC`], written last.
    pub magic_word: u64,
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// [`ARCHIVE_FORMAT`].
    pub archive_format: u32,
    /// Tells two contexts of one name apart.
    pub epoch: [u8; 16],
    /// Names this segment within its context; never used twice.
    pub part: u64,
    /// Bytes of the whole object.
    pub segment_len: u64,
    /// Where the slot index starts.
    pub index_offset: u64,
    /// Entries the index has room for; there is one slot more, for the seal.
    pub slot_capacity: u64,
    /// Where the data area starts.
    pub data_offset: u64,
    /// Bytes of the data area.
    pub data_len: u64,
    /// Zero.
    pub reserved_geometry: [u8; 48],
    /// Lamport time of the entry before the first one here.
    /// Written once by whoever rolls first, before `base_seq_word`.
    pub base_lamport_word: u64,
    /// Seq of the first entry; 0 while this is a spare, [`WITHDRAWN`] once it
    /// can never become anything else. Leaves 0 exactly once.
    pub base_seq_word: u64,
    /// The part that goes on after CLOSED, 0 while there is none. Written once
    /// by the daemon, after that part is complete.
    pub successor_word: u64,
    /// Zero.
    pub reserved_base: [u8; 104],
    /// Bytes of the data area that appenders took. May exceed `data_len`:
    /// an appender that comes last takes more than is left.
    pub data_tail_word: u64,
    /// Zero.
    pub reserved_tail: [u8; 120],
}

/// Bytes of a segment's header; the index starts right behind it.
pub const SEGMENT_HEADER_LEN: usize = size_of::<SegmentHeader>();
/// Smallest segment: one that holds an entry of a few KiB.
pub const SEGMENT_LEN_MIN: usize = 2 * PAGE_LEN;
/// Largest segment: a slot addresses its data in units of [`RECORD_ALIGN`]
/// with 30 bits.
pub const SEGMENT_LEN_MAX: usize = (1 << 30) * RECORD_ALIGN;
/// One slot of index for this many bytes of data, unless asked otherwise:
/// about the record of an entry with a short key and a payload of 16 bytes.
pub const DATA_LEN_PER_SLOT: usize = 96;

/// Highest seq a segment may begin with: what comes after it can be counted.
pub const SEQ_MAX: u64 = 1 << 62;

/// `base_seq_word` of a spare that was withdrawn when its context was closed.
pub const WITHDRAWN: u64 = u64::MAX;

/// The head of one entry's bytes; the rkyv archive of `body_len` bytes follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RecordHeader {
    /// Bytes of the archive behind this header.
    pub body_len: u32,
    /// CRC32C over the archive.
    pub body_crc: u32,
    /// Position in the context, from 1.
    pub seq: u64,
    /// Wall clock when the entry was appended, nanoseconds since 1970.
    /// Information only: nothing orders by it.
    pub appended_at_ns: u64,
    /// Lamport time: greater than the predecessor's and than any received one.
    pub lamport: u64,
    /// CRC32C over the key: lets a filter skip a body it need not touch.
    pub key_hash: u32,
    /// Zero.
    pub reserved: u32,
    /// CRC32C over all of this header before this field: whole words, because
    /// it is computed again for every CAS.
    pub header_crc: u32,
    /// Zero.
    pub reserved_end: u32,
}

/// Bytes of a record before its archive.
pub const RECORD_HEADER_LEN: usize = size_of::<RecordHeader>();

/// The head of a file in which entries outlive their memory, written once, before
/// anything else in it; the name follows, filled up to a multiple of
/// [`RECORD_ALIGN`] with zeros, then the peaks of the tree over all entries before
/// the first one here, and then the records.
///
/// What a segment's header says at the same offsets is said there, too, so that
/// a finished file can be read as one.
#[derive(Debug)]
#[repr(C)]
pub struct FileHeader {
    /// [`FILE_MAGIC`].
    pub magic: u64,
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// [`ARCHIVE_FORMAT`].
    pub archive_format: u32,
    /// The context's, when this was written.
    pub epoch: [u8; 16],
    /// Wall clock when the context was created, nanoseconds since 1970.
    pub created_at_ns: u64,
    /// As in the control object.
    pub payload_len_max: u64,
    /// As in the control object.
    pub metadata_len_max: u64,
    /// Bytes of the name.
    pub name_len: u32,
    /// As in the control object.
    pub foreign_writers: u32,
    /// As in the control object, like the next three.
    pub first_len: u64,
    /// As in the control object.
    pub spare_len_min: u64,
    /// As in the control object.
    pub spare_len_max: u64,
    /// As in the control object.
    pub window_len: u64,
    /// Wall clock when this file was begun, nanoseconds since 1970.
    pub begun_at_ns: u64,
    /// In a snapshot, seq of its first entry; 0 in an archive.
    pub snapshot_first_seq: u64,
    /// In a snapshot, seq of its last entry.
    pub snapshot_last_seq: u64,
    /// In a snapshot, entries in this file of it.
    pub section_count: u64,
    /// Lamport time of the entry before the first one here.
    pub base_lamport: u64,
    /// Seq of the first entry here, also if there is none yet.
    pub first_seq: u64,
    /// Zero: a file has no successor of its own.
    pub reserved_successor: u64,
    /// Zero.
    pub reserved: [u8; 96],
    /// CRC32C over everything before the records, this field counted as zero.
    pub header_crc: u32,
    /// Zero.
    pub reserved_end: u32,
}

/// Bytes of a file before the name.
pub const FILE_HEADER_LEN: usize = size_of::<FileHeader>();

/// The last bytes of a finished file. Before them lie an index of slots as in a
/// segment, one more than there are entries, of which the last one says CLOSED, and
/// zeros up to a multiple of [`RECORD_ALIGN`]; the nodes of the tree that became complete by these entries; and its peaks behind the
/// last one.
#[derive(Debug)]
#[repr(C)]
pub struct FileTrailer {
    /// Entries in the file.
    pub count: u64,
    /// Where the slot index starts, which is where the records end.
    pub index_offset: u64,
    /// Bytes of the whole file.
    pub file_len: u64,
    /// Lamport time of the last entry; without one, of the one before.
    pub last_lamport: u64,
    /// 1 if the log was closed behind the last entry: nothing was ever appended
    /// behind it that is in no later file.
    pub is_complete: u32,
    /// CRC32C over index, nodes and peaks.
    pub tables_crc: u32,
    /// Seq of the first entry here, as in the header.
    pub first_seq: u64,
    /// Root of the tree over all entries up to the last one here.
    pub root: [u8; 32],
    /// Zero.
    pub reserved: [u8; 32],
    /// CRC32C over all of this trailer before this field.
    pub trailer_crc: u32,
    /// Zero.
    pub reserved_end: u32,
    /// [`FINISHED_MAGIC`].
    pub magic: u64,
}

/// Bytes of a finished file's end.
pub const FILE_TRAILER_LEN: usize = size_of::<FileTrailer>();
/// Entries that a file has at most: what is said about them fits into memory.
pub const FILE_COUNT_MAX: u64 = 1 << 22;

/// What the daemon tells everybody about one context. Only the daemon writes.
#[derive(Debug)]
#[repr(C)]
pub struct ControlHeader {
    /// [`CONTROL_MAGIC`], written last.
    pub magic_word: u64,
    /// [`FORMAT_VERSION`].
    pub version: u32,
    /// [`ARCHIVE_FORMAT`].
    pub archive_format: u32,
    /// Tells two contexts of one name apart.
    pub epoch: [u8; 16],
    /// Wall clock at creation, nanoseconds since 1970.
    pub created_at_ns: u64,
    /// Largest payload that may be appended, inclusive.
    pub payload_len_max: u64,
    /// Largest metadata, inclusive: keys, values, and 16 bytes for each pair.
    pub metadata_len_max: u64,
    /// Bytes of the name.
    pub name_len: u32,
    /// 1 if other uids than the owner's may map segments for writing.
    pub foreign_writers: u32,
    /// Bytes of its first segment; this and the next three are 0 where it is
    /// as the daemon's options have it.
    pub first_len: u64,
    /// Bytes of its first spare; later ones double.
    pub spare_len_min: u64,
    /// Bytes that no spare exceeds unless one entry needs more.
    pub spare_len_max: u64,
    /// Bytes of sealed segments that it keeps in memory.
    pub window_len: u64,
    /// What the directory of its files is called; zero if it is kept in memory only.
    pub home: [u8; 16],
    /// Zero.
    pub reserved_facts: [u8; 16],
    /// One of the `STATE_` values.
    pub state_word: u64,
    /// The lowest part number that was never used. Raised before a part is made.
    pub next_part_word: u64,
    /// The oldest part in memory. Moves before that part is unlinked.
    pub first_part_word: u64,
    /// Changes whenever a daemon takes the context over: time for a new bell.
    pub generation_word: u64,
    /// Every entry up to this seq is in the archive.
    pub archived_seq_word: u64,
    /// Every entry up to this seq is on stable storage; never above archived.
    pub durable_seq_word: u64,
    /// Zero.
    pub reserved_state: [u8; 80],
    /// The name, `name_len` bytes of UTF-8, then zeros.
    pub name: [u8; NAME_LEN_MAX],
    /// Zero.
    pub reserved_end: [u8; 2816],
}

/// Bytes of a control object.
pub const CONTROL_LEN: usize = size_of::<ControlHeader>();
/// Longest name of a context, in bytes of UTF-8.
pub const NAME_LEN_MAX: usize = 1024;
/// Longest key of an entry, in bytes of UTF-8.
pub const KEY_LEN_MAX: usize = 1024;

/// Appends are welcome.
pub const STATE_OPEN: u64 = 1;
/// Closed for idleness; goes on in a new part when somebody wants to append.
pub const STATE_IDLE: u64 = 2;
/// Damaged: readable as far as it validates, never written again.
pub const STATE_QUARANTINED: u64 = 3;
/// Gone for good.
pub const STATE_DROPPED: u64 = 4;
/// In files only, this object included: opened again, it has another one.
pub const STATE_ARCHIVED: u64 = 5;
/// Closed, and about to go on behind what a snapshot has more: what is in memory is not
/// the end of it if the daemon dies now.
pub const STATE_LOADING: u64 = 6;

/// The words parked watchers sleep on, each on a line of its own. Watchers of
/// any uid may write all of it, so no word here is ever believed.
#[derive(Debug)]
#[repr(C)]
pub struct BellHeader {
    /// 1 if somebody may be asleep. Set by watchers, cleared by who rings.
    pub parked_word: u32,
    /// Zero.
    pub reserved_parked: [u8; 124],
    /// How often the bell rang, wrapping. The futex.
    pub count_word: u32,
    /// Zero.
    pub reserved_count: [u8; 124],
    /// The last count whose ring was passed on to all sleepers.
    pub relayed_word: u32,
    /// Zero.
    pub reserved_relayed: [u8; 124],
    /// How many watchers found no room below.
    pub unlisted_word: u32,
    /// Zero.
    pub reserved_unlisted: [u8; 124],
    /// Who watches.
    pub roster: [RosterEntry; ROSTER_LEN],
}

/// How many watchers a bell has room for.
pub const ROSTER_LEN: usize = 56;

/// One watcher. Written by itself, each on a cache line of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct RosterEntry {
    /// The client number in the upper half, its process id in the lower; 0: free.
    pub client_word: u64,
    /// The first seq that it has not looked at.
    pub next_seq_word: u64,
    /// Zero.
    pub reserved: [u8; 48],
}

/// Bytes of a bell.
pub const BELL_LEN: usize = size_of::<BellHeader>();

const _: () = {
    assert!(SEGMENT_HEADER_LEN == 384);
    assert!(offset_of!(SegmentHeader, version) == 8);
    assert!(offset_of!(SegmentHeader, archive_format) == 12);
    assert!(offset_of!(SegmentHeader, epoch) == 16);
    assert!(offset_of!(SegmentHeader, part) == 32);
    assert!(offset_of!(SegmentHeader, segment_len) == 40);
    assert!(offset_of!(SegmentHeader, index_offset) == 48);
    assert!(offset_of!(SegmentHeader, slot_capacity) == 56);
    assert!(offset_of!(SegmentHeader, data_offset) == 64);
    assert!(offset_of!(SegmentHeader, data_len) == 72);
    assert!(offset_of!(SegmentHeader, base_lamport_word) == 128);
    assert!(offset_of!(SegmentHeader, base_seq_word) == 136);
    assert!(offset_of!(SegmentHeader, successor_word) == 144);
    assert!(offset_of!(SegmentHeader, data_tail_word) == 256);
    assert!(SEGMENT_HEADER_LEN.is_multiple_of(LINE_LEN));

    assert!(RECORD_HEADER_LEN == 48 && RECORD_HEADER_LEN.is_multiple_of(RECORD_ALIGN));
    assert!(offset_of!(RecordHeader, body_crc) == 4);
    assert!(offset_of!(RecordHeader, seq) == 8);
    assert!(offset_of!(RecordHeader, appended_at_ns) == 16);
    assert!(offset_of!(RecordHeader, lamport) == 24);
    assert!(offset_of!(RecordHeader, key_hash) == 32);
    assert!(offset_of!(RecordHeader, reserved) == 36);
    assert!(offset_of!(RecordHeader, header_crc) == 40);
    assert!(offset_of!(RecordHeader, reserved_end) == 44);

    assert!(FILE_HEADER_LEN == 256 && FILE_HEADER_LEN.is_multiple_of(RECORD_ALIGN));
    assert!(offset_of!(FileHeader, epoch) == offset_of!(SegmentHeader, epoch));
    assert!(offset_of!(FileHeader, base_lamport) == offset_of!(SegmentHeader, base_lamport_word));
    assert!(offset_of!(FileHeader, first_seq) == offset_of!(SegmentHeader, base_seq_word));
    assert!(
        offset_of!(FileHeader, reserved_successor) == offset_of!(SegmentHeader, successor_word)
    );
    assert!(offset_of!(FileHeader, name_len) == 56);
    assert!(offset_of!(FileHeader, begun_at_ns) == 96);
    assert!(offset_of!(FileHeader, snapshot_first_seq) == 104);
    assert!(offset_of!(FileHeader, header_crc) == 248);
    assert!(FILE_TRAILER_LEN == 128 && FILE_TRAILER_LEN.is_multiple_of(RECORD_ALIGN));
    assert!(offset_of!(FileTrailer, is_complete) == 32);
    assert!(offset_of!(FileTrailer, first_seq) == 40);
    assert!(offset_of!(FileTrailer, root) == 48);
    assert!(offset_of!(FileTrailer, trailer_crc) == 112);
    assert!(offset_of!(FileTrailer, magic) == 120);

    assert!(CONTROL_LEN == PAGE_LEN);
    assert!(offset_of!(ControlHeader, created_at_ns) == 32);
    assert!(offset_of!(ControlHeader, payload_len_max) == 40);
    assert!(offset_of!(ControlHeader, metadata_len_max) == 48);
    assert!(offset_of!(ControlHeader, name_len) == 56);
    assert!(offset_of!(ControlHeader, foreign_writers) == 60);
    assert!(offset_of!(ControlHeader, first_len) == 64);
    assert!(offset_of!(ControlHeader, spare_len_min) == 72);
    assert!(offset_of!(ControlHeader, spare_len_max) == 80);
    assert!(offset_of!(ControlHeader, window_len) == 88);
    assert!(offset_of!(ControlHeader, home) == 96);
    assert!(offset_of!(ControlHeader, state_word) == 128);
    assert!(offset_of!(ControlHeader, next_part_word) == 136);
    assert!(offset_of!(ControlHeader, first_part_word) == 144);
    assert!(offset_of!(ControlHeader, generation_word) == 152);
    assert!(offset_of!(ControlHeader, archived_seq_word) == 160);
    assert!(offset_of!(ControlHeader, durable_seq_word) == 168);
    assert!(offset_of!(ControlHeader, name) == 256);

    assert!(BELL_LEN == PAGE_LEN);
    assert!(offset_of!(BellHeader, parked_word) == 0);
    assert!(offset_of!(BellHeader, count_word) == 128);
    assert!(offset_of!(BellHeader, relayed_word) == 256);
    assert!(offset_of!(BellHeader, unlisted_word) == 384);
    assert!(offset_of!(BellHeader, roster) == 512);
    assert!(size_of::<RosterEntry>() == 64);
    assert!(offset_of!(RosterEntry, next_seq_word) == 8);
};
