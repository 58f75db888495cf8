//! From what a plugin wrote to a request that may leave: every rule about its form is here.

use std::borrow::Cow;
use std::fmt::{self, Write as _};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Uri};

use super::EgressRequest;
use super::policy::{EgressPolicy, Secret};
use crate::grants::{Denial, Permits, canonical_host, is_secret_name};

const MAX_URL_BYTES: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;
const SECRET: &str = "{{secret:";

/// Headers that belong to the connection or that the client computes: a plugin that could set them could smuggle a
/// second request or speak to another host behind the same address.
const OWN_HEADERS: [&str; 13] = [
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Why a request does not leave. No value, path or body is in the texts.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("the URL cannot be read")]
    Url,
    #[error("the URL has more than {MAX_URL_BYTES} bytes")]
    LongUrl,
    #[error("the URL's scheme must be https, http or simulator")]
    Scheme,
    #[error("the URL has a user name or password; use a header with a secret")]
    Userinfo,
    #[error("the URL has a secret outside of its path; secrets are replaced in the path and in header values only")]
    SecretInUrl,
    #[error("the method must be GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS")]
    Method,
    #[error("the request has more than {0} bytes")]
    LongBody(usize),
    #[error("the request has more than {MAX_HEADERS} headers")]
    ManyHeaders,
    #[error("the request's headers have more than {0} bytes")]
    LongHeaders(usize),
    #[error("header number {0} has a name that is not allowed in HTTP")]
    HeaderName(usize),
    #[error("header {0} is set by the host and cannot be set by a plugin")]
    OwnHeader(HeaderName),
    #[error("header {0} has characters that are not allowed in HTTP, such as a line break")]
    HeaderValue(HeaderName),
    #[error("{0} has a secret placeholder that cannot be read; it is {{{{secret:NAME}}}}")]
    Placeholder(Place),
    #[error("{}", .0.to_plugin(.1))]
    Denied(Denial, String),
    #[error("secret {name} is not sent to {host} over http; use https, or grant the host with --allow-egress")]
    PlainSecret { name: String, host: String },
}

/// What a request is held against.
#[derive(Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) policy: &'a EgressPolicy,
    /// Secrets of the store.
    pub(super) stored: &'a [Secret],
    /// What the plugin was granted.
    pub(super) permits: &'a Permits,
    /// The plugin's name.
    pub(super) plugin: &'a str,
}

impl Rules<'_> {
    fn deny(&self, denial: Denial) -> Refused {
        Refused::Denied(denial, self.plugin.to_owned())
    }
}

/// Where a placeholder stands.
#[derive(Debug, Clone)]
pub(super) enum Place {
    /// The URL's path.
    Path,
    /// A header's value.
    Header(HeaderName),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path => f.write_str("the URL's path"),
            Self::Header(name) => write!(f, "header {name}"),
        }
    }
}

/// Where a request goes.
pub(super) enum Target {
    /// The connector that waits and answers as it is told.
    Simulator,
    /// A server.
    Http(HttpTarget),
}

/// A server, and what is asked of it.
pub(super) struct HttpTarget {
    /// The URL with its host in one spelling and nothing but scheme, host, port, path and query; secrets are not filled in yet.
    uri: Uri,
    /// See [`canonical_host`].
    pub(super) host: String,
    port: u16,
    https: bool,
}

impl HttpTarget {
    /// The host, with its port where that is not the scheme's own.
    pub(super) fn authority(&self) -> String {
        self.uri.authority().map_or_else(|| self.host.clone(), |authority| authority.as_str().to_owned())
    }
}

/// Checks everything but the method and the headers, and says where the request goes.
pub(super) fn check(rules: Rules<'_>, request: &EgressRequest) -> Result<Target, Refused> {
    let target = target(rules.policy, request)?;
    if let Target::Http(to) = &target
        && !rules.permits.host(&to.host, to.port)
    {
        return Err(rules.deny(Denial::Host(to.authority())));
    }
    Ok(target)
}

