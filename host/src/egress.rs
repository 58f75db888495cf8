//! Egress: the one HTTP client of the host, which carries out the requests that sender plugins ask for.
//!
//! A plugin cannot open a socket; it says which request it wants, and every rule about what may leave the machine is
//! applied here: schemes, addresses, headers, secrets, sizes, time. Redirects are answers like any other and are not
//! followed; proxies of the environment are not looked at.
//!
//! What makes the engine's bookkeeping honest is that [`EgressAnswer`] tells two failures apart: [`NotSent`] is
//! certain, nothing of the request reached the provider; [`Unanswered`] means that it did or may have. Where it cannot
//! be told, the answer is [`Unanswered`].
//!
//! Each request is some plugin's, and held against what that plugin was granted ([`Licence`]): which hosts, which methods, which
//! secrets. What it was refused for want of a grant, or for the sake of a private network, is noted with its licence.
//!
//! Texts of answers name hosts, headers and secrets, never values, paths or bodies: they end up in logs and in SQL.
//!
//! [`NotSent`]: EgressAnswer::NotSent
//! [`Unanswered`]: EgressAnswer::Unanswered

mod address;
mod connect;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod policy;
mod request;
mod simulator;
#[cfg(test)]
mod tests;

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::Response;
use hyper::body::{Body as _, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::RwLock;

use self::connect::{ConnectError, Connector};
pub use self::policy::{Allowed, EgressPolicy, PolicyError, Secret};
use self::request::{Refused, Rules, Target};
use crate::grants::{Denial, Licence};

/// The body of a request. `Debug` shows its size only.
#[derive(Clone, PartialEq, Eq, Default)]
pub enum Body {
    /// None.
    #[default]
    Empty,
    /// UTF-8 text.
    Text(String),
    /// Anything.
    Bytes(Bytes),
}

impl Body {
    /// Its size in bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Empty => Bytes::new(),
            Self::Text(text) => Bytes::from(text),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// What a plugin wants sent. It has no `Debug`: addresses and message texts are in it.
#[derive(Clone)]
pub struct EgressRequest {
    /// GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS.
    pub method: String,
    /// `http:`, `https:` or `simulator:`; `{{secret:NAME}}` in the path is replaced as the request leaves, percent-encoded.
    pub url: String,
    /// Names and values; `{{secret:NAME}}` in a value is replaced as the request leaves.
    pub headers: Vec<(String, String)>,
    /// What is sent after the headers.
    pub body: Body,
    /// From now to the last byte of the answer; capped by the caller's deadline.
    pub timeout: Duration,
}

/// What the provider said. `Debug` shows no header and no body.
#[derive(Clone, PartialEq, Eq)]
pub struct EgressResponse {
    /// The HTTP status.
    pub status: u16,
    /// In the order received, names in lower case; bytes of a value that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Bytes,
}

impl fmt::Debug for EgressResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} bytes", self.status, self.body.len())
    }
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EgressAnswer {
    /// The provider answered, with whatever status.
    Response(EgressResponse),
    /// Nothing of the request reached the provider: certain. The text says why.
    NotSent(String),
    /// As `NotSent`, for want of a grant: the text says which, and how an operator grants it.
    NotGranted(String),
    /// The request left, or may have left, and no whole answer came. The text says what happened. An answer beyond the
    /// size cap is here too, with its status in the text: half an answer could be read wrongly by the plugin.
    Unanswered(String),
}

/// Counts since the start of the process, except for `in_flight`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EgressStats {
    /// Requests that are under way now.
    pub in_flight: usize,
    /// Connections that were opened (over TLS: with a finished handshake).
    pub connections: u64,
    /// Requests that ended with [`EgressAnswer::Response`].
    pub responses: u64,
    /// Requests that ended with [`EgressAnswer::NotSent`] or [`EgressAnswer::NotGranted`].
    pub not_sent: u64,
    /// Requests that ended with [`EgressAnswer::Unanswered`].
    pub unanswered: u64,
    /// Bytes of the bodies of all answers that were received whole.
    pub received_bytes: u64,
}

#[derive(Default)]
struct Counters {
    in_flight: AtomicUsize,
    connections: AtomicU64,
    responses: AtomicU64,
    not_sent: AtomicU64,
    unanswered: AtomicU64,
    received_bytes: AtomicU64,
}

