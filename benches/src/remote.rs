//! The remote door, beside bare tonic: a server that has nothing to do but answer the same.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use ledger_client::NewEntry;
use ledger_client::remote::proto::{
    AppendRequest, AppendResponse, Entry, WatchEvent, WatchRequest,
};
use ledger_shm::object;
use prost::Message;
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::body::Body;
use tonic::client;
use tonic::server;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower::service_fn;

use crate::child::Running;
use crate::instance;
use crate::report::{mean, ratio};

/// What a process is called that is to be `ledgerd`.
pub const LEDGERD: &str = "ledgerd";
const PAYLOAD: [u8; 64] = [7; 64];
const ROUNDS: u64 = 30;
const APPEND: &str = "/converge.context.v1.ContextService/Append";
const WATCH: &str = "/converge.context.v1.ContextService/Watch";

/// A ledger with its door, and a server that is nothing else, in processes of their own.
struct Servers {
    name: String,
    dir: PathBuf,
    runtime: Runtime,
    ledger: Running,
    bare: Running,
    /// Over a Unix socket, and over loopback: of the ledger, and of the bare one.
    unix: [Channel; 2],
    tcp: [Channel; 2],
}

impl Servers {
    fn start() -> Servers {
        let name = format!("bench_{}", std::process::id());
        let dir = std::env::temp_dir().join(format!("ledger-{name}"));
        std::fs::create_dir_all(&dir).expect("a directory");
        let config = dir.join("config.toml");
        // Of "token".
        let known = "[[clients]]\nname = \"bench\"\ntoken_sha256 = \"3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0\"\n\
            [[rights]]\ncontexts = [\"*\"]\nclients = [\"bench\"]\nright = \"append\"\n";
        std::fs::write(&config, known).expect("written");
        let program = std::env::current_exe().expect("our own path");
        let mut ledger = Command::new(&program);
        ledger.arg0(LEDGERD).args(["run", "--instance", &name]);
        ledger.arg("--runtime-dir").arg(&dir);
        ledger.arg("--config").arg(&config);
        ledger.args(["--durability", "memory", "--memory-budget", "2G"]);
        ledger.args(["--window", "1G"]);
        let sockets = ["ledger", "bare"].map(|name| dir.join(name));
        let door = format!("unix:{}", sockets[0].display());
        ledger.args(["--grpc", &door, "--grpc", "127.0.0.1:0"]);
        let mut ledger = Running::start(ledger.stderr(Stdio::piped())).expect("a child");
        let port_of_ledger = port(ledger.stderr.as_mut().expect("piped"), "gRPC at 127.0.0.1:");

        let mut bare = Command::new(program);
        bare.args(["--role", "bare"]).arg(&sockets[1]);
        let mut bare = Running::start(bare.stdout(Stdio::piped())).expect("a child");
        let port_of_bare = port(bare.stdout.as_mut().expect("piped"), "listens at ");

        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        let connected = |uri: String| {
            let endpoint = Endpoint::from_shared(uri).expect("an address");
            runtime.block_on(endpoint.connect()).expect("it is heard")
        };
        let unix = sockets.map(|path| connected(format!("unix://{}", path.display())));
        let tcp = [port_of_ledger, port_of_bare]
            .map(|port| connected(format!("http://127.0.0.1:{port}")));
        Servers {
            name,
            dir,
            runtime,
            ledger,
            bare,
            unix,
            tcp,
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let _ = self.ledger.kill();
        let _ = self.ledger.wait();
        let _ = self.bare.kill();
        let instance = object::Instance::own(&self.name).expect("a valid name");
        if let Err(error) = ledgerd::purge(&instance, &self.dir) {
            eprintln!("purge: {error}");
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The port that it says it listens at.
fn port(said: &mut (impl Read + Send), before: &str) -> u16 {
    let said = BufReader::new(said).lines().map_while(Result::ok);
    let mut ports = said.filter_map(|line| line.split_once(before)?.1.trim().parse().ok());
    ports.next().expect("it says where")
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let token = "Bearer token".parse().expect("ASCII");
    request.metadata_mut().insert("authorization", token);
    request
}

/// So many calls, one after the other.
async fn appends<R>(channel: &Channel, count: u64) -> Duration
where
    R: Message + Default + 'static,
{
    let mut client = client::Grpc::new(channel.clone());
    let started = Instant::now();
    for _ in 0..count {
        let asked = AppendRequest {
            context_id: "log".into(),
            key: "key".into(),
            payload: Bytes::from_static(&PAYLOAD),
            ..AppendRequest::default()
        };
        client.ready().await.expect("connected");
        let path = PathAndQuery::from_static(APPEND);
        let codec = ProstCodec::<AppendRequest, R>::default();
        let answer = client.unary(request(asked), path, codec).await;
        std::hint::black_box(answer.expect("an answer"));
    }
    started.elapsed()
}

pub fn append(scale: u64) {
    let servers = Servers::start();
    let count = 1000 / scale;
    for (over, [ledger, bare]) in [("unix", &servers.unix), ("tcp", &servers.tcp)] {
        let (mut ratios, mut of_ledger, mut of_bare) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let took = servers.runtime.block_on(async {
                let ledger = appends::<AppendResponse>(ledger, count).await;
                (ledger, appends::<AppendRequest>(bare, count).await)
            });
            // The first one is not counted.
            if round > 0 {
                ratios.push(took.0.as_secs_f64() / took.1.as_secs_f64());
                of_ledger.push(took.0);
                of_bare.push(took.1);
            }
        }
        mean(&format!("remote/append {over}"), count, middle(of_ledger));
        mean(
            &format!("remote/append {over}, bare"),
            count,
            middle(of_bare),
        );
        ratio(&format!("remote/append {over}, ledger / bare"), ratios);
    }
}

/// So many events, of all that there are.
async fn events(channel: &Channel, count: u64) -> Duration {
    let mut client = client::Grpc::new(channel.clone());
    let asked = WatchRequest {
        context_id: "log".into(),
        ..WatchRequest::default()
    };
    client.ready().await.expect("connected");
    let path = PathAndQuery::from_static(WATCH);
    let codec = ProstCodec::<WatchRequest, WatchEvent>::default();
    let started = Instant::now();
    let stream = client.server_streaming(request(asked), path, codec).await;
    let mut stream: Streaming<WatchEvent> = stream.expect("a stream").into_inner();
    for seq in 1..=count {
        let event = stream.message().await.expect("readable").expect("one more");
        let entry = event.entry.expect("an entry");
        assert_eq!((entry.sequence, entry.payload.len()), (seq, PAYLOAD.len()));
    }
    started.elapsed()
}

pub fn watch(scale: u64) {
    let servers = Servers::start();
    let count = 300_000 / scale;
    let ledger = instance::connect(&servers.name, &servers.dir.to_string_lossy());
    let context = ledger.context("log").open_or_create().expect("room");
    let mut appender = context.appender().expect("an appender");
    for _ in 0..count {
        appender
            .append(&NewEntry::new("key", &PAYLOAD))
            .expect("room");
    }
    for (over, [ledger, bare]) in [("unix", &servers.unix), ("tcp", &servers.tcp)] {
        let (mut ratios, mut of_ledger, mut of_bare) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..=ROUNDS / 3 {
            let took = servers
                .runtime
                .block_on(async { (events(ledger, count).await, events(bare, count).await) });
            if round > 0 {
                ratios.push(took.0.as_secs_f64() / took.1.as_secs_f64());
                of_ledger.push(took.0);
                of_bare.push(took.1);
            }
        }
        let [of_ledger, of_bare] = [of_ledger, of_bare].map(middle);
        mean(&format!("remote/watch {over}"), count, of_ledger);
        println!(
            "{:<34} {:.0} entries/s",
            format!("remote/watch {over}"),
            count as f64 / of_ledger.as_secs_f64()
        );
        mean(&format!("remote/watch {over}, bare"), count, of_bare);
        ratio(&format!("remote/watch {over}, ledger / bare"), ratios);
    }
}

fn middle(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

/// What the bare server does: answers what it was asked, and sends events without an end.
struct Echo;
struct Events;

impl server::UnaryService<AppendRequest> for Echo {
    type Response = AppendRequest;
    type Future = Ready<Result<Response<AppendRequest>, Status>>;

    fn call(&mut self, request: Request<AppendRequest>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

type Sent = tokio_stream::Iter<Box<dyn Iterator<Item = Result<WatchEvent, Status>> + Send>>;

impl server::ServerStreamingService<WatchRequest> for Events {
    type Response = WatchEvent;
    type ResponseStream = Sent;
    type Future = Ready<Result<Response<Sent>, Status>>;

    fn call(&mut self, _: Request<WatchRequest>) -> Self::Future {
        let events = (1..).map(|sequence| {
            let entry = Entry {
                id: format!("2f0c6e1d8a934b57-{sequence}"),
                key: "key".into(),
                payload: Bytes::from_static(&PAYLOAD),
                sequence,
                appended_at_ns: 1_700_000_000_000_000_000 + sequence,
                lamport: sequence,
                content_hash: Bytes::from_static(&[7; 32]),
                ..Entry::default()
            };
            Ok(WatchEvent { entry: Some(entry) })
        });
        let events: Box<dyn Iterator<Item = _> + Send> = Box::new(events);
        ready(Ok(Response::new(tokio_stream::iter(events))))
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

fn answer(request: http::Request<Body>) -> Answer {
    Box::pin(async move {
        Ok(match request.uri().path() {
            APPEND => {
                let codec = ProstCodec::<AppendRequest, AppendRequest>::default();
                server::Grpc::new(codec).unary(Echo, request).await
            }
            _ => {
                let codec = ProstCodec::<WatchEvent, WatchRequest>::default();
                let mut server = server::Grpc::new(codec);
                server.server_streaming(Events, request).await
            }
        })
    })
}

/// The part of the bare server: one thread, as the door has.
pub fn be_bare(rest: &[String]) {
    let [socket] = rest else {
        panic!("a path");
    };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let unix = UnixListener::bind(socket).expect("a free path");
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        println!(
            "listens at {}",
            tcp.local_addr().expect("it has one").port()
        );
        let unix = Server::builder()
            .serve_with_incoming(service_fn(answer), UnixListenerStream::new(unix));
        let tcp = async {
            let incoming = TcpListenerStream::new(tcp);
            let incoming = tokio_stream::StreamExt::map(incoming, |stream| {
                let stream = stream?;
                stream.set_nodelay(true)?;
                Ok::<_, std::io::Error>(stream)
            });
            Server::builder()
                .serve_with_incoming(service_fn(answer), incoming)
                .await
        };
        let (unix, tcp) = tokio::join!(unix, tcp);
        unix.and(tcp).expect("served until it is killed");
    });
}
