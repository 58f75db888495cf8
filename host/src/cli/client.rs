//! A small API client for commands that talk to a server. It goes through the host's one HTTP client.

use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use hyper::Uri;
use serde_json::Value;

use super::bad_input;
use crate::egress::{Allowed, Body, Egress, EgressAnswer, EgressPolicy, EgressRequest, EgressResponse};
use crate::grants::Licence;

/// Largest body, either way, in bytes: the size of the largest plugin.
const BODY_MAX: usize = 64 << 20;
/// Longest wait for an answer: an upload is compiled before it is answered.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server's API.
pub struct Api {
    base: String,
    authority: String,
    token: Option<String>,
    egress: Egress,
    licence: Licence,
}

impl Api {
    /// The API at a base URL such as `http://127.0.0.1:8080`; `flag` is where the URL was given.
    pub fn new(flag: &str, base: &str, token: Option<String>) -> anyhow::Result<Self> {
        let bad = || bad_input(format!("{flag}: give a URL such as http://127.0.0.1:8080"));
        let uri: Uri = base.parse().map_err(|_| bad())?;
        let default_port = match uri.scheme_str() {
            Some("http") => 80,
            Some("https") => 443,
            _ => return Err(bad()),
        };
        let host = uri.host().ok_or_else(bad)?;
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(default_port));
        // The user named this host: it may be private.
        let allowed: Allowed = authority.parse().map_err(|_| bad())?;
        // The command's own requests.
        let licence = Licence::unbounded("carillon");
        let policy = EgressPolicy {
            allow: vec![allowed],
            max_request_bytes: BODY_MAX,
            max_response_bytes: BODY_MAX,
            ..EgressPolicy::default()
        };
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            authority,
            token,
            egress: Egress::new(policy)?,
            licence,
        })
    }

    /// Its host and port.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Its base URL, without a slash at the end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Makes a call; returns the answer, whatever its status is.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> anyhow::Result<EgressResponse> {
        let mut headers = vec![("content-type".to_owned(), content_type.to_owned())];
        if let Some(token) = &self.token {
            headers.push(("authorization".to_owned(), format!("Bearer {token}")));
        }
        let request = EgressRequest {
            method: method.to_owned(),
            url: format!("{}{path}", self.base),
            headers,
            body: if body.is_empty() { Body::Empty } else { Body::Bytes(body) },
            timeout: PATIENCE,
        };
        match self.egress.send(&self.licence, request, PATIENCE).await {
            EgressAnswer::Response(response) => Ok(response),
            EgressAnswer::NotSent(why) | EgressAnswer::NotGranted(why) | EgressAnswer::Unanswered(why) => {
                bail!("{}: {why}", self.base)
            }
        }
    }

    /// Makes a call that shall succeed; what the server refuses is bad input, with its words.
    pub async fn ask(&self, method: &str, path: &str, content_type: &str, body: Bytes) -> anyhow::Result<Value> {
        let answer = self.call(method, path, content_type, body).await?;
        match answer.status {
            200..300 => Ok(serde_json::from_slice(&answer.body).unwrap_or_default()),
            status @ (400..500) => Err(bad_input(format!(
                "the server refused it ({status}): {}{}",
                problem(&answer.body),
                items(&answer.body)
            ))),
            status => bail!("the server failed ({status}): {}", problem(&answer.body)),
        }
    }
}

/// Which server a command talks to.
#[derive(Debug, Clone, clap::Args)]
pub struct Server {
    /// The server.
    #[arg(long, env = "CARILLON_URL", default_value = "http://127.0.0.1:8080")]
    url: String,
    /// An API token with the scope that the command needs.
    #[arg(long, env = "CARILLON_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

impl Server {
    /// Its API.
    pub fn api(self) -> anyhow::Result<Api> {
        let token = self.token.ok_or_else(|| bad_input("--token: give an API token (or set CARILLON_TOKEN)"))?;
        Api::new("--url", &self.url, Some(token))
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

/// What a problem+json answer says of each item of a component, one a line; of fields its detail says it all.
fn items(body: &[u8]) -> String {
    let problem: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    if !text(&problem, "type").starts_with("urn:carillon:problem:plugin-") {
        return String::new();
    }
    let items = problem.get("errors").and_then(Value::as_array).into_iter().flatten();
    items.map(|item| format!("\n  {}: {}", text(item, "field"), text(item, "problem"))).collect()
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
            assert!(Api::new("--url", url, None).is_err(), "{url}");
        }
        let api = Api::new("--url", "https://carillon.example/", None).unwrap();
        assert_eq!((api.base(), api.authority()), ("https://carillon.example", "carillon.example:443"));
    }
}
