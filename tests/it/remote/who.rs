//! Who comes in, and what they may.

use std::os::unix::fs::PermissionsExt;

use ledger_client::remote::proto::GetRequest;
use ledger_tests::eventually;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{Door, TOKEN, append, new, right, showing, with_reporter};

#[test]
fn over_tcp_everybody_shows_a_token_that_is_known() {
    let door = Door::tcp(&right("append"));
    let mut client = door.client();
    door.runtime.block_on(async {
        let status = append(&mut client, new("c", "k", "v")).await;
        let status = status.expect_err("it shows nothing");
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        let status = client.append(showing("wrong", new("c", "k", "v"))).await;
        let status = status.expect_err("nobody has it");
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        let appended = client.append(showing(TOKEN, new("c", "k", "v"))).await;
        appended.expect("it may");
    });
}

#[test]
fn a_client_may_what_its_rights_say_and_no_more_after_they_are_changed() {
    let door = Door::tcp(&right("read"));
    let mut client = door.client();
    door.instance.printed(&["append", "c", "k", "v"]);
    let get = || GetRequest {
        context_id: "c".into(),
        ..GetRequest::default()
    };
    door.runtime.block_on(async {
        client.get(showing(TOKEN, get())).await.expect("it may");
        let status = client.append(showing(TOKEN, new("c", "k", "v"))).await;
        let status = status.expect_err("it may not");
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        assert!(
            status.message().contains("\"reporter\" may not append to"),
            "{status}"
        );
    });
    door.instance.configure(&with_reporter(""));
    door.instance.reload_daemon();
    eventually("it may not read either", || {
        let got = door.runtime.block_on(client.get(showing(TOKEN, get())));
        let status = got.err()?;
        assert_eq!(status.code(), Code::PermissionDenied, "{status}");
        Some(())
    });
}

#[test]
fn whether_it_is_well_is_told_to_everybody() {
    let door = Door::tcp("");
    door.runtime.block_on(async {
        let endpoint = tonic::transport::Endpoint::from_shared(door.uri.clone());
        let channel = endpoint
            .expect("an address")
            .connect()
            .await
            .expect("heard");
        let mut health = HealthClient::new(channel);
        for service in ["", "converge.context.v1.ContextService"] {
            let service = service.to_owned();
            let told = health.check(HealthCheckRequest { service }).await;
            let told = told.expect("it is told").into_inner();
            assert_eq!(told.status(), tonic_health::ServingStatus::Serving.into());
        }
    });
}

#[test]
fn it_is_served_in_the_clear_on_this_machine_only() {
    let instance = ledger_tests::Instance::new(crate::PROGRAMS);
    let said = instance.complained(&["run", "--grpc", "192.0.2.1:50051"]);
    assert!(said.contains("192.0.2.1:50051 in the clear"), "{said}");
}

#[test]
fn rights_that_are_given_to_a_uid_later_let_it_reach_the_socket() {
    let mut instance = ledger_tests::Instance::new(crate::PROGRAMS);
    let config = instance.configure("");
    let socket = instance.runtime_dir().join("door");
    let uri = format!("unix:{}", socket.display());
    let config = config.to_str().expect("text").to_owned();
    instance.start(&["--config", &config, "--grpc", &uri]);
    let mode = || {
        let found = std::fs::metadata(&socket).expect("it listens");
        found.permissions().mode() & 0o777
    };
    assert_eq!(mode(), 0o600);
    instance.configure("[[rights]]\ncontexts = [\"*\"]\nusers = [1007]\nright = \"read\"\n");
    instance.reload_daemon();
    eventually("it may connect", || (mode() == 0o666).then_some(()));
}

#[test]
fn a_port_alone_is_one_of_this_machine() {
    let mut instance = ledger_tests::Instance::new(crate::PROGRAMS);
    // Free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = free.local_addr().expect("it has one").port().to_string();
    drop(free);
    instance.start_in(&[("GRPC_PORT", &port)], &[]);
    let said = instance.said_first().concat();
    assert!(
        said.contains(&format!("gRPC at 127.0.0.1:{port}")),
        "{said}"
    );
}
