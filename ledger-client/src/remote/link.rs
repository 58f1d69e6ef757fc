//! One connection, and the thread that has it: whoever asks waits for that thread, and may
//! do so anywhere, also in a task of another runtime.

use std::fmt;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ledger_shm::entry::LIMIT_MAX;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::error::RemoteError;
use super::proto::context_service_client::ContextServiceClient;

/// Bytes of a message beside the largest payload that any context takes.
const BESIDE_PAYLOAD: usize = 1 << 20;

pub(super) type Client = ContextServiceClient<Channel>;

pub(super) struct Link {
    uri: String,
    client: Client,
    token: Option<AsciiMetadataValue>,
    call_timeout: Duration,
    handle: Handle,
    /// Its end ends the thread.
    _ends: oneshot::Sender<()>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever reads it need not know the token.
        let mut link = f.debug_struct("Link");
        link.field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Link {
    /// Connects, or says why not.
    pub(super) fn connect(
        uri: String,
        endpoint: Endpoint,
        token: Option<AsciiMetadataValue>,
        call_timeout: Duration,
    ) -> Result<Link, RemoteError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(RemoteError::SetUp)?;
        let handle = runtime.handle().clone();
        let (ends, ended) = oneshot::channel();
        let thread = thread::Builder::new().name("ledger-remote".to_owned());
        let running = thread.spawn(move || {
            // The sender says nothing, it only goes.
            let _ = runtime.block_on(ended);
        });
        running.map_err(RemoteError::SetUp)?;
        let connected = waited(&handle, async move { endpoint.connect().await });
        let unreached = |why| RemoteError::Unreachable {
            uri: uri.clone(),
            why,
        };
        let channel = match connected {
            Some(Ok(channel)) => channel,
            Some(Err(error)) => return Err(unreached(in_full(&error))),
            None => return Err(unreached("it was not tried".to_owned())),
        };
        let client = ContextServiceClient::new(channel);
        Ok(Link {
            client: client.max_decoding_message_size(LIMIT_MAX + BESIDE_PAYLOAD),
            uri,
            token,
            call_timeout,
            handle,
            _ends: ends,
        })
    }

    pub(super) fn client(&self) -> Client {
        self.client.clone()
    }

    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// A request that says who asks.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            let metadata = request.metadata_mut();
            metadata.insert("authorization", token.clone());
        }
        request
    }

    /// One that is given up when it takes too long.
    pub(super) fn timed<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        request.set_timeout(self.call_timeout);
        request
    }

    /// Asks, and waits for the answer.
    pub(super) fn call<T: Send + 'static>(
        &self,
        asked: impl Future<Output = Result<Response<T>, Status>> + Send + 'static,
    ) -> Result<T, RemoteError> {
        match self.wait(asked)? {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(RemoteError::of(&status)),
        }
    }

    /// Waits for what the thread is to do.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, RemoteError> {
        waited(&self.handle, work).ok_or_else(|| RemoteError::Unreachable {
            uri: self.uri.clone(),
            why: "it was not tried to its end".to_owned(),
        })
    }
}

/// None if it has panicked.
fn waited<T: Send + 'static>(
    handle: &Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    handle.spawn(async move {
        // Whoever asked waits for it.
        let _ = sender.send(work.await);
    });
    receiver.recv().ok()
}

/// An error, and why.
fn in_full(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut error = error;
    while let Some(source) = error.source() {
        text = format!("{text}: {source}");
        error = source;
    }
    text
}
