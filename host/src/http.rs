//! The HTTP API: `/api/v1`, one resource per file, and the pages that watch the process.
//!
//! A request passes, from the outside in: the tally (request id, metrics, security headers, panics), the note of who asks
//! (`guesses`), the doorkeeper (`auth`), the task that brings changing calls to their end, the memory of idempotency keys, the handler.

#![allow(clippy::result_large_err)] // A refusal is built once in a request; its size does not matter.

mod audiences;
mod auth;
mod body;
mod campaigns;
mod cluster;
mod devices;
mod door;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod grants;
mod guesses;
mod health;
mod hooks;
mod idempotency;
mod messages;
mod openapi;
mod page;
mod plugins;
mod problem;
mod rollouts;
mod secrets;
mod sequences;
mod serve;
mod suppressions;
mod tally;
mod tls;
mod tokens;
mod trials;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, OriginalUri, Request};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tracing::Instrument as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::core::Core;

pub use door::Door;
pub use guesses::{Guess, Guesses, Knock, Peer};
pub use page::Listing;
pub use problem::{FieldProblem, Problem};
pub use serve::{ConnectionLimits, serve};
pub use tally::is_https;
pub use tls::Tls;

use auth::{Auth, Rules};

/// How long a reading call may take.
const READS_IN: Duration = Duration::from_secs(60);

/// Everything that a server answers: the API, the pages for operation, and the dashboard's routes.
pub fn router(core: Core, ui: Router) -> Router {
    let (open, _) = OpenApiRouter::<Core>::new()
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
        .split_for_parts();
    let (api, document) = api();
    // A document of the crate's own types always serializes; were it not so, every route would be refused.
    let mut document = serde_json::to_value(&document).unwrap_or_default();
    openapi::merge_views(&mut document);
    let auth = Arc::new(Auth::new(core.clone(), Rules::from_document(&document)));
    let document: axum::body::Bytes = document.to_string().into();
    let describe = get(async move || ([(header::CONTENT_TYPE, "application/json")], document))
        .fallback(async || wrong_method("GET, HEAD"));
    let api = api
        .layer(middleware::from_fn_with_state(core.clone(), idempotency::once))
        .layer(middleware::from_fn(to_the_end))
        .layer(middleware::from_fn_with_state(auth, auth::authorise))
        .layer(DefaultBodyLimit::disable()) // Each handler reads with its own limit.
        .route("/api/v1/openapi.json", describe)
        .merge(open.method_not_allowed_fallback(async || wrong_method("GET, HEAD")))
        .fallback(not_found)
        .with_state(core.clone());
    // Forms, too, are brought to their end, audit row included, when the browser goes away.
    let hooks = hooks::routes(core.clone());
    noting_who_asks(&core, api.merge(hooks).merge(ui.layer(middleware::from_fn(to_the_end))))
        .layer(middleware::from_fn_with_state(core, tally::tally))
}

/// Has each request say to whom it is answered, so that guesses at tokens can be slowed down.
pub(crate) fn noting_who_asks(core: &Core, router: Router) -> Router {
    let guesses = Arc::new(Guesses::new(&core.config, core.clock.clone(), core.metrics.clone()));
    router.layer(middleware::from_fn_with_state(guesses, guesses::note))
}

fn api() -> (Router<Core>, utoipa::openapi::OpenApi) {
    let resources = OpenApiRouter::new()
        .merge(plugins::routes())
        .merge(grants::routes())
        .merge(secrets::routes())
        .merge(rollouts::routes())
        .merge(trials::routes())
        .merge(webhooks::routes())
        .merge(devices::routes())
        .merge(audiences::routes())
        .merge(campaigns::routes())
        .merge(messages::routes())
        .merge(sequences::routes())
        .merge(suppressions::routes())
        .merge(tokens::routes())
        .merge(cluster::routes());
    let (router, mut document) =
        OpenApiRouter::with_openapi(openapi::base()).nest("/api/v1", resources).split_for_parts();
    openapi::complete(&mut document);
    (router, document)
}

async fn not_found(OriginalUri(uri): OriginalUri) -> Problem {
    let hint = if uri.path().starts_with("/api/") { "see /api/v1/openapi.json" } else { "the API is under /api/v1" };
    Problem::new(StatusCode::NOT_FOUND, "not-found", format!("there is nothing under this path; {hint}"))
}

fn wrong_method(allowed: &str) -> Problem {
    let detail = format!("this path takes {allowed}");
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail).allow(allowed.to_owned())
}

/// Brings a call that changes something to its end when its client goes away, and gives one that reads a deadline.
async fn to_the_end(request: Request, next: Next) -> Response {
    if matches!(*request.method(), Method::GET | Method::HEAD) {
        return tokio::time::timeout(READS_IN, next.run(request)).await.unwrap_or_else(|_| {
            let detail = format!("the answer took longer than {} seconds", READS_IN.as_secs());
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "timeout", detail).retry_after(5).into_response()
        });
    }
    let span = tracing::Span::current();
    match tokio::spawn(next.run(request).instrument(span)).await {
        Ok(response) => response,
        Err(error) => Problem::internal(&anyhow::Error::from(error)).into_response(),
    }
}

/// A header value that cannot be wrong.
const fn fixed(value: &'static str) -> HeaderValue {
    HeaderValue::from_static(value)
}
