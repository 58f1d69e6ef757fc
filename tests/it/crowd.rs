//! Many clients at once.

use ledger_client::wire::Reply;
use ledger_shm::socket::Packets;
use ledger_tests::spoken::{ask, greet, open};
use ledger_tests::{PATIENCE, eventually};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::started;

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
