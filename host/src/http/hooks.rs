//! `/hooks/{plugin}/{key}`: where providers report. It is open to everybody, because providers have no token of ours; the key in
//! its path is what they know, and a refusal tells nothing but that there is one. Paths are in no log (`tally`).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::core::Core;
use crate::hook::{self, Arrival, Refused};
use crate::id::{Digest, WebhookId};
use crate::operations::webhooks;
use crate::plugins::{HttpResponse, PluginBody, PluginFault};
use crate::receipt::Webhook;

use super::guesses::Knock;
use super::problem::Problem;
use super::{body, fixed, to_the_end};

/// The largest body.
const MAX_BODY: u64 = 1 << 20;
/// The most headers, and what they may have together in bytes.
const MAX_HEADERS: (usize, usize) = (100, 32 << 10);
/// Requests at a time: each may hold a body.
const PLACES: usize = 64;
/// Of these for the webhooks of one plugin: its reader may take long, or wait for its turn, and others must have places then.
const PLACES_OF_ONE: usize = 16;
/// How long a key is trusted after it was looked up: the longest time for which a deleted webhook still works.
const TRUSTED: Duration = Duration::from_millis(750);
/// Webhooks kept in memory at most.
const MAX_CACHED: usize = 10_000;

/// Media types that an answer may have. It comes from where the dashboard comes from: nothing of it may be a page.
const MEDIA: [&str; 4] = ["text/plain", "application/json", "application/xml", "text/xml"];

struct Hooks {
    core: Core,
    known: Mutex<HashMap<Digest, (Arc<Webhook>, Duration)>>,
    buckets: Mutex<HashMap<WebhookId, (f64, Duration)>>,
    places: Semaphore,
    /// By plugin: of those that have a webhook.
    places_of: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// The routes of webhooks.
pub(super) fn routes(core: Core) -> Router {
    let (known, buckets, places_of) = (Mutex::default(), Mutex::default(), Mutex::default());
    let hooks = Hooks { core, known, buckets, places: Semaphore::new(PLACES), places_of };
    Router::new()
        .route("/hooks/{plugin}/{key}", any(receive))
        .route("/hooks/{plugin}/{key}/{*path}", any(receive))
        .layer(middleware::from_fn(to_the_end))
        .with_state(Arc::new(hooks))
}

fn nothing_here() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "not-found", "there is nothing under this path")
}

impl Hooks {
    /// The webhook with this key.
    async fn find(&self, plugin: &str, key: &str, knock: &Knock) -> Result<Arc<Webhook>, Problem> {
        if !webhooks::is_key(key) {
            return Err(nothing_here());
        }
        // Looked up by its hash: comparing takes the same time whatever the key is.
        let digest = webhooks::digest(key);
        let now = self.core.clock.monotonic();
        let known = self.known.lock().get(&digest).cloned();
        let was_known = known.is_some();
        if let Some((webhook, _)) = known.filter(|(_, at)| now.saturating_sub(*at) < TRUSTED) {
            return if webhook.plugin == plugin { Ok(webhook) } else { Err(nothing_here()) };
        }
        // A provider with one address for several webhooks, one of them deleted, can go on with the others.
        let guess = if was_known { None } else { Some(knock.guess().map_err(slowed)?) };
        let found = self.core.store.webhook_by_key(digest).await.map_err(unavailable)?;
        let found = found.filter(|webhook| webhook.plugin == plugin).map(Arc::new);
        let mut known = self.known.lock();
        let Some(webhook) = found else {
            known.remove(&digest);
            if let Some(guess) = guess {
                guess.was_wrong();
            }
            return Err(nothing_here());
        };
        if known.len() >= MAX_CACHED {
            known.clear();
        }
        known.insert(digest, (webhook.clone(), now));
        Ok(webhook)
    }

    /// The places of a plugin's webhooks.
    fn places_of(&self, plugin: &str) -> Arc<Semaphore> {
        let mut places_of = self.places_of.lock();
        if let Some(places) = places_of.get(plugin) {
            return Arc::clone(places);
        }
        Arc::clone(places_of.entry(plugin.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(PLACES_OF_ONE))))
    }

    /// Counts a request; whether there were too many.
    fn throttled(&self, webhook: WebhookId) -> bool {
        let rate = f64::from(self.core.config.hook_rate_limit);
        if rate <= 0.0 {
            return false;
        }
        let now = self.core.clock.monotonic();
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MAX_CACHED {
            buckets.clear();
        }
        let (left, at) = buckets.entry(webhook).or_insert((rate, now));
        *left = (*left + now.saturating_sub(*at).as_secs_f64() * rate).min(rate);
        *at = now;
        if *left < 1.0 {
            return true;
        }
        *left -= 1.0;
        false
    }
}

