//! The operations, by the paths that gRPC gives them.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use ledger_client::Ledger;
use ledger_client::remote::proto::{
    AppendRequest, FILE_DESCRIPTOR_SET, GetRequest, ListContextsRequest, LoadChunk, LoadRequest,
    SnapshotRequest, WatchRequest,
};
use ledger_shm::control::InvalidName;
use prost::Message;
use tokio::sync::watch as told;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::{Code, Status, Streaming};
use tonic_health::ServingStatus;
use tonic_health::server::health_reporter;
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

use super::append::append;
use super::bulk::{self, Pieces, Sending};
use super::codec::{Asking, Entries};
use super::contexts::Contexts;
use super::entrance::Entrance;
use super::get::get;
use super::list::{list, list_one};
use super::listen::Peer;
use super::recent::{Asked, Recent};
use super::share::{Share, Shares};
use super::snapshot::{framed, load, snapshot};
use super::status::trailers;
use super::told_to_close;
use super::watch::{Watch, Watching, closes};
use crate::rights::{Principal, Right};

/// Bytes of a message that is taken.
pub(super) const MESSAGE_LEN_MAX: usize = 16 << 20;
const NAME: &str = "converge.context.v1.ContextService";
/// How long the message of a request, or the next one of many, may take to come.
const RECEIVE_WITHIN: Duration = Duration::from_secs(60);
/// The metadata that names an append which may be asked for again, and bytes of that name.
const IDEMPOTENCY_KEY: &str = "ledger-idempotency-key";
const IDEMPOTENCY_KEY_LEN_MAX: usize = 256;
/// How soon a context that does not exist is looked for again, for those who watch it.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What others have written.
type Standard = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Everything that is served, on every connection.
#[derive(Clone, Debug)]
pub(super) struct Service {
    contexts: Contexts,
    entrance: Arc<Entrance>,
    recent: Arc<Recent>,
    shares: Shares,
    /// Where snapshots lie that are on their way.
    spool_dir: Arc<Path>,
    closing: told::Receiver<bool>,
    health: Standard,
    reflection: [Standard; 2],
}

impl Service {
    pub(super) async fn new(
        ledger: Ledger,
        entrance: Arc<Entrance>,
        spool_dir: &Path,
        closing: told::Receiver<bool>,
    ) -> Service {
        let (reporter, health) = health_reporter();
        for name in ["", NAME] {
            reporter
                .set_service_status(name, ServingStatus::Serving)
                .await;
        }
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let described = "our own descriptors";
        let reflection = [
            BoxCloneSyncService::new(reflection().build_v1().expect(described)),
            BoxCloneSyncService::new(reflection().build_v1alpha().expect(described)),
        ];
        Service {
            contexts: Contexts::new(ledger),
            entrance,
            recent: Arc::default(),
            shares: Shares::default(),
            spool_dir: spool_dir.into(),
            closing,
            health: BoxCloneSyncService::new(health),
            reflection,
        }
    }

    pub(super) fn contexts(&self) -> &Contexts {
        &self.contexts
    }

    async fn answer(self, request: Request<Body>) -> Response<Body> {
        let path = request.uri().path().trim_start_matches('/').to_owned();
        let (service, method) = path.split_once('/').unwrap_or((&path, ""));
        if service == "grpc.health.v1.Health" {
            return passed_on(self.health, request).await;
        }
        let peer = request.extensions().get::<Peer>();
        let admitted = match peer {
            Some(peer) => self.entrance.admit(peer, request.headers()),
            None => Err(Status::internal("it is not known who is there")),
        };
        let principal = match admitted {
            Ok(principal) => principal,
            Err(status) => return status.into_http(),
        };
        let share = self.shares.of(&principal);
        let _call = match method {
            "Append" | "Get" | "Snapshot" | "Load" | "ListContexts" => Some(share.call().await),
            _ => None,
        };
        let [v1, v1alpha] = &self.reflection;
        match (service, method) {
            ("grpc.reflection.v1.ServerReflection", _) => passed_on(v1.clone(), request).await,
            ("grpc.reflection.v1alpha.ServerReflection", _) => {
                passed_on(v1alpha.clone(), request).await
            }
            (NAME, "Append") => unary(self.append(&principal, request).await),
            (NAME, "Get") => unary(self.get(&principal, request).await),
            (NAME, "Snapshot") => unary(self.snapshot(&principal, request).await),
            (NAME, "Load") => unary(self.load(&principal, request).await),
            (NAME, "SnapshotStream") => {
                match self.snapshot_stream(&principal, &share, request).await {
                    Ok(pieces) => response(Body::new(Sending::of(pieces))),
                    Err(status) => status.into_http(),
                }
            }
            (NAME, "LoadStream") => unary(self.load_stream(&principal, &share, request).await),
            (NAME, "ListContexts") => unary(self.list(&principal, request).await),
            (NAME, "Watch") => match self.watch(&principal, &share, request).await {
                Ok(watching) => response(Body::new(watching)),
                Err(status) => status.into_http(),
            },
            _ => Status::unimplemented(format!("there is no method {path}")).into_http(),
        }
    }

    async fn append(&self, principal: &Principal, request: Request<Body>) -> Result<Bytes, Status> {
        let key = idempotency_key(request.headers())?;
        let asked: AppendRequest = message(request).await?;
        self.check(principal, Right::Append, &asked.context_id)?;
        let appended = append(&self.contexts, &asked);
        let Some(key) = key else {
            return appended.await;
        };
        let asked = Asked {
            principal: principal.to_string(),
            context: asked.context_id.clone(),
            key,
        };
        self.recent.once(asked, appended).await
    }

