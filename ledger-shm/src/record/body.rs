//! Writing a body straight into shared memory: the payload, then key and
//! metadata around it.
#![allow(unsafe_code, reason = "references are resolved where they lie")]

use std::fmt;

use rkyv::rancor::{Source, Strategy};
use rkyv::ser::allocator::{Arena, ArenaHandle};
use rkyv::ser::{Positional, Serializer, Writer, WriterExt as _};
use rkyv::string::ArchivedString;
use rkyv::vec::{ArchivedVec, VecResolver};
use rkyv::{Place, Portable, Serialize, munge::munge};

use super::{ArchivedBody, ArchivedPair};

/// Where a typed payload goes: into a run of shared memory, or, to learn how
/// long it will be, nowhere.
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

/// What typed payloads are serialised with: no shared pointers.
pub type EntrySerializer<'a> =
    Strategy<Serializer<BodyWriter<'a>, ArenaHandle<'a>, ()>, rkyv::rancor::Error>;

/// Memory that serialising a typed payload takes for a moment. It is kept, so
/// that after the first few of a kind none is allocated, unless it is much.
#[derive(Default)]
pub(crate) struct Scratch(Option<Arena>);

/// More than any entry of a usual kind takes: what one of another kind took is
/// given back.
const SCRATCH_KEPT_MAX: usize = 1 << 20;

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.0.as_ref().map(Arena::capacity);
        f.debug_tuple("Scratch").field(&len).finish()
    }
}

/// What an entry can carry: plain bytes, or a value in rkyv's format.
pub trait Payload {
    /// All of it, if it is plain bytes.
    fn bytes(&self) -> Option<&[u8]>;
    /// Writes it at the serialiser's current position.
    ///
    /// # Errors
    ///
    /// Whatever the value's `Serialize` says, or that the block ended.
    fn write(&self, serializer: &mut EntrySerializer<'_>) -> Result<(), rkyv::rancor::Error>;
}

impl Payload for &[u8] {
    #[inline]
    fn bytes(&self) -> Option<&[u8]> {
        Some(self)
    }

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
    fn bytes(&self) -> Option<&[u8]> {
        None
    }

