//! Two appenders, one frontier: both entries get in, each once, numbered
//! without a gap in the order of the CASes; or one, where the data have room for one.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use ledger_shm_under_loom::error::{Full, Refused};

use crate::{ENTRY_LINES, append, check, history, log, log_of, tail};

#[test]
fn two_appenders_share_the_seqs_without_a_gap() {
    let orders = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&orders);
    check(move || {
        let parts = log(&[2]);
        let other = parts.clone();
        let mut mine = tail(&parts.0[0]);
        let mut theirs = tail(&parts.0[0]);
        let thread =
            loom::thread::spawn(move || append(&mut theirs, &other, "theirs").expect("room"));
        let mine = append(&mut mine, &parts, "mine").expect("room");
        let theirs = thread.join().expect("an appender that ends");

        let keys = history(&parts);
        assert_eq!(keys.len(), 2);
        assert_eq!(keys[mine.seq as usize - 1], "mine");
        assert_eq!(keys[theirs.seq as usize - 1], "theirs");
        orders.lock().expect("no panic").insert(keys);
    });
    assert_eq!(
        seen.lock().expect("no panic").len(),
        2,
        "either may be first"
    );
}

#[test]
fn of_two_who_see_room_for_one_record_one_has_it() {
    check(|| {
        // Who comes later finds some of it, and not enough.
        let parts = log_of(std::iter::once((2, 2 * ENTRY_LINES - 1)));
        let other = parts.clone();
        let mut mine = tail(&parts.0[0]);
        let mut theirs = tail(&parts.0[0]);
        let thread = loom::thread::spawn(move || append(&mut theirs, &other, "theirs"));
        let mine = append(&mut mine, &parts, "mine");
        let theirs = thread.join().expect("an appender that ends");
        let full = Err(Refused::Full(Full::NoSpare));
        match (mine, theirs) {
            (Ok(_), theirs) => assert_eq!((theirs, history(&parts)), (full, vec!["mine".into()])),
            (mine, Ok(_)) => assert_eq!((mine, history(&parts)), (full, vec!["theirs".into()])),
            neither => panic!("{neither:?}"),
        }
    });
}
