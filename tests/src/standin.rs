//! A provider that stands in for a real one: it answers what it was told to answer next, and writes down what it was asked.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinHandle;

use crate::sink::listen;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The HTTP method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The header `Authorization`; empty when there is none.
    pub authorization: String,
    /// The body, where it is JSON; else null.
    pub body: Value,
}

/// What it answers to one request.
#[derive(Debug, Clone)]
pub enum Says {
    /// This.
    Answer {
        /// The HTTP status.
        status: u16,
        /// A header, where one matters.
        header: Option<(&'static str, String)>,
        /// The body.
        body: String,
    },
    /// Nothing: it closes the connection when the request has arrived.
    Nothing,
}

/// A running stand-in.
pub struct StandIn {
    /// Where it listens.
    pub port: u16,
    next: Arc<Mutex<VecDeque<Says>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    server: JoinHandle<()>,
}

impl StandIn {
    /// Starts one on a free port. Asked when it was told no answer, it says 599.
    pub async fn start() -> Self {
        let next: Arc<Mutex<VecDeque<Says>>> = Arc::default();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (answers, seen) = (next.clone(), asked.clone());
        let (port, server) = listen(move |request: Request<Incoming>, _| {
            let (answers, seen) = (answers.clone(), seen.clone());
            async move { answer(request, &answers, &seen).await }
        })
        .await;
        Self { port, next, asked, server }
    }

    /// Its address, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it says to the next request that is not spoken for.
    pub fn will_say(&self, says: Says) {
        self.next.lock().push_back(says);
    }

    /// What it was asked since the last call of this.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock())
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(
    request: Request<Incoming>,
    answers: &Mutex<VecDeque<Says>>,
    seen: &Mutex<Vec<Asked>>,
) -> Result<Response<Full<Bytes>>, &'static str> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let authorization = head.headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    seen.lock().push(Asked {
        method: head.method.to_string(),
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        authorization: authorization.to_owned(),
        body: serde_json::from_slice(&body).unwrap_or_default(),
    });
    let untold = || Says::Answer { status: 599, header: None, body: String::new() };
    match answers.lock().pop_front().unwrap_or_else(untold) {
        Says::Nothing => Err("told to say nothing"),
        Says::Answer { status, header, body } => {
            let mut response = Response::builder().status(status);
            if let Some((name, value)) = header {
                response = response.header(name, value);
            }
            Ok(response.body(Full::new(body.into())).expect("a response"))
        }
    }
}
