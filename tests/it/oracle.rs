//! The ledger against the simplest thing that could be right, for whatever is done to it.

use std::cell::Cell;

use ledger_tests::oracle::{Step, play};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use crate::started;

fn step() -> impl Strategy<Value = Step> {
    let metadata = prop::collection::vec(("[a-z]{0,12}", ".{0,12}"), 0..4);
    let payload_len = prop_oneof![4 => 0_usize..200, 1 => 0_usize..20_000];
    prop_oneof![
        8 => (0_u8..4, payload_len, metadata, prop_oneof![Just(0), 0_u64..10_000]).prop_map(
            |(key, payload_len, metadata, received)| Step::Append { key, payload_len, metadata, received }
        ),
        2 => (0_usize..150).prop_map(|count| Step::Batch { count }),
        1 => Just(Step::Handover),
        4 => (0_u64..300).prop_map(|seq| Step::Get { seq }),
        4 => (0_u64..300, prop::option::of(0_u8..4), prop::option::of(0_u64..300), prop::option::of(0_u64..50))
            .prop_map(|(from, key, after, limit)| Step::Range { from, key, after, limit }),
        1 => Just(Step::Latest),
        2 => Just(Step::CatchUp),
        1 => Just(Step::Fresh),
        1 => Just(Step::Copy),
        1 => Just(Step::Reopen),
    ]
}

#[test]
fn every_history_reads_as_a_vec_would() {
    // One daemon for all cases: what they share is what real contexts share.
    let instance = started(&["--spare-min", "16K", "--spare-max", "64K"]);
    let cases = Cell::new(0);
    let config = ProptestConfig {
        cases: 48,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    };
    let steps = prop::collection::vec(step(), 1..40);
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        cases.set(cases.get() + 1);
        play(
            &instance.connect(),
            &format!("case-{}", cases.get()),
            &steps,
        );
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}
