//! Where the door is heard: addresses, and connections that came there.

use std::collections::HashMap;
use std::fmt;
use std::fs::Permissions;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use ledger_shm::socket;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{mpsc, watch as told};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{tls, told_to_close};

/// What the path of a Unix socket begins with.
const UNIX: &str = "unix:";
/// Connections at once at one address, and of these of one other host, or of one uid.
const CONNECTIONS_MAX: usize = 10_000;
const CONNECTIONS_MAX_PER_PEER: usize = 1000;
/// The mode of a socket that other uids may connect to.
const FOR_OTHERS: u32 = 0o666;
/// How long who comes over TCP may take to agree upon TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long nobody is accepted after that could not be done.
const DEAF_FOR: Duration = Duration::from_millis(100);

/// With what those who come over TCP are spoken to, which a reload changes.
pub(super) type Tls = told::Receiver<Option<Arc<ServerConfig>>>;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl FromStr for Address {
    type Err = String;

    /// As gRPC's clients write them: an IP address and a port, or `unix:` and a path.
    fn from_str(text: &str) -> Result<Address, String> {
        if let Some(path) = text.strip_prefix(UNIX) {
            let path = path.strip_prefix("//").unwrap_or(path);
            return match Path::new(path).is_absolute() {
                true => Ok(Address::Unix(path.into())),
                false => Err(format!(
                    "{text:?} names no absolute path such as unix:/run/l"
                )),
            };
        }
        let address = text.parse().map(Address::Tcp);
        address.map_err(|_| {
            format!("{text:?} is no address such as 127.0.0.1:50051, [::1]:50051 or unix:/run/l")
        })
    }
}

impl TryFrom<String> for Address {
    type Error = String;

    fn try_from(text: String) -> Result<Address, String> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Peer {
    /// With the DNS names in the certificate that it has shown.
    Tcp { ip: IpAddr, names: Vec<String> },
    /// With its primary and supplementary groups.
    Unix { uid: u32, gids: Vec<u32> },
}

/// Whose connections are counted together: a user may change its groups.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Whose {
    Ip(IpAddr),
    Uid(u32),
}

impl Peer {
    fn whose(&self) -> Whose {
        match self {
            // Of IPv6 one host has as many as it likes, in the network that it was given.
            Peer::Tcp {
                ip: IpAddr::V6(ip), ..
            } => Whose::Ip(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into()),
            Peer::Tcp { ip, .. } => Whose::Ip(*ip),
            Peer::Unix { uid, .. } => Whose::Uid(*uid),
        }
    }
}

/// How many connections there are, by who is at the other end.
#[derive(Clone, Debug, Default)]
struct Connections(Arc<Mutex<HashMap<Whose, usize>>>);

/// One connection's part in that.
#[derive(Debug)]
struct Counted {
    connections: Connections,
    peer: Peer,
}

impl Connections {
    fn join(&self, peer: Peer) -> Option<Counted> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.values().sum::<usize>() >= CONNECTIONS_MAX {
            return None;
        }
        let count = counts.entry(peer.whose()).or_default();
        if *count >= CONNECTIONS_MAX_PER_PEER {
            return None;
        }
        *count += 1;
        drop(counts);
        Some(Counted {
            connections: self.clone(),
            peer,
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.connections.0.lock();
        let counts = counts.as_mut().unwrap_or_else(|poison| poison.get_mut());
        let whose = self.peer.whose();
        if let Some(count) = counts.get_mut(&whose) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&whose);
            }
        }
    }
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    /// Removed with the listener.
    Unix(UnixListener, PathBuf),
}

/// Heard, where nobody is accepted yet.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    connections: Connections,
}

impl Listener {
    /// Listens. Other uids may connect to a Unix socket if rights are given to some.
    pub(super) fn at(address: &Address, is_for_others: bool) -> io::Result<Listener> {
        let listen = || {
            Ok(match address {
                Address::Tcp(address) => {
                    let listener = std::net::TcpListener::bind(address)?;
                    listener.set_nonblocking(true)?;
                    Socket::Tcp(TcpListener::from_std(listener)?)
                }
                Address::Unix(path) => {
                    remove_abandoned(path)?;
                    let listener = UnixListener::bind(path)?;
                    let mode = if is_for_others { FOR_OTHERS } else { 0o600 };
                    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
                    Socket::Unix(listener, path.clone())
                }
            })
        };
        let unheard =
            |error: io::Error| io::Error::other(format!("cannot listen at {address}: {error}"));
        Ok(Listener {
            socket: listen().map_err(unheard)?,
            connections: Connections::default(),
        })
    }

    /// Where it is, with the port that it was given if it was to have any.
    pub(super) fn address(&self) -> io::Result<Address> {
        Ok(match &self.socket {
            Socket::Tcp(listener) => Address::Tcp(listener.local_addr()?),
            Socket::Unix(_, path) => Address::Unix(path.clone()),
        })
    }

