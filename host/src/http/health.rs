//! Whether the process lives, whether it can work, and what it counted. Open to everybody: nothing personal is in it.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::core::Core;
use crate::metrics::Counted;

use super::body::Json;
use super::problem::Problem;

/// How long store and queue may take to answer.
const ANSWERS_IN: Duration = Duration::from_secs(2);

/// The state of one part that a server needs.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Part {
    /// Whether it can be used.
    pub ok: bool,
    /// What is wrong with it, or what an operator should change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

impl Part {
    fn away(problem: impl Into<String>) -> Self {
        Self { ok: false, problems: vec![problem.into()] }
    }
}

/// Whether a server can work.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Readiness {
    /// Whether all parts can be used.
    pub ready: bool,
    /// The store: it answers, it has not refused heartbeats for as long as `--lease-ms`, and its migrations are done.
    pub store: Part,
    /// The queue.
    pub queue: Part,
    /// The activated plugins: all of them are loaded.
    pub plugins: Part,
}

/// Whether the process lives.
#[utoipa::path(get, path = "/healthz", tag = "operation", security(()), responses((status = 200, description = "It lives.", body = String)))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the server can work: store and queue answer, and the activated plugins are loaded.
#[utoipa::path(get, path = "/readyz", tag = "operation", security(()), responses(
    (status = 200, description = "It can work.", body = Readiness),
    (status = 503, description = "Something is away; the answer names it. Nothing is lost, and the server goes on by itself. Or the server was told to stop, and takes no more requests in a moment: `draining`.", body = Readiness),
))]
pub(super) async fn readyz(State(core): State<Core>) -> Response {
    let (store, queue, plugins) = tokio::join!(store(&core), queue(&core), plugins(&core));
    let ready = store.ok && queue.ok && plugins.ok;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, store, queue, plugins })).into_response()
}

async fn store(core: &Core) -> Part {
    // Reading says nothing about writing: a disk may be full. But one heartbeat that failed is repeated in a moment, and costs
    // nothing until the other servers count this one as dead; until then it is no reason to take a server out, the less so as
    // the others have the same store.
    let trouble = *core.store_trouble.read();
    if let Some(trouble) = trouble.filter(|trouble| core.clock.monotonic() > trouble.alive_until) {
        return Part::away(trouble.told);
    }
    // Not its clock: an embedded store tells the time without looking at the database.
    match tokio::time::timeout(ANSWERS_IN, core.store.revisions()).await {
        Ok(Ok(_)) => Part { ok: true, problems: trouble.map(|trouble| trouble.told.to_owned()).into_iter().collect() },
        Ok(Err(error)) => Part::away(error.to_string()),
        Err(_) => Part::away("the store does not answer"),
    }
}

async fn queue(core: &Core) -> Part {
    match tokio::time::timeout(ANSWERS_IN, core.queue.health()).await {
        Ok(Ok(health)) => Part { ok: true, problems: health.warnings },
        Ok(Err(error)) => Part::away(error.to_string()),
        Err(_) => Part::away("the queue does not answer"),
    }
}

async fn plugins(core: &Core) -> Part {
    let Ok(Ok(versions)) = tokio::time::timeout(ANSWERS_IN, core.store.plugins()).await else {
        return Part::away("the store does not say which plugins there are");
    };
    let missing: Vec<_> = versions
        .iter()
        .filter(|v| v.active && core.plugins.resolve(&v.name, None).is_none())
        .map(|v| format!("{} {} is not loaded", v.name, v.version))
        .collect();
    Part { ok: missing.is_empty(), problems: missing }
}

/// What this server counted, in the text format of OpenMetrics.
#[utoipa::path(get, path = "/metrics", tag = "operation", security(()), responses((status = 200, description = "The counters.", body = String)))]
pub(super) async fn metrics(State(core): State<Core>) -> Result<Response, Problem> {
    let counted = Counted {
        store: (core.store.statements(), core.store.errors()),
        queue: (core.queue.commands(), core.queue.errors()),
        plugins: &core.plugins.loaded(),
        trials: &core.plugins.trials(),
        hosts: &core.hosts.read().clone(),
        now: core.clock.monotonic(),
    };
    let text = core.metrics.encode(&counted).map_err(|error| Problem::internal(&error.into()))?;
    let media = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, media)], text).into_response())
}
