//! `Publish`: whoever sees an ENTRY sees the record that it names.

use std::sync::Arc;

use ledger_shm_under_loom::read::{End, Link};
use ledger_shm_under_loom::sync::{Label, Ordering};

use crate::{UNORDERED, append, assert_needed, check, history, log, tail};

/// An appender and a reader that looks while it appends.
fn a_reader_beside_an_appender() {
    check(|| {
        let parts = log(&[2]);
        let other = parts.clone();
        let mut tail = tail(&parts.0[0]);
        let thread = loom::thread::spawn(move || {
            append(&mut tail, &other, "one").expect("room");
            append(&mut tail, &other, "two").expect("room");
        });
        let seen = history(&parts);
        assert!(["one", "two"].starts_with(&seen.iter().map(String::as_str).collect::<Vec<_>>()));
        thread.join().expect("an appender that ends");
        assert_eq!(history(&parts), ["one", "two"]);
    });
}

#[test]
fn what_a_reader_sees_is_whole() {
    a_reader_beside_an_appender();
}

#[test]
fn a_log_that_grows_is_open_wherever_it_ends() {
    check(|| {
        let parts = log(&[2]);
        let other = parts.clone();
        let mut tail = tail(&parts.0[0]);
        let thread = loom::thread::spawn(move || {
            append(&mut tail, &other, "one").expect("room");
        });
        let link = Link {
            segment: Arc::clone(&parts.0[0]),
            base_seq: 1,
        };
        assert_eq!(link.end(), Ok(End::Open));
        thread.join().expect("an appender that ends");
        assert_eq!(link.end(), Ok(End::Open));
    });
}

#[test]
fn the_cas_must_release_the_record() {
    assert_needed(
        Label::Publish,
        Ordering::SeqCst,
        a_reader_beside_an_appender,
        UNORDERED,
    );
}

#[test]
fn the_look_must_acquire_the_record() {
    assert_needed(
        Label::Publish,
        Ordering::Acquire,
        a_reader_beside_an_appender,
        UNORDERED,
    );
}
