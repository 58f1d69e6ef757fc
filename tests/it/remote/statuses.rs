//! What is answered to what cannot be done.

use bytes::Bytes;
use ledger_client::remote::proto::{LoadRequest, SnapshotRequest};
use tonic::{Code, Status};

use super::{Client, Door, append, get, new};

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
