//! The listener: a task for each connection, within limits that hold before anybody has said who they are.
//!
//! HTTP/1.1 only: a connection that may still turn out to be HTTP/2 has no time limit on its first bytes. HTTP/2 and
//! compression are what a proxy in front adds; TLS the listener can do itself ([`Tls`]).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::guesses::Peer;
use super::tls::Tls;

/// How long to wait before accepting again when the process has no file left for a connection.
const BREATH: Duration = Duration::from_millis(500);

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// How long the head of a request may take to arrive, and how long a connection may be idle. By default 75 s: proxies
    /// keep idle connections for 60, and should be the ones that close them.
    pub head: Duration,
    /// How long a TLS handshake may take. By default 10 s.
    pub handshake: Duration,
    /// Connections at a time, those in their handshake included; more wait unaccepted until one ends. By default 1,000: what is left of the process's files
    /// belongs to the engine.
    pub connections: usize,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { head: Duration::from_secs(75), handshake: Duration::from_secs(10), connections: 1_000 }
    }
}

/// Serves connections, over TLS if there is a certificate, until `stop`; then no new ones, and requests that are under way are
/// answered.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    router: Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let connections = TaskTracker::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (router, stop) = (router.clone(), stop.clone());
                let acceptor = tls.as_ref().map(|tls| tls.acceptor());
                // Only latency is lost without it.
                let _ = stream.set_nodelay(true);
                connections.spawn(async move {
                    match acceptor {
                        None => connection(stream, Origin { peer, tls: false }, router, limits.head, stop).await,
                        Some(acceptor) => {
                            if let Some(stream) = shake_hands(&acceptor, stream, limits.handshake, &stop).await {
                                connection(stream, Origin { peer, tls: true }, router, limits.head, stop).await;
                            }
                        }
                    }
                    drop(place);
                });
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(error = %error, "no connection can be accepted for a moment");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Whether an error concerns only the connection that would have been accepted.
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The TLS stream; `None` when it did not come about in time.
async fn shake_hands(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    within: Duration,
    stop: &CancellationToken,
) -> Option<TlsStream<TcpStream>> {
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(within, acceptor.accept(stream)) => shaken,
        () = stop.cancelled() => return None,
    };
    match shaken {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::trace!(error = %error, "a TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// Where a connection comes from, and whether over TLS.
#[derive(Clone, Copy)]
struct Origin {
    peer: SocketAddr,
    tls: bool,
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    from: Origin,
    router: Router,
    head: Duration,
    stop: CancellationToken,
) {
    let service = TowerToHyperService::new(router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(from.peer));
        if from.tls {
            request.headers_mut().insert("x-forwarded-proto", HeaderValue::from_static("https"));
        }
        request
    }));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head);
    let serving = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // A client that left, was too slow or does not speak HTTP: nothing for an operator to do.
        tracing::trace!(error = %error, "a connection ended");
    }
}
