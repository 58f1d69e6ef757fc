//! Snapshots that no message can carry.

use ledger_client::NewEntry;
use ledger_client::remote::proto::{LoadChunk, SnapshotChunk, SnapshotRequest};
use ledger_tests::Instance;
use tonic::{Code, Status, Streaming};

use super::{Client, Door, TOKEN, append, new, next, right, sent, showing, with_reporter};
use crate::PROGRAMS;

/// All data, and the piece that says what it is.
async fn collected(client: &mut Client, context: &str) -> Result<(Vec<u8>, SnapshotChunk), Status> {
    let context_id = context.to_owned();
    let pieces = client
        .snapshot_stream(SnapshotRequest { context_id })
        .await?;
    let mut pieces: Streaming<SnapshotChunk> = pieces.into_inner();
    let mut data = Vec::new();
    loop {
        let piece = next(&mut pieces).await?;
        data.extend_from_slice(&piece.data);
        if piece.metadata.is_some() {
            assert!(pieces.message().await?.is_none(), "it is the last");
            return Ok((data, piece));
        }
    }
}

fn pieces(context: &str, data: &[u8], fail_if_exists: bool) -> Vec<LoadChunk> {
    let piece = |data: &[u8]| LoadChunk {
        context_id: context.to_owned(),
        data: data.to_vec().into(),
        fail_if_exists,
    };
    data.chunks(1 << 20).map(piece).collect()
}

#[test]
fn a_context_larger_than_a_message_goes_through_in_pieces() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    let ledger = door.instance.connect();
    let context = ledger.context("log").open_or_create().expect("room");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(ledger_tests::PATIENCE);
    for n in 0..400_u32 {
        let payload = vec![n as u8; 50_000];
        appender
            .append(&NewEntry::new("k", &payload))
            .expect("room");
    }
    let root = context.root(400).expect("all is there");
    door.runtime.block_on(async {
        let context_id = "log".to_owned();
        let status = client.snapshot(SnapshotRequest { context_id }).await;
        let status = status.expect_err("more than a message");
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        assert!(status.message().contains("SnapshotStream"), "{status}");
        let (data, last) = collected(&mut client, "log").await.expect("all of it");
        let metadata = last.metadata.expect("it says what it is");
        assert_eq!((last.sequence, metadata.entry_count), (400, 400));
        assert_eq!(metadata.merkle_root, root[..]);
        let loaded = client.load_stream(sent(pieces("copy", &data, true))).await;
        let loaded = loaded.expect("loaded").into_inner();
        assert_eq!(
            (loaded.entries_restored, loaded.latest_sequence),
            (400, 400)
        );
        let copy = ledger.context("copy").open().expect("there");
        assert_eq!(copy.root(400).expect("all is there"), root);
        let again = client.load_stream(sent(pieces("copy", &data, true))).await;
        assert_eq!(again.expect_err("it exists").code(), Code::AlreadyExists);
    });
}

#[test]
fn of_pieces_that_are_not_all_nothing_is_loaded() {
    let door = Door::unix(&[]);
    let mut client = door.client();
    door.runtime.block_on(async {
        append(&mut client, new("log", "k", "v"))
            .await
            .expect("appended");
        let (data, _) = collected(&mut client, "log").await.expect("all of it");
        let cut = pieces("copy", &data[..data.len() - 1], false);
        for pieces in [Vec::new(), cut] {
            let status = client.load_stream(sent(pieces)).await;
            let status = status.expect_err("it is not whole");
            assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        }
        let page = super::get(&mut client, "copy", 0).await.expect("a page");
        assert_eq!(page.latest_sequence, 0);
    });
}

#[test]
fn who_does_not_read_its_snapshots_keeps_only_itself_waiting() {
    let instance = Instance::new(PROGRAMS);
    let config = instance.configure(&with_reporter(&right("read")));
    let uri = format!("unix://{}/door", instance.runtime_dir().display());
    let config = config.to_str().expect("text").to_owned();
    let door = Door::open(instance, &["--config", &config, "--grpc", &uri]);
    let mut client = door.client();
    door.runtime.block_on(async {
        for _ in 0..4 {
            let appended = append(&mut client, new("log", "k", vec![7; 1 << 20])).await;
            appended.expect("appended");
        }
        let asked = || SnapshotRequest {
            context_id: "log".to_owned(),
        };
        let mut unread = Vec::new();
        for _ in 0..2 {
            let pieces = client.snapshot_stream(asked()).await;
            unread.push(pieces.expect("it begins").into_inner());
        }
        let mut further = client.clone();
        let third = tokio::spawn(async move { further.snapshot_stream(asked()).await });
        // Of another client, though over a connection like that one.
        let another = client.snapshot_stream(showing(TOKEN, asked())).await;
        let mut another = another.expect("it begins").into_inner();
        while next(&mut another)
            .await
            .expect("a piece")
            .metadata
            .is_none()
        {}
        assert!(!third.is_finished());
        unread.pop();
        third.await.expect("it asks").expect("it begins");
    });
}