fn slowed(seconds: u64) -> Problem {
    let detail = "too many requests to addresses that do not exist came from here";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-failures", detail).retry_after(seconds)
}

fn unavailable(error: impl Into<anyhow::Error>) -> Problem {
    let error: anyhow::Error = error.into();
    tracing::warn!(error = format!("{error:#}"), "a webhook's request was not taken in; its provider will repeat it");
    not_now()
}

fn not_now() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "it cannot be taken in now; repeat it").retry_after(10)
}

async fn receive(
    State(hooks): State<Arc<Hooks>>,
    parts: Result<Path<HashMap<String, String>>, PathRejection>,
    request: Request,
) -> Response {
    let parts = parts.map(|Path(parts)| parts).unwrap_or_default();
    let mut response = answer(&hooks, &parts, request).await.unwrap_or_else(IntoResponse::into_response);
    response.headers_mut().insert(header::CACHE_CONTROL, fixed("no-store"));
    response
}

async fn answer(hooks: &Hooks, parts: &HashMap<String, String>, request: Request) -> Result<Response, Problem> {
    let part = |name| parts.get(name).map_or("", String::as_str);
    let Some(knock) = request.extensions().get::<Knock>().cloned() else {
        return Err(Problem::internal(&anyhow::anyhow!("nobody has noted who asks")));
    };
    let webhook = hooks.find(part("plugin"), part("key"), &knock).await?;
    if hooks.throttled(webhook.id) {
        let detail = "too many requests came to this webhook";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail).retry_after(1));
    }
    let places = hooks.places_of(&webhook.plugin);
    let (Ok(_of_plugin), Ok(_place)) = (places.try_acquire(), hooks.places.try_acquire()) else {
        return Err(not_now());
    };
    let (head, body) = request.into_parts();
    let headers = headers(&head.headers)?;
    let path = parts.get("path").map(|path| format!("/{path}")).unwrap_or_default();
    let body: Bytes = body::read(body, MAX_BODY).await?;
    let query = head.uri.query().unwrap_or_default().to_owned();
    let arrival = Arrival { method: head.method.to_string(), path, query, headers, body };
    match hook::receive(&hooks.core, &webhook, arrival).await {
        Ok(response) => Ok(respond(response)),
        Err(refused) => Err(refuse(&webhook, refused)),
    }
}

fn headers(given: &HeaderMap) -> Result<Vec<(String, String)>, Problem> {
    let (most, bytes) = MAX_HEADERS;
    let size: usize = given.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if given.len() > most || size > bytes {
        let detail = format!("there are more than {most} headers, or more than {bytes} bytes of them");
        return Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too-large", detail));
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    Ok(given.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect())
}

fn refuse(webhook: &Webhook, refused: Refused) -> Problem {
    match refused {
        Refused::Signature => {
            tracing::debug!(webhook.id = %webhook.id, "a request was not signed as it should be");
            Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "the request is not signed as it should be")
        }
        // The plugin says that this request is nothing: its provider need not repeat it.
        Refused::Fault(PluginFault::InvalidInput(_)) => Problem::bad_request("the request cannot be read"),
        Refused::Fault(fault) => {
            tracing::warn!(
                webhook.id = %webhook.id,
                plugin.name = webhook.plugin,
                fault.code = fault.code(),
                error = %fault,
                "a plugin could not read a webhook's request"
            );
            not_now()
        }
        Refused::NotReady(why) => {
            tracing::warn!(webhook.id = %webhook.id, why, "a webhook's request was not taken in");
            not_now()
        }
        error @ (Refused::Store(_) | Refused::OptOut(_)) => unavailable(error),
    }
}

/// What the plugin wants the provider to hear, as far as that may come from here.
fn respond(response: HttpResponse) -> Response {
    let HttpResponse { status, headers, body } = response;
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let media = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-type")).map(|(_, value)| {
        let bare = value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        MEDIA.into_iter().find(|media| *media == bare).unwrap_or("text/plain")
    });
    let body = match body {
        PluginBody::Empty => Bytes::new(),
        PluginBody::Text(text) => Bytes::from(text),
        PluginBody::Bytes(bytes) => Bytes::from(bytes),
    };
    let policy: HeaderName = header::CONTENT_SECURITY_POLICY;
    let headers = [
        (header::CONTENT_TYPE, fixed(media.unwrap_or("text/plain"))),
        (policy, fixed("default-src 'none'; frame-ancestors 'none'; sandbox")),
    ];
    (status.unwrap_or(StatusCode::OK), headers, body).into_response()
}
