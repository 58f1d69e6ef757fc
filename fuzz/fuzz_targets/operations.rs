//! Whatever is done to a context, it reads as a `Vec` would.
#![no_main]

use ledger_fuzz::served::served;
use ledger_tests::oracle::{Step, play};
use libfuzzer_sys::arbitrary::{Result, Unstructured};
use libfuzzer_sys::fuzz_target;

const STEPS_MAX: usize = 40;

fn step(bytes: &mut Unstructured<'_>) -> Result<Step> {
    Ok(match bytes.int_in_range(0..=9)? {
        0 | 1 => {
            let len_max = if bytes.ratio(1, 5)? { 20_000 } else { 200 };
            Step::Append {
                key: bytes.int_in_range(0..=3)?,
                payload_len: bytes.int_in_range(0..=len_max)?,
                metadata: bytes.arbitrary()?,
                received: bytes.int_in_range(0..=10_000)?,
            }
        }
        2 => Step::Batch {
            count: bytes.int_in_range(0..=150)?,
        },
        3 => Step::Handover,
        4 => Step::Get {
            seq: bytes.int_in_range(0..=300)?,
        },
        5 => Step::Range {
            from: bytes.int_in_range(0..=300)?,
            key: bytes.arbitrary::<Option<u8>>()?.map(|key| key % 4),
            after: bytes.arbitrary::<Option<u8>>()?.map(u64::from),
            limit: bytes.arbitrary::<Option<u8>>()?.map(u64::from),
        },
        6 => Step::Latest,
        7 => Step::CatchUp,
        8 if bytes.ratio(1, 4)? => Step::Copy,
        8 => Step::Fresh,
        _ => Step::Reopen,
    })
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Unstructured::new(bytes);
    let mut steps = Vec::new();
    while !bytes.is_empty() && steps.len() < STEPS_MAX {
        let Ok(step) = step(&mut bytes) else { break };
        steps.push(step);
    }
    served(|_, ledger| play(ledger, "context", &steps));
});
