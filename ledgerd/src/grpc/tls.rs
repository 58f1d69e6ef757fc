//! TLS: what the door shows to those who come over TCP, and whose certificates it takes.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{ServerConnection, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

/// Where what is needed lies, as PEM.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    /// The server's certificate, and those between it and its authority.
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// The authorities of clients that show certificates.
    pub(crate) client_ca: Option<PathBuf>,
}

/// Why TLS cannot be served with them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsError {
    #[error("cannot read {what} of gRPC from {}: {source}; it needs to be PEM", path.display())]
    Read {
        what: &'static str,
        path: PathBuf,
        source: pem::Error,
    },
    #[error("{} has no certificate; it needs to be PEM", path.display())]
    NoCertificate { path: PathBuf },
    #[error(
        "the key of gRPC, {}, has mode {mode:o} and is for everybody; `chmod o= {0}`, and make another one",
        path.display()
    )]
    KeyForAll { path: PathBuf, mode: u32 },
    #[error("the certificate {} cannot be served: {source}", path.display())]
    Refused {
        path: PathBuf,
        source: rustls::Error,
    },
    #[error("the authorities of {} cannot be used: {source}", path.display())]
    Authorities {
        path: PathBuf,
        source: VerifierBuilderError,
    },
}

impl TlsFiles {
    /// Reads them.
    pub(crate) fn load(&self) -> Result<Arc<ServerConfig>, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates("the certificate", &self.certificate)?;
        let key = private_key(&self.key)?;
        let refused = |source| TlsError::Refused {
            path: self.certificate.clone(),
            source,
        };
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(refused)?;
        let config = match &self.client_ca {
            Some(path) => config.with_client_cert_verifier(verifier(path, provider)?),
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_single_cert(chain, key).map_err(refused)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unread = |source| TlsError::Read {
        what,
        path: path.to_owned(),
        source,
    };
    let read = CertificateDer::pem_file_iter(path).map_err(unread)?;
    let read: Vec<_> = read.collect::<Result<_, _>>().map_err(unread)?;
    match read.is_empty() {
        true => Err(TlsError::NoCertificate {
            path: path.to_owned(),
        }),
        false => Ok(read),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let unread = |source| TlsError::Read {
        what: "the key",
        path: path.to_owned(),
        source,
    };
    let of_file = |error: io::Error| unread(pem::Error::Io(error));
    // Asked of what is read, whatever has its name a moment later.
    let file = fs::File::open(path).map_err(of_file)?;
    let mode = file.metadata().map_err(of_file)?.permissions().mode() & 0o7777;
    if mode & 0o007 != 0 {
        return Err(TlsError::KeyForAll {
            path: path.to_owned(),
            mode,
        });
    }
    PrivateKeyDer::from_pem_reader(file).map_err(unread)
}

/// Takes certificates of these authorities, and clients without one.
fn verifier(
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates("the authorities of clients", path)? {
        roots.add(authority).map_err(|source| TlsError::Refused {
            path: path.to_owned(),
            source,
        })?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let verifier = verifier.allow_unauthenticated().build();
    verifier.map_err(|source| TlsError::Authorities {
        path: path.to_owned(),
        source,
    })
}

/// The DNS names in the certificate that a client has shown, which was verified.
pub(super) fn names(session: &ServerConnection) -> Vec<String> {
    let shown = session.peer_certificates().and_then(<[_]>::first);
    let shown = shown.and_then(|shown| webpki::EndEntityCert::try_from(shown).ok());
    shown.map_or_else(Vec::new, |shown| {
        shown.valid_dns_names().map(str::to_owned).collect()
    })
}
