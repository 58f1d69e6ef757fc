//! Connecting, and what is asked of a ledger as a whole.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::context::{Context, ContextOptions};
use super::error::RemoteError;
use super::link::Link;
use super::load::LoadFrom;
use super::proto::ListContextsRequest;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the other end is asked whether it is there while something is under way, and how
/// long that may take.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// A ledger that is asked over a connection. What [`Ledger`](crate::Ledger) does through
/// shared memory this does by way of its daemon, with the same verbs.
///
/// It blocks, as that does, and has a thread of its own, so that it may be asked anywhere.
/// Clones share the connection, which is made anew when it has ended.
///
/// ```no_run
/// use ledger_client::NewEntry;
/// use ledger_client::remote::RemoteLedger;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let ledger = RemoteLedger::connect("unix:/run/ledger.sock")?; // or Ledger::connect()?
/// let context = ledger.context("loan-7").open_or_create()?;
/// let appended = context.appender()?.append(&NewEntry::new("facts", "income: 4200"))?;
/// let entry = context.get(appended.seq)?.expect("it was appended");
/// assert_eq!(entry.payload(), b"income: 4200");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct RemoteLedger {
    pub(super) link: Arc<Link>,
}

/// How to reach a ledger, and who asks.
///
/// ```no_run
/// use ledger_client::remote::RemoteLedger;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let token = std::fs::read_to_string("token")?;
/// let authority = std::fs::read("authority.pem")?;
/// let ledger = RemoteLedger::builder("https://ledger.example:50051")
///     .token(token.trim_end())
///     .authorities(authority)
///     .connect()?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Builder {
    uri: String,
    token: Option<String>,
    authorities: Option<Vec<u8>>,
    identity: Option<(Vec<u8>, Vec<u8>)>,
    connect_timeout: Duration,
    call_timeout: Duration,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the token nor the key.
        let mut builder = f.debug_struct("Builder");
        builder.field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Builder {
    /// The token to show. Over a Unix socket none is needed.
    ///
    /// ```no_run
    /// # use ledger_client::remote::RemoteLedger;
    /// let ledger = RemoteLedger::builder("http://127.0.0.1:50051").token("open sesame").connect()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn token(mut self, token: impl Into<String>) -> Builder {
        self.token = Some(token.into());
        self
    }

    /// Whose certificates to trust over `https`, as PEM. Default: those that this host trusts.
    ///
    /// ```no_run
    /// # use ledger_client::remote::RemoteLedger;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let builder = RemoteLedger::builder("https://ledger.example:50051");
    /// let ledger = builder.authorities(std::fs::read("authority.pem")?).connect()?;
    /// # Ok(()) }
    /// ```
    pub fn authorities(mut self, pem: impl Into<Vec<u8>>) -> Builder {
        self.authorities = Some(pem.into());
        self
    }

    /// The certificate to show over `https`, and its key, as PEM.
    ///
    /// ```no_run
    /// # use ledger_client::remote::RemoteLedger;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let builder = RemoteLedger::builder("https://ledger.example:50051");
    /// let (certificate, key) = (std::fs::read("client.pem")?, std::fs::read("client.key")?);
    /// let ledger = builder.identity(certificate, key).connect()?;
    /// # Ok(()) }
    /// ```
    pub fn identity(mut self, certificate: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Builder {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// How long to try to connect. Default: 2 s.
    ///
    /// ```no_run
    /// # use ledger_client::remote::RemoteLedger;
    /// use std::time::Duration;
    ///
    /// let builder = RemoteLedger::builder("unix:/run/ledger.sock");
    /// let ledger = builder.connect_timeout(Duration::from_secs(10)).connect()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn connect_timeout(mut self, timeout: Duration) -> Builder {
        self.connect_timeout = timeout;
        self
    }

    /// How long an answer may take, but for snapshots and of a watcher. Default: 10 s.
    ///
    /// ```no_run
    /// # use ledger_client::remote::RemoteLedger;
    /// use std::time::Duration;
    ///
    /// let builder = RemoteLedger::builder("unix:/run/ledger.sock");
    /// let ledger = builder.call_timeout(Duration::from_secs(60)).connect()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn call_timeout(mut self, timeout: Duration) -> Builder {
        self.call_timeout = timeout;
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// [`RemoteError::InvalidUri`], [`RemoteError::InvalidToken`], and
    /// [`RemoteError::Unreachable`] with the reason, such as a certificate that nobody trusts.
    ///
    /// ```
    /// # use ledger_client::remote::RemoteLedger;
    /// let outcome = RemoteLedger::builder("unix:/nowhere").connect();
    /// assert!(outcome.is_err_and(|error| error.is_unreachable()));
    /// ```
    pub fn connect(self) -> Result<RemoteLedger, RemoteError> {
        let token = self.token.as_ref().map(|token| {
            let shown = format!("Bearer {token}").parse();
            shown.map_err(|_| RemoteError::InvalidToken)
        });
        let endpoint = self.endpoint()?;
        let link = Link::connect(self.uri, endpoint, token.transpose()?, self.call_timeout)?;
        Ok(RemoteLedger {
            link: Arc::new(link),
        })
    }

    fn endpoint(&self) -> Result<Endpoint, RemoteError> {
        let invalid = |why: &str| RemoteError::InvalidUri {
            uri: self.uri.clone(),
            why: why.to_owned(),
        };
        let uri = match self.uri.strip_prefix("unix:") {
            Some(path) => {
                let path = path.strip_prefix("//").unwrap_or(path);
                if !Path::new(path).is_absolute() {
                    return Err(invalid("the path of a socket begins with /"));
                }
                format!("unix://{path}")
            }
            None => self.uri.clone(),
        };
        let is_enciphered = uri.starts_with("https://");
        if !is_enciphered && !uri.starts_with("http://") && !uri.starts_with("unix:") {
            return Err(invalid("it begins with none of these"));
        }
        if !is_enciphered && (self.authorities.is_some() || self.identity.is_some()) {
            return Err(invalid("certificates are for https"));
        }
        let endpoint = Endpoint::from_shared(uri).map_err(|error| invalid(&error.to_string()))?;
        let endpoint = endpoint
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        if !is_enciphered {
            return Ok(endpoint);
        }
        let mut tls = ClientTlsConfig::new();
        tls = match &self.authorities {
            Some(pem) => tls.ca_certificate(Certificate::from_pem(pem)),
            None => tls.with_native_roots(),
        };
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = endpoint.tls_config(tls);
        endpoint.map_err(|error| invalid(&error.to_string()))
    }
}

