//! A small HTTP client for the API.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request};
use hyper_util::client::legacy::Client as Hyper;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

/// A client of one server, with one token.
#[derive(Debug, Clone)]
pub struct Client {
    hyper: Hyper<HttpConnector, Full<Bytes>>,
    base: String,
    token: String,
}

impl Client {
    /// A client of the server on this loopback port.
    pub fn new(port: u16, token: &str) -> Self {
        let hyper = Hyper::builder(TokioExecutor::new()).build_http();
        Self { hyper, base: format!("http://127.0.0.1:{port}"), token: token.to_owned() }
    }

    /// GET; the status and the JSON (or, where it is none, the text) of the answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, Value)> {
        self.send(Method::GET, path, "application/json", Bytes::new()).await
    }

    /// POST with JSON.
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        self.send(Method::POST, path, "application/json", body.to_string().into()).await
    }

    /// Any request with any body.
    pub async fn send(&self, method: Method, path: &str, kind: &str, body: Bytes) -> anyhow::Result<(u16, Value)> {
        self.send_keyed(method, path, kind, body, None).await
    }

    /// A request without a token, as a provider's webhook makes it: the status and the answer.
    pub async fn knock(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> anyhow::Result<(u16, String)> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = self.hyper.request(request.body(Full::new(body.into()))?).await?;
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await?.to_bytes();
        Ok((status, String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Any request with any body and an idempotency key.
    pub async fn send_keyed(
        &self,
        method: Method,
        path: &str,
        kind: &str,
        body: Bytes,
        key: Option<&str>,
    ) -> anyhow::Result<(u16, Value)> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", kind);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request.body(Full::new(body))?;
        let answer = self.hyper.request(request).await?;
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await?.to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Ok((status, value))
    }
}
