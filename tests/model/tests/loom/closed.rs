//! Closing: what was acknowledged lies before CLOSED, and no part that was
//! withdrawn behind it is ever named. Both follow from every slot leaving EMPTY
//! once, whatever the orderings, so there is no label of its own here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crate::{append, check, history, log, tail};
use ledger_shm_under_loom::error::{Full, Refused};

/// An appender whose second entry needs the spare, and a daemon that closes.
#[test]
fn what_is_acknowledged_lies_before_closed() {
    let outcomes = Arc::new(Mutex::new(BTreeSet::new()));
    let seen = Arc::clone(&outcomes);
    check(move || {
        let parts = log(&[1, 1]);
        let theirs = parts.clone();
        let mut appender = tail(&parts.0[0]);
        let mut daemon = tail(&parts.0[0]);
        let thread = loom::thread::spawn(move || {
            ["one", "two"].map(|key| append(&mut appender, &theirs, key))
        });
        let closed = daemon.close().expect("sound slots");
        let spare = &parts.0[1];
        let withdrawn = closed.map(|(seq, _)| (seq, spare.withdraw()));
        let answers = thread.join().expect("an appender that ends");

        let acknowledged = answers.iter().flatten().count();
        assert_eq!(
            history(&parts).len(),
            acknowledged,
            "nothing more, nothing less"
        );
        match withdrawn {
            Ok((seq, withdrawn)) => {
                assert_eq!(seq, acknowledged as u64 + 1, "the log goes on there");
                assert_eq!(withdrawn, Ok(()), "no seal has named the spare");
                for answer in &answers[acknowledged..] {
                    assert_eq!(*answer, Err(Refused::Full(Full::Reopening)));
                }
            }
            Err(part) => {
                assert_eq!(part, spare.part(), "the log was sealed first");
                assert_eq!(acknowledged, 2);
            }
        }
        outcomes
            .lock()
            .expect("no panic")
            .insert((acknowledged, withdrawn.is_ok()));
    });
    assert_eq!(
        *seen.lock().expect("no panic"),
        BTreeSet::from([(0, true), (1, true), (2, false)])
    );
}
