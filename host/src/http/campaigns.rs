//! `/campaigns`.

use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::campaign::{CampaignSpec, CampaignStatus, SendPlan};
use crate::core::Core;
use crate::id::{CampaignId, MessageId};
use crate::json::Object;
use crate::message::MessageStatus;
use crate::operations::Actor;
use crate::operations::campaigns::{self, CampaignPatch, CampaignView};
use crate::operations::grants;
use crate::operations::messages::{self, MessageView};
use crate::operations::unknown::{self, ResolveMany, ResolvedMany};

use super::body::{Id, Json, OptionalJson, Query};
use super::page::{self, Listing};
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(show, change))
        .routes(routes!(launch))
        .routes(routes!(pause))
        .routes(routes!(resume))
        .routes(routes!(cancel))
        .routes(routes!(retry_failed))
        .routes(routes!(resolve_unknown))
        .routes(routes!(list_messages))
}

/// Make a campaign, as a draft.
#[utoipa::path(post, path = "/campaigns", tag = "campaigns", security(("token" = ["campaigns:write"])),
    request_body = CampaignSpec, responses((status = 201, body = CampaignView)))]
async fn create(
    State(core): State<Core>,
    actor: Actor,
    Json(spec): Json<CampaignSpec>,
) -> Result<(StatusCode, Json<CampaignView>), Problem> {
    let made = campaigns::create_campaign(&core, &actor, spec).await?;
    Ok((StatusCode::CREATED, Json(campaigns::campaign_view(&core, made.id).await?)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct CampaignQuery {
    /// Only campaigns in this status.
    status: Option<CampaignStatus>,
    /// Rows, 1 to 1000; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Campaigns, newest first.
#[utoipa::path(get, path = "/campaigns", tag = "campaigns", security(("token" = ["campaigns:read"])),
    params(CampaignQuery), responses((status = 200, body = Listing<CampaignView>)))]
async fn list(
    State(core): State<Core>,
    Query(query): Query<CampaignQuery>,
) -> Result<Json<Listing<CampaignView>>, Problem> {
    let cursor: Option<CampaignId> = page::cursor(query.cursor.as_deref())?;
    let page = campaigns::campaign_views(&core, query.status, cursor, page::limit(query.limit)?).await?;
    Ok(Json(Listing::of(page)))
}

/// One campaign: counts per state, rate, time left.
#[utoipa::path(get, path = "/campaigns/{id}", tag = "campaigns", security(("token" = ["campaigns:read"])),
    params(("id" = CampaignId, Path, description = "The campaign")), responses((status = 200, body = CampaignView)))]
async fn show(State(core): State<Core>, Id(id): Id<CampaignId>) -> Result<Json<CampaignView>, Problem> {
    Ok(Json(campaigns::campaign_view(&core, id).await?))
}

/// Change a campaign's priority, pace, window, expiry or retries, also while it runs.
#[utoipa::path(patch, path = "/campaigns/{id}", tag = "campaigns", security(("token" = ["campaigns:write"])),
    params(("id" = CampaignId, Path, description = "The campaign")), request_body = CampaignPatch,
    responses((status = 200, body = CampaignView)))]
async fn change(
    State(core): State<Core>,
    actor: Actor,
    Id(id): Id<CampaignId>,
    Json(Object(patch)): Json<Object<CampaignPatch>>,
) -> Result<Json<CampaignView>, Problem> {
    campaigns::edit_campaign(&core, &actor, id, patch).await?;
    Ok(Json(campaigns::campaign_view(&core, id).await?))
}

/// A campaign that was launched.
#[derive(Debug, Serialize, ToSchema)]
struct Launched {
    #[serde(flatten)]
    campaign: CampaignView,
    /// What an operator should know: such as that a sender asks for something that it was not granted.
    warnings: Vec<String>,
}

/// Launch a draft: at once, or at the time it is scheduled for.
#[utoipa::path(post, path = "/campaigns/{id}/launch", tag = "campaigns", security(("token" = ["campaigns:write"])),
    params(("id" = CampaignId, Path, description = "The campaign")), responses((status = 200, body = Launched)))]
async fn launch(State(core): State<Core>, actor: Actor, Id(id): Id<CampaignId>) -> Result<Json<Launched>, Problem> {
    let launched = campaigns::launch(&core, &actor, id).await?;
    let warnings = grants::warnings_for(&core, &SendPlan::from(&launched.spec)).await?;
    Ok(Json(Launched { campaign: campaigns::campaign_view(&core, id).await?, warnings }))
}

/// Why a campaign is paused.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Pause {
    /// For other operators, at most 200 characters.
    #[schema(max_length = 200)]
    reason: Option<String>,
}

