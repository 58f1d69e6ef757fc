//! Clients and the daemon, killed and stopped at random, again and again.

use ledger_tests::torture::{Effort, storm};

use crate::PROGRAMS;

#[test]
fn whoever_is_killed_or_stopped_at_random_costs_nobody_an_entry() {
    storm::storm(PROGRAMS, &Effort::little(30)).assert_hold();
}