    async fn get(&self, principal: &Principal, request: Request<Body>) -> Result<Bytes, Status> {
        let asked: GetRequest = message(request).await?;
        self.check(principal, Right::Read, &asked.context_id)?;
        get(&self.contexts, asked).await
    }

    async fn snapshot(
        &self,
        principal: &Principal,
        request: Request<Body>,
    ) -> Result<Bytes, Status> {
        let asked: SnapshotRequest = message(request).await?;
        self.check(principal, Right::Read, &asked.context_id)?;
        snapshot(&self.contexts, asked).await
    }

    async fn load(&self, principal: &Principal, request: Request<Body>) -> Result<Bytes, Status> {
        let asked: LoadRequest = message(request).await?;
        self.check(principal, Right::Admin, &asked.context_id)?;
        load(&self.contexts, asked).await
    }

    async fn snapshot_stream(
        &self,
        principal: &Principal,
        share: &Share,
        request: Request<Body>,
    ) -> Result<Pieces, Status> {
        let asked: SnapshotRequest = message(request).await?;
        self.check(principal, Right::Read, &asked.context_id)?;
        let (dir, permit) = (Arc::clone(&self.spool_dir), share.bulk().await);
        bulk::snapshot(&self.contexts, asked, dir, permit).await
    }

    async fn load_stream(
        &self,
        principal: &Principal,
        share: &Share,
        request: Request<Body>,
    ) -> Result<Bytes, Status> {
        let mut pieces = messages(request);
        let first: LoadChunk = first_of(&mut pieces).await?;
        self.check(principal, Right::Admin, &first.context_id)?;
        let (dir, _permit) = (Arc::clone(&self.spool_dir), share.bulk().await);
        let loaded = bulk::load(&self.contexts, first, pieces, dir).await?;
        Ok(framed(&loaded))
    }

    /// The messages of all contexts, one behind the other, are those of one answer.
    async fn list(&self, principal: &Principal, request: Request<Body>) -> Result<Bytes, Status> {
        let asked: ListContextsRequest = message(request).await?;
        let name = &asked.context_id;
        if name.is_empty() {
            let may = |name: &str| self.entrance.check(principal, Right::Read, name).is_ok();
            return list(&self.contexts, may).await;
        }
        self.check(principal, Right::Read, name)?;
        list_one(&self.contexts, name).await
    }

    /// It is answered at once, and waits for the context behind that.
    async fn watch(
        &self,
        principal: &Principal,
        share: &Share,
        request: Request<Body>,
    ) -> Result<Watching, Status> {
        let asked: WatchRequest = message(request).await?;
        self.check(principal, Right::Read, &asked.context_id)?;
        let permit = share.watch()?;
        Ok(Watching::opened_by(self.clone().opened(asked), permit))
    }

    async fn opened(self, asked: WatchRequest) -> Result<Watch, Status> {
        let name = &asked.context_id;
        let open = loop {
            match self.contexts.to_read(name).await? {
                Some(open) => break open,
                None => tokio::select! {
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                    () = told_to_close(self.closing.clone()) => return Err(closes()),
                },
            }
        };
        let mut watcher = open.context.watch(asked.from_sequence.saturating_add(1));
        if !asked.key.is_empty() {
            watcher = watcher.key(asked.key.as_str());
        }
        Ok(Watch::new(
            watcher.into_async(),
            Entries::of(&open.context),
            asked.from_sequence == 0,
            self.closing.clone(),
        ))
    }

    fn check(&self, principal: &Principal, right: Right, name: &str) -> Result<(), Status> {
        InvalidName::check(name.as_bytes())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        self.entrance.check(principal, right, name)
    }
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<Bytes>, Status> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    match key.len() {
        1..=IDEMPOTENCY_KEY_LEN_MAX => Ok(Some(Bytes::copy_from_slice(key.as_bytes()))),
        len => Err(Status::invalid_argument(format!(
            "the {IDEMPOTENCY_KEY} has {len} bytes; it needs 1 to {IDEMPOTENCY_KEY_LEN_MAX}"
        ))),
    }
}

/// The one message of a request.
async fn message<M: Message + Default + Send + 'static>(
    request: Request<Body>,
) -> Result<M, Status> {
    first_of(&mut messages(request)).await
}

fn messages<M: Message + Default + Send + 'static>(request: Request<Body>) -> Streaming<M> {
    let asking = Asking::default();
    Streaming::new_request(asking, request.into_body(), None, Some(MESSAGE_LEN_MAX))
}

/// The next message, which whoever sends has to send.
pub(super) async fn next_of<M>(messages: &mut Streaming<M>) -> Result<Option<M>, Status> {
    let next = tokio::time::timeout(RECEIVE_WITHIN, messages.message()).await;
    next.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(format!(
            "nothing has come for {RECEIVE_WITHIN:?}, and the request is not at its end"
        )))
    })
}

async fn first_of<M>(messages: &mut Streaming<M>) -> Result<M, Status> {
    match next_of(messages).await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(Status::invalid_argument("the request has no message")),
        // The limit's own code says that there is no more to be read.
        Err(status) if status.code() == Code::OutOfRange => {
            Err(Status::resource_exhausted(status.message()))
        }
        Err(status) => Err(status),
    }
}

fn unary(outcome: Result<Bytes, Status>) -> Response<Body> {
    match outcome {
        Ok(message) => {
            let trailers = std::future::ready(Some(Ok(trailers(&Status::ok("")))));
            response(Body::new(Full::new(message).with_trailers(trailers)))
        }
        Err(status) => status.into_http(),
    }
}

fn response(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

async fn passed_on(service: Standard, request: Request<Body>) -> Response<Body> {
    let Ok(response) = service.oneshot(request).await;
    response
}

impl tower::Service<Request<Body>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move { Ok(service.answer(request).await) })
    }
}