/// Stop a campaign for now.
#[utoipa::path(post, path = "/campaigns/{id}/pause", tag = "campaigns", security(("token" = ["campaigns:write"])),
    params(("id" = CampaignId, Path, description = "The campaign")), request_body = Option<Pause>,
    responses((status = 200, body = CampaignView)))]
async fn pause(
    State(core): State<Core>,
    actor: Actor,
    Id(id): Id<CampaignId>,
    OptionalJson(Object(body)): OptionalJson<Object<Pause>>,
) -> Result<Json<CampaignView>, Problem> {
    campaigns::pause(&core, &actor, id, body.reason.as_deref()).await?;
    Ok(Json(campaigns::campaign_view(&core, id).await?))
}

/// Let a paused campaign go on.
#[utoipa::path(post, path = "/campaigns/{id}/resume", tag = "campaigns", security(("token" = ["campaigns:write"])),
    params(("id" = CampaignId, Path, description = "The campaign")), responses((status = 200, body = CampaignView)))]
async fn resume(State(core): State<Core>, actor: Actor, Id(id): Id<CampaignId>) -> Result<Json<CampaignView>, Problem> {
    campaigns::resume(&core, &actor, id).await?;
    Ok(Json(campaigns::campaign_view(&core, id).await?))
}

/// Stop a campaign for good: what has not been sent becomes `cancelled`.
#[utoipa::path(post, path = "/campaigns/{id}/cancel", tag = "campaigns", security(("token" = ["campaigns:write"])),
    params(("id" = CampaignId, Path, description = "The campaign")), responses((status = 200, body = CampaignView)))]
async fn cancel(State(core): State<Core>, actor: Actor, Id(id): Id<CampaignId>) -> Result<Json<CampaignView>, Problem> {
    campaigns::cancel(&core, &actor, id).await?;
    Ok(Json(campaigns::campaign_view(&core, id).await?))
}

/// What trying failed messages again came to.
#[derive(Debug, Serialize, ToSchema)]
struct Retried {
    /// Messages that are pending again.
    retried: u64,
    #[serde(flatten)]
    campaign: CampaignView,
}

/// Try a campaign's failed messages again, with fresh attempts.
#[utoipa::path(post, path = "/campaigns/{id}/retry-failed", tag = "campaigns",
    security(("token" = ["campaigns:write"])),
    params(("id" = CampaignId, Path, description = "The campaign")), responses((status = 200, body = Retried)))]
async fn retry_failed(
    State(core): State<Core>,
    actor: Actor,
    Id(id): Id<CampaignId>,
) -> Result<Json<Retried>, Problem> {
    let retried = campaigns::retry_failed(&core, &actor, id).await?;
    Ok(Json(Retried { retried, campaign: campaigns::campaign_view(&core, id).await? }))
}

/// Say what a campaign's unknown outcomes were, all of them or those of a device or before a time; a call that was cut off is
/// repeated. `retry` sends the messages again, with the same idempotency keys; a completed campaign goes on for them.
#[utoipa::path(post, path = "/campaigns/{id}/resolve-unknown", tag = "campaigns",
    security(("token" = ["campaigns:write"])),
    params(("id" = CampaignId, Path, description = "The campaign")), request_body = ResolveMany,
    responses((status = 200, body = ResolvedMany)))]
async fn resolve_unknown(
    State(core): State<Core>,
    actor: Actor,
    Id(id): Id<CampaignId>,
    Json(request): Json<ResolveMany>,
) -> Result<Json<ResolvedMany>, Problem> {
    Ok(Json(unknown::resolve_campaign(&core, &actor, id, request).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct MessageQuery {
    /// Only messages in this status.
    status: Option<MessageStatus>,
    /// Rows, 1 to 1000; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// A campaign's messages, in the audience's order; pending ones device by device, as each will send them. A page by status may
/// hold fewer than `limit`, even none, though another one follows: the last page is the one whose `next_cursor` is null.
#[utoipa::path(get, path = "/campaigns/{id}/messages", tag = "messages", security(("token" = ["campaigns:read"])),
    params(("id" = CampaignId, Path, description = "The campaign"), MessageQuery),
    responses((status = 200, body = Listing<MessageView>),
        (status = 410, body = Problem, content_type = "application/problem+json",
            description = "The campaign finished long ago; its messages were removed.")))]
async fn list_messages(
    State(core): State<Core>,
    Id(id): Id<CampaignId>,
    Query(query): Query<MessageQuery>,
) -> Result<Json<Listing<MessageView>>, Problem> {
    let cursor: Option<MessageId> = page::cursor(query.cursor.as_deref())?;
    let page = messages::messages(&core, id, query.status, cursor, page::limit(query.limit)?).await?;
    Ok(Json(Listing::of(page)))
}
