//! The remote door, as its clients find it.

mod bulk;
mod commands;
mod elsewhere;
mod generated;
mod statuses;
mod tls;
mod verbs;
mod watch;
mod who;

use std::pin::Pin;
use std::task::{Context, Poll};
use std::vec;

use bytes::Bytes;
use futures_core::Stream;
use ledger_client::remote::proto::context_service_client::ContextServiceClient;
use ledger_client::remote::proto::{AppendRequest, Entry, GetRequest, GetResponse, WatchRequest};
use ledger_tests::{Instance, PATIENCE};
use tokio::runtime::Runtime;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::PROGRAMS;

type Client = ContextServiceClient<Channel>;

/// The token of the client "reporter", and its SHA-256.
const TOKEN: &str = "open sesame";
const TOKEN_SHA256: &str = "41ef4bb0b23661e66301aac36066912dac037827b4ae63a7b1165a5aa93ed4eb";

/// An instance whose daemon serves gRPC, and what asks it.
struct Door {
    instance: Instance,
    uri: String,
    runtime: Runtime,
}

impl Door {
    /// At a Unix socket.
    fn unix(args: &[&str]) -> Door {
        let instance = Instance::new(PROGRAMS);
        let uri = format!("unix://{}/door", instance.runtime_dir().display());
        Door::open(instance, &[&["--grpc", &uri], args].concat())
    }

    /// At a port of this host, with a client that has these rights.
    fn tcp(rights: &str) -> Door {
        let instance = Instance::new(PROGRAMS);
        let config = instance.configure(&with_reporter(rights));
        let config = config.to_str().expect("text").to_owned();
        Door::open(instance, &["--config", &config, "--grpc", "127.0.0.1:0"])
    }

    fn open(mut instance: Instance, args: &[&str]) -> Door {
        instance.start(args);
        let mut said = instance.said_first().iter();
        let address = said.find_map(|line| Some(line.split_once("gRPC at ")?.1));
        let address = address.expect("it says where");
        let uri = match address.strip_prefix("unix:") {
            Some(path) => format!("unix://{path}"),
            None => format!("http://{address}"),
        };
        Door {
            instance,
            uri,
            runtime: runtime(),
        }
    }

    fn client(&self) -> Client {
        self.runtime.block_on(connected(&self.uri))
    }
}

fn runtime() -> Runtime {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().expect("a runtime")
}

async fn channel(uri: &str) -> Channel {
    let endpoint = Endpoint::from_shared(uri.to_owned()).expect("an address");
    endpoint.connect().await.expect("it is heard")
}

async fn connected(uri: &str) -> Client {
    let client = ContextServiceClient::new(channel(uri).await);
    client.max_decoding_message_size(8 << 20)
}

/// A configuration with one client, and its rights.
fn with_reporter(rights: &str) -> String {
    format!("[[clients]]\nname = \"reporter\"\ntoken_sha256 = \"{TOKEN_SHA256}\"\n{rights}")
}

fn right(right: &str) -> String {
    format!("[[rights]]\ncontexts = [\"*\"]\nclients = [\"reporter\"]\nright = \"{right}\"\n")
}

/// A request that shows a token.
fn showing<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let shown: AsciiMetadataValue = format!("Bearer {token}").parse().expect("ASCII");
    request.metadata_mut().insert("authorization", shown);
    request
}

fn new(context: &str, key: &str, payload: impl Into<Bytes>) -> AppendRequest {
    AppendRequest {
        context_id: context.into(),
        key: key.into(),
        payload: payload.into(),
        ..AppendRequest::default()
    }
}

async fn append(client: &mut Client, request: AppendRequest) -> Result<Entry, Status> {
    let response = client.append(request).await?;
    Ok(response.into_inner().entry.expect("the entry"))
}

async fn get(client: &mut Client, context: &str, after: u64) -> Result<GetResponse, Status> {
    let request = GetRequest {
        context_id: context.into(),
        after_sequence: after,
        ..GetRequest::default()
    };
    Ok(client.get(request).await?.into_inner())
}

fn from(context: &str, from_sequence: u64) -> WatchRequest {
    WatchRequest {
        context_id: context.into(),
        from_sequence,
        ..WatchRequest::default()
    }
}

/// All of these, one after the other.
struct Sent<T>(vec::IntoIter<T>);

impl<T: Unpin> Stream for Sent<T> {
    type Item = T;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<T>> {
        Poll::Ready(self.0.next())
    }
}

fn sent<T>(items: Vec<T>) -> Sent<T> {
    Sent(items.into_iter())
}

/// The next entry of a stream, which has to come.
async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    let message = tokio::time::timeout(PATIENCE, stream.message()).await;
    let message = message.expect("something comes")?;
    Ok(message.expect("it does not end without a status"))
}
