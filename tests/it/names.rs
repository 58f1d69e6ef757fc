//! Names of contexts and instances.

use ledger_client::{ConnectError, Ledger, OpenError};
use ledger_shm::control::InvalidName;

use crate::started;

#[test]
fn a_name_is_1_to_1024_bytes_of_utf8() {
    let instance = started(&[]);
    let ledger = instance.connect();
    let refused = |name: &[u8]| match ledger.context(name).open_or_create() {
        Err(OpenError::InvalidName(why)) => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(b""), InvalidName::Empty);
    assert_eq!(refused(&[b'x'; 1025]), InvalidName::TooLong { len: 1025 });
    assert_eq!(refused(b"ab\xff"), InvalidName::NotUtf8 { valid_up_to: 2 });
    for name in ["x".repeat(1024), "ünï/cödé \n".to_owned()] {
        let context = ledger
            .context(&name)
            .open_or_create()
            .expect("a valid name");
        assert_eq!(context.name(), name);
        assert_eq!(
            ledger.context(&name).open().expect("it exists").epoch(),
            context.epoch()
        );
    }
}

#[test]
fn an_unknown_context_is_an_error_that_says_how_to_make_one() {
    let instance = started(&[]);
    let ledger = instance.connect();
    for outcome in [
        ledger.context("none").open(),
        ledger.context("none").open_read_only(),
    ] {
        let error = outcome.expect_err("there is none");
        assert!(error.is_unknown(), "{error}");
    }
    for command in ["get", "tail", "info", "inspect"] {
        let said = instance.complained(&[command, "none"]);
        assert!(
            said.contains("no context \"none\"") && said.contains("append"),
            "{said}"
        );
    }
}

#[test]
fn an_instance_name_with_other_characters_is_refused() {
    let outcome = Ledger::builder().instance("a-b").connect();
    assert!(
        matches!(outcome, Err(ConnectError::InvalidInstance(_))),
        "{outcome:?}"
    );
}
