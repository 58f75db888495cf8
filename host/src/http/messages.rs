//! `/messages`.

use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::core::Core;
use crate::id::{CampaignId, DeviceId, MessageId, SequenceId};
use crate::message::MessageStatus;
use crate::operations::Actor;
use crate::operations::messages::{self, MessageDetail};
use crate::operations::unknown::{self, Inbox, LookedUp, Resolve, UnknownView};

use super::body::{Id, Json, Query};
use super::page::{self, Listing};
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new().routes(routes!(inbox)).routes(routes!(show)).routes(routes!(resolve)).routes(routes!(lookup))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct InboxQuery {
    /// `unknown`: other messages are listed campaign by campaign.
    status: Option<MessageStatus>,
    /// Only those of this campaign.
    campaign: Option<CampaignId>,
    /// Only those of this sequence.
    sequence: Option<SequenceId>,
    /// Only those of this device.
    #[param(value_type = Option<String>)]
    device: Option<DeviceId>,
    /// Rows, 1 to 1000; 100 by default.
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// The inbox: messages of which nobody knows whether they were sent, of all campaigns and sequences, by id.
#[utoipa::path(get, path = "/messages", tag = "messages", security(("token" = ["campaigns:read"])),
    params(InboxQuery), responses((status = 200, body = Listing<UnknownView>)))]
async fn inbox(
    State(core): State<Core>,
    Query(query): Query<InboxQuery>,
) -> Result<Json<Listing<UnknownView>>, Problem> {
    let InboxQuery { status, campaign, sequence, device, limit, cursor } = query;
    if status != Some(MessageStatus::Unknown) {
        let problem = "give unknown; messages in other states are listed by /campaigns/{id}/messages";
        return Err(Problem::bad_request("the query: status").with_field("status", problem));
    }
    let cursor: Option<MessageId> = page::cursor(cursor.as_deref())?;
    let of = Inbox { campaign, sequence, device };
    Ok(Json(Listing::of(unknown::inbox(&core, &of, cursor, page::limit(limit)?).await?)))
}

/// One message, with its attempts and, while it waits, why it has not been sent yet.
#[utoipa::path(get, path = "/messages/{id}", tag = "messages", security(("token" = ["campaigns:read"])),
    params(("id" = MessageId, Path, description = "The message, 19 digits")),
    responses((status = 200, body = MessageDetail),
        (status = 410, body = Problem, content_type = "application/problem+json",
            description = "Its campaign finished long ago; its messages were removed.")))]
async fn show(State(core): State<Core>, Id(id): Id<MessageId>) -> Result<Json<MessageDetail>, Problem> {
    Ok(Json(messages::message(&core, id).await?))
}

/// Say what an unknown outcome was. `retry` sends the message again, with the same idempotency key, unless its address is
/// suppressed; a completed campaign goes on for it. A message that is not unknown (any more) is a conflict.
#[utoipa::path(post, path = "/messages/{id}/resolve", tag = "messages", security(("token" = ["campaigns:write"])),
    params(("id" = MessageId, Path, description = "The message, 19 digits")), request_body = Resolve,
    responses((status = 200, body = MessageDetail)))]
async fn resolve(
    State(core): State<Core>,
    actor: Actor,
    Id(id): Id<MessageId>,
    Json(request): Json<Resolve>,
) -> Result<Json<MessageDetail>, Problem> {
    Ok(Json(unknown::resolve(&core, &actor, id, request).await?))
}

/// Ask the provider now whether a message with unknown outcome was sent, where its sender can; what the provider can tell
/// resolves the message.
#[utoipa::path(post, path = "/messages/{id}/lookup", tag = "messages", security(("token" = ["campaigns:write"])),
    params(("id" = MessageId, Path, description = "The message, 19 digits")),
    responses((status = 200, body = LookedUp)))]
async fn lookup(State(core): State<Core>, actor: Actor, Id(id): Id<MessageId>) -> Result<Json<LookedUp>, Problem> {
    Ok(Json(unknown::lookup(&core, &actor, id).await?))
}
