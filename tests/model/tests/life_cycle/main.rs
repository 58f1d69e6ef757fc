//! The life cycle of a context's memory, explored exhaustively: appenders with
//! stale hints that may stop anywhere, a late joiner, a reader, entries of two
//! sizes, retire, close and reopen, and a daemon that crashes at any step.
//!
//! Every rule of the design is here because its absence has a counter-example,
//! and there is a test for both: with all rules nothing breaks, and without any
//! one of them something does. `docs/decisions/life-cycle-model.md` says why
//! the explorer is our own.
//!
//! The largest exploration is not for every day:
//! `cargo test -p ledger-models --test life_cycle -- --ignored`.

mod appender;
mod checker;
mod daemon;
mod model;
mod reader;
mod rules;
mod state;

use checker::{Outcome, explore};
use model::{Bounds, Life};
use rules::{Property, Rule};

/// Enough of everything for every counter-example.
const WIDE: Bounds = Bounds {
    appender_count: 2,
    newcomer_count: 1,
    has_reader: true,
    room: 1,
    entry_count_max: 3,
    part_count_max: 4,
    closing_count_max: 1,
    small_spare_count: 1,
    large_spare_count: 1,
};

fn explore_with_every_rule<'a>(bounds: Bounds) -> Outcome<Life<'a>> {
    let life = Life {
        bounds,
        off: None,
        watched: &Property::ALL,
    };
    let outcome = explore(&life);
    if let Some(violation) = &outcome.violation {
        panic!(
            "{:?} is broken after {} states:\n{violation}",
            violation.property, outcome.state_count
        );
    }
    outcome
}

fn assert_explored(outcome: &Outcome<Life<'_>>, states: usize, depth: usize) {
    assert_eq!(
        (outcome.state_count, outcome.depth),
        (states, depth),
        "states and depth: a change of the model or its bounds belongs here too"
    );
}

#[test]
fn every_rule_together_keeps_every_property() {
    let outcome = explore_with_every_rule(Bounds {
        room: 2,
        entry_count_max: 4,
        part_count_max: 3,
        ..WIDE
    });
    assert_explored(&outcome, 1_627_737, 29);
}

#[test]
#[ignore = "17 million states: two to three minutes, 2.7 GB"]
fn every_rule_together_keeps_every_property_across_four_parts() {
    let outcome = explore_with_every_rule(WIDE);
    assert_explored(&outcome, 17_454_798, 36);
}

/// What breaks first, on the shortest way to any breakage.
fn broken_without(rule: Rule) -> Property {
    match rule {
        Rule::AppenderStopsAtSeal => Property::InsideChain,
        Rule::BaseBeforeNewcomer => Property::Dense,
        Rule::BaseBeforeClosing => Property::NothingLost,
        Rule::LamportBeforeSeq => Property::LamportRises,
        Rule::ReaderStopsAtSeal
        | Rule::NumbersAreNeverReused
        | Rule::NumberIsTakenFirst
        | Rule::NumbersSurviveClosing
        | Rule::NothingLeavesUnsealed => Property::ReaderGetsAll,
        Rule::OnlyFreshSparesAreNamed
        | Rule::SpareIsCheckedWhereItIsNamed
        | Rule::ArrivalWritesBase
        | Rule::BaseBeforeRetiring
        | Rule::MoveBeforeUnlink
        | Rule::SparesOutliveRestart
        | Rule::LeftoversByBaseSeq
        | Rule::ChainIsReadAgain
        | Rule::ClosedBeforeWithdrawn
        | Rule::WithdrawnBeforeUnlink
        | Rule::ForgetBeforeUnlink => Property::Walkable,
    }
}

#[test]
fn every_rule_left_out_breaks_its_property() {
    for rule in Rule::ALL {
        let outcome = explore(&Life {
            bounds: WIDE,
            off: Some(rule),
            watched: &Property::ALL,
        });
        let Some(violation) = outcome.violation else {
            panic!(
                "{rule:?} is superstition: without it nothing breaks in {} states",
                outcome.state_count
            );
        };
        assert_eq!(
            violation.property,
            broken_without(rule),
            "without {rule:?}, after {} states:\n{violation}",
            outcome.state_count
        );
    }
}