/// Counts a request as under way for as long as it lives, so that a request that is dropped halfway is not counted for
/// ever.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn enter(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The client. Cloning is cheap; clones share connections, counts and the secrets of the store.
#[derive(Clone)]
pub struct Egress {
    policy: Arc<EgressPolicy>,
    stored: Arc<RwLock<Arc<[Secret]>>>,
    client: Client<Connector, Full<Bytes>>,
    counters: Arc<Counters>,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("policy", &self.policy).field("stats", &self.stats()).finish()
    }
}

impl Egress {
    /// A client that keeps to `policy`. Fails when TLS cannot be set up.
    pub fn new(policy: EgressPolicy) -> anyhow::Result<Self> {
        let policy = Arc::new(policy);
        let counters = Arc::new(Counters::default());
        let connector = Connector::new(Arc::clone(&policy), Arc::clone(&counters))?;
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(policy.idle_timeout)
            .pool_max_idle_per_host(policy.idle_per_host)
            // Keeps a huge head out of memory, roughly (hyper refuses less than 8 KiB); `receive` has the exact limit.
            .http1_max_buf_size(policy.max_header_bytes.max(8 * 1024))
            .http2_max_header_list_size(u32::try_from(policy.max_header_bytes).unwrap_or(u32::MAX))
            // A dead HTTP/2 connection would otherwise swallow every request to its host until each runs into its deadline.
            .http2_keep_alive_interval(Duration::from_secs(15))
            .http2_keep_alive_timeout(Duration::from_secs(10))
            // A provider may close an idle connection just when a request is about to use it. With this setting the
            // client takes another connection, but only for a request that hyper hands back, and it hands back only
            // requests that the connection's task never took from its channel: no byte of them was written. A request
            // that was taken is never repeated, whatever its method; its error reaches `failed` below. (HTTP/2 never
            // hands one back once a stream was opened.)
            .retry_canceled_requests(true)
            .build(connector);
        Ok(Self { policy, stored: Arc::new(RwLock::new(Arc::new([]))), client, counters })
    }

    /// Takes over the secrets of the store, in place of those before. One whose name the policy has, too, is not used.
    pub fn set_stored(&self, secrets: Vec<Secret>) {
        *self.stored.write() = secrets.into();
    }

    /// The secrets of the policy.
    pub fn own_secrets(&self) -> &[Secret] {
        &self.policy.secrets
    }

    /// The value of a secret, for who checks with it what came in: the policy's, else the store's; `None` where there is none.
    pub(crate) fn secret_value(&self, name: &str) -> Option<String> {
        let of = |secrets: &[Secret]| secrets.iter().find(|s| s.name() == name).map(|s| s.value().to_owned());
        of(&self.policy.secrets).or_else(|| of(&self.stored.read()))
    }

    /// Carries out `request` of a plugin. It ends within the request's own timeout or `deadline`, whichever is shorter.
    pub async fn send(&self, by: &Licence, request: EgressRequest, deadline: Duration) -> EgressAnswer {
        let _in_flight = InFlight::enter(&self.counters.in_flight);
        let limit = request.timeout.min(deadline);
        let answer = self.answer(by, request, limit).await;
        let count = match &answer {
            EgressAnswer::Response(response) => {
                let bytes = u64::try_from(response.body.len()).unwrap_or(u64::MAX);
                self.counters.received_bytes.fetch_add(bytes, Ordering::Relaxed);
                &self.counters.responses
            }
            EgressAnswer::NotSent(_) | EgressAnswer::NotGranted(_) => &self.counters.not_sent,
            EgressAnswer::Unanswered(_) => &self.counters.unanswered,
        };
        count.fetch_add(1, Ordering::Relaxed);
        answer
    }

    /// The counts so far.
    pub fn stats(&self) -> EgressStats {
        let c = &self.counters;
        EgressStats {
            in_flight: c.in_flight.load(Ordering::Relaxed),
            connections: c.connections.load(Ordering::Relaxed),
            responses: c.responses.load(Ordering::Relaxed),
            not_sent: c.not_sent.load(Ordering::Relaxed),
            unanswered: c.unanswered.load(Ordering::Relaxed),
            received_bytes: c.received_bytes.load(Ordering::Relaxed),
        }
    }

