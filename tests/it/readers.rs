//! Who reads a log that has moved on, and cannot always map what it needs.

use ledger_tests::{eventually, process};
use nix::sys::resource::Resource;

use crate::archive::{FORGETFUL, SMALL, append};
use crate::started;

#[test]
fn a_reader_that_was_away_finds_the_segments_that_are_there() {
    let instance = started(&FORGETFUL);
    let context = instance.context("log");
    append(&context, 1..=1);
    let mut reader = instance.peer();
    reader.must("read log");
    reader.must("get 1");
    append(&context, 2..=10_000);
    // What follows the segment that it knows is gone as well.
    eventually("the window moves on", || {
        (context.first_available().expect("readable") > 5000).then_some(())
    });
    assert_eq!(reader.must("get 10000"), "10000");
}

#[test]
fn a_reader_without_a_descriptor_left_is_told_so_and_goes_on_when_it_has_one() {
    let instance = started(&SMALL);
    let context = instance.context("log");
    append(&context, 1..=1);
    let mut reader = instance.peer();
    reader.must("read log");
    reader.must("get 1");
    append(&context, 2..=1000);
    let pid = reader.pid();
    let limit = |most| process::limit(pid, Resource::RLIMIT_NOFILE, most);
    limit(0).expect("it lives");
    let said = reader.ask("get 1000");
    assert!(said.contains("Too many open files"), "{said}");
    limit(100).expect("it lives");
    assert_eq!(reader.must("get 1000"), "1000");
}
