//! Where clients come in: TCP addresses and a Unix socket, each with its accept loop on tokio.

use super::{
    connection_slots::ConnectionSlots,
    handshake::{Attached, shake_hands, turn_away},
    socket_handle::SocketHandle,
    workers::{Ready, Workers},
};
use crate::{
    net::{BindError, Endpoints, SocketFile, socket_file},
    registry::Registry,
};
use rustix::{io::Errno, net::sockopt};
use sandstone_config::Nbd;
use std::{
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    task::JoinSet,
};

/// Longest handshake. A client that says nothing is sent away after it.
const HANDSHAKE_SECS_MAX: u64 = 10;
/// How long a TCP peer may be silent before the kernel asks after it, how often it then asks, and
/// how many times. So a dead peer is gone after two minutes; the system's own defaults make it two
/// hours. A guess, not tuned.
const PEER_SILENCE: Duration = Duration::from_secs(60);
const PEER_ASK_INTERVAL: Duration = Duration::from_secs(10);
const PEER_ASKS: u32 = 6;
/// How long a client that cannot be served has to ask, and so to be told why. Local ones ask at
/// once.
const TURN_AWAY_TIME_MAX: Duration = Duration::from_secs(2);
/// Pause after a failed accept: with no descriptors left, trying at once would only burn the
/// processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Time since the last failure after which clients count as accepted again.
const WELL_AFTER: Duration = Duration::from_secs(1);

/// Why the NBD side does not listen.
#[derive(Debug, Error)]
pub(crate) enum ListenError {
    #[error("NBD cannot listen on {0}: {1}; {advice}set nbd.listen", advice = in_use(.1))]
    Tcp(SocketAddr, #[source] io::Error),
    #[error("NBD cannot listen on the socket {0}: {1}, or set nbd.unix")]
    Unix(PathBuf, #[source] BindError),
}

/// What else can be done about an address that cannot be listened on.
pub(crate) fn in_use(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::AddrInUse { "stop what does, or " } else { "" }
}

/// Bound sockets; clients that come now wait.
pub(crate) struct Bound {
    tcp: Vec<TcpListener>,
    unix: Option<(UnixListener, SocketFile)>,
    pub(crate) endpoints: Endpoints,
}

/// Binds all that the configuration names.
///
/// # Errors
/// [`ListenError`], naming the place.
pub(crate) async fn bind(nbd: &Nbd) -> Result<Bound, ListenError> {
    let mut tcp = Vec::new();
    let mut endpoints = Endpoints::default();
    for address in &nbd.listen {
        let failed = |error| ListenError::Tcp(*address, error);
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        endpoints.tcp.push(listener.local_addr().map_err(failed)?);
        tcp.push(listener);
    }
    let mut unix = None;
    if let Some(path) = &nbd.unix {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
        let bound = socket_file::bind(&path, nbd.unix_mode).await;
        unix = Some(bound.map_err(|error| ListenError::Unix(path.clone(), error))?);
        endpoints.unix = Some(path);
    }
    Ok(Bound { tcp, unix, endpoints })
}

/// The accept loops and handshakes. Dropping it ends them; connections in transmission go on.
pub(crate) struct Accepting {
    _loops: JoinSet<()>,
    _unix: Option<SocketFile>,
}

/// What accepted clients find.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) registry: Arc<Registry>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) slots: ConnectionSlots,
}

impl Bound {
    /// Begins to accept.
    pub(crate) fn accept(self, clients: Clients) -> Accepting {
        let mut loops = JoinSet::new();
        for listener in self.tcp {
            loops.spawn(accept_tcp(listener, clients.clone()));
        }
        let unix = self.unix.map(|(listener, file)| {
            loops.spawn(accept_unix(listener, clients));
            file
        });
        Accepting { _loops: loops, _unix: unix }
    }
}

async fn accept_tcp(listener: TcpListener, clients: Clients) {
    let (mut handshakes, mut failing) = (JoinSet::new(), Failing::default());
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                failing.ends();
                if let Err(error) = notice_death(&stream) {
                    tracing::warn!(%error, "a client that dies will not be noticed");
                }
                let peer = peer.ip().to_canonical().to_string();
                handshakes.spawn(greet(stream, peer, clients.clone()));
            }
            Err(error) => failing.pause(&error).await,
        }
        while handshakes.try_join_next().is_some() {}
    }
}

/// Has the kernel ask a silent peer whether it still lives, and end the connection where it does
/// not: a host that lost its power would stay attached for ever.
fn notice_death(stream: &TcpStream) -> Result<(), Errno> {
    sockopt::set_tcp_keepidle(stream, PEER_SILENCE)?;
    sockopt::set_tcp_keepintvl(stream, PEER_ASK_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, PEER_ASKS)?;
    sockopt::set_socket_keepalive(stream, true)
}