/// What there is to say about a context, at one moment.
///
/// ```no_run
/// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
/// for context in ledger.contexts()? {
///     println!("{} {}: {:?}", context.name, context.state, context.latest);
/// }
/// # Ok::<(), ledger_client::remote::RemoteError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContextSummary {
    /// Its name.
    pub name: String,
    /// Its epoch, in hexadecimal digits.
    pub epoch: String,
    /// As [`State`](crate::State) says it, or `damaged`.
    pub state: String,
    /// The oldest entry that can be read, unless damage hides it.
    pub first_available: Option<u64>,
    /// The last entry, 0 if there is none, unless damage hides it.
    pub latest: Option<u64>,
    /// What is damaged.
    pub damage: Option<String>,
}

impl RemoteLedger {
    /// Connects to `https://host:port`, `http://host:port` or `unix:/path`.
    ///
    /// # Errors
    ///
    /// As [`Builder::connect`].
    ///
    /// ```no_run
    /// let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn connect(uri: impl Into<String>) -> Result<RemoteLedger, RemoteError> {
        RemoteLedger::builder(uri).connect()
    }

    /// Connects in another way than usual.
    ///
    /// ```
    /// # use ledger_client::remote::RemoteLedger;
    /// let builder = RemoteLedger::builder("http://127.0.0.1:50051").token("open sesame");
    /// assert!(!format!("{builder:?}").contains("sesame"));
    /// ```
    pub fn builder(uri: impl Into<String>) -> Builder {
        Builder {
            uri: uri.into(),
            token: None,
            authorities: None,
            identity: None,
            connect_timeout: CONNECT_TIMEOUT,
            call_timeout: CALL_TIMEOUT,
        }
    }

    /// A context, to be opened.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// let context = ledger.context("loan-7").open_or_create()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn context<'a>(&'a self, name: &'a str) -> ContextOptions<'a> {
        ContextOptions { ledger: self, name }
    }

    /// All contexts that may be read, by name.
    ///
    /// # Errors
    ///
    /// What the ledger says.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// println!("{} contexts", ledger.contexts()?.len());
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn contexts(&self) -> Result<Vec<ContextSummary>, RemoteError> {
        self.listed("")
    }

    /// All contexts, or the one that is named.
    pub(super) fn listed(&self, name: &str) -> Result<Vec<ContextSummary>, RemoteError> {
        let mut client = self.link.client();
        let asked = self.link.timed(ListContextsRequest {
            context_id: name.to_owned(),
        });
        let listed = self.link.wait(async move {
            let mut stream = client.list_contexts(asked).await?.into_inner();
            let mut listed = Vec::new();
            while let Some(found) = stream.message().await? {
                listed.push(ContextSummary {
                    name: found.context_id,
                    epoch: found.epoch,
                    state: found.state,
                    first_available: found.first_available,
                    latest: found.latest_sequence,
                    damage: Some(found.damage).filter(|damage| !damage.is_empty()),
                });
            }
            Ok(listed)
        });
        listed?.map_err(|status| RemoteError::of(&status))
    }

    /// Loads a snapshot, as [`Ledger::load_from`](crate::Ledger::load_from) does. It takes the
    /// right `admin`.
    ///
    /// ```no_run
    /// # let ledger = ledger_client::remote::RemoteLedger::connect("unix:/run/ledger.sock")?;
    /// # let snapshot = Vec::new();
    /// ledger.load_from(&snapshot[..]).name("loan-8").run()?;
    /// # Ok::<(), ledger_client::remote::RemoteError>(())
    /// ```
    pub fn load_from<R: Read>(&self, reader: R) -> LoadFrom<'_, R> {
        LoadFrom::new(self, reader)
    }

    pub(super) fn opened(&self, name: &str) -> Context {
        Context::new(self.clone(), name)
    }
}
