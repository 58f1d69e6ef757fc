//! Answers that come late, or from another daemon than was asked.

use std::os::fd::OwnedFd;

use ledger_client::wire::{Hello, Refusal, Reply, Request};
use ledger_client::{Ledger, OpenError, admin};
use ledger_shm::socket::{self, PACKET_LEN_MAX, Packets};
use ledger_tests::{Instance, Peer, eventually};
use nix::sys::signal::Signal;

use crate::PROGRAMS;

/// Waits until a peer waits for an answer of the daemon.
fn is_waiting(peer: &Peer) {
    let syscall = format!("/proc/{}/syscall", peer.pid());
    let receives = format!("{} ", libc::SYS_recvmsg);
    eventually("it waits for the answer", || {
        let syscall = std::fs::read_to_string(&syscall).expect("the peer lives");
        syscall.starts_with(&receives).then_some(())
    });
}

/// What comes next over a connection.
fn next(connection: &Packets) -> Vec<u8> {
    let mut buffer = [0; PACKET_LEN_MAX];
    eventually("something is said", || {
        let packet = connection.receive(&mut buffer).ok()?.expect("a client");
        Some(packet.bytes.to_vec())
    })
}

/// The next client, greeted.
fn client(listener: &OwnedFd) -> Packets {
    let client = eventually("a client comes", || {
        socket::accept(listener).expect("a listener")
    });
    assert_eq!(Hello::decode(&next(&client)), Some(Hello::OURS));
    let greeting = client.send(&Hello::OURS.encode(), None);
    greeting.expect("it listens");
    client
}

/// The outcome of a drop, of which the first daemon hears or not before it dies, and the
/// next one says that there is no such context.
fn dropped(is_heard: bool) -> Result<(), OpenError> {
    let instance = Instance::new(PROGRAMS);
    let listener = &socket::listen(&instance.socket()).expect("a socket");
    let request = Request::Drop { name: "log".into() };
    std::thread::scope(|scope| {
        let daemon = scope.spawn(|| client(listener));
        let ledger: Ledger = instance.connect();
        let first = daemon.join().expect("it is greeted");
        let first = is_heard.then_some(first);
        let daemon = scope.spawn(move || {
            if let Some(first) = first {
                assert_eq!(Request::decode(&next(&first)), Some(request.clone()));
            }
            let second = client(listener);
            assert_eq!(Request::decode(&next(&second)), Some(request));
            let unknown = Reply::Refused(Refusal::UnknownContext);
            second.send(&unknown.encode(), None).expect("it listens");
            second
        });
        let outcome = admin::drop_context(&ledger, "log");
        drop(daemon.join().expect("it is asked"));
        outcome
    })
}

#[test]
fn a_drop_over_which_the_daemon_died_is_done_if_the_next_one_knows_of_none() {
    assert!(dropped(true).is_ok());
    assert!(matches!(dropped(false), Err(OpenError::Unknown { .. })));
}

/// Socket calls with a time limit are interrupted by that, signal handlers or not (signal(7)).
#[test]
fn who_is_stopped_while_it_waits_for_an_answer_asks_once() {
    let instance = Instance::new(PROGRAMS);
    let listener = socket::listen(&instance.socket()).expect("a socket");
    let mut peer = instance.peer();
    peer.tell("drop log");
    let connection = client(&listener);
    let request = Request::Drop { name: "log".into() };
    assert_eq!(Request::decode(&next(&connection)), Some(request));
    for _ in 0..3 {
        is_waiting(&peer);
        peer.signal(Signal::SIGSTOP);
        peer.wait_for_state(&['T']);
        peer.signal(Signal::SIGCONT);
        peer.wait_for_state(&['S']);
    }
    let answer = connection.send(&Reply::Dropped.encode(), None);
    answer.expect("it listens yet");
    assert_eq!(peer.hear(), "ok");
}