async fn accept_unix(listener: UnixListener, clients: Clients) {
    let (mut handshakes, mut failing) = (JoinSet::new(), Failing::default());
    let mut nameless = 0;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                failing.ends();
                // A process of a PID namespace that we do not see into has the number 0 here, as
                // all others of its kind: none of them is taken for another.
                let process =
                    stream.peer_cred().ok().and_then(|cred| cred.pid()).filter(|pid| *pid > 0);
                let peer = process.map_or_else(
                    || {
                        nameless += 1;
                        format!("a process of another PID namespace (its connection {nameless})")
                    },
                    |pid| format!("process {pid}"),
                );
                handshakes.spawn(greet(stream, peer, clients.clone()));
            }
            Err(error) => failing.pause(&error).await,
        }
        while handshakes.try_join_next().is_some() {}
    }
}

/// What goes wrong ten times a second is told once, until it goes well again: for a second, or
/// where there is one descriptor, and a client needs two, it would be told each time.
#[derive(Default)]
struct Failing(Option<Instant>);

impl Failing {
    async fn pause(&mut self, error: &io::Error) {
        if self.0.replace(Instant::now()).is_none() {
            tracing::warn!(%error, "a client could not be accepted, and waits; it is tried again");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    /// A client was accepted.
    fn ends(&mut self) {
        if self.0.take_if(|last| last.elapsed() >= WELL_AFTER).is_some() {
            tracing::info!("clients are accepted again");
        }
    }
}

/// A stream of tokio's that a worker can take over.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sized {
    fn descriptor(&self) -> io::Result<OwnedFd>;
    fn into_descriptor(self) -> io::Result<OwnedFd>;
}

impl Stream for TcpStream {
    fn descriptor(&self) -> io::Result<OwnedFd> {
        use std::os::fd::AsFd;
        self.as_fd().try_clone_to_owned()
    }

    fn into_descriptor(self) -> io::Result<OwnedFd> {
        self.into_std().map(OwnedFd::from)
    }
}

impl Stream for UnixStream {
    fn descriptor(&self) -> io::Result<OwnedFd> {
        use std::os::fd::AsFd;
        self.as_fd().try_clone_to_owned()
    }

    fn into_descriptor(self) -> io::Result<OwnedFd> {
        self.into_std().map(OwnedFd::from)
    }
}

/// One client, from its first byte to its worker.
async fn greet<S: Stream>(
    mut stream: S,
    peer: String,
    Clients { registry, workers, slots }: Clients,
) {
    let Some(slot) = slots.take() else { return refuse(stream, &peer, &slots).await };
    let Some(admission) = workers.enter() else { return };
    let handle = match stream.descriptor() {
        Ok(descriptor) => Arc::new(SocketHandle::new(descriptor, Some(slot), admission)),
        Err(error) => return tracing::warn!(%error, peer, "a client could not be served"),
    };
    let shaking = shake_hands(&mut stream, &registry, &handle, &peer);
    let attached =
        match tokio::time::timeout(Duration::from_secs(HANDSHAKE_SECS_MAX), shaking).await {
            Ok(Ok(attached)) => attached,
            Ok(Err(ended)) => return tracing::debug!(reason = %ended, peer, "the handshake ended"),
            Err(_elapsed) => {
                return tracing::info!(peer, "a client did not finish its handshake in time");
            }
        };
    let Attached { negotiated, volume, guard, holder, older, received } = attached;
    let traffic = registry.traffic(volume.id());
    match stream.into_descriptor() {
        Ok(socket) => {
            let ready = Ready {
                socket,
                handle,
                received,
                negotiated,
                volume,
                traffic,
                guard,
                holder,
                older,
                peer,
            };
            workers.serve(ready);
        }
        Err(error) => tracing::warn!(%error, peer, "a client could not be served"),
    }
}

/// Sends a client away that there are no descriptors for, with the reason where that is asked for
/// soon.
async fn refuse<S: Stream>(mut stream: S, peer: &str, slots: &ConnectionSlots) {
    let Some((_answering, why)) = slots.refuse(peer) else { return };
    let turned_away = turn_away(&mut stream, &why);
    if let Ok(ended) = tokio::time::timeout(TURN_AWAY_TIME_MAX, turned_away).await {
        tracing::debug!(reason = %ended, peer, "a client was turned away");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_tcp_peer_is_noticed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        notice_death(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        let asks = PEER_ASK_INTERVAL * sockopt::tcp_keepcnt(&stream).unwrap();
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap() + asks, Duration::from_secs(120));
    }
}
