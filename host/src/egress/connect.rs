//! Opening connections: look the name up once, judge each address, connect to exactly the address that was judged.
//!
//! Because the socket is opened to the address and not to the name, a name server that changes its mind between the
//! check and the connection (DNS rebinding) changes nothing. TLS still checks the certificate against the name.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tower::Service;

use super::policy::EgressPolicy;
use super::{Counters, address};
use crate::grants::canonical_host;

/// A lookup occupies a thread until the name server answers or the system gives up, also when nobody waits any more.
const MAX_LOOKUPS: usize = 32;
/// How many addresses of one name are tried.
const MAX_ADDRESSES: usize = 8;

/// Why there is no connection. Nothing of the request was written.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the URL has no usable host")]
    Host,
    #[error("it is {0} address; an operator can grant it with --allow-egress HOST:PORT")]
    Refused(&'static str),
    #[error("the name cannot be looked up ({0})")]
    Lookup(io::ErrorKind),
    #[error("the name has no address")]
    NoAddress,
    #[error("{0}")]
    Tcp(io::ErrorKind),
    #[error("TLS failed: {0}")]
    Tls(String),
    #[error("no connection within {} ms", .0.as_millis())]
    TimedOut(Duration),
}

type Boxed<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;

/// Opens connections for the client: TCP, and TLS over it where the URL says https.
#[derive(Clone)]
pub(super) struct Connector {
    https: HttpsConnector<CheckedTcp>,
    timeout: Duration,
    counters: Arc<Counters>,
}

impl Connector {
    pub(super) fn new(policy: Arc<EgressPolicy>, counters: Arc<Counters>) -> Result<Self, rustls::Error> {
        let timeout = policy.connect_timeout;
        let tcp = CheckedTcp { policy, lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)) };
        let https = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())?
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        Ok(Self { https, timeout, counters })
    }
}

impl Service<Uri> for Connector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = ConnectError;
    type Future = Boxed<Self::Response, ConnectError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.https.call(uri);
        let limit = self.timeout;
        let counters = Arc::clone(&self.counters);
        // The limit is here and not only around the request: the pool may go on with a connection whose request found
        // another one, and a silent TLS peer would keep that one for ever.
        Box::pin(async move {
            match tokio::time::timeout(limit, connecting).await {
                Ok(Ok(stream)) => {
                    counters.connections.fetch_add(1, Ordering::Relaxed);
                    Ok(stream)
                }
                Ok(Err(error)) => Err(match error.downcast::<ConnectError>() {
                    Ok(own) => *own,
                    Err(tls) => ConnectError::Tls(tls.to_string()),
                }),
                Err(_) => Err(ConnectError::TimedOut(limit)),
            }
        })
    }
}

/// Opens TCP connections to addresses that the policy lets through.
#[derive(Clone)]
struct CheckedTcp {
    policy: Arc<EgressPolicy>,
    lookups: Arc<Semaphore>,
}

impl Service<Uri> for CheckedTcp {
    type Response = TokioIo<TcpStream>;
    type Error = ConnectError;
    type Future = Boxed<Self::Response, ConnectError>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let host = uri.host().and_then(canonical_host).ok_or(ConnectError::Host)?;
            let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
            let addresses = this.checked_addresses(&host, port).await?;
            let stream = open(&addresses, this.policy.connect_timeout).await?;
            stream.set_nodelay(true).map_err(|e| ConnectError::Tcp(e.kind()))?;
            Ok(TokioIo::new(stream))
        })
    }
}

impl CheckedTcp {
    async fn checked_addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        let found = match host.parse::<IpAddr>() {
            Ok(ip) => vec![SocketAddr::new(ip, port)],
            Err(_) => self.look_up(host, port).await?,
        };
        if found.is_empty() {
            return Err(ConnectError::NoAddress);
        }
        let granted = self.policy.grants(host, port);
        let mut refused = None;
        let mut checked = Vec::new();
        for address in found {
            match address::refusal(address.ip()) {
                Some(why) if !granted => refused = Some(why),
                _ if checked.len() < MAX_ADDRESSES => checked.push(address),
                _ => {}
            }
        }
        match refused {
            Some(why) if checked.is_empty() => Err(ConnectError::Refused(why)),
            _ => Ok(checked),
        }
    }

    async fn look_up(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        let permit = Arc::clone(&self.lookups).acquire_owned().await.map_err(|_| ConnectError::NoAddress)?;
        let name = host.to_owned();
        // A task of its own holds the permit for as long as the lookup occupies its thread, whether or not the request
        // is still waiting.
        let lookup = tokio::spawn(async move {
            let _permit = permit;
            tokio::net::lookup_host((name, port)).await.map(|found| found.collect::<Vec<_>>())
        });
        match lookup.await {
            Ok(found) => found.map_err(|e| ConnectError::Lookup(e.kind())),
            Err(_) => Err(ConnectError::NoAddress),
        }
    }
}

/// Tries the addresses in turn; each has its share of the time, so that one that swallows packets does not hide the others.
async fn open(addresses: &[SocketAddr], limit: Duration) -> Result<TcpStream, ConnectError> {
    let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(1);
    let mut last = ConnectError::NoAddress;
    for address in addresses {
        last = match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => ConnectError::Tcp(error.kind()),
            Err(_) => ConnectError::TimedOut(share),
        };
    }
    Err(last)
}