    /// Those who come, until it closes: over TCP with TLS, if there is any.
    pub(super) fn incoming(self, tls: Tls, closing: told::Receiver<bool>) -> Incoming {
        let (sender, incoming) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                () = self.accept_all(tls, sender) => {}
                () = told_to_close(closing) => {}
            }
        });
        Incoming(incoming)
    }

    async fn accept_all(self, tls: Tls, sender: mpsc::Sender<Connection>) {
        loop {
            let (socket, peer) = match self.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely. Asked again at once it would say the
                    // same.
                    tracing::warn!(%error, "cannot accept a gRPC client");
                    sleep(DEAF_FOR).await;
                    continue;
                }
            };
            let Some(counted) = self.connections.join(peer) else {
                tracing::debug!("a connection is not taken: there are too many");
                continue;
            };
            let tls = tls.borrow().clone();
            let sender = sender.clone();
            // Nobody waits for who is slow to say who it is.
            tokio::spawn(async move {
                let connection = match (socket, tls) {
                    (Accepted::Unix(stream), _) => Connection::new(stream, counted),
                    (Accepted::Tcp(stream), None) => Connection::new(stream, counted),
                    (Accepted::Tcp(stream), Some(tls)) => {
                        let accepted = TlsAcceptor::from(tls).accept(stream);
                        match timeout(HANDSHAKE_TIMEOUT, accepted).await {
                            Ok(Ok(stream)) => Connection::enciphered(stream, counted),
                            Ok(Err(error)) => {
                                tracing::debug!(%error, "a connection is not taken");
                                return;
                            }
                            Err(_) => return,
                        }
                    }
                };
                // Else it closes.
                let _ = sender.send(connection).await;
            });
        }
    }

    async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        Ok(match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let ip = address.ip();
                let names = Vec::new();
                (Accepted::Tcp(stream), Peer::Tcp { ip, names })
            }
            Socket::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let peer = stream.peer_cred()?;
                // Kernels before 4.13 do not tell.
                let mut gids = socket::peer_groups(&stream.as_fd()).unwrap_or_default();
                gids.push(peer.gid());
                let uid = peer.uid();
                (Accepted::Unix(stream), Peer::Unix { uid, gids })
            }
        })
    }
}

#[derive(Debug)]
enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// Removes a socket at which nobody listens any more. Whatever else is there stays.
fn remove_abandoned(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        _ => return Ok(()),
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => Ok(()),
    }
}

/// Has other uids reach a socket that was made when no rights were given to any.
pub(super) fn open_to_others(path: &Path) -> io::Result<()> {
    std::fs::set_permissions(path, Permissions::from_mode(FOR_OTHERS))
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Connections, as they come.
#[derive(Debug)]
pub(super) struct Incoming(mpsc::Receiver<Connection>);

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(task).map(|connection| connection.map(Ok))
    }
}

/// What bytes go over.
trait Io: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Io for T {}

/// A connection that was accepted.
#[derive(Debug)]
pub(super) struct Connection {
    io: Box<dyn Io>,
    counted: Counted,
}

impl Connection {
    fn new(io: impl Io + 'static, counted: Counted) -> Connection {
        let io = Box::new(io);
        Connection { io, counted }
    }

    fn enciphered(stream: TlsStream<TcpStream>, mut counted: Counted) -> Connection {
        if let Peer::Tcp { names, .. } = &mut counted.peer {
            *names = tls::names(stream.get_ref().1);
        }
        Connection::new(stream, counted)
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.counted.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(task, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(task, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_clients_write_them_and_written_as_they_are_read() {
        for (text, written) in [
            ("127.0.0.1:50051", "127.0.0.1:50051"),
            ("[::1]:1", "[::1]:1"),
            ("unix:/run/l", "unix:/run/l"),
            ("unix:///run/l", "unix:/run/l"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), written);
        }
        for wrong in [
            "",
            "50051",
            "localhost:1",
            "unix:",
            "unix:l",
            "unix://l",
            "/run/l",
        ] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_peer_has_so_many_connections_and_another_its_own() {
        let connections = Connections::default();
        let peer = |last| Peer::Tcp {
            ip: [127, 0, 0, last].into(),
            names: Vec::new(),
        };
        let user = |gid| Peer::Unix {
            uid: 7,
            gids: vec![gid],
        };
        assert_eq!(user(1).whose(), user(2).whose());
        let of_network = |ip: &str| {
            let ip = ip.parse().expect("an address");
            let names = Vec::new();
            Peer::Tcp { ip, names }.whose()
        };
        assert_eq!(of_network("2001:db8::1"), of_network("2001:db8::2:1"));
        assert_ne!(of_network("2001:db8::1"), of_network("2001:db8:0:1::1"));
        let mut held: Vec<_> = (0..CONNECTIONS_MAX_PER_PEER)
            .map(|_| connections.join(peer(1)).expect("a place"))
            .collect();
        assert!(connections.join(peer(1)).is_none());
        assert!(connections.join(peer(2)).is_some());
        held.pop();
        assert!(connections.join(peer(1)).is_some());
    }

    #[test]
    fn only_a_socket_that_nobody_listens_at_is_removed() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("door");
        std::fs::write(&path, "a file").expect("a folder of ours");
        remove_abandoned(&path).expect("it is left");
        assert!(path.exists());
        std::fs::remove_file(&path).expect("ours");
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("free");
        remove_abandoned(&path).expect("it is left");
        assert!(path.exists());
        drop(listener);
        remove_abandoned(&path).expect("it is removed");
        assert!(!path.exists());
    }
}
