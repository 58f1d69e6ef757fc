//! Who comes in, and what they may.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use ledger_client::remote::proto::GetRequest;
use ledger_tests::process::Process;
use ledger_tests::{Instance, eventually, may_be_others};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{Door, TOKEN, append, new, right, showing, with_reporter};
use crate::PROGRAMS;

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
    let instance = Instance::new(PROGRAMS);
    let said = instance.complained(&["run", "--grpc", "192.0.2.1:50051"]);
    assert!(said.contains("192.0.2.1:50051 in the clear"), "{said}");
}

#[test]
fn rights_that_are_given_to_a_uid_later_let_it_reach_the_socket() {
    let mut instance = Instance::new(PROGRAMS);
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
    let mut instance = Instance::new(PROGRAMS);
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

#[test]
fn another_user_may_over_a_unix_socket_what_its_rights_say() {
    if !may_be_others() {
        return;
    }
    let instance = Instance::new(PROGRAMS);
    let config = instance.configure(
        "[[rights]]\ncontexts = [\"log\"]\nusers = [61001]\nright = \"append\"\n\
         [[rights]]\ncontexts = [\"log\"]\ngroups = [61002]\nright = \"read\"\n",
    );
    let uri = format!("unix://{}/door", instance.runtime_dir().display());
    let config = config.to_str().expect("text").to_owned();
    let door = Door::open(instance, &["--config", &config, "--grpc", &uri]);
    let run = |uid, args: &[&str]| {
        let args = [&["--remote", &door.uri], args].concat();
        let mut command = door.instance.ledgerd(&args);
        command.uid(uid).gid(uid);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = Process::start(&mut command).output();
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8(said).expect("text")
    };
    let append = &["append", "log", "k", "v", "-o", "raw"];
    assert_eq!(run(61001, append), "1\n");
    let said = run(61001, &["append", "another", "k", "v"]);
    assert!(said.contains("uid 61001 may not append to this"), "{said}");
    // Who is run as a user has its group.
    assert_eq!(run(61002, &["get", "log", "-o", "raw"]), "v");
    let said = run(61002, append);
    assert!(said.contains("uid 61002 may not append to this"), "{said}");
    let said = run(61003, &["get", "log"]);
    assert!(said.contains("uid 61003 may not read this"), "{said}");
    assert_eq!(
        run(61003, &["ls", "-o", "raw"]).lines().count(),
        1,
        "a word that there are none"
    );
}