    fn write(&self, serializer: &mut EntrySerializer<'_>) -> Result<(), rkyv::rancor::Error> {
        const { assert!(align_of::<T::Archived>() <= crate::format::RECORD_ALIGN) };
        let resolver = self.0.serialize(serializer)?;
        serializer.align_for::<T::Archived>()?;
        // SAFETY: `resolver` is this value's, and the position was just aligned.
        unsafe { serializer.resolve_aligned(self.0, resolver) }?;
        Ok(())
    }
}

/// Writes a payload to the start of `target`, or only measures it; says how
/// long it is.
///
/// # Errors
///
/// It is longer than `target`, or cannot be serialised.
pub(crate) fn write_payload<P: Payload>(
    target: Option<&mut [u8]>,
    payload: &P,
    scratch: &mut Scratch,
) -> Result<usize, rkyv::rancor::Error> {
    let writer = BodyWriter { target, len: 0 };
    let arena = scratch.0.get_or_insert_default();
    let mut serializer = Serializer::new(writer, arena.acquire(), ());
    let outcome = payload.write(Strategy::wrap(&mut serializer));
    let written = serializer.into_writer().len;
    // `capacity` would be that of its first block.
    if arena.shrink() > SCRATCH_KEPT_MAX {
        scratch.0 = None;
    }
    outcome.map(|()| written)
}

/// Writes a payload that was measured to the start of `target`.
///
/// # Errors
///
/// As [`write_payload`], or it is not as long as it was: its `Serialize` depends
/// on something that has changed.
pub(crate) fn write_measured<P: Payload>(
    target: &mut [u8],
    payload: &P,
    measured: usize,
    scratch: &mut Scratch,
) -> Result<(), rkyv::rancor::Error> {
    let written = write_payload(Some(target), payload, scratch)?;
    if written != measured {
        rkyv::rancor::fail!(OtherLen { measured, written });
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
#[error("it took {measured} bytes when it was measured, and {written} when it was written")]
struct OtherLen {
    measured: usize,
    written: usize,
}

const PAIR_LEN: usize = size_of::<ArchivedPair>();
const ROOT_LEN: usize = size_of::<ArchivedBody>();
const _: () = assert!(PAIR_LEN.is_multiple_of(align_of::<ArchivedBody>()));

/// Bytes that a string takes outside the reference to it.
#[inline]
fn len_outside(text: &str) -> usize {
    if text.len() > size_of::<ArchivedString>() {
        text.len()
    } else {
        0
    }
}

/// The length of the archive around a payload.
#[inline]
pub(crate) fn body_len(payload_len: usize, key: &str, metadata: &[(&str, &str)]) -> usize {
    let mut strings_len = len_outside(key);
    if !metadata.is_empty() {
        strings_len += pairs_len_outside(metadata);
    }
    let pairs_at = (payload_len + strings_len).next_multiple_of(align_of::<ArchivedPair>());
    pairs_at + metadata.len() * PAIR_LEN + ROOT_LEN
}

/// Not inlined, as everything that entries without metadata do not need.
#[inline(never)]
fn pairs_len_outside(metadata: &[(&str, &str)]) -> usize {
    let lens = metadata
        .iter()
        .map(|(name, value)| len_outside(name) + len_outside(value));
    lens.sum()
}

/// Writes key and metadata around the payload that lies at the start of
/// `body`, which is as long as [`body_len`] says.
///
/// # Errors
///
/// A string is too long for the format.
///
/// # Panics
///
/// If `body` has another length, or lies at an odd address.
#[inline(always)]
pub(crate) fn write_around(
    body: &mut [u8],
    payload_len: usize,
    key: &str,
    metadata: &[(&str, &str)],
) -> Result<(), rkyv::rancor::Error> {
    let root_at = body.len() - ROOT_LEN;
    let pairs_at = root_at - metadata.len() * PAIR_LEN;
    let (front, root) = body.split_at_mut(root_at);
    let (strings, pairs) = front.split_at_mut(pairs_at);
    let mut writer = BodyWriter {
        target: Some(strings),
        len: payload_len,
    };
    let serializer = Strategy::<_, rkyv::rancor::Error>::wrap(&mut writer);
    let key_resolver = ArchivedString::serialize_from_str(key, serializer)?;
    if !metadata.is_empty() {
        write_pairs(pairs, pairs_at, metadata, serializer)?;
    }
    let end = serializer.pos();
    // Of a few bytes, and mostly of none: then there is nothing to call for.
    if end < pairs_at {
        strings[end..].fill(0);
    }
    // SAFETY: nothing else uses `root` any more.
    let out = unsafe { place(root_at, root) };
    munge!(let ArchivedBody { payload: payload_out, key: key_out, metadata: metadata_out } = out);
    ArchivedVec::resolve_from_len(payload_len, VecResolver::from_pos(0), payload_out);
    ArchivedString::resolve_from_str(key, key_resolver, key_out);
    ArchivedVec::resolve_from_len(
        metadata.len(),
        VecResolver::from_pos(pairs_at),
        metadata_out,
    );
    Ok(())
}

/// Writes each pair to its place, and its strings where the serialiser stands.
#[inline(never)]
fn write_pairs(
    pairs: &mut [u8],
    pairs_at: usize,
    metadata: &[(&str, &str)],
    serializer: &mut Strategy<BodyWriter<'_>, rkyv::rancor::Error>,
) -> Result<(), rkyv::rancor::Error> {
    let places = pairs.chunks_exact_mut(PAIR_LEN);
    for (n, ((name, value), bytes)) in metadata.iter().zip(places).enumerate() {
        let resolver = (
            ArchivedString::serialize_from_str(name, serializer)?,
            ArchivedString::serialize_from_str(value, serializer)?,
        );
        // SAFETY: done with before `bytes` are borrowed again.
        let pair = unsafe { place(pairs_at + n * PAIR_LEN, bytes) };
        munge!(let ArchivedPair { key: name_out, value: value_out } = pair);
        ArchivedString::resolve_from_str(name, resolver.0, name_out);
        ArchivedString::resolve_from_str(value, resolver.1, value_out);
    }
    Ok(())
}

/// The place of a value that lies in exactly these bytes, at this position.
///
/// # Safety
///
/// What is returned has no lifetime: it is used only while `bytes` live, and
/// nobody else uses them meanwhile.
#[inline]
unsafe fn place<T: Portable>(position: usize, bytes: &mut [u8]) -> Place<T> {
    let target = bytes.as_mut_ptr().cast::<T>();
    assert!(bytes.len() == size_of::<T>() && target.is_aligned());
    // SAFETY: as long as the value and aligned for it, as just asserted;
    // initialised, for it is a slice of bytes; lives by the caller's contract.
    unsafe { Place::new_unchecked(position, target) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn scratch_memory_is_kept_unless_it_is_much() {
        let mut scratch = Scratch::default();
        // Each string's resolver has to be kept until all have been written.
        let mut kept_after = |count| {
            let strings = vec![String::from("longer than what fits inside"); count];
            write_payload(None, &Typed(&strings), &mut scratch).expect("only measured");
            scratch.0.is_some()
        };
        assert!(kept_after(10));
        assert!(!kept_after(SCRATCH_KEPT_MAX));
        assert!(kept_after(10));
    }
}
