//! A small HTTP client for commands that talk to a server.

use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::bad_input;

/// Longest answer that is read, in bytes.
const ANSWER_MAX: usize = 4 << 20;
/// Longest wait for an answer: an upload is compiled before it is answered.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server's API.
pub struct Api {
    base: String,
    token: Option<String>,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Api {
    /// The API at a base URL such as `http://127.0.0.1:8080`.
    pub fn new(base: &str, token: Option<String>) -> anyhow::Result<Self> {
        let uri: Uri = base.parse().map_err(|_| bad_input("--url: give a URL such as http://127.0.0.1:8080"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(bad_input("--url: give a URL such as http://127.0.0.1:8080"));
        }
        let https = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(rustls::crypto::ring::default_provider())
            .context("setting up TLS")?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(https);
        Ok(Self { base: base.trim_end_matches('/').to_owned(), token, client })
    }

    /// Makes a call; returns the status and the body, whatever the status is.
    pub async fn call(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("content-type", content_type)
            .header("user-agent", concat!("carillon/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body)).map_err(|_| bad_input("--token: it has characters that no token has"))?;
        let call = async {
            let answer =
                self.client.request(request).await.with_context(|| format!("no answer from {}", self.base))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), ANSWER_MAX)
                .collect()
                .await
                .map_err(|error| anyhow!("the answer of {} broke off: {error}", self.base))?;
            Ok((status, body.to_bytes()))
        };
        tokio::time::timeout(PATIENCE, call)
            .await
            .map_err(|_| anyhow!("no answer from {} within {} s", self.base, PATIENCE.as_secs()))?
    }
}

/// What a problem+json answer says, or the answer itself where it is something else.
pub fn problem(body: &[u8]) -> String {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) else {
        return String::from_utf8_lossy(body).trim().to_owned();
    };
    let text = |field: &str| value.get(field).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    match (text("title"), text("detail")) {
        (title, detail) if title.is_empty() && detail.is_empty() => value.to_string(),
        (title, detail) if detail.is_empty() => title,
        (title, detail) if title.is_empty() => detail,
        (title, detail) => format!("{title}: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line() {
        assert_eq!(problem(br#"{"title":"refused","detail":"wrong world"}"#), "refused: wrong world");
        assert_eq!(problem(b"bad gateway\n"), "bad gateway");
    }

    #[test]
    fn a_url_that_is_none_is_bad_input() {
        for url in ["127.0.0.1:8080", "ftp://x", "http://"] {
            assert!(Api::new(url, None).is_err(), "{url}");
        }
    }
}
