//! CRC32C, as it is fastest for how many bytes there are.
#![allow(unsafe_code, reason = "instructions that not every processor has")]

use super::HEADER_CRC_AT;
use crate::format::RECORD_HEADER_LEN;

/// CRC32C (Castagnoli), the checksum of every record.
///
/// ```
/// assert_eq!(ledger_shm::record::crc32c(b"123456789"), 0xe306_9283);
/// ```
#[inline(always)]
pub fn crc32c(bytes: &[u8]) -> u32 {
    // For a comparison with what has no checksums, see `benches`.
    if cfg!(ledger_bare) {
        return 0;
    }
    // What the library does with as few bytes, without its search for the best
    // way, which takes longer than the checksum of a header or a key.
    #[cfg(target_arch = "x86_64")]
    if bytes.len() <= SHORT && is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { crc32c_short(bytes) };
    }
    crc_fast::crc32_iscsi(bytes)
}

/// Over what a record's header checksum covers.
#[inline(always)]
pub(super) fn crc32c_of_header(header: &[u8; RECORD_HEADER_LEN]) -> u32 {
    if cfg!(ledger_bare) {
        return 0;
    }
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("sse4.2") {
        #[target_feature(enable = "sse4.2")]
        fn unrolled(header: &[u8; RECORD_HEADER_LEN]) -> u32 {
            crc32c_short(&header[..HEADER_CRC_AT])
        }
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { unrolled(header) };
    }
    crc32c(&header[..HEADER_CRC_AT])
}

/// Longer ones are faster in several streams.
#[cfg(target_arch = "x86_64")]
const SHORT: usize = 256;

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse4.2")]
fn crc32c_short(bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};

    let (words, rest) = bytes.as_chunks();
    let whole = words.iter().fold(u64::from(u32::MAX), |crc, word| {
        _mm_crc32_u64(crc, u64::from_le_bytes(*word))
    });
    let (halves, rest) = rest.as_chunks();
    let whole = halves.iter().fold(whole as u32, |crc, half| {
        _mm_crc32_u32(crc, u32::from_le_bytes(*half))
    });
    !rest
        .iter()
        .fold(whole, |crc, byte| _mm_crc32_u8(crc, *byte))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_ways_come_to_the_same(
            bytes in prop::collection::vec(any::<u8>(), 0..700),
            start: prop::sample::Index,
        ) {
            let part = &bytes[start.index(bytes.len() + 1)..];
            prop_assert_eq!(crc32c(part), crc_fast::crc32_iscsi(part));
            if let Some(header) = part.first_chunk() {
                let covered = crc_fast::crc32_iscsi(&header[..HEADER_CRC_AT]);
                prop_assert_eq!(crc32c_of_header(header), covered);
            }
        }
    }
}
