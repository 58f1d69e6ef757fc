//! Many clients at once.

use ledger_client::wire::{Hello, Reply, Request};
use ledger_shm::socket::{PACKET_LEN_MAX, Packets};
use ledger_tests::{PATIENCE, eventually};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::started;

const CLIENTS: u64 = 1000;

fn ask(connection: &Packets, packet: &[u8]) -> Vec<u8> {
    connection.send(packet, None).expect("the daemon reads");
    let mut buffer = [0; PACKET_LEN_MAX];
    let packet = connection.receive(&mut buffer).expect("an answer");
    packet.expect("an answer").bytes.to_vec()
}

#[test]
fn a_thousand_clients_are_served_at_once() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard one");
    let instance = started(&[]);
    drop(instance.context("log"));
    let connections: Vec<Packets> = (0..CLIENTS)
        .map(|_| Packets::connect(&instance.socket(), PATIENCE).expect("room for one more"))
        .collect();
    let open = Request::Open {
        name: "log".into(),
        epoch: None,
        create: None,
        append: false,
    };
    for connection in &connections {
        let greeting = ask(connection, &Hello::OURS.encode());
        assert_eq!(Hello::decode(&greeting), Some(Hello::OURS));
        let reply = Reply::decode(&ask(connection, &open.encode()));
        assert!(matches!(reply, Some(Reply::Opened { .. })), "{reply:?}");
    }
    let ledger = instance.connect();
    let clients = || ledger.status().expect("an answer").clients;
    // And the one that asks; the first, that is gone, may be counted yet.
    assert!(clients() > CLIENTS);
    drop(connections);
    eventually("all to be forgotten", || (clients() == 1).then_some(()));
}
