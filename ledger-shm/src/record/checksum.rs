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
    #[cfg(target_arch = "x86_64")]
    if bytes.len() <= short::LEN_MAX && short::is_possible() {
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { short::crc32c(bytes) };
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
    if short::is_possible() {
        #[target_feature(enable = "sse4.2")]
        fn unrolled(header: &[u8; RECORD_HEADER_LEN]) -> u32 {
            !short::go_on(u64::from(u32::MAX), &header[..HEADER_CRC_AT])
        }
        // SAFETY: the processor has what the function is compiled for.
        return unsafe { unrolled(header) };
    }
    crc32c(&header[..HEADER_CRC_AT])
}

/// With the processor's instruction for it, and without the library's search for
/// the best way, which takes longer than the checksum of a header or a key.
///
/// A step takes eight bytes and three cycles, in which it could begin three: so
/// more than a few go in three streams, which are put together by multiplying
/// what came out of the first two by a power of x (V. Gopal and others, Fast CRC
/// Computation for iSCSI Polynomial Using CRC32 Instruction, Intel, 2011).
#[cfg(target_arch = "x86_64")]
mod short {
    use std::arch::x86_64::{
        _mm_clmulepi64_si128, _mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64, _mm_cvtsi32_si128,
        _mm_cvtsi128_si64,
    };

    /// Longer ones are faster with wider registers.
    pub(super) const LEN_MAX: usize = 512;
    /// What takes about as long in three streams as in one.
    const STREAMS_FROM: usize = 96;

    #[inline(always)]
    pub(super) fn is_possible() -> bool {
        is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("pclmulqdq")
    }

    #[target_feature(enable = "sse4.2,pclmulqdq")]
    pub(super) fn crc32c(bytes: &[u8]) -> u32 {
        let begin = u64::from(u32::MAX);
        if bytes.len() < STREAMS_FROM {
            return !go_on(begin, bytes);
        }
        let (words, _) = bytes.as_chunks();
        let third = words.len() / 3;
        let (first, rest) = words.split_at(third);
        let (second, rest) = rest.split_at(third);
        let (mut one, mut two, mut three) = (begin, 0, 0);
        for ((a, b), c) in first.iter().zip(second).zip(rest) {
            one = _mm_crc32_u64(one, u64::from_le_bytes(*a));
            two = _mm_crc32_u64(two, u64::from_le_bytes(*b));
            three = _mm_crc32_u64(three, u64::from_le_bytes(*c));
        }
        let all = over(one, 2 * third) ^ over(two, third) ^ three;
        !go_on(all, &bytes[24 * third..])
    }

    /// What a checksum becomes over so many words of zero.
    #[inline]
    #[target_feature(enable = "sse4.2,pclmulqdq")]
    fn over(crc: u64, words: usize) -> u64 {
        let crc = _mm_cvtsi32_si128(crc as i32);
        let power = _mm_cvtsi32_si128(POWERS[words].cast_signed());
        let product = _mm_clmulepi64_si128::<0>(crc, power);
        // Reduces it, and multiplies by what `POWERS` have less.
        _mm_crc32_u64(0, _mm_cvtsi128_si64(product).cast_unsigned())
    }

    /// x to the power of 64 for each word, less 33, modulo the polynomial; the
    /// highest power is the lowest bit.
    const POWERS: [u32; LEN_MAX / 8] = {
        let mut powers = [0; LEN_MAX / 8];
        let (mut power, mut exponent, mut words) = (1 << 31, 0, 1);
        while words < powers.len() {
            while exponent < 64 * words - 33 {
                let carry = power & 1;
                power = (power >> 1) ^ (carry * 0x82f6_3b78);
                exponent += 1;
            }
            powers[words] = power;
            words += 1;
        }
        powers
    };

    /// The same after these bytes, one step after the other.
    #[inline]
    #[target_feature(enable = "sse4.2")]
    pub(super) fn go_on(crc: u64, bytes: &[u8]) -> u32 {
        let (words, rest) = bytes.as_chunks();
        let whole = words.iter().fold(crc, |crc, word| {
            _mm_crc32_u64(crc, u64::from_le_bytes(*word))
        });
        let (halves, rest) = rest.as_chunks();
        let whole = halves.iter().fold(whole as u32, |crc, half| {
            _mm_crc32_u32(crc, u32::from_le_bytes(*half))
        });
        rest.iter()
            .fold(whole, |crc, byte| _mm_crc32_u8(crc, *byte))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_ways_come_to_the_same(
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

    #[test]
    fn every_length_comes_to_the_same() {
        let bytes: Vec<u8> = (0..700_u32).map(|n| (n * n % 251) as u8).collect();
        for len in 0..bytes.len() {
            let part = &bytes[..len];
            assert_eq!(crc32c(part), crc_fast::crc32_iscsi(part), "{len} bytes");
        }
    }
}
