//! The remote door: gRPC for processes that may not map memory, and for other hosts. The
//! daemon does for them what a client on this host does by itself, with `ledger-client` and
//! over a connection to itself; nothing of it is on the way of those who map memory.
//!
//! One thread serves all connections. What may wait, for the daemon or for a disk, is done
//! by a few others.
//!
//! Reading order: `listen`, where it is heard, and `tls`, in which words; `entrance`, who comes in, as whom; `service`,
//! the operations; `share`, how much one client may have; `contexts` are those that are open here; `append`, `recent`, `get`,
//! `watch`, `snapshot`, `bulk` and `list`, what is done with them; `codec` and `status`, how it is put.

mod append;
mod bulk;
mod codec;
mod contexts;
mod entrance;
mod get;
mod list;
mod listen;
mod recent;
mod service;
mod share;
mod snapshot;
mod status;
mod tls;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use ledger_client::Ledger;
use tokio::sync::watch as told;
use tokio_rustls::rustls::ServerConfig;
use tonic::transport::Server;

pub(crate) use self::entrance::{Entrance, KnownClient};
pub(crate) use self::listen::Address;
use self::listen::{Listener, Tls, open_to_others};
use self::service::{MESSAGE_LEN_MAX, Service};
pub(crate) use self::tls::{TlsError, TlsFiles};
use crate::rights::Grant;

/// Threads for what may wait.
const WAITING_THREADS: usize = 8;
/// How often a connection that is still is asked whether anybody is at its other end, and
/// how long that may take.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Operations that one connection may have under way.
const STREAMS_MAX: u32 = 10_000;
/// Bytes of metadata of one operation.
const METADATA_LEN_MAX: u32 = 64 << 10;
/// How long those who are being served have to come to an end when the daemon stops.
const DRAIN_FOR: Duration = Duration::from_secs(5);

/// Serves until dropped.
#[derive(Debug)]
pub(crate) struct Door {
    entrance: Arc<Entrance>,
    /// The Unix sockets among where it listens.
    sockets: Vec<PathBuf>,
    tls: told::Sender<Option<Arc<ServerConfig>>>,
    is_closing: told::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Listens, for a daemon that this ledger is connected to.
    pub(crate) fn open(
        addresses: &[Address],
        tls: Option<Arc<ServerConfig>>,
        entrance: Entrance,
        ledger: Ledger,
        spool_dir: &Path,
    ) -> io::Result<Door> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("ledgerd-grpc-wait")
            .max_blocking_threads(WAITING_THREADS)
            .build()?;
        let entrance = Arc::new(entrance);
        let (is_closing, closing) = told::channel(false);
        let (tls, told_tls) = told::channel(tls);
        let listeners = {
            let _within = runtime.enter();
            let listen = |address| Listener::at(address, entrance.has_other_uids());
            addresses
                .iter()
                .map(listen)
                .collect::<io::Result<Vec<_>>>()?
        };
        for listener in &listeners {
            tracing::info!("gRPC at {}", listener.address()?);
        }
        let service = Service::new(ledger, Arc::clone(&entrance), spool_dir, closing.clone());
        let service = runtime.block_on(service);
        let thread = std::thread::Builder::new().name("ledgerd-grpc".into());
        let thread = thread.spawn(move || {
            runtime.block_on(serve(listeners, told_tls, service, closing));
            // Who waits for a disk is not waited for.
            runtime.shutdown_background();
        })?;
        let sockets = addresses.iter().filter_map(|address| match address {
            Address::Unix(path) => Some(path.clone()),
            Address::Tcp(_) => None,
        });
        Ok(Door {
            entrance,
            sockets: sockets.collect(),
            tls,
            is_closing,
            thread: Some(thread),
        })
    }

    /// Whether TCP is spoken with TLS.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.borrow().is_some()
    }

    /// From now on others come in, or the same with other rights, and new connections are
    /// shown another certificate.
    pub(crate) fn change(
        &self,
        tls: Option<Arc<ServerConfig>>,
        clients: Vec<KnownClient>,
        grants: Vec<Grant>,
    ) -> io::Result<()> {
        // Where it was served to other hosts it does not become clear text.
        if tls.is_some() {
            self.tls.send_replace(tls);
        }
        self.entrance.change(clients, grants);
        if self.entrance.has_other_uids() {
            for path in &self.sockets {
                open_to_others(path)?;
            }
        }
        Ok(())
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let _ = self.is_closing.send(true);
        if let Some(thread) = self.thread.take() {
            // Its panic was reported by the hook.
            let _ = thread.join();
        }
    }
}

/// Serves at all of them until it is told to close, and those who are there then to their
/// end.
async fn serve(
    listeners: Vec<Listener>,
    tls: Tls,
    service: Service,
    closing: told::Receiver<bool>,
) {
    tokio::spawn(service.contexts().clone().look_after());
    let mut tasks = tokio::task::JoinSet::new();
    for listener in listeners {
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .max_concurrent_streams(STREAMS_MAX)
            .http2_max_header_list_size(METADATA_LEN_MAX)
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20);
        let incoming = listener.incoming(tls.clone(), closing.clone());
        let closing = told_to_close(closing.clone());
        tasks.spawn(server.serve_with_incoming_shutdown(service.clone(), incoming, closing));
    }
    let drained = async {
        while let Some(ended) = tasks.join_next().await {
            if let Ok(Err(error)) = ended {
                tracing::error!(%error, "gRPC is not served any more");
            }
        }
    };
    tokio::pin!(drained);
    tokio::select! {
        () = &mut drained => {}
        () = told_to_close(closing) => {
            let _ = tokio::time::timeout(DRAIN_FOR, drained).await;
        }
    }
}

async fn told_to_close(mut closing: told::Receiver<bool>) {
    // Whoever would tell is gone otherwise.
    let _ = closing.wait_for(|is_closing| *is_closing).await;
}

const _: () = assert!(MESSAGE_LEN_MAX > 4 << 20, "an entry fits into a message");