    async fn answer(&self, by: &Licence, request: EgressRequest, limit: Duration) -> EgressAnswer {
        if limit.is_zero() {
            return EgressAnswer::NotSent("no time was left to send the request".into());
        }
        let refuse = |refused: Refused| {
            let text = refused.to_string();
            match refused {
                Refused::Denied(denial, _) if denial.is_missing_grant() => {
                    by.deny(denial);
                    return EgressAnswer::NotGranted(text);
                }
                Refused::Denied(denial, _) => by.deny(denial),
                Refused::PlainSecret { name, host } => by.deny(Denial::SecretElsewhere(name, host)),
                _ => {}
            }
            EgressAnswer::NotSent(text)
        };
        let (permits, stored) = (by.permits(), Arc::clone(&self.stored.read()));
        let rules = Rules { policy: &self.policy, stored: &stored, permits: &permits, plugin: by.plugin() };
        let target = match request::check(rules, &request) {
            Ok(Target::Simulator) => return simulator::answer(request.body, limit).await,
            Ok(Target::Http(target)) => target,
            Err(refused) => return refuse(refused),
        };
        let (host, authority) = (target.host.clone(), target.authority());
        let mut request = match request::build(rules, request, target) {
            Ok(request) => request,
            Err(refused) => return refuse(refused),
        };

        // Holds a connection from the moment the request is given to one: before that, nothing can have left.
        let connection = capture_connection(&mut request);
        let exchange = async {
            match self.client.request(request).await {
                Ok(response) => self.receive(&host, response).await,
                Err(error) => {
                    if let Some(ConnectError::Refused(_)) = find_source(&error) {
                        by.deny(Denial::PrivateAddress(authority));
                    }
                    failed(&host, &error, connection.connection_metadata().is_some())
                }
            }
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(answer) => answer,
            Err(_) if connection.connection_metadata().is_none() => {
                EgressAnswer::NotSent(format!("no connection to {host} within {} ms", limit.as_millis()))
            }
            Err(_) => EgressAnswer::Unanswered(format!("no whole answer from {host} within {} ms", limit.as_millis())),
        }
    }

    /// Reads the answer to its end.
    async fn receive(&self, host: &str, response: Response<Incoming>) -> EgressAnswer {
        let cap = self.policy.max_response_bytes;
        let (head, mut incoming) = response.into_parts();
        let status = head.status.as_u16();
        let too_large =
            || EgressAnswer::Unanswered(format!("answer too large: {host} said {status} with more than {cap} bytes"));

        let head_bytes = head
            .headers
            .iter()
            .fold(0usize, |sum, (name, value)| sum.saturating_add(name.as_str().len()).saturating_add(value.len()));
        if head_bytes > self.policy.max_header_bytes {
            let max = self.policy.max_header_bytes;
            return EgressAnswer::Unanswered(format!(
                "answer too large: {host} said {status} with more than {max} bytes of headers"
            ));
        }
        let announced = incoming.size_hint().lower();
        if announced > u64::try_from(cap).unwrap_or(u64::MAX) {
            return too_large();
        }
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let data = match frame.map(|frame| frame.into_data()) {
                Ok(Ok(data)) => data,
                Ok(Err(_trailers)) => continue,
                Err(_) => {
                    return EgressAnswer::Unanswered(format!("the answer of {host} ({status}) broke off"));
                }
            };
            if body.len().saturating_add(data.len()) > cap {
                return too_large();
            }
            body.extend_from_slice(&data);
        }

        let headers = head
            .headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        EgressAnswer::Response(EgressResponse { status, headers, body: body.freeze() })
    }
}

/// What a request came to that the client gave up on. `assigned`: it had been given to a connection at least once.
fn failed(host: &str, error: &hyper_util::client::legacy::Error, assigned: bool) -> EgressAnswer {
    // The request is repeated only while it is certain that none of it was written (see `Egress::new`), so a failure to
    // connect is the end of a request that never left, also when it had been given to a connection before.
    if error.is_connect() {
        return EgressAnswer::NotSent(match find_source::<ConnectError>(error) {
            Some(reason) => format!("no connection to {host}: {reason}"),
            None => format!("no connection to {host}"),
        });
    }
    if !assigned {
        return EgressAnswer::NotSent(format!("the connection to {host} broke before the request"));
    }
    let cause = find_source::<hyper::Error>(error);
    // hyper calls a request canceled only when it hands it back unwritten.
    if cause.is_some_and(hyper::Error::is_canceled) {
        return EgressAnswer::NotSent(format!("the connection to {host} was closed before the request was written"));
    }
    let what = match cause {
        Some(cause) if cause.is_parse() => "answered something that is not HTTP, or too large a head",
        Some(cause) if cause.is_incomplete_message() => "closed the connection without a whole answer",
        _ => "broke the connection after the request may have left",
    };
    EgressAnswer::Unanswered(format!("{host} {what}"))
}

fn find_source<E: std::error::Error + 'static>(error: &hyper_util::client::legacy::Error) -> Option<&E> {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(found) = cause.downcast_ref() {
            return Some(found);
        }
        source = cause.source();
    }
    None
}
