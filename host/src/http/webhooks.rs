//! `/plugins/{name}/webhooks`.

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::clock::Time;
use crate::core::Core;
use crate::id::WebhookId;
use crate::operations::{Actor, webhooks};
use crate::receipt::{Signature, Webhook, WebhookSpec};

use super::body::{Id, Json, Pair};
use super::idempotency::KeepInstead;
use super::page::Listing;
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(delete))
}

/// A webhook, without its key.
#[derive(Debug, Serialize, ToSchema)]
struct WebhookView {
    /// Its id.
    id: WebhookId,
    /// The plugin that reads its requests.
    plugin: String,
    /// For people.
    name: String,
    /// The channel for which somebody opts out who does so here; every channel when `null`.
    channel: Option<String>,
    /// How its requests are signed.
    signature: Option<Signature>,
    /// What the plugin is called with.
    #[schema(value_type = Object)]
    config: serde_json::Value,
    /// When it was made.
    created_at: Time,
}

impl From<Webhook> for WebhookView {
    fn from(webhook: Webhook) -> Self {
        let Webhook { id, plugin, spec, created_at } = webhook;
        let WebhookSpec { name, channel, signature, config } = spec;
        Self { id, plugin, name, channel, signature, config, created_at }
    }
}

/// A webhook that was made.
#[derive(Debug, Serialize, ToSchema)]
struct Made {
    #[serde(flatten)]
    webhook: WebhookView,
    /// Where its provider makes requests to, `/hooks/{plugin}/{key}` at this server: shown this once, its key is kept nowhere.
    /// `null` when the call is repeated with its idempotency key.
    path: Option<String>,
}

/// Make a webhook: an address at which a provider reports what became of messages. Who knows it can report, so keep it as you
/// keep a token.
#[utoipa::path(post, path = "/plugins/{name}/webhooks", tag = "plugins", security(("token" = ["plugins:write"])),
    params(("name" = String, Path, description = "The plugin's name")), request_body = WebhookSpec,
    responses((status = 201, body = Made)))]
async fn create(
    State(core): State<Core>,
    actor: Actor,
    Id(plugin): Id<String>,
    Json(spec): Json<WebhookSpec>,
) -> Result<(StatusCode, Extension<KeepInstead>, Json<Made>), Problem> {
    let (webhook, key) = webhooks::create(&core, &actor, &plugin, spec).await?;
    let mut made = Made { webhook: webhook.into(), path: None };
    let kept = serde_json::to_string(&made).map_err(|error| Problem::internal(&error.into()))?;
    made.path = Some(format!("/hooks/{plugin}/{key}"));
    Ok((StatusCode::CREATED, Extension(KeepInstead(kept)), Json(made)))
}

/// The webhooks of a plugin, oldest first.
#[utoipa::path(get, path = "/plugins/{name}/webhooks", tag = "plugins", security(("token" = ["plugins:read"])),
    params(("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, body = Listing<WebhookView>)))]
async fn list(State(core): State<Core>, Id(plugin): Id<String>) -> Result<Json<Listing<WebhookView>>, Problem> {
    let items = webhooks::list(&core, &plugin).await?.into_iter().map(WebhookView::from).collect();
    Ok(Json(Listing { items, next_cursor: None }))
}

/// Delete a webhook: its address is unknown everywhere within a second.
#[utoipa::path(delete, path = "/plugins/{name}/webhooks/{id}", tag = "plugins",
    security(("token" = ["plugins:write"])),
    params(("name" = String, Path, description = "The plugin's name"), ("id" = WebhookId, Path, description = "The webhook")),
    responses((status = 204, description = "It is deleted.")))]
async fn delete(State(core): State<Core>, actor: Actor, Pair(plugin, id): Pair) -> Result<StatusCode, Problem> {
    let id: WebhookId = id.parse().map_err(|error: crate::id::BadId| Problem::bad_request(error.to_string()))?;
    webhooks::delete(&core, &actor, &plugin, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
