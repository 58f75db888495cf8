//! A stand-in for WhatsApp's Cloud API that takes every message, after a while: `wamid.` and the message's id is its id of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::sink::listen;

/// A message as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Our id of it.
    pub id: String,
    /// To whom, as the audience writes it.
    pub to: String,
}

/// A running stand-in.
pub struct Meta {
    /// Where it listens.
    pub port: u16,
    taken: Arc<Mutex<Vec<Taken>>>,
    server: JoinHandle<()>,
}

impl Meta {
    /// Starts one that answers after `wait`.
    pub async fn start(wait: Duration) -> Self {
        let taken: Arc<Mutex<Vec<Taken>>> = Arc::default();
        let all = taken.clone();
        let (port, server) = listen(move |request: Request<Incoming>, _| {
            let all = all.clone();
            async move {
                let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                let message: Value = serde_json::from_slice(&body).unwrap_or_default();
                let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
                let (id, to) = (text("biz_opaque_callback_data"), text("to"));
                let answer = json!({"messaging_product": "whatsapp", "contacts": [{"input": to, "wa_id": wa_id(&to)}],
                    "messages": [{"id": format!("wamid.{id}")}]});
                all.lock().push(Taken { id, to });
                tokio::time::sleep(wait).await;
                Ok::<_, std::convert::Infallible>(Response::new(Full::new(Bytes::from(answer.to_string()))))
            }
        })
        .await;
        Self { port, taken, server }
    }

    /// Its address, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What has arrived so far.
    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().clone()
    }
}

impl Drop for Meta {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What it calls a recipient: without signs, and here with a digit less, as for some numbers of Brazil.
pub fn wa_id(to: &str) -> String {
    let digits: String = to.chars().filter(char::is_ascii_digit).collect();
    let (country, rest) = digits.split_at(digits.len().min(4));
    format!("{country}{}", rest.get(1..).unwrap_or_default())
}
