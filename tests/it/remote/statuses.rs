//! What is answered to what cannot be done.

use bytes::Bytes;
use http::uri::PathAndQuery;
use ledger_client::remote::proto::{AppendResponse, LoadRequest, SnapshotRequest};
use prost::Message;
use tonic::client::Grpc;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use super::{Client, Door, append, channel, get, new, sent};

async fn refused(client: &mut Client, request: super::AppendRequest) -> Status {
    append(client, request).await.expect_err("refused")
}

#[test]
fn what_is_asked_wrongly_is_said() {
    let door = Door::unix(&["--payload-max", "1M", "--memory-budget", "4M"]);
    let mut client = door.client();
    door.runtime.block_on(async {
        let status = refused(&mut client, new("", "k", "v")).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let status = refused(&mut client, new("c", "", "v")).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        let status = refused(&mut client, new("c", "k", vec![0; (1 << 20) + 1])).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(
            status.message().contains("payload has 1048577 bytes"),
            "{status}"
        );
        let status = refused(&mut client, new("c", "k", vec![0; 17 << 20])).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let mut late = new("c", "k", "v");
        late.received_lamport = u64::MAX;
        let status = refused(&mut client, late).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        // None of these was appended.
        let page = get(&mut client, "c", 0).await.expect("a page");
        assert_eq!(page.latest_sequence, 0);
    });
}

#[test]
fn a_memory_budget_that_is_spent_is_said() {
    let door = Door::unix(&["--durability", "memory", "--memory-budget", "1M"]);
    let mut client = door.client();
    door.runtime.block_on(async {
        let status = refused(&mut client, new("c", "k", vec![0; 2 << 20])).await;
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("memory"), "{status}");
    });
}

#[test]
fn bytes_that_are_no_snapshot_and_one_that_is_damaged_are_told_apart() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    door.runtime.block_on(async {
        append(&mut client, new("log", "k", "v"))
            .await
            .expect("appended");
        let context_id = "log".to_owned();
        let snapshot = client.snapshot(SnapshotRequest { context_id }).await;
        let whole = snapshot.expect("one").into_inner().snapshot.to_vec();
        let mut damaged = whole.clone();
        let middle = damaged.windows(1).rposition(|byte| byte == b"v");
        damaged[middle.expect("the payload")] ^= 1;
        // The version is behind the magic.
        let mut newer = whole.clone();
        newer[8] += 1;
        for (bytes, code) in [
            (Vec::new(), Code::InvalidArgument),
            (b"garbage".to_vec(), Code::InvalidArgument),
            (whole[..whole.len() - 1].to_vec(), Code::InvalidArgument),
            ([&whole[..], b"x"].concat(), Code::InvalidArgument),
            (newer, Code::InvalidArgument),
            (damaged, Code::DataLoss),
        ] {
            let load = LoadRequest {
                context_id: "copy".into(),
                snapshot: Bytes::from(bytes),
                fail_if_exists: false,
            };
            let status = client.load(load).await.expect_err("refused");
            assert_eq!(status.code(), code, "{status}");
        }
        append(&mut client, new("other", "k", "another"))
            .await
            .expect("appended");
        let load = LoadRequest {
            context_id: "other".into(),
            snapshot: whole.into(),
            fail_if_exists: false,
        };
        let status = client
            .load(load)
            .await
            .expect_err("it would rewrite history");
        assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    });
}

/// An append whose text may be any bytes.
#[derive(Clone, PartialEq, Message)]
struct Bytewise {
    #[prost(bytes = "vec", tag = "1")]
    context_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    key: Vec<u8>,
}

#[test]
fn text_that_is_not_utf_8_is_said() {
    let door = Door::unix(&[]);
    let channel = door.runtime.block_on(channel(&door.uri));
    let mut client = Grpc::new(channel);
    door.runtime.block_on(async {
        for (context_id, key, code) in [
            (b"log".to_vec(), vec![0xff], Code::InvalidArgument),
            (vec![0xff], b"k".to_vec(), Code::InvalidArgument),
            (b"log".to_vec(), b"k".to_vec(), Code::Ok),
        ] {
            client.ready().await.expect("it is heard");
            let path = "/converge.context.v1.ContextService/Append";
            let codec = ProstCodec::<Bytewise, AppendResponse>::default();
            let asked = Request::new(Bytewise { context_id, key });
            let path = PathAndQuery::from_static(path);
            let answer = client.unary(asked, path, codec).await;
            let found = answer.map_or_else(|status| status.code(), |_| Code::Ok);
            assert_eq!(found, code);
        }
    });
}

#[test]
fn what_there_is_to_ask_is_told_by_reflection() {
    use tonic_reflection::pb::{v1, v1alpha};

    let door = Door::unix(&[]);
    let channel = door.runtime.block_on(channel(&door.uri));
    let all = [
        "converge.context.v1.ContextService",
        "grpc.health.v1.Health",
    ];
    /// The same in either version.
    macro_rules! told {
        ($version:ident) => {{
            use $version::server_reflection_client::ServerReflectionClient;
            use $version::server_reflection_request::MessageRequest;
            use $version::server_reflection_response::MessageResponse;

            let mut client = ServerReflectionClient::new(channel.clone());
            let asked = |message| $version::ServerReflectionRequest {
                host: String::new(),
                message_request: Some(message),
            };
            door.runtime.block_on(async {
                let asked = [
                    asked(MessageRequest::ListServices(String::new())),
                    asked(MessageRequest::FileContainingSymbol(all[0].to_owned())),
                ];
                let asked = sent(asked.into());
                let told = client.server_reflection_info(asked).await;
                let mut told = told.expect("it is told").into_inner();
                let mut next = async || {
                    let next = told.message().await.expect("readable").expect("one more");
                    next.message_response.expect("an answer")
                };
                let MessageResponse::ListServicesResponse(services) = next().await else {
                    panic!("another answer");
                };
                let names: Vec<_> = services.service.iter().map(|of| &*of.name).collect();
                for name in all {
                    assert!(names.contains(&name), "{names:?}");
                }
                let MessageResponse::FileDescriptorResponse(files) = next().await else {
                    panic!("another answer");
                };
                let described = files.file_descriptor_proto.concat();
                let described = String::from_utf8_lossy(&described);
                assert!(described.contains("SnapshotStream"), "{described}");
            });
        }};
    }
    told!(v1);
    told!(v1alpha);
}
