//! Many clients at once.

use std::process::Stdio;

use ledger_client::wire::Reply;
use ledger_shm::socket::Packets;
use ledger_tests::process::Process;
use ledger_tests::spoken::{ask, greet, open};
use ledger_tests::{Instance, PATIENCE, eventually, may_be_others};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{PROGRAMS, started};

const CLIENTS: u64 = 1000;

#[test]
fn a_thousand_clients_are_served_at_once() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard one");
    let instance = started(&[]);
    drop(instance.context("log"));
    let connections: Vec<Packets> = (0..CLIENTS)
        .map(|_| Packets::connect(&instance.socket(), PATIENCE).expect("room for one more"))
        .collect();
    for connection in &connections {
        greet(connection).expect("the daemon answers");
        let (reply, _) = ask(connection, &open("log", false)).expect("the daemon answers");
        assert!(matches!(reply, Reply::Opened { .. }), "{reply:?}");
    }
    let ledger = instance.connect();
    let clients = || ledger.status().expect("an answer").clients;
    // And the one that asks; the first, that is gone, may be counted yet.
    assert!(clients() > CLIENTS);
    drop(connections);
    eventually("all to be forgotten", || (clients() == 1).then_some(()));
}

#[test]
fn of_another_uid_who_does_not_read_has_its_place_until_it_does() {
    const PLACES: usize = 3;
    if !may_be_others() {
        return;
    }
    let mut instance = Instance::new(PROGRAMS);
    let rights = "[[rights]]\ncontexts = [\"*\"]\nusers = [1009]\nright = \"read\"\n";
    let config = instance.configure(&format!("clients_max_per_uid = {PLACES}\n{rights}"));
    instance.start(&["--config", config.to_str().expect("text")]);
    let descriptors = || {
        let dir = format!("/proc/{}/fd", instance.daemon_pid());
        std::fs::read_dir(dir).expect("the daemon lives").count()
    };
    let mut reader = instance.peer_as(1009);
    reader.must(&format!("neglect {PLACES}"));
    let held = descriptors();
    let status = || {
        let mut status = instance.ledgerd_as(1009, &["status"]);
        Process::start(status.stderr(Stdio::piped()).stdout(Stdio::piped())).output()
    };
    let said = status();
    let why = format!("{PLACES} already, as many as `clients_max_per_uid`");
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains(&why), "{said}");
    reader.must("heed");
    // Though nobody comes.
    eventually("all are let go of", || {
        (descriptors() <= held - PLACES).then_some(())
    });
    for _ in 0..PLACES {
        assert!(status().status.success());
    }
}

#[test]
fn of_another_uid_who_is_one_too_many_is_told_only_that() {
    if !may_be_others() {
        return;
    }
    let mut instance = Instance::new(PROGRAMS);
    let rights = "[[rights]]\ncontexts = [\"*\"]\nusers = [1009]\nright = \"read\"\n";
    let config = instance.configure(&format!("clients_max = 1\n{rights}"));
    instance.start(&["--config", config.to_str().expect("text")]);
    let first = instance.connect();
    first.status().expect("an answer");
    let mut status = instance.ledgerd_as(1009, &["status"]);
    let output = Process::start(status.stderr(Stdio::piped())).output();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("1 already, as many as `clients_max`"),
        "{said}"
    );
}
