//! A client and a daemon that do not speak the same format.

use std::time::Duration;

use ledger_client::ConnectError;
use ledger_client::wire::Hello;
use ledger_shm::socket::{self, PACKET_LEN_MAX, Packets};
use ledger_tests::Instance;

use crate::{PROGRAMS, started};

/// Greetings that differ from ours in one number each.
fn others() -> [Hello; 3] {
    let (wire, format, archive) = (
        Hello::OURS.wire + 1,
        Hello::OURS.format + 1,
        Hello::OURS.archive ^ 1,
    );
    [
        Hello {
            wire,
            ..Hello::OURS
        },
        Hello {
            format,
            ..Hello::OURS
        },
        Hello {
            archive,
            ..Hello::OURS
        },
    ]
}

#[test]
fn a_client_of_another_version_is_told_ours_and_let_go() {
    let instance = started(&[]);
    let path = instance.socket();
    for other in others() {
        let client = Packets::connect(&path, Duration::from_secs(5)).expect("a daemon");
        client.send(&other.encode(), None).expect("sent");
        let mut buffer = [0; PACKET_LEN_MAX];
        let answer = client.receive(&mut buffer).expect("answered");
        let answer = answer.expect("an answer before the end").bytes;
        assert_eq!(Hello::decode(answer), Some(Hello::OURS));
        assert!(client.receive(&mut buffer).expect("ended").is_none());
    }
    // Everybody else is served.
    instance.printed(&["append", "c", "k", "v"]);
}

#[test]
fn a_daemon_of_another_version_is_named_with_both() {
    let instance = Instance::new(PROGRAMS);
    let path = instance.socket();
    let listener = socket::listen(&path).expect("a fresh folder");
    for other in others() {
        let connecting = std::thread::spawn({
            let builder = instance.builder();
            move || builder.connect()
        });
        let accept = || socket::accept(&listener).expect("one");
        let daemon = ledger_tests::eventually("a client", accept);
        daemon.send(&other.encode(), None).expect("sent");
        let error = connecting.join().expect("no panic").expect_err("refused");
        assert!(matches!(error, ConnectError::Version { .. }), "{error:?}");
        let said = error.to_string();
        for hello in [Hello::OURS, other] {
            assert!(said.contains(&hello.to_string()), "{said}");
        }
    }
}

#[test]
fn what_is_no_packet_of_ours_ends_the_connection_and_nothing_else() {
    let instance = started(&[]);
    let path = instance.socket();
    let mut buffer = [0; PACKET_LEN_MAX];
    for (hello, then) in [
        (b"".to_vec(), b"".to_vec()),
        (b"what is this".to_vec(), b"".to_vec()),
        (vec![0xff; 4096], b"".to_vec()),
        (Hello::OURS.encode().to_vec(), vec![0xff; 300]),
        (Hello::OURS.encode().to_vec(), b"x".to_vec()),
    ] {
        let client = Packets::connect(&path, Duration::from_secs(5)).expect("a daemon");
        // It may be gone between the two.
        let _ = client.send(&hello, None);
        let _ = client.send(&then, None);
        // Whatever it may still have said, then the end; not silence.
        loop {
            match client.receive(&mut buffer) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
                    break;
                }
            }
        }
    }
    instance.printed(&["append", "c", "k", "v"]);
}
