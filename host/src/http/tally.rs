//! What happens to every request: an id, a line in the log, a count, the security headers, and an answer also after a
//! panic. Neither the log nor the metrics see a query, an address or a token: paths are told as their patterns.

use std::panic::AssertUnwindSafe;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt as _;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::core::Core;

use super::fixed;
use super::problem::Problem;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Whether the request came over https: to this server's own listener, which says so in the place of a proxy, or to the proxy
/// in front. Who calls without either can say so, too, and gains nothing: its own browser would then insist on https.
pub fn is_https(headers: &HeaderMap) -> bool {
    let forwarded = headers.get("x-forwarded-proto").and_then(|v| v.to_str().ok()).and_then(|v| v.split(',').next());
    forwarded.is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https"))
}

/// Counts and logs a request, and sees to it that it is answered.
pub(super) async fn tally(State(core): State<Core>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("unknown", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let id = request
        .headers()
        .get(&REQUEST_ID)
        .and_then(|v| v.to_str().ok())
        .filter(|id| {
            (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        })
        .map_or_else(|| Uuid::new_v4().to_string(), ToOwned::to_owned);
    let is_api = route.starts_with("/api/");
    let https = is_https(request.headers());
    let began = core.clock.monotonic();
    let span = tracing::info_span!("request", request.id = %id, http.method = %method, http.route = %route);
    let caught = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    let mut response = caught.unwrap_or_else(|_| {
        span.in_scope(|| Problem::internal(&anyhow::anyhow!("a handler panicked")).into_response())
    });
    let took = core.clock.monotonic().saturating_sub(began);
    let status = response.status().as_u16();
    // Methods are the client's to make up; those that no route knows are one.
    let known = if method.as_str().len() <= 7 && status != 405 { method.as_str() } else { "OTHER" };
    core.metrics.http_request(known, &route, status, took);
    span.in_scope(|| tracing::debug!(http.status = status, took_ms = took.as_millis() as u64, "answered"));

    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    let mut or_insert = |name: HeaderName, value: HeaderValue| {
        headers.entry(name).or_insert(value);
    };
    or_insert(header::X_CONTENT_TYPE_OPTIONS, fixed("nosniff"));
    or_insert(header::X_FRAME_OPTIONS, fixed("DENY"));
    or_insert(header::REFERRER_POLICY, fixed("no-referrer"));
    or_insert(header::CONTENT_SECURITY_POLICY, fixed("default-src 'none'; frame-ancestors 'none'"));
    or_insert(OPENER_POLICY, fixed("same-origin"));
    or_insert(RESOURCE_POLICY, fixed("same-origin"));
    if https {
        or_insert(header::STRICT_TRANSPORT_SECURITY, fixed("max-age=31536000"));
    }
    if is_api {
        or_insert(header::CACHE_CONTROL, fixed("no-store"));
    }
    response
}
