//! Prometheus metrics on a loopback address: what the daemon says of itself when
//! it is asked, read at that moment. Nothing is counted where something is
//! appended.

mod process;

use std::error::Error;
use std::fmt::{Display, Write as _};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use ledger_client::wire::Status;
use ledger_client::{Builder, Ledger};
use ledger_shm::object::Instance;
use tiny_http::{Header, Method, Response, Server};

use crate::Daemon;

/// The text format's, which every Prometheus reads.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
/// A daemon that takes longer is not well.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers until dropped.
pub(crate) struct Metrics {
    server: Arc<Server>,
    thread: Option<JoinHandle<()>>,
}

impl Metrics {
    /// Listens, for a daemon that runs in a process that began then. The address is
    /// one of this machine's own.
    pub(crate) fn serve(
        address: SocketAddr,
        instance: &Instance,
        daemon: &Daemon,
        started: SystemTime,
    ) -> io::Result<Metrics> {
        let unheard = |error| io::Error::other(format!("cannot listen at {address}: {error}"));
        let server = Arc::new(Server::http(address).map_err(unheard)?);
        let runtime_dir = daemon.socket().parent().map(ToOwned::to_owned);
        let builder = Ledger::builder()
            .instance(instance.name())
            .runtime_dir(runtime_dir.unwrap_or_default())
            .connect_timeout(CONNECT_TIMEOUT);
        let thread = std::thread::Builder::new().name("ledgerd-metrics".into());
        let thread = thread.spawn({
            let server = Arc::clone(&server);
            move || answer(&server, &builder, started)
        })?;
        tracing::info!("metrics at http://{}/metrics", server.server_addr());
        Ok(Metrics {
            server,
            thread: Some(thread),
        })
    }
}

impl Drop for Metrics {
    fn drop(&mut self) {
        self.server.unblock();
        if let Some(thread) = self.thread.take() {
            // Its panic was reported by the hook.
            let _ = thread.join();
        }
    }
}

fn answer(server: &Server, builder: &Builder, started: SystemTime) {
    for request in server.incoming_requests() {
        let is_read = matches!(request.method(), Method::Get | Method::Head);
        let path = request.url().split('?').next();
        let (code, body) = match path {
            Some("/metrics") if is_read => match metrics(builder, started) {
                Ok(Text(text)) => (200, text),
                Err(error) => (503, format!("{error}\n")),
            },
            _ => (404, "the metrics are at /metrics\n".to_owned()),
        };
        let header = Header::from_bytes("Content-Type", CONTENT_TYPE).expect("fixed text");
        let response = Response::from_string(body).with_status_code(code);
        // Whoever asked may have gone.
        let _ = request.respond(response.with_header(header));
    }
}

fn metrics(builder: &Builder, started: SystemTime) -> Result<Text, Box<dyn Error>> {
    let mut text = Text::default();
    let mut status = builder.clone().connect()?.status()?;
    // Who asks is no client of anybody's.
    status.clients -= 1;
    add_status(&mut text, &status);
    process::add_to(&mut text, started)?;
    Ok(text)
}

/// The exposition format. Names are given by hand because there are few, and each
/// is one number.
#[derive(Default)]
struct Text(String);

impl Text {
    fn metric(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        let Text(text) = self;
        writeln!(
            text,
            "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
        )
        .expect("a string takes everything");
    }
}

fn add_status(text: &mut Text, status: &Status) {
    let mut gauge = |name: &str, help: &str, value: u64| text.metric(name, "gauge", help, value);
    gauge(
        "ledger_clients",
        "Connections to the daemon.",
        status.clients,
    );
    gauge("ledger_contexts", "Contexts in memory.", status.contexts);
    gauge(
        "ledger_contexts_attached",
        "Contexts that somebody has open.",
        status.attached,
    );
    gauge(
        "ledger_contexts_quarantined",
        "Contexts that are damaged.",
        status.quarantined,
    );
    gauge(
        "ledger_memory_budget_bytes",
        "Memory that the daemon may commit.",
        status.budget,
    );
    gauge(
        "ledger_memory_committed_bytes",
        "Memory that the daemon has committed.",
        status.committed,
    );
    gauge(
        "ledger_memory_held_bytes",
        "Memory that has left the window and that other uids hold.",
        status.held,
    );
    gauge(
        "ledger_attached_entries",
        "Sum of the latest seqs of contexts that somebody has open.",
        status.entries,
    );
}