fn target(policy: &EgressPolicy, request: &EgressRequest) -> Result<Target, Refused> {
    if request.body.len() > policy.max_request_bytes {
        return Err(Refused::LongBody(policy.max_request_bytes));
    }
    if request.url.len() > MAX_URL_BYTES {
        return Err(Refused::LongUrl);
    }
    let secrets = request.url.matches(SECRET).count();
    // A connector's URL is opaque: it need not have the form of a web address.
    if request.url.starts_with("simulator:") {
        return if secrets == 0 { Ok(Target::Simulator) } else { Err(Refused::SecretInUrl) };
    }
    let uri: Uri = request.url.parse().map_err(|_| if secrets == 0 { Refused::Url } else { Refused::SecretInUrl })?;
    // A query ends up in the logs of servers and proxies, and a fragment does not leave at all.
    if uri.path().matches(SECRET).count() != secrets {
        return Err(Refused::SecretInUrl);
    }
    let (https, default_port) = match uri.scheme_str() {
        Some("https") => (true, 443),
        Some("http") => (false, 80),
        _ => return Err(Refused::Scheme),
    };

    let authority = uri.authority().ok_or(Refused::Url)?;
    if authority.as_str().contains('@') {
        return Err(Refused::Userinfo);
    }
    let host = canonical_host(authority.host()).ok_or(Refused::Url)?;
    let port = match authority.as_str().strip_prefix(authority.host()) {
        Some("") => default_port,
        Some(rest) => {
            let digits = rest.strip_prefix(':').ok_or(Refused::Url)?;
            digits.parse().ok().filter(|port| *port != 0).ok_or(Refused::Url)?
        }
        None => return Err(Refused::Url),
    };

    let mut canonical = if host.contains(':') { Cow::from(format!("[{host}]")) } else { Cow::from(&host) };
    if port != default_port {
        canonical = format!("{canonical}:{port}").into();
    }
    // Most URLs have the one spelling already.
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    if authority.as_str() == canonical && path.starts_with('/') {
        return Ok(Target::Http(HttpTarget { uri, host, port, https }));
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    let uri = Uri::builder()
        .scheme(if https { "https" } else { "http" })
        .authority(canonical.as_ref())
        .path_and_query(format!("{slash}{path}"))
        .build()
        .map_err(|_| Refused::Url)?;
    Ok(Target::Http(HttpTarget { uri, host, port, https }))
}

/// The request as it leaves, its secrets filled in.
pub(super) fn build(
    rules: Rules<'_>,
    request: EgressRequest,
    target: HttpTarget,
) -> Result<Request<Full<Bytes>>, Refused> {
    const METHODS: [Method; 7] =
        [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS];
    let method = METHODS.into_iter().find(|m| m.as_str() == request.method).ok_or(Refused::Method)?;
    if !rules.permits.method(method.as_str()) {
        let known = crate::grants::METHODS.into_iter().find(|m| *m == method.as_str()).unwrap_or_default();
        return Err(rules.deny(Denial::Method(known)));
    }
    if request.headers.len() > MAX_HEADERS {
        return Err(Refused::ManyHeaders);
    }

    // Some servers insist on a length where a body is usual, and hyper gives none for an empty body.
    let lengthless = request.body.is_empty() && [Method::POST, Method::PUT, Method::PATCH].contains(&method);
    let mut built = Request::new(Full::new(request.body.into_bytes()));
    *built.method_mut() = method;
    let headers = built.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("carillon/", env!("CARGO_PKG_VERSION"))));
    if lengthless {
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }

    let mut bytes = 0usize;
    for (at, (name, text)) in request.headers.iter().enumerate() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| Refused::HeaderName(at.saturating_add(1)))?;
        if OWN_HEADERS.contains(&name.as_str()) {
            return Err(Refused::OwnHeader(name));
        }
        let filled = fill(rules, &target, &Place::Header(name.clone()), text)?;
        bytes = bytes.saturating_add(name.as_str().len()).saturating_add(filled.len());
        if bytes > rules.policy.max_header_bytes {
            return Err(Refused::LongHeaders(rules.policy.max_header_bytes));
        }
        let mut value = match HeaderValue::from_bytes(filled.as_bytes()) {
            Ok(value) => value,
            Err(_) => return Err(Refused::HeaderValue(name)),
        };
        // Keeps the value out of debug output and out of the shared compression table of HTTP/2.
        value.set_sensitive(matches!(filled, Cow::Owned(_)) || name == AUTHORIZATION);
        if name == USER_AGENT {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    let path = match fill(rules, &target, &Place::Path, target.uri.path())? {
        Cow::Owned(filled) => Some(filled),
        Cow::Borrowed(_) => None,
    };
    *built.uri_mut() = match path {
        Some(path) => with_path(target.uri, path)?,
        None => target.uri,
    };
    Ok(built)
}

/// The same URL with another path.
fn with_path(uri: Uri, mut path: String) -> Result<Uri, Refused> {
    if let Some(query) = uri.query() {
        path.push('?');
        path.push_str(query);
    }
    if path.len() > MAX_URL_BYTES {
        return Err(Refused::LongUrl);
    }
    let mut parts = uri.into_parts();
    parts.path_and_query = Some(path.parse().map_err(|_| Refused::Url)?);
    Uri::from_parts(parts).map_err(|_| Refused::Url)
}

/// Puts secrets in the place of their names; in a path percent-encoded, so that a value stays within its segment.
fn fill<'a>(rules: Rules<'_>, target: &HttpTarget, place: &Place, text: &'a str) -> Result<Cow<'a, str>, Refused> {
    let Some((before, mut rest)) = text.split_once(SECRET) else {
        return Ok(Cow::Borrowed(text));
    };
    let mut filled = before.to_owned();
    loop {
        let (name, after) = rest
            .split_once("}}")
            .filter(|(name, _)| is_secret_name(name))
            .ok_or_else(|| Refused::Placeholder(place.clone()))?;
        let (name, host) = (name.to_owned(), target.host.clone());
        if !rules.permits.secret(&name) {
            return Err(rules.deny(Denial::Secret(name)));
        }
        let Some(value) = rules.policy.secret(rules.stored, &name, &host, target.port) else {
            return Err(rules.deny(Denial::SecretElsewhere(name, host)));
        };
        // On the public internet a secret in the clear is a secret no more; a granted host is the operator's own network.
        if !target.https && !rules.policy.grants(&host, target.port) {
            return Err(Refused::PlainSecret { name, host });
        }
        match place {
            Place::Path => push_encoded(&mut filled, value),
            Place::Header(_) => filled.push_str(value),
        }
        match after.split_once(SECRET) {
            Some((between, next)) => {
                filled.push_str(between);
                rest = next;
            }
            None => {
                filled.push_str(after);
                return Ok(Cow::Owned(filled));
            }
        }
    }
}

/// Adds a text as a part of a path's segment: what RFC 3986 allows there stays as it is (a bot's token has a colon), everything
/// else is percent-encoded.
fn push_encoded(out: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
}
