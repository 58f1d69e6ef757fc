//! Two appenders, one frontier: both entries get in, each once, numbered
//! without a gap in the order of the CASes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::{append, check, history, log, tail};

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
