//! The door of a server: while the server is still starting it answers `/healthz` and says on `/readyz` what it waits for; once
//! the server is up it lets everything through; and when the server stops, it says so on `/readyz`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use tower::ServiceExt as _;

use super::body::Json;
use super::problem::Problem;

/// A door; its clones are the same one.
#[derive(Clone, Default)]
pub struct Door(Arc<Inner>);

#[derive(Default)]
struct Inner {
    server: OnceLock<Router>,
    waiting_for: Mutex<String>,
    draining: AtomicBool,
}

impl Door {
    /// Says what the server waits for, such as `the store`.
    pub fn waits_for(&self, what: &str) {
        what.clone_into(&mut self.0.waiting_for.lock());
    }

    /// Lets requests through to the server from now on.
    pub fn open(&self, server: Router) {
        // A door that is open stays open: a second server would be a mistake of the caller without a way to show.
        let _already_open = self.0.server.set(server);
    }

    /// Says on `/readyz` from now on that the server stops; everything else goes on.
    pub fn drains(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// What listens from the first moment on.
    pub fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }
}

async fn answer(State(door): State<Door>, request: Request) -> Response {
    // Not counted as a failure: nothing is wrong.
    if door.0.draining.load(Ordering::Relaxed) && request.uri().path() == "/readyz" {
        let body = serde_json::json!({ "ready": false, "draining": true });
        return (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response();
    }
    if let Some(server) = door.0.server.get() {
        return match server.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
    }
    let waiting_for = door.0.waiting_for.lock().clone();
    match request.uri().path() {
        "/healthz" => "ok\n".into_response(),
        "/readyz" => {
            let body = serde_json::json!({ "ready": false, "waiting_for": waiting_for });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
        _ => {
            let detail = format!("the server is starting; it waits for {waiting_for}");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "starting", detail).retry_after(2).into_response()
        }
    }
}
